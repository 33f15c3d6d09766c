//! Connections by number, with a generation so that a late word about one never meets its successor.

/// Names a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

/// Generations have 31 bits, so that a name's top bit is free for whoever stores it.
const GENERATION_MASK: u32 = u32::MAX >> 1;

impl ConnectionId {
    /// As a number below `1 << 63`.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// From such a number.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    fn new(at: usize, generation: u32) -> Self {
        Self(at as u64 | u64::from(generation) << 32)
    }

    fn at(self) -> usize {
        usize::try_from(self.0 & u64::from(u32::MAX)).unwrap_or(usize::MAX)
    }
}

#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Vec<(u32, Option<Box<T>>)>,
    free: Vec<usize>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, value: T) -> ConnectionId {
        let value = Some(Box::new(value));
        if let Some(at) = self.free.pop() {
            let generation = (self.places[at].0 + 1) & GENERATION_MASK;
            self.places[at] = (generation, value);
            return ConnectionId::new(at, generation);
        }
        self.places.push((0, value));
        ConnectionId::new(self.places.len() - 1, 0)
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut T> {
        let (generation, value) = self.places.get_mut(id.at())?;
        if ConnectionId::new(id.at(), *generation) == id { value.as_deref_mut() } else { None }
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<T> {
        self.get_mut(id)?;
        self.free.push(id.at());
        self.places[id.at()].1.take().map(|value| *value)
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn ids(&self) -> Vec<ConnectionId> {
        let used = self.places.iter().enumerate().filter(|(_, (_, value))| value.is_some());
        used.map(|(at, (generation, _))| ConnectionId::new(at, *generation)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_good_for_one_life() {
        let mut slab = Slab::default();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!((slab.get_mut(second).copied(), slab.len()), (Some('b'), 1));
        assert_eq!(slab.ids(), [second]);
    }
}
