//! Which deployment a path belongs to: the longest prefix of whole segments.
//!
//! One pass over the path: a hash is carried along, and looked up at each segment's end. So the cost depends on the
//! path and not on the number of routes. A table never changes; a new one takes its place.

use decurion_api::RoutePrefix;

/// An immutable table of prefixes, each with something that stands for its deployment.
#[derive(Clone, Debug)]
pub struct RouteTable<T> {
    /// Open addressing over `hash`, a power of two in size, at most half full.
    slots: Box<[Slot]>,
    entries: Box<[(RoutePrefix, T)]>,
    /// Place of `/` in `entries`, which has no segment to look up at.
    root: Option<usize>,
    /// Length of the longest prefix: nothing behind it is looked at.
    longest: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u64,
    /// Place in `entries`; `EMPTY` where there is none.
    entry: u32,
}

const EMPTY: u32 = u32::MAX;

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self::new(std::iter::empty())
    }
}

impl<T> RouteTable<T> {
    /// Of two equal prefixes the first one counts; whoever makes the list refuses the second.
    #[must_use]
    pub fn new(routes: impl Iterator<Item = (RoutePrefix, T)>) -> Self {
        let mut entries: Vec<(RoutePrefix, T)> = routes.collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries.dedup_by(|b, a| a.0 == b.0);
        let mut table = Self {
            slots: vec![Slot { hash: 0, entry: EMPTY }; (entries.len() * 2).next_power_of_two().max(2)]
                .into(),
            root: entries.iter().position(|(prefix, _)| prefix.as_str() == "/"),
            longest: entries.iter().map(|(prefix, _)| prefix.as_str().len()).max().unwrap_or(0),
            entries: entries.into(),
        };
        for at in 0..table.entries.len() {
            if Some(at) != table.root {
                table.insert(at);
            }
        }
        table
    }

    fn insert(&mut self, at: usize) {
        let hash = self.entries[at].0.as_str().bytes().fold(HASH_START, step);
        let mut place = self.place(hash);
        while self.slots[place].entry != EMPTY {
            place = (place + 1) % self.slots.len();
        }
        self.slots[place] = Slot { hash, entry: u32::try_from(at).expect("fewer routes than 2^32") };
    }

    fn place(&self, hash: u64) -> usize {
        // The product's upper bits are the well-mixed ones.
        let place = (hash.wrapping_mul(MIX) >> 32) as usize;
        place & (self.slots.len() - 1)
    }

    /// The longest prefix that holds this path, which must be in its normal form.
    #[must_use]
    pub fn find(&self, path: &[u8]) -> Option<(&RoutePrefix, &T)> {
        let mut best = self.root.filter(|_| path.first() == Some(&b'/'));
        let mut hash = HASH_START;
        for (at, byte) in path.iter().take(self.longest).enumerate() {
            if *byte == b'/' && at > 0 {
                best = self.lookup(hash, &path[..at]).or(best);
            }
            hash = step(hash, *byte);
        }
        let end = path.len().min(self.longest);
        if path.len() == end || path[end] == b'/' {
            best = self.lookup(hash, &path[..end]).or(best);
        }
        best.map(|at| (&self.entries[at].0, &self.entries[at].1))
    }

    fn lookup(&self, hash: u64, prefix: &[u8]) -> Option<usize> {
        let mut place = self.place(hash);
        loop {
            let slot = self.slots[place];
            if slot.entry == EMPTY {
                return None;
            }
            if slot.hash == hash && self.entries[slot.entry as usize].0.as_str().as_bytes() == prefix {
                return Some(slot.entry as usize);
            }
            place = (place + 1) & (self.slots.len() - 1);
        }
    }

    /// Every route, sorted by prefix.
    pub fn iter(&self) -> impl Iterator<Item = (&RoutePrefix, &T)> {
        self.entries.iter().map(|(prefix, target)| (prefix, target))
    }
}

/// FNV-1a, byte by byte: prefixes are the operator's, so nobody chooses collisions.
fn step(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
}

const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(prefixes: &[&str]) -> RouteTable<String> {
        RouteTable::new(prefixes.iter().map(|p| (RoutePrefix::new(*p).unwrap(), (*p).to_owned())))
    }

    fn find<'t>(table: &'t RouteTable<String>, path: &str) -> Option<&'t str> {
        table.find(path.as_bytes()).map(|(_, target)| target.as_str())
    }

    #[test]
    fn whole_segments_match_and_the_longest_wins() {
        let table = table(&["/api", "/api/v1", "/apiary/x"]);
        for (path, want) in [
            ("/api", Some("/api")),
            ("/api/", Some("/api")),
            ("/api/x/y", Some("/api")),
            ("/api/v1", Some("/api/v1")),
            ("/api/v1/", Some("/api/v1")),
            ("/api/v11", Some("/api")),
            ("/apiary", None),
            ("/apiary/x", Some("/apiary/x")),
            ("/API", None),
            ("/ap", None),
            ("/", None),
            ("//api", None),
            ("*", None),
        ] {
            assert_eq!(find(&table, path), want, "{path}");
        }
    }

    #[test]
    fn the_root_takes_the_rest() {
        let table = table(&["/", "/a"]);
        assert_eq!(find(&table, "/"), Some("/"));
        assert_eq!(find(&table, "/b/a"), Some("/"));
        assert_eq!(find(&table, "/a/b"), Some("/a"));
        assert_eq!(find(&table, "*"), None);
    }

    #[test]
    fn an_empty_table_finds_nothing() {
        assert_eq!(find(&table(&[]), "/x"), None);
    }

    proptest! {
        #[test]
        fn it_finds_what_a_plain_search_finds(
            prefixes in prop::collection::vec("(/[ab]{1,2}){1,3}", 0..20),
            with_root: bool,
            path in "(/[ab]{0,2}){0,5}",
        ) {
            let mut prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
            if with_root {
                prefixes.push("/");
            }
            let want = prefixes.iter().copied().filter(|p| path.starts_with('/') && RoutePrefix::new(*p).unwrap().matches(&path)).max_by_key(|p| p.len());
            let table = table(&prefixes);
            prop_assert_eq!(find(&table, &path), want);
        }
    }
}
