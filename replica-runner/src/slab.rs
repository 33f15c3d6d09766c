//! A table whose keys are never reused: an index with a generation, which fits an opaque pointer of the ABI.
//!
//! A library that holds on to a key after its time gets "no such thing", never another's.

/// Names one entry of one [`Slab`]. Never zero, so that it makes a non-null opaque pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key(u64);

impl Key {
    /// From the opaque pointer that a library handed back.
    pub(crate) fn from_opaque<T>(pointer: *const T) -> Self {
        Key(pointer.addr() as u64)
    }

    /// As an opaque pointer; never dereferenced by anyone.
    pub(crate) fn to_opaque<T>(self) -> *mut T {
        std::ptr::without_provenance_mut(usize::try_from(self.0).unwrap_or(0))
    }

    fn new(index: usize, generation: u32) -> Self {
        Key((u64::from(generation) << 32) | (index as u64 & 0xffff_ffff))
    }

    fn index(self) -> usize {
        usize::try_from(self.0 & 0xffff_ffff).unwrap_or(usize::MAX)
    }

    fn generation(self) -> u32 {
        u32::try_from(self.0 >> 32).unwrap_or(0)
    }
}

/// The table.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<usize>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Keeps `value` under a new key.
    pub(crate) fn insert(&mut self, value: T) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push((1, None));
            self.entries.len() - 1
        });
        let (generation, entry) = &mut self.entries[index];
        *entry = Some(value);
        Key::new(index, *generation)
    }

    /// The entry of a key, unless it was removed.
    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let (generation, entry) = self.entries.get(key.index())?;
        if *generation == key.generation() { entry.as_ref() } else { None }
    }

    /// The entry of a key, to change.
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let (generation, entry) = self.entries.get_mut(key.index())?;
        if *generation == key.generation() { entry.as_mut() } else { None }
    }

    /// Takes an entry out; its key names nothing from now on.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let (generation, entry) = self.entries.get_mut(key.index())?;
        if *generation != key.generation() {
            return None;
        }
        let value = entry.take()?;
        *generation = generation.wrapping_add(1).max(1);
        self.free.push(key.index());
        Some(value)
    }

    /// All of them, in no order, to be changed.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().filter_map(|(_, entry)| entry.as_mut())
    }

    /// All of them, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().filter_map(|(_, entry)| entry.as_ref())
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_key_names_nothing() {
        let mut slab = Slab::default();
        let first = slab.insert("a");
        assert_eq!(slab.remove(first), Some("a"));
        let second = slab.insert("b");
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"b"));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn keys_survive_the_trip_through_a_pointer() {
        let mut slab = Slab::default();
        let key = slab.insert(7);
        assert_eq!(Key::from_opaque(key.to_opaque::<u8>()), key);
        assert!(!key.to_opaque::<u8>().is_null());
        assert!(slab.get(Key::from_opaque(std::ptr::null::<u8>())).is_none());
    }
}
