//! What can be found at a path: kinds, metadata, and paths of bytes.

use std::fmt;

/// A path inside a recovery point: bytes, not UTF-8; components joined by `/`, without a leading one. Empty is the root.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryPath(Vec<u8>);

impl EntryPath {
    /// Returns the path of the root of a point.
    pub fn root() -> Self {
        Self::default()
    }

    /// Returns the path with these bytes, without leading, trailing or doubled slashes; `None` if a component is `.` or `..`
    /// or holds a NUL.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut path = Self::root();
        for component in bytes.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            if !is_safe_name(component) {
                return None;
            }
            path = path.join(component);
        }
        Some(path)
    }

    /// Returns the path of the entry `name` below this directory.
    pub fn join(&self, name: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self(bytes)
    }

    /// Returns the path's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the components from the root down.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&display_bytes(&self.0))
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", display_bytes(&self.0))
    }
}

/// Returns bytes as text for people: control characters and invalid UTF-8 escaped as `\xNN`.
pub fn display_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                let mut buffer = [0; 4];
                for byte in character.encode_utf8(&mut buffer).bytes() {
                    text.push_str(&format!("\\x{byte:02x}"));
                }
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Returns whether `name` may name a directory entry: 1 to 255 bytes, no slash or NUL, not `.` or `..`.
pub fn is_safe_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| *byte == b'/' || *byte == 0)
}

/// A file time: seconds since 1970 and nanoseconds (0 to 999,999,999).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileTime {
    /// Whole seconds since 1970 UTC, negative before.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

/// An extended attribute as the kernel stores it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xattr {
    /// The full name with its namespace, such as `user.comment` or `system.posix_acl_access`.
    pub name: Vec<u8>,
    /// The raw value.
    pub value: Vec<u8>,
}

/// What every kind of entry has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Metadata {
    /// The 12 permission bits.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Time of the last change of content.
    pub mtime: FileTime,
    /// Time of the last change of the inode; never restored, it shows whether an entry changed.
    pub ctime: FileTime,
    /// Inode number; never restored.
    pub inode: u64,
    /// Device of the file system, for entries with several names only.
    pub hard_link_device: Option<u64>,
    /// Inode flags (`chattr`), if the file system has them and any is set.
    pub inode_flags: Option<u32>,
    /// Extended attributes sorted by name, ACLs and file capabilities among them.
    pub xattrs: Vec<Xattr>,
}

/// A run of a file with holes: so many bytes of hole, then so many of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// Bytes of hole before the data.
    pub hole: u64,
    /// Bytes of data.
    pub data: u64,
}
