//! One `SOCK_SEQPACKET` socket that carries control messages, and descriptors in the same packet.
//!
//! The other end may be anyone: nothing here blocks unless a timeout was asked for, a packet is bounded by
//! [`MESSAGE_MAX`], and every descriptor that arrives is owned before anything of the packet is believed, so
//! that what nobody asked for is closed. Knows nothing of what the messages mean.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::codec::{self, CodecError, MESSAGE_MAX};

/// Descriptors in one packet, at most: the kernel's own bound (`SCM_MAX_FD`). With room for all of them, no
/// packet arrives with its control data cut off.
pub const FDS_MAX: usize = 253;

/// One end of a packet socket.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
}

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The other side does not read, and the socket's buffer is full.
    #[error("the other side's socket is full")]
    WouldBlock,
    /// The other side has closed its end, or is gone.
    #[error("the other side has hung up")]
    Closed,
    /// More bytes or descriptors than fit one packet.
    #[error("a packet carries at most {MESSAGE_MAX} bytes and {FDS_MAX} descriptors")]
    TooLarge,
    /// A message came with descriptors, and this process may have no more of them; the message is lost.
    #[error("this process may have no more descriptors, and a message came with some (see RLIMIT_NOFILE)")]
    NoDescriptors,
    /// The system refused.
    #[error("the socket failed")]
    Io(#[source] io::Error),
    /// What came is not a message of the type asked for.
    #[error("received something else than a message: {0}")]
    Malformed(String),
}

impl Link {
    /// Two ends that are joined, both closed on exec.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub fn pair() -> io::Result<(Link, Link)> {
        let (near, far) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Link { socket: near }, Link { socket: far }))
    }

    /// Takes a socket that was inherited or received.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Link {
        Link { socket: fd }
    }

    /// Puts another socket in the place of this one, for everybody who holds it.
    ///
    /// # Errors
    /// What the system says; then this one is as it was.
    pub fn replace(&self, other: Link) -> io::Result<()> {
        // SAFETY: both descriptors are open and ours; the number stays ours, and what it stood for is closed by the
        // kernel in the same step.
        let done = unsafe { libc::dup3(other.as_raw_fd(), self.as_raw_fd(), libc::O_CLOEXEC) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends one message and these descriptors in one packet; never blocks.
    ///
    /// # Errors
    /// [`LinkError`]; after [`LinkError::WouldBlock`] nothing was sent.
    pub fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        if fds.len() > FDS_MAX {
            return Err(LinkError::TooLarge);
        }
        let bytes = codec::encode(message).map_err(|error| match error {
            CodecError::TooLarge { .. } => LinkError::TooLarge,
            CodecError::Malformed(error) => LinkError::Malformed(error.to_string()),
        })?;
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            return match sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, flags, None)
            {
                Ok(_) => Ok(()),
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ETOOMANYREFS) => Err(LinkError::WouldBlock),
                Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => Err(LinkError::Closed),
                Err(Errno::EMSGSIZE) => Err(LinkError::TooLarge),
                Err(error) => Err(LinkError::Io(error.into())),
            };
        }
    }

    /// The next message with its descriptors, or `None` where none has arrived; never blocks.
    ///
    /// # Errors
    /// [`LinkError::Closed`] after the last message; [`LinkError::Malformed`] for anything but one message of
    /// this type, whose descriptors are closed then.
    pub fn try_recv<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>, LinkError> {
        // Zeroed pages come from the kernel when they are touched: a short message costs no more than its size.
        let mut bytes = vec![0u8; MESSAGE_MAX];
        let Some((length, fds)) = self.packet(&mut bytes)? else {
            return Ok(None);
        };
        let Some(message) = bytes.get(..length) else {
            return Err(LinkError::Malformed(format!(
                "a packet of {length} bytes, with at most {MESSAGE_MAX}"
            )));
        };
        if message.is_empty() {
            // A hang-up reads as zero bytes; a packet without any says nothing either.
            return Err(LinkError::Closed);
        }
        let message = codec::decode(message).map_err(|error| LinkError::Malformed(error.to_string()))?;
        Ok(Some((message, fds)))
    }

    /// The next message with its descriptors; waits for it, for ever where there is no `timeout`. `None`: the
    /// time is over.
    ///
    /// # Errors
    /// As [`Link::try_recv`].
    pub fn recv_timeout<T: DeserializeOwned>(
        &self,
        timeout: Option<Duration>,
    ) -> Result<Option<(T, Vec<OwnedFd>)>, LinkError> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            if let Some(received) = self.try_recv()? {
                return Ok(Some(received));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            let wait = left.map_or(PollTimeout::NONE, |left| {
                // Rounded up, so that the last millisecond is slept and not spun.
                let millis = left.as_millis().saturating_add(1);
                PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
            });
            match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], wait) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(LinkError::Io(error.into())),
            }
        }
    }

    /// One packet: its true length (more than `bytes` holds where it was cut) and its descriptors.
    fn packet(&self, bytes: &mut [u8]) -> Result<Option<(usize, Vec<OwnedFd>)>, LinkError> {
        let mut control = nix::cmsg_space!([RawFd; FDS_MAX]);
        let mut parts = [IoSliceMut::new(bytes)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_TRUNC;
        let received = loop {
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
                Ok(received) => break received,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::ECONNRESET | Errno::ENOTCONN) => return Err(LinkError::Closed),
                Err(error) => return Err(LinkError::Io(error.into())),
            }
        };
        if received.flags.contains(MsgFlags::MSG_CTRUNC) {
            // There was room in the buffer for as many as a packet can have.
            return Err(LinkError::NoDescriptors);
        }
        let mut fds = Vec::new();
        for message in received.cmsgs().map_err(|error| LinkError::Io(error.into()))? {
            if let ControlMessageOwned::ScmRights(raw) = message {
                for fd in raw {
                    // SAFETY: the kernel has just made this descriptor for us, and nothing else knows of it.
                    fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
                }
            }
        }
        Ok(Some((received.bytes, fds)))
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Link {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl From<OwnedFd> for Link {
    fn from(fd: OwnedFd) -> Link {
        Link::from_fd(fd)
    }
}

impl From<Link> for OwnedFd {
    fn from(link: Link) -> OwnedFd {
        link.socket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw_send(link: &Link, bytes: &[u8]) {
        sendmsg::<()>(link.as_raw_fd(), &[IoSlice::new(bytes)], &[], MsgFlags::MSG_DONTWAIT, None).unwrap();
    }

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (near, far) = Link::pair().unwrap();
        let (gift, other) = Link::pair().unwrap();
        near.send(&"take this".to_owned(), &[gift.as_fd()]).unwrap();
        let (text, fds) = far.try_recv::<String>().unwrap().unwrap();
        assert_eq!((text.as_str(), fds.len()), ("take this", 1));
        let gift = Link::from_fd(fds.into_iter().next().unwrap());
        gift.send(&7u32, &[]).unwrap();
        assert_eq!(other.try_recv::<u32>().unwrap().unwrap().0, 7);
    }

    #[test]
    fn nothing_there_is_none_and_a_hang_up_is_closed() {
        let (near, far) = Link::pair().unwrap();
        assert!(far.try_recv::<u32>().unwrap().is_none());
        assert!(far.recv_timeout::<u32>(Some(Duration::from_millis(1))).unwrap().is_none());
        near.send(&1u32, &[]).unwrap();
        drop(near);
        assert_eq!(far.recv_timeout::<u32>(None).unwrap().unwrap().0, 1);
        assert!(matches!(far.recv_timeout::<u32>(None), Err(LinkError::Closed)));
        assert!(matches!(far.send(&1u32, &[]), Err(LinkError::Closed)));
    }

    #[test]
    fn a_link_can_be_tied_anew_under_its_holders() {
        let ((near, far), (next, other)) = (Link::pair().unwrap(), Link::pair().unwrap());
        near.replace(next).unwrap();
        assert!(matches!(far.recv_timeout::<u32>(None), Err(LinkError::Closed)));
        near.send(&1u32, &[]).unwrap();
        assert_eq!(other.try_recv::<u32>().unwrap().unwrap().0, 1);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let (near, far) = Link::pair().unwrap();
        raw_send(&near, b"junk");
        assert!(matches!(far.try_recv::<String>(), Err(LinkError::Malformed(_))));
        near.send(&2u32, &[]).unwrap();
        assert_eq!(far.try_recv::<u32>().unwrap().unwrap().0, 2);
    }

    #[test]
    fn a_packet_longer_than_a_message_may_be_is_refused() {
        let (near, far) = Link::pair().unwrap();
        raw_send(&near, &vec![0; MESSAGE_MAX + 1]);
        assert!(matches!(far.try_recv::<String>(), Err(LinkError::Malformed(_))));
        assert!(matches!(near.send(&vec![0u8; MESSAGE_MAX], &[]), Err(LinkError::TooLarge)));
    }

    #[test]
    fn a_flood_of_descriptors_is_closed_again() {
        let (near, far) = Link::pair().unwrap();
        let (gift, other) = Link::pair().unwrap();
        let many: Vec<_> = (0..FDS_MAX).map(|_| gift.as_fd()).collect();
        near.send(&0u8, &many).unwrap();
        drop(gift);
        assert!(far.try_recv::<String>().is_err());
        // All copies of the gift are closed, so its other end sees a hang-up (once no other test's process is
        // between fork and exec).
        assert!(matches!(other.recv_timeout::<u32>(None), Err(LinkError::Closed)));
    }

    #[test]
    fn a_peer_that_does_not_read_never_blocks_the_sender() {
        let (near, _far) = Link::pair().unwrap();
        let full = (0..100_000).find_map(|_| near.send(&[0u64; 64].to_vec(), &[]).err());
        assert!(matches!(full, Some(LinkError::WouldBlock)));
    }
}
