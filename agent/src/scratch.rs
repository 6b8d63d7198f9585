//! Folders for the moment: removed again, also where what was restored into them is closed or frozen.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::IFlags;

/// Removes a folder with everything in it; what is not there is no error.
pub(crate) fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_all(folder);
            fs::remove_dir_all(folder)
        }
        removed => removed,
    }
}

// Best effort: what stays closed is complained of by the removal.
fn open_all(folder: &Path) {
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        thaw(&folder);
        let _ = fs::set_permissions(&folder, fs::Permissions::from_mode(0o700));
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(kind) if kind.is_file() => thaw(&entry.path()),
                _ => {}
            }
        }
    }
}

// Nobody, not even root, removes what cannot be changed (chattr +i, +a).
fn thaw(path: &Path) {
    let Ok(file) = File::open(path) else { return };
    let frozen = IFlags::IMMUTABLE | IFlags::APPEND;
    if let Ok(flags) = rustix::fs::ioctl_getflags(&file)
        && flags.intersects(frozen)
    {
        let _ = rustix::fs::ioctl_setflags(&file, flags - frozen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_folders_are_removed_and_missing_ones_are_no_error() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("closed");
        fs::create_dir_all(folder.join("inner")).unwrap();
        fs::write(folder.join("inner/file"), b"x").unwrap();
        for path in [folder.join("inner"), folder.clone()] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
        }

        remove(&folder).unwrap();

        assert!(!folder.exists());
        remove(&folder).unwrap();
    }
}
