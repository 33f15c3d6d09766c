//! The loader's cache of libraries, `/etc/ld.so.cache`, in the format that glibc has written since 2.2. Pure.
//!
//! ```text
//!   0  "glibc-ld.so.cache1.1"   magic, 20 bytes
//!  20  u32 count                of entries
//!  24  ...                      up to 48: lengths and flags of no use here
//!  48  entries, 24 bytes each:  i32 flags, u32 name, u32 path, u32 os version, u64 hardware
//!      strings                  name and path are offsets from 0, ended by NUL
//! ```
//!
//! Caches written for compatibility hold an older table first; the magic is looked for behind it.

/// The paths under which the cache knows `library`. Empty for a cache of another format.
pub(crate) fn paths_of<'a>(cache: &'a [u8], library: &str) -> Vec<&'a str> {
    let Some(start) = find(cache, MAGIC) else {
        return Vec::new();
    };
    let cache = &cache[start..];
    let count = usize::try_from(word(cache, 20).unwrap_or(0)).unwrap_or(0);
    let entries = cache.get(HEADER_LEN..).unwrap_or_default().chunks_exact(ENTRY_LEN).take(count);
    entries
        .filter(|entry| word(entry, 4).and_then(|at| text(cache, at)) == Some(library))
        .filter_map(|entry| word(entry, 8).and_then(|at| text(cache, at)))
        .collect()
}

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER_LEN: usize = 48;
const ENTRY_LEN: usize = 24;
/// Longest string that is looked at.
const TEXT_MAX: usize = 4096;

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    if haystack.starts_with(needle) {
        return Some(0);
    }
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_ne_bytes(*bytes))
}

fn text(cache: &[u8], at: u32) -> Option<&str> {
    let tail = cache.get(usize::try_from(at).ok()?..)?;
    let end = tail.iter().take(TEXT_MAX).position(|byte| *byte == 0)?;
    std::str::from_utf8(&tail[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache_of(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&u32::try_from(entries.len()).unwrap().to_ne_bytes());
        bytes.resize(HEADER_LEN, 0);
        let mut strings = Vec::new();
        let strings_at = HEADER_LEN + entries.len() * ENTRY_LEN;
        for (name, path) in entries {
            let mut offset_of = |text: &str| {
                let at = u32::try_from(strings_at + strings.len()).unwrap();
                strings.extend_from_slice(text.as_bytes());
                strings.push(0);
                at
            };
            let (name, path) = (offset_of(name), offset_of(path));
            bytes.extend_from_slice(&3i32.to_ne_bytes());
            bytes.extend_from_slice(&name.to_ne_bytes());
            bytes.extend_from_slice(&path.to_ne_bytes());
            bytes.extend_from_slice(&[0; 12]);
        }
        bytes.extend_from_slice(&strings);
        bytes
    }

    #[test]
    fn a_library_is_found_under_all_its_paths() {
        let cache =
            cache_of(&[("liba.so", "/x/liba.so"), ("libb.so", "/libb.so"), ("liba.so", "/y/liba.so")]);
        assert_eq!(paths_of(&cache, "liba.so"), ["/x/liba.so", "/y/liba.so"]);
        assert!(paths_of(&cache, "libc.so").is_empty());
    }

    #[test]
    fn the_table_behind_an_older_one_is_found() {
        let mut cache = b"ld.so-1.7.0 and its entries".to_vec();
        cache.extend_from_slice(&cache_of(&[("liba.so", "/x/liba.so")]));
        assert_eq!(paths_of(&cache, "liba.so"), ["/x/liba.so"]);
    }

    #[test]
    fn every_truncation_is_read_without_harm() {
        let cache = cache_of(&[("liba.so", "/x/liba.so"), ("libb.so", "/libb.so")]);
        for len in 0..cache.len() {
            let _ = paths_of(&cache[..len], "liba.so");
        }
    }
}
