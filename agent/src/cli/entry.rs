//! One entry of a point, as text and as JSON.

use serde::Serialize;
use storepool::clock::Timestamp;
use storepool::entry::{EntryPath, FileTime, display_bytes};
use storepool::id::hex;
use storepool::manifest::Owners;
use storepool::tree::{Entry, Node};

use crate::console::units::{local, rfc3339};

/// An entry for programs.
#[derive(Debug, Serialize)]
pub(super) struct EntryDocument {
    path: String,
    /// The bytes of a path that is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    #[serde(rename = "type")]
    kind: &'static str,
    mode: String,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    mtime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

impl EntryDocument {
    pub(super) fn of(path: &EntryPath, entry: &Entry, owners: &Owners) -> Self {
        let metadata = &entry.metadata;
        let name = |bytes: &Vec<u8>| display_bytes(bytes);
        Self {
            path: path_text(path),
            path_hex: path_hex(path),
            kind: kind_word(&entry.node),
            mode: format!("{:04o}", metadata.mode),
            uid: metadata.uid,
            gid: metadata.gid,
            user: owners.users.get(&metadata.uid).map(name),
            group: owners.groups.get(&metadata.gid).map(name),
            mtime: rfc3339(timestamp(metadata.mtime)),
            size: file_size(&entry.node),
            target: match &entry.node {
                Node::Symlink { target } => Some(display_bytes(target)),
                _ => None,
            },
        }
    }
}

/// Returns a path for programs: the text itself if it is text, else as it is shown to people.
pub(super) fn path_text(path: &EntryPath) -> String {
    std::str::from_utf8(path.as_bytes()).map_or_else(|_| path.to_string(), str::to_string)
}

/// Returns the bytes of a path that is not text.
pub(super) fn path_hex(path: &EntryPath) -> Option<String> {
    std::str::from_utf8(path.as_bytes()).is_err().then(|| hex(path.as_bytes()))
}

/// Returns the word for a kind of entry.
pub(super) fn kind_word(node: &Node) -> &'static str {
    match node {
        Node::File { .. } => "file",
        Node::Directory { .. } => "directory",
        Node::Symlink { .. } => "symlink",
        Node::Fifo => "fifo",
        Node::Socket => "socket",
        Node::CharDevice { .. } => "character device",
        Node::BlockDevice { .. } => "block device",
    }
}

/// Returns the size of a file.
pub(super) fn file_size(node: &Node) -> Option<u64> {
    match node {
        Node::File { size, .. } => Some(*size),
        _ => None,
    }
}

/// Returns one line about an entry, as `ls -l` would give it.
pub(super) fn long_line(path: &EntryPath, entry: &Entry, owners: &Owners) -> String {
    let metadata = &entry.metadata;
    let name = |names: &std::collections::BTreeMap<u32, Vec<u8>>, id: u32| {
        names.get(&id).map_or_else(|| id.to_string(), |name| display_bytes(name))
    };
    let size = match &entry.node {
        Node::File { size, .. } => size.to_string(),
        Node::CharDevice { major, minor } | Node::BlockDevice { major, minor } => {
            format!("{major}, {minor}")
        }
        _ => String::new(),
    };
    let target = match &entry.node {
        Node::Symlink { target } => format!(" -> {}", display_bytes(target)),
        _ => String::new(),
    };
    format!(
        "{} {:<8} {:<8} {size:>12} {} {path}{target}",
        permissions(&entry.node, metadata.mode),
        name(&owners.users, metadata.uid),
        name(&owners.groups, metadata.gid),
        local(timestamp(metadata.mtime)),
    )
}

fn permissions(node: &Node, mode: u32) -> String {
    let kind = match node {
        Node::File { .. } => '-',
        Node::Directory { .. } => 'd',
        Node::Symlink { .. } => 'l',
        Node::Fifo => 'p',
        Node::Socket => 's',
        Node::CharDevice { .. } => 'c',
        Node::BlockDevice { .. } => 'b',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

// A file's time may lie outside of what 64 bits of nanoseconds hold; the nearest moment is shown.
fn timestamp(time: FileTime) -> Timestamp {
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    Timestamp(nanos.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_look_as_ls_shows_them() {
        let directory =
            Node::Directory { tree: storepool::id::ChunkId([0; 32]), files: 0, bytes: 0 };

        assert_eq!(permissions(&directory, 0o1777), "drwxrwxrwt");
        assert_eq!(permissions(&Node::Fifo, 0o640), "prw-r-----");
        assert_eq!(permissions(&Node::Socket, 0o4644), "srwSr--r--");
        assert_eq!(permissions(&Node::Socket, 0o2755), "srwxr-sr-x");
    }

    #[test]
    fn times_beyond_the_calendar_are_shown_somehow() {
        let far = FileTime { seconds: i64::MAX, nanos: 0 };

        assert_eq!(timestamp(far), Timestamp(i64::MAX));
    }
}
