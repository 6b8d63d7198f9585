//! What a server says of itself before anybody has logged in: its version stands in the first packet of every connection.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long a server may be silent. One that is stuck must not hold up whoever only looks around.
const PATIENCE: Duration = Duration::from_secs(1);
/// Version of the protocol that every server since MySQL 3.21 speaks.
const PROTOCOL: u8 = 10;
/// Longer is no version, in bytes.
const VERSION_MOST: u64 = 256;

/// Returns the version that the server behind a socket tells everybody, or `None` if nothing of the kind answers within a second. The server may write a
/// line about a connection that nobody used into its log.
pub(crate) fn version(socket: &Path) -> Option<String> {
    let (sender, receiver) = mpsc::channel();
    let socket = socket.to_path_buf();
    // In a thread: connecting itself waits for ever where nobody takes connections any more.
    thread::spawn(move || {
        let greeting = UnixStream::connect(&socket).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            read(stream)
        });
        // Nobody waits for it any more, if this fails.
        let _ = sender.send(greeting);
    });
    receiver.recv_timeout(PATIENCE).ok()?.ok()?
}

// Length (3 bytes) and number of the packet, version of the protocol, version of the server up to a zero byte.
fn read(mut stream: impl Read) -> io::Result<Option<String>> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let mut version = Vec::new();
    BufReader::new(stream.take(VERSION_MOST)).read_until(0, &mut version)?;
    let is_whole = head[4] == PROTOCOL && version.pop() == Some(0);
    Ok(String::from_utf8(version).ok().filter(|_| is_whole))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_a_whole_greeting_tells_a_version() {
        let greeting = |bytes: &[u8]| read(bytes).ok().flatten();

        let whole = greeting(b"\x4a\0\0\0\x0a5.6.24-log\0rest");
        assert_eq!(whole.as_deref(), Some("5.6.24-log"));
        assert_eq!(greeting(b"\x10\0\0\0\xff5.6.24\0"), None, "too many connections");
        assert_eq!(greeting(b"\x4a\0\0\0\x0a5.6.24"), None);
        assert_eq!(greeting(b"\x4a\0"), None);
        assert_eq!(greeting(&[10; 4096]), None);
    }

    #[test]
    fn a_server_that_says_nothing_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("mysqld.sock");
        let _silent = UnixListener::bind(&socket).unwrap();

        assert_eq!(version(&socket), None);
        assert_eq!(version(&folder.path().join("missing")), None);
    }
}
