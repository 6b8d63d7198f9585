//! Where the socket is, and how it is bound and reached however long its path is.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::accounts;
use crate::place::Place;

/// The group whose members may control the daemon.
pub(super) const GROUP: &str = "keepwell";
/// Longest path that fits into an address of the kernel (`sun_path`, 108 bytes with the final zero).
const ADDRESS_MOST: usize = 107;
const NAME: &str = "control.sock";

/// Returns the path of the socket: in the system's folder for such things, or below `--home`.
pub(crate) fn path(place: &Place) -> PathBuf {
    let system = place.home.is_none() && rustix::process::geteuid().is_root();
    match system {
        true => Path::new("/run/keepwell").join(NAME),
        false => place.state().join(NAME),
    }
}

/// Binds the socket. One that a dead daemon left is replaced; that no living one has it is known by the daemon's lock.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Made for nobody but its owner (the mask of this process), opened for the group afterwards.
    let listener = at(path, |path| UnixListener::bind(path))?;
    let group = accounts::group(GROUP).map(|group| group.gid);
    if let Some(gid) = group
        && std::os::unix::fs::chown(path, None, Some(gid)).is_ok()
    {
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
        // The folder is entered on the way.
        if folder.starts_with("/run") && std::os::unix::fs::chown(folder, None, Some(gid)).is_ok() {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o750))?;
        }
    } else {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    }
    Ok(listener)
}

/// Connects to the socket.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    at(path, |path| UnixStream::connect(path))
}

// A path that is too long for an address is reached through its open folder.
fn at<T>(path: &Path, act: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() <= ADDRESS_MOST {
        return act(path);
    }
    let folder = fs::File::open(path.parent().unwrap_or(Path::new(".")))?;
    let name = path.file_name().unwrap_or_default();
    act(&Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_with_a_long_path_is_bound_reached_and_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("long".repeat(40)).join(NAME);

        let first = bind(&path).unwrap();
        connect(&path).unwrap();
        drop(first);
        let second = bind(&path).unwrap();
        connect(&path).unwrap();

        drop(second);
        assert!(connect(&path).is_err());
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert!(mode == 0o660 || mode == 0o600, "{mode:o}");
    }
}
