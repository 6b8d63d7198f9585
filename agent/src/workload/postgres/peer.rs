//! Which process listens at the other end of a Unix socket.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// Returns the process that listened when the connection was made, by its number here; `None` if it cannot be seen from here, as one outside of our
/// container.
#[allow(unsafe_code)]
pub(super) fn listener(stream: &UnixStream) -> Option<i32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let size = size_of::<libc::ucred>() as libc::socklen_t;
    let mut length = size;
    // SAFETY: the descriptor is open as long as `stream` lives; the kernel writes at most `length` bytes to `peer`, which is as long and made of
    // integers that may have any value. (The crate rustix has the same call, but takes the number for one that is never 0, and of a process that
    // cannot be seen it is.)
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    (result == 0 && length == size && peer.pid > 0).then_some(peer.pid)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn it_is_the_process_that_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listens = UnixListener::bind(&path).unwrap();

        let stream = UnixStream::connect(&path).unwrap();

        assert_eq!(listener(&stream), Some(std::process::id() as i32));
    }
}
