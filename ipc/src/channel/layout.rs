//! Where everything stands in a segment, by arithmetic that both sides do for themselves.
//!
//! ```text
//!   segment   lane 0 | lane 1 | ...                       each lane a multiple of a page
//!   lane      0    magic, version, lane, slots            constants, read once when attaching
//!             128  tail                                   of the ring below
//!             256  head                                   of the other side's ring: read when it seems full
//!             384  wake_at, want_room                     for the other side's bell: read at every flush
//!             512  one word per stream: the generation that this side took (callee) or withdrew (caller)
//!             ..   ring: slots of 32 bytes
//!             ..   arena: granules of 1 KiB, on a page
//! ```
//!
//! Lines are 128 bytes apart, since processors fetch pairs of 64.

use serde::{Deserialize, Serialize};

use super::{BLOCK_BYTES, GRANULE};

pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"DcRn");
pub(crate) const VERSION: u32 = 2;
pub(crate) const SLOT_BYTES: usize = 32;

const LINE: usize = 128;
const PAGE: usize = 4096;
const PAGE_BYTES: u32 = 4096;
/// Lanes of one attachment, at most.
pub(crate) const LANES_MAX: u16 = 64;
const STREAMS_MAX: u16 = 4096;
const ARENA_MAX: u32 = 8 * 1024 * 1024;
/// What the arenas of all lanes of a proxy are to take, at most: see [`Geometry::fitting`].
pub(crate) const ARENAS_BUDGET: u64 = 256 * 1024 * 1024;
/// Larger arenas are for those only who need them for the number of their streams.
const ARENA_ENOUGH: u64 = 1024 * 1024;
/// A body that streams sleeps once for each window: by this size, copying takes so much longer that sleeping does not
/// show. What one stream takes of it shrinks with what is left.
const WINDOW_ENOUGH: u32 = 8 * BLOCK_BYTES;
/// Streams that a lane has where its arenas allow it, however few its replica takes at once: that can be changed.
const STREAMS_USUAL: u32 = 128;
const BYTES_PER_STREAM: u32 = 2 * GRANULE;
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

    /// Of each of a proxy's lanes: to so many `replicas` from so many `workers`, each for `requests` at once.
    ///
    /// All arenas together keep to a budget, as long as none has to be smaller than the smallest for that, or too small
    /// for its streams.
    #[must_use]
    pub fn fitting(workers: usize, replicas: u32, requests: u32) -> Geometry {
        let lanes = (workers as u64).max(1) * u64::from(replicas.max(1));
        let share = (ARENAS_BUDGET / (2 * lanes)).clamp(u64::from(BLOCK_BYTES), ARENA_ENOUGH);
        Geometry::of_streams(u32::try_from(share).unwrap_or(BLOCK_BYTES), requests)
    }

    /// Of a handle's lane to a replica that takes so many `requests` at once: small, since edges are many.
    #[must_use]
    pub fn of_handle(requests: u32) -> Geometry {
        let geometry = Geometry::of_streams(2 * BLOCK_BYTES, requests);
        Geometry { window: BLOCK_BYTES, ..geometry }
    }

    /// With at least such arenas, larger where the streams for so many requests need it.
    fn of_streams(arena: u32, requests: u32) -> Geometry {
        // One that has ended keeps its place until both sides have said so.
        let wanted = requests.saturating_add(requests / 4).saturating_add(8);
        let usual = (arena / BYTES_PER_STREAM).min(STREAMS_USUAL);
        let streams = wanted.max(usual).min(u32::from(STREAMS_MAX));
        let least = (streams * BYTES_PER_STREAM).next_multiple_of(PAGE_BYTES);
        let arena = (arena / PAGE_BYTES * PAGE_BYTES).max(least);
        Geometry {
            down_arena: arena,
            up_arena: arena,
            window: (arena / 2).clamp(BLOCK_BYTES, WINDOW_ENOUGH),
            streams: u16::try_from(streams).unwrap_or(STREAMS_MAX),
        }
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

    pub(crate) fn claim(&self, stream: usize) -> usize {
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
        assert!(first.claim(127) + 4 <= first.slot(0));
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

    #[test]
    fn lanes_follow_the_requests_and_keep_to_the_budget() {
        for workers in [1usize, 2, 16, 64] {
            for replicas in [1, 3, 64, 200, 10_000] {
                for requests in [1, 5, 100, 1_000, 3_000, u32::MAX] {
                    let geometry = Geometry::fitting(workers, replicas, requests);
                    geometry.check().unwrap();
                    assert!(u32::from(geometry.streams) >= requests.min(u32::from(STREAMS_MAX)));
                    Geometry::of_handle(requests).check().unwrap();
                    let lanes = workers as u64 * u64::from(replicas);
                    let arenas = lanes * u64::from(geometry.down_arena + geometry.up_arena);
                    let least = BLOCK_BYTES.max(BYTES_PER_STREAM * u32::from(geometry.streams));
                    let least = lanes * 2 * u64::from(least.next_multiple_of(PAGE_BYTES));
                    assert!(arenas <= ARENAS_BUDGET.max(least), "{workers} x {replicas}: {geometry:?}");
                }
            }
        }
    }

    #[test]
    fn sixteen_workers_and_two_hundred_replicas_take_what_is_documented() {
        let mebibytes = |workers: u16, replicas: u32| {
            let geometry = Geometry::fitting(usize::from(workers), replicas, 5);
            let each =
                [Direction::Down, Direction::Up].map(|way| Layout::segment_bytes(&geometry, way, workers));
            replicas as usize * (each[0] + each[1]) / (1 << 20)
        };
        assert_eq!([mebibytes(1, 4), mebibytes(4, 64), mebibytes(16, 200)], [9, 290, 475]);
        let geometry = Geometry::fitting(16, 200, 5);
        assert_eq!((geometry.down_arena, geometry.up_arena, geometry.streams), (64 << 10, 64 << 10, 32));
    }
}
