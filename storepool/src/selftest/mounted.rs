//! Which file system a path is on: the line of `/proc/self/mountinfo` that is in force there.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    /// Where.
    pub(super) point: PathBuf,
    /// What it is, as the kernel calls it: `ext4`, `nfs4`, `fuse.sshfs`.
    pub(super) kind: String,
    /// What is mounted: a device, a server's share.
    pub(super) source: String,
    /// Options of the mount and of the file system.
    pub(super) options: Vec<String>,
}

impl Mounted {
    /// Returns what is mounted where `path` is; `None` if the system does not tell.
    pub(super) fn at(path: &Path) -> Option<Self> {
        let path = fs::canonicalize(path).ok()?;
        let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
        Self::find(&table, &path)
    }

    /// Returns the entry of a mount table that is in force at `path`.
    pub(super) fn find(table: &str, path: &Path) -> Option<Self> {
        let all = table.lines().filter_map(Self::parse);
        let above = all.filter(|mounted| path.starts_with(&mounted.point));
        // Of several at one point the last one hides the others.
        above.max_by_key(|mounted| mounted.point.components().count())
    }

    // proc_pid_mountinfo(5): fields, any number of optional ones, a dash, kind, source, options of the file system.
    fn parse(line: &str) -> Option<Self> {
        let (own, of_system) = line.split_once(" - ")?;
        let own: Vec<_> = own.split(' ').collect();
        let mut of_system = of_system.split(' ');
        let kind = of_system.next()?.to_string();
        let source = text(of_system.next()?);
        let options = [*own.get(5)?, of_system.next().unwrap_or_default()];
        let options = options.iter().flat_map(|options| options.split(','));
        let options = options.filter(|option| !option.is_empty()).map(str::to_string).collect();
        Some(Self { point: path_of(own.get(4)?), kind, source, options })
    }

    /// Returns whether an option is set.
    pub(super) fn has(&self, option: &str) -> bool {
        self.options.iter().any(|own| own == option)
    }
}

// Spaces and the like are written as three octal digits.
fn path_of(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(|_| *first == b'\\') {
            Some(code) => {
                bytes.push(code);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

fn text(field: &str) -> String {
    path_of(field).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
25 24 0:23 / /mnt rw,relatime shared:1 master:2 - tmpfs tmpfs rw,size=1k
90 27 8:1 / /mnt/a\\040b rw,noatime - xfs /dev/sda1 rw,nobarrier
91 27 0:50 / /mnt rw - nfs4 nas:/export\\040one rw,vers=4.2
";

    #[test]
    fn the_innermost_and_latest_mount_is_the_one_in_force() {
        let at = |path: &str| Mounted::find(TABLE, Path::new(path)).expect("a mount");

        assert_eq!((at("/").kind.as_str(), at("/").source.as_str()), ("ext4", "/dev/vda"));
        assert_eq!(at("/mntx/y").kind, "ext4");
        assert_eq!(
            (at("/mnt/c").kind.as_str(), at("/mnt").source.as_str()),
            ("nfs4", "nas:/export one")
        );
        let inner = at("/mnt/a b/deeper");
        assert_eq!((inner.kind.as_str(), inner.point.as_path()), ("xfs", Path::new("/mnt/a b")));
        assert!(inner.has("noatime") && inner.has("nobarrier") && !inner.has("barrier"));
    }

    #[test]
    fn the_machines_own_table_is_understood() {
        assert!(Mounted::at(Path::new("/")).is_some());
    }
}
