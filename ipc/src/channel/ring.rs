//! The two rings of a lane, as one side sees them: one that it writes, one that it reads.

use std::sync::Arc;

use super::slot::Slot;
use super::{Fault, Layout};
use crate::event_index::{self, Load, Publisher};
use crate::sync::Ordering;
use crate::sys::bell::{Heard, Ringer};
use crate::sys::memory::{ReadOnly, Writable};

/// The memory of one lane and the bell of the other side.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) own: Arc<Writable>,
    pub(crate) peer: Arc<ReadOnly>,
    pub(crate) own_layout: Layout,
    pub(crate) peer_layout: Layout,
    pub(crate) ringer: Ringer,
    /// Of our own bell.
    pub(crate) heard: Heard,
}

/// The ring that we write.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    publisher: Publisher,
    /// How far the other side had read when we last looked.
    peer_head: u32,
}

impl Outgoing {
    /// Publishes one slot.
    #[inline]
    pub(crate) fn put(&mut self, shared: &Shared, slot: Slot) -> Result<(), Fault> {
        let layout = &shared.own_layout;
        let tail = self.publisher.tail;
        if tail.wrapping_sub(self.peer_head) >= layout.slots() {
            self.look(shared)?;
            if tail.wrapping_sub(self.peer_head) >= layout.slots() {
                return Err(Fault::Full);
            }
        }
        shared.own.store_words(layout.slot(tail), slot.to_words());
        self.publisher.publish(shared.own.word(layout.tail()), slot.is_loud());
        Ok(())
    }

    /// Looks how far the other side has read.
    fn look(&mut self, shared: &Shared) -> Result<(), Fault> {
        // SYNC POINT: reused slots. Pairs with the reader's releasing store of `head`.
        let head = shared.peer.word(shared.peer_layout.head()).load(Ordering::Acquire);
        let advance = head.wrapping_sub(self.peer_head);
        if advance > self.publisher.tail.wrapping_sub(self.peer_head) {
            return Err(Fault::Index);
        }
        self.peer_head = head;
        Ok(())
    }

    /// Whether the other side waits for blocks that we hold.
    #[inline]
    pub(crate) fn is_wanted(shared: &Shared) -> bool {
        shared.peer.word(shared.peer_layout.want_room()).load(Ordering::Relaxed) != 0
    }

    /// Rings, at most once, if the other side may sleep over what was published.
    #[inline]
    pub(crate) fn flush(&mut self, shared: &Shared) {
        let layout = &shared.peer_layout;
        let (wake_at, want_room) = (shared.peer.word(layout.wake_at()), shared.peer.word(layout.want_room()));
        if self.publisher.must_ring(&wake_at, &want_room) {
            shared.ringer.ring();
        }
    }
}

/// The ring that we read.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    head: u32,
    published: u32,
    seen_tail: u32,
}

impl Incoming {
    /// How many slots are there to read.
    #[inline]
    pub(crate) fn available(&mut self, shared: &Shared) -> Result<u32, Fault> {
        // SYNC POINT: slots. Pairs with the publisher's releasing store of `tail`.
        let tail = shared.peer.word(shared.peer_layout.tail()).load(Ordering::Acquire);
        let count = tail.wrapping_sub(self.head);
        if count > shared.peer_layout.slots() || count < self.seen_tail.wrapping_sub(self.head) {
            return Err(Fault::Index);
        }
        self.seen_tail = tail;
        Ok(count)
    }

    /// Copies the next slot out and checks it; one of those that are available.
    #[inline]
    pub(crate) fn take(&mut self, shared: &Shared) -> Result<Slot, Fault> {
        let words = shared.peer.load_words(shared.peer_layout.slot(self.head));
        self.head = self.head.wrapping_add(1);
        Slot::from_words(words, shared.peer_layout.arena_bytes())
    }

    /// Lets the other side use the slots again that were taken.
    #[inline]
    pub(crate) fn publish(&mut self, shared: &Shared) {
        if self.published == self.head {
            return;
        }
        self.published = self.head;
        shared.heard.note();
        // SYNC POINT: reused slots. Pairs with the writer's acquiring load of `head`.
        shared.own.word(shared.own_layout.head()).store(self.head, Ordering::Release);
    }

    /// Whether anything new is there.
    #[inline]
    pub(crate) fn has_news(&self, shared: &Shared) -> bool {
        shared.peer.word(shared.peer_layout.tail()).load(Ordering::Relaxed) != self.head
    }

    /// Whether something is there that a sleeper is rung for, and not blocks alone that were given back: those may lie
    /// here for as long as nothing else comes. What makes no sense counts.
    pub(crate) fn has_loud_news(&self, shared: &Shared) -> bool {
        // SYNC POINT: slots, as in `available`.
        let tail = shared.peer.word(shared.peer_layout.tail()).load(Ordering::Acquire);
        let (count, arena) = (tail.wrapping_sub(self.head), shared.peer_layout.arena_bytes());
        let is_loud = |at: u32| {
            let words = shared.peer.load_words(shared.peer_layout.slot(self.head.wrapping_add(at)));
            Slot::from_words(words, arena).map_or(true, |slot| slot.is_loud())
        };
        count > shared.peer_layout.slots() || (0..count).any(is_loud)
    }

    /// Asks to be rung and looks a last time: true where nothing is there.
    #[inline]
    pub(crate) fn arm(&self, shared: &Shared, wants_room: bool) -> bool {
        let layout = &shared.own_layout;
        event_index::arm(
            self.head,
            wants_room,
            shared.own.word(layout.wake_at()),
            shared.own.word(layout.want_room()),
            &shared.peer.word(shared.peer_layout.tail()),
        )
    }
}
