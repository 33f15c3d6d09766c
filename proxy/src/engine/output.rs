//! What is on its way to a client: private bytes and blocks lent by replicas, in order.

use std::collections::VecDeque;
use std::io;

use super::port::{Lane, Socket};
use crate::balance::LaneIndex;

/// Blocks up to this size are copied and given back at once: cheaper than another entry in a `writev`.
pub(super) const COPY_MAX: usize = 2 * 1024;
/// Private bytes that may wait: beyond, blocks stay lent, so that a slow client stops its replica and not us.
pub(super) const PRIVATE_MAX: usize = 64 * 1024;
/// Blocks in one `writev`.
const BLOCKS_MAX: usize = 16;
/// Capacity kept when there is nothing to write.
const KEPT_MAX: usize = 1024;

#[derive(Debug)]
enum Piece<In> {
    /// So many of the private bytes.
    Bytes(usize),
    Block {
        lane: LaneIndex,
        block: In,
        at: usize,
    },
}

/// The queue of one connection.
#[derive(Debug)]
pub(super) struct Output<In> {
    pieces: VecDeque<Piece<In>>,
    /// The private bytes of all pieces, in order, from `written` on.
    bytes: Vec<u8>,
    written: usize,
}

impl<In> Default for Output<In> {
    fn default() -> Self {
        Self { pieces: VecDeque::new(), bytes: Vec::new(), written: 0 }
    }
}

/// What a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrote {
    /// Everything is out.
    All,
    /// The kernel takes no more for now; so many bytes it took.
    Later { bytes: usize },
    /// The connection broke.
    Broken,
}

impl<In> Output<In> {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Private bytes that wait.
    pub(super) fn private(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Appends private bytes by writing them.
    pub(super) fn write<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let before = self.bytes.len();
        let result = write(&mut self.bytes);
        let added = self.bytes.len() - before;
        match self.pieces.back_mut() {
            _ if added == 0 => {}
            Some(Piece::Bytes(count)) => *count += added,
            _ => self.pieces.push_back(Piece::Bytes(added)),
        }
        result
    }

    pub(super) fn push(&mut self, lane: LaneIndex, block: In) {
        self.pieces.push_back(Piece::Block { lane, block, at: 0 });
    }

    /// Blocks that wait, with where they came from; forgets everything.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = (LaneIndex, In)> + use<In> {
        self.bytes = Vec::new();
        self.written = 0;
        std::mem::take(&mut self.pieces).into_iter().filter_map(|piece| match piece {
            Piece::Block { lane, block, .. } => Some((lane, block)),
            Piece::Bytes(_) => None,
        })
    }

    /// Writes as much as the kernel takes. Blocks that are out go to `done`.
    pub(super) fn flush<'l, S: Socket, L: Lane<S, In = In> + 'l>(
        &mut self,
        socket: &mut S,
        lane_at: impl Fn(LaneIndex) -> Option<&'l L>,
        done: &mut Vec<(LaneIndex, In)>,
    ) -> Wrote
    where
        In: 'l,
    {
        let mut bytes = 0;
        while let Some(first) = self.pieces.front() {
            let prefix_len = if let Piece::Bytes(count) = first { *count } else { 0 };
            let prefix = &self.bytes[self.written..self.written + prefix_len];
            let mut lane = None;
            let mut blocks: Vec<(&In, usize)> = Vec::new();
            for piece in self.pieces.iter().skip(usize::from(prefix_len > 0)).take(BLOCKS_MAX) {
                match piece {
                    Piece::Block { lane: from, block, at } if lane.is_none_or(|lane| lane == *from) => {
                        lane = Some(*from);
                        blocks.push((block, *at));
                    }
                    _ => break,
                }
            }
            let total = prefix_len + blocks.iter().map(|(block, at)| L::len(block) - at).sum::<usize>();
            let result = match lane {
                None => socket.write(prefix),
                Some(lane) => match lane_at(lane) {
                    Some(lane) => lane.write_to(socket, prefix, &blocks),
                    // Its memory is gone: what was promised can't be sent any more.
                    None => return Wrote::Broken,
                },
            };
            match result {
                Ok(wrote) => {
                    bytes += wrote;
                    self.advance(wrote, |block| L::len(block), done);
                    if wrote < total {
                        return Wrote::Later { bytes };
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Wrote::Later { bytes },
                Err(_) => return Wrote::Broken,
            }
        }
        match socket.flush() {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Wrote::Later { bytes },
            Err(_) => return Wrote::Broken,
        }
        self.bytes.clear();
        self.written = 0;
        if self.bytes.capacity() > KEPT_MAX {
            self.bytes.shrink_to(KEPT_MAX);
        }
        Wrote::All
    }

    fn advance(&mut self, mut wrote: usize, len: impl Fn(&In) -> usize, done: &mut Vec<(LaneIndex, In)>) {
        while let Some(piece) = self.pieces.front_mut() {
            match piece {
                Piece::Bytes(count) => {
                    let taken = wrote.min(*count);
                    self.written += taken;
                    wrote -= taken;
                    *count -= taken;
                    if *count > 0 {
                        return;
                    }
                }
                Piece::Block { block, at, .. } => {
                    let taken = wrote.min(len(block) - *at);
                    *at += taken;
                    wrote -= taken;
                    if *at < len(block) {
                        return;
                    }
                }
            }
            if let Some(Piece::Block { lane, block, .. }) = self.pieces.pop_front() {
                done.push((lane, block));
            }
            if wrote == 0 {
                return;
            }
        }
    }
}
