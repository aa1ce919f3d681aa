//! Listening on a Unix socket, and its file.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use rustix::net::{
    self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen,
};
use tokio::net::UnixListener;

/// The longest path that fits into the system's structure, with the byte that ends it.
const MAX_PATH: usize = 107;

/// As many connections wait to be accepted as with Tokio's listeners.
const BACKLOG: i32 = 1024;

/// The file of a socket. It is removed when this is dropped, unless another one has taken its path.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
    /// Whether it belongs to another process now.
    kept: AtomicBool,
}

/// Listens on the socket at `path`, whose file gets `mode`. A file that is left of a process that has ended is
/// replaced.
pub(super) fn open(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    let length = path.as_os_str().len();
    if length > MAX_PATH {
        return Err(wrong(
            io::ErrorKind::InvalidInput,
            format!("the path has {length} bytes; a Unix socket's path has at most {MAX_PATH}"),
        ));
    }
    let addr = SocketAddrUnix::new(path)?;
    remove_stale(path, &addr)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&socket, &addr)?;
    let file = SocketFile::of(path)?;
    // Before the socket listens, so that nobody connects whom the mode keeps out.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    listen(&socket, BACKLOG)?;
    Ok((UnixListener::from_std(socket.into())?, file))
}

/// Removes the socket at the path if no process listens on it.
fn remove_stale(path: &Path, addr: &SocketAddrUnix) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        let why = "there is a file that is not a socket; remove it, or choose another path";
        return Err(wrong(io::ErrorKind::AlreadyExists, why));
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, addr).map_err(io::Error::from) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // A full queue belongs to a process, too.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Err(wrong(io::ErrorKind::AddrInUse, "another process listens on it")),
    }
}

fn wrong(kind: io::ErrorKind, why: impl Into<String>) -> io::Error {
    io::Error::new(kind, why.into())
}

impl SocketFile {
    /// The file at a path.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        let inode = (metadata.dev(), metadata.ino());
        Ok(Self { path: path.to_owned(), inode, kept: AtomicBool::new(false) })
    }

    /// It is not removed.
    pub(super) fn keep(&self) {
        self.kept.store(true, Relaxed);
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.kept.load(Relaxed) {
            return;
        }
        let metadata = fs::symlink_metadata(&self.path);
        if metadata.is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.inode)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "a Unix socket could not be removed");
        }
    }
}
