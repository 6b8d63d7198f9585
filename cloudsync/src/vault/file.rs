//! Small local files that must be private and must survive a crash: credentials, key file, anchor.

use std::ffi::OsString;
use std::path::Path;

use storepool::disk::{Disk, SystemDisk};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Reads a small file as a whole.
pub(crate) fn read_small_file(path: &Path, limit_bytes: u64) -> Result<Zeroizing<Vec<u8>>> {
    SystemDisk.read(path, limit_bytes).map(Zeroizing::new).map_err(Error::file("read", path))
}

/// Replaces a file at once, readable by its owner alone; durable on return.
pub(crate) fn write_private_file(path: &Path, content: &[u8]) -> Result<()> {
    let disk = SystemDisk;
    let mut temporary_name = OsString::from(".");
    temporary_name.push(path.file_name().unwrap_or_default());
    temporary_name.push(".new");
    let temporary = path.with_file_name(temporary_name);
    // Left by a crash; one installation has one writer.
    let _ = disk.remove(&temporary);
    let mut file = disk.create(&temporary).map_err(Error::file("create", &temporary))?;
    let written = file
        .append(content)
        .and_then(|()| file.sync())
        .map_err(Error::file("write", &temporary))
        .and_then(|()| disk.rename(&temporary, path).map_err(Error::file("replace", path)));
    if written.is_err() {
        let _ = disk.remove(&temporary);
        return written;
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = parent.unwrap_or(Path::new("."));
    // Without it a crash may bring the old file back.
    disk.sync_directory(directory).map_err(Error::file("sync", directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_even_after_a_crash_in_between() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("anchor");
        std::fs::write(directory.path().join(".anchor.new"), b"half").expect("written");

        write_private_file(&path, b"one").expect("written");
        write_private_file(&path, b"two").expect("written");

        assert_eq!(read_small_file(&path, 10).expect("read").as_slice(), b"two");
        assert!(read_small_file(&path, 2).is_err());
        assert_eq!(std::fs::read_dir(directory.path()).expect("listed").count(), 1);
    }
}
