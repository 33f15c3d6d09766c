//! Where everything stands in a segment, by arithmetic that both sides do for themselves.
//!
//! ```text
//!   segment   lane 0 | lane 1 | ...                       each lane a multiple of a page
//!   lane      0    magic, version, lane, slots            constants, read once when attaching
//!             128  tail                                   of the ring below
//!             256  head                                   of the other side's ring: read when it seems full
//!             384  wake_at, want_room                     for the other side's bell: read at every flush
//!             512  one word per stream: generation taken  (the callee's segment)
//!             ..   ring: slots of 32 bytes
//!             ..   arena: granules of 1 KiB, on a page
//! ```
//!
//! Lines are 128 bytes apart, since processors fetch pairs of 64.

use serde::{Deserialize, Serialize};

use super::{BLOCK_BYTES, GRANULE};

pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"DcRn");
pub(crate) const VERSION: u32 = 1;
pub(crate) const SLOT_BYTES: usize = 32;

const LINE: usize = 128;
const PAGE: usize = 4096;
/// Lanes of one attachment, at most.
pub(crate) const LANES_MAX: u16 = 64;
const STREAMS_MAX: u16 = 1024;
const ARENA_MAX: u32 = 4 * 1024 * 1024;
/// Slots that a stream can need beside those for blocks: an end and a reset, of two generations.
const SLOTS_PER_STREAM: u32 = 4;

/// The measures of a lane, chosen by the caller and fixed when it attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// Bytes of the caller's arena.
    pub down_arena: u32,
    /// Bytes of the callee's arena.
    pub up_arena: u32,
    /// Bytes of one stream that may be lent and not yet given back, in either direction.
    pub window: u32,
    /// Requests in flight: at most one for every 2 KiB of the smaller arena.
    pub streams: u16,
}

impl Default for Geometry {
    fn default() -> Self {
        Geometry { down_arena: 256 * 1024, up_arena: 256 * 1024, window: 128 * 1024, streams: 128 }
    }
}

/// A measure outside of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a channel cannot have {value} as its {what}")]
pub struct GeometryError {
    what: &'static str,
    value: u32,
}

impl Geometry {
    /// The smaller lane between replicas.
    #[must_use]
    pub fn small() -> Geometry {
        Geometry { down_arena: 64 * 1024, up_arena: 64 * 1024, window: 64 * 1024, streams: 32 }
    }

    /// Slots of each ring: so many that two sides that keep the rules never fill it.
    #[must_use]
    pub fn slots(&self) -> u32 {
        let blocks = (self.down_arena + self.up_arena) / GRANULE;
        (blocks + SLOTS_PER_STREAM * u32::from(self.streams)).next_power_of_two()
    }

    /// Refuses measures outside of their ranges.
    ///
    /// # Errors
    /// [`GeometryError`] names the first such measure.
    pub fn check(&self) -> Result<(), GeometryError> {
        let refuse = |what, value| Err(GeometryError { what, value });
        for (what, arena) in [("down arena", self.down_arena), ("up arena", self.up_arena)] {
            if !(BLOCK_BYTES..=ARENA_MAX).contains(&arena) || !(arena as usize).is_multiple_of(PAGE) {
                return refuse(what, arena);
            }
        }
        if !(BLOCK_BYTES..=ARENA_MAX).contains(&self.window) {
            return refuse("window", self.window);
        }
        // Half of an arena can keep a granule for every stream.
        let granules = self.down_arena.min(self.up_arena) / GRANULE;
        if !(1..=STREAMS_MAX).contains(&self.streams) || u32::from(self.streams) > granules / 2 {
            return refuse("number of streams", u32::from(self.streams));
        }
        Ok(())
    }
}

/// Whose segment it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The caller's.
    Down,
    /// The callee's.
    Up,
}

/// Offsets of one lane within its segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    base: usize,
    streams: usize,
    slots: usize,
    arena: usize,
}

impl Layout {
    /// Of a lane in a segment; the geometry has been checked.
    pub(crate) fn new(geometry: &Geometry, direction: Direction, lane: u16) -> Layout {
        let arena = match direction {
            Direction::Down => geometry.down_arena,
            Direction::Up => geometry.up_arena,
        };
        let mut layout = Layout {
            base: 0,
            streams: usize::from(geometry.streams),
            slots: geometry.slots() as usize,
            arena: arena as usize,
        };
        layout.base = usize::from(lane) * layout.stride();
        layout
    }

    /// Bytes of a segment of so many lanes.
    pub(crate) fn segment_bytes(geometry: &Geometry, direction: Direction, lanes: u16) -> usize {
        Layout::new(geometry, direction, 0).stride() * usize::from(lanes)
    }

    fn stride(&self) -> usize {
        self.arena_start() + self.arena
    }

    fn ring_start(&self) -> usize {
        (4 * LINE + 4 * self.streams).next_multiple_of(LINE)
    }

    fn arena_start(&self) -> usize {
        (self.ring_start() + self.slots * SLOT_BYTES).next_multiple_of(PAGE)
    }

    pub(crate) fn constants(&self) -> usize {
        self.base
    }

    pub(crate) fn tail(&self) -> usize {
        self.base + LINE
    }

    pub(crate) fn head(&self) -> usize {
        self.base + 2 * LINE
    }

    pub(crate) fn wake_at(&self) -> usize {
        self.base + 3 * LINE
    }

    pub(crate) fn want_room(&self) -> usize {
        self.base + 3 * LINE + 4
    }

    pub(crate) fn taken(&self, stream: usize) -> usize {
        debug_assert!(stream < self.streams, "a stream within the table");
        self.base + 4 * LINE + 4 * stream
    }

    /// Of the slot that an index falls on.
    #[inline]
    pub(crate) fn slot(&self, index: u32) -> usize {
        self.base + self.ring_start() + (index as usize & (self.slots - 1)) * SLOT_BYTES
    }

    /// Of an offset in the arena.
    #[inline]
    pub(crate) fn arena(&self, offset: u32) -> usize {
        self.base + self.arena_start() + offset as usize
    }

    pub(crate) fn arena_bytes(&self) -> u32 {
        u32::try_from(self.arena).unwrap_or(u32::MAX)
    }

    pub(crate) fn slots(&self) -> u32 {
        u32::try_from(self.slots).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_lane_is_as_large_as_documented() {
        let geometry = Geometry::default();
        geometry.check().unwrap();
        Geometry::small().check().unwrap();
        assert_eq!(geometry.slots(), 1024);
        let down = Layout::segment_bytes(&geometry, Direction::Down, 1);
        assert_eq!(down, 36 * 1024 + 256 * 1024);
    }

    #[test]
    fn lanes_do_not_overlap() {
        let geometry = Geometry::default();
        let (first, second) =
            (Layout::new(&geometry, Direction::Up, 0), Layout::new(&geometry, Direction::Up, 1));
        assert_eq!(first.arena(first.arena_bytes()), second.constants());
        assert!(first.taken(127) + 4 <= first.slot(0));
        assert_eq!(first.slot(1024), first.slot(0));
    }

    #[test]
    fn measures_out_of_range_are_refused() {
        let good = Geometry::default();
        for bad in [
            Geometry { down_arena: 1024, ..good },
            Geometry { up_arena: ARENA_MAX + 4096, ..good },
            Geometry { up_arena: 100_000, ..good },
            Geometry { window: 1, ..good },
            Geometry { streams: 0, ..good },
            Geometry { streams: 129, ..good },
            Geometry { streams: u16::MAX, ..good },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
