//! The sockets that others come to: the control socket, the handle socket, the HTTP listener.

use std::fs::{self, Permissions};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, getsockopt, listen, socket,
    sockopt,
};
use nix::unistd::{Gid, Group, Uid, User};

use crate::sys::folder::make_folder;
use crate::sys::process::open_pidfd;

/// A socket file that is removed with this.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
}

/// Why a socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("another process listens on {} already", path.display())]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("the socket {} can't be made: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Who may use the sockets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    group: Option<Gid>,
}

/// Connections that wait to be taken, at most.
const BACKLOG: i32 = 128;
/// The same on the HTTP port; the kernel's own bound may be lower.
const HTTP_BACKLOG: i32 = 4096;

impl SocketFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Guard {
    pub(crate) fn new(group: Option<u32>) -> Self {
        Self { group: group.map(Gid::from_raw) }
    }

    /// Whether this user may come in: root, our own user, or a member of the group.
    pub(crate) fn admits(self, uid: u32, gid: u32) -> bool {
        let uid = Uid::from_raw(uid);
        if uid.is_root() || uid == Uid::effective() {
            return true;
        }
        let Some(group) = self.group else { return false };
        if Gid::from_raw(gid) == group {
            return true;
        }
        let user = User::from_uid(uid).ok().flatten();
        let members = Group::from_gid(group).ok().flatten().map(|group| group.mem).unwrap_or_default();
        user.is_some_and(|user| members.contains(&user.name))
    }

    fn open_to_group(self, path: &Path) -> io::Result<()> {
        if let Some(group) = self.group {
            nix::unistd::chown(path, None, Some(group))?;
        }
        fs::set_permissions(path, Permissions::from_mode(0o660))
    }
}

/// Binds the control socket.
pub(crate) fn bind_control(path: &Path, guard: Guard) -> Result<(UnixListener, SocketFile), SocketError> {
    let failed = |source| SocketError::Io { path: path.to_owned(), source };
    prepare(path, |path| UnixStream::connect(path).map(drop))?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    let file = SocketFile { path: path.to_owned() };
    guard.open_to_group(path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok((listener, file))
}

/// Binds the handle socket.
pub(crate) fn bind_handles(path: &Path, guard: Guard) -> Result<(OwnedFd, SocketFile), SocketError> {
    let failed = |source: io::Error| SocketError::Io { path: path.to_owned(), source };
    prepare(path, |path| {
        let socket = packet_socket(SockFlag::empty())?;
        Ok(connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?)
    })?;
    let listener = packet_socket(SockFlag::SOCK_NONBLOCK).map_err(failed)?;
    let address = UnixAddr::new(path).map_err(|error| failed(error.into()))?;
    bind(listener.as_raw_fd(), &address).map_err(|error| failed(error.into()))?;
    let file = SocketFile { path: path.to_owned() };
    guard.open_to_group(path).map_err(failed)?;
    let backlog = Backlog::new(BACKLOG).map_err(|error| failed(error.into()))?;
    listen(&listener, backlog).map_err(|error| failed(error.into()))?;
    Ok((listener, file))
}

/// Binds a packet socket for processes of our own user alone.
pub(crate) fn bind_private(path: &Path) -> Result<(OwnedFd, SocketFile), SocketError> {
    let (listener, file) = bind_handles(path, Guard::new(None))?;
    let private = fs::set_permissions(path, Permissions::from_mode(0o600));
    private.map_err(|source| SocketError::Io { path: path.to_owned(), source })?;
    Ok((listener, file))
}

/// The file of a socket that the program before us has made.
pub(crate) fn inherited(path: &Path) -> SocketFile {
    SocketFile { path: path.to_owned() }
}

/// Takes one connection; `None`: there is none now.
pub(crate) fn accept_handle(listener: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
        // SAFETY: the kernel has just made this descriptor for us, and nothing else knows of it.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR | nix::errno::Errno::ECONNABORTED) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Who is at the other end: user, group, process id.
pub(crate) fn peer_of(socket: BorrowedFd<'_>) -> io::Result<(u32, u32, i32)> {
    let credentials = getsockopt(&socket, sockopt::PeerCredentials)?;
    Ok((credentials.uid(), credentials.gid(), credentials.pid()))
}

/// A descriptor of the process at the other end. By the socket itself where the kernel can, for an id may have been
/// given to another process by now.
pub(crate) fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const SO_PEERPIDFD: libc::c_int = 77;
    let mut fd: libc::c_int = -1;
    let mut length: libc::socklen_t = 4;
    let (value, raw) = ((&raw mut fd).cast::<libc::c_void>(), socket.as_raw_fd());
    // SAFETY: value points at an int of ours, and length says so.
    let got = unsafe { libc::getsockopt(raw, libc::SOL_SOCKET, SO_PEERPIDFD, value, &raw mut length) };
    if got == 0 && fd >= 0 {
        // SAFETY: the kernel has just made this descriptor for us, and nothing else knows of it.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    let (_, _, pid) = peer_of(socket)?;
    open_pidfd(u32::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::NotFound))?)
}

/// Binds the address that HTTP is served on.
pub(crate) fn bind_http(address: &str) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    listen(&listener, Backlog::new(HTTP_BACKLOG)?)?;
    Ok(listener)
}

fn packet_socket(flags: SockFlag) -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, flags | SockFlag::SOCK_CLOEXEC, None)?)
}

/// Makes room for a socket: its folder, and what a supervisor that died has left there.
fn prepare(path: &Path, call: impl Fn(&Path) -> io::Result<()>) -> Result<(), SocketError> {
    let failed = |source| SocketError::Io { path: path.to_owned(), source };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        make_folder(folder, if Uid::effective().is_root() { 0o755 } else { 0o700 }).map_err(failed)?;
    }
    let is_socket = |metadata: fs::Metadata| std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type());
    match fs::symlink_metadata(path).map(is_socket) {
        Ok(true) => {}
        Ok(false) => return Err(failed(io::Error::from(io::ErrorKind::AlreadyExists))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    match call(path) {
        Ok(()) => Err(SocketError::InUse { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_socket_that_was_left_behind_is_no_obstacle_and_a_live_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/control.sock");
        let guard = Guard::new(None);
        drop(UnixListener::bind({
            fs::create_dir(path.parent().unwrap()).unwrap();
            &path
        }));
        assert!(path.exists());
        let (listener, file) = bind_control(&path, guard).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(matches!(bind_control(&path, guard), Err(SocketError::InUse { .. })));
        drop((listener, file));
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "mine").unwrap();
        // A plain file refuses connections just as a stale socket does, so its kind decides.
        assert!(bind_handles(&path, Guard::new(None)).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn a_client_of_the_handle_socket_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handle.sock");
        let (listener, _file) = bind_handles(&path, Guard::new(None)).unwrap();
        let client = packet_socket(SockFlag::empty()).unwrap();
        connect(client.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        let taken = accept_handle(&listener).unwrap().unwrap();
        let (uid, gid, pid) = peer_of(taken.as_fd()).unwrap();
        assert_eq!(pid, i32::try_from(std::process::id()).unwrap());
        assert!(Guard::new(None).admits(uid, gid));
        assert!(!Guard::new(None).admits(54_321, 54_321));
        assert!(Guard::new(Some(54_321)).admits(12_345, 54_321));
        peer_pidfd(taken.as_fd()).unwrap();
    }
}
