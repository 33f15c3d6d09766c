//! Where the control socket is expected: the environment, the user id, and who owns a folder in `/tmp`.

use std::fs::{DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Variable of the environment that says where the control socket is.
pub const SOCKET_VARIABLE: &str = "DECURION_SOCKET";

const SOCKET: &str = "control.sock";
const SYSTEM_DIR: &str = "/run/decurion";

/// Why there is no safe place for the control socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Someone else could have put a socket of their own there.
    #[error(
        "{} is not a folder of ours alone ({why}); set XDG_RUNTIME_DIR or DECURION_SOCKET", dir.display()
    )]
    NotOurs {
        /// The folder.
        dir: PathBuf,
        /// What does not fit.
        why: &'static str,
    },
    /// The folder can't be looked at or made.
    #[error("{} can't be used", dir.display())]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The control socket that this user's tools and supervisor meet at: `DECURION_SOCKET`; for root
/// `/run/decurion/control.sock`; for others `$XDG_RUNTIME_DIR/decurion/control.sock`, or where that is not set
/// `/tmp/decurion-UID/control.sock`, if the folder belongs to nobody else.
///
/// # Errors
/// [`SocketError`] where the folder in `/tmp` is not ours alone.
pub fn default_socket() -> Result<PathBuf, SocketError> {
    if let Some(socket) = std::env::var_os(SOCKET_VARIABLE).filter(|socket| !socket.is_empty()) {
        return Ok(socket.into());
    }
    let uid = nix::unistd::geteuid();
    if uid.is_root() {
        return Ok(Path::new(SYSTEM_DIR).join(SOCKET));
    }
    if let Some(dir) = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_absolute()) {
        return Ok(Path::new(&dir).join("decurion").join(SOCKET));
    }
    let dir = shared_dir(uid.as_raw());
    match std::fs::symlink_metadata(&dir) {
        // Then there is no supervisor, and whoever connects is told so.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(dir.join(SOCKET)),
        Err(source) => Err(SocketError::Folder { dir, source }),
        Ok(found) => ours_alone(&found, uid.as_raw()).map_or(Ok(dir.join(SOCKET)), |why| {
            Err(SocketError::NotOurs { dir: shared_dir(uid.as_raw()), why })
        }),
    }
}

/// Makes the folder of [`default_socket`], if it is one in `/tmp`, so that nobody else can put something there.
///
/// # Errors
/// [`SocketError`].
pub fn own_runtime_dir(socket: &Path) -> Result<(), SocketError> {
    let uid = nix::unistd::geteuid().as_raw();
    let dir = shared_dir(uid);
    if socket.parent() != Some(&dir) {
        return Ok(());
    }
    match DirBuilder::new().mode(0o700).create(&dir) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            return Err(SocketError::Folder { dir, source });
        }
        _ => {}
    }
    match std::fs::symlink_metadata(&dir) {
        Err(source) => Err(SocketError::Folder { dir, source }),
        Ok(found) => match ours_alone(&found, uid) {
            Some(why) => Err(SocketError::NotOurs { dir, why }),
            None => Ok(()),
        },
    }
}

fn shared_dir(uid: u32) -> PathBuf {
    PathBuf::from(format!("/tmp/decurion-{uid}"))
}

/// What makes a folder not ours alone, if something does.
fn ours_alone(found: &Metadata, uid: u32) -> Option<&'static str> {
    if !found.is_dir() {
        return Some("it is no folder");
    }
    if found.uid() != uid {
        return Some("it belongs to another user");
    }
    (found.mode() & 0o022 != 0).then_some("others may write to it")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_that_others_may_write_to_is_not_ours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let uid = nix::unistd::geteuid().as_raw();
        let judge = |uid| ours_alone(&std::fs::symlink_metadata(dir.path()).unwrap(), uid);
        assert_eq!(judge(uid), None);
        assert_eq!(judge(uid + 1), Some("it belongs to another user"));
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(judge(uid), Some("others may write to it"));
    }

    #[test]
    fn a_link_is_no_folder() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        let found = std::fs::symlink_metadata(&link).unwrap();
        assert_eq!(ours_alone(&found, nix::unistd::geteuid().as_raw()), Some("it is no folder"));
    }
}
