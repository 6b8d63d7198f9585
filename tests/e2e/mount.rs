//! File systems that live as long as a test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::home::SEARCH_PATH;

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Mount {
    path: PathBuf,
}

impl Mount {
    /// Mounts a file system in memory of so many bytes at `path`, which is made.
    pub(crate) fn tmpfs(path: &Path, bytes: u64) -> Self {
        std::fs::create_dir_all(path).expect("a mount point can be made");
        let options = format!("size={bytes},mode=755");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "keepwell-e2e"]).arg(path));
        Self { path: path.to_path_buf() }
    }

    /// Makes an ext4 image of so many bytes beside `path`, with room for large extended attributes, and mounts it at `path`.
    pub(crate) fn ext4(path: &Path, bytes: u64) -> Self {
        std::fs::create_dir_all(path).expect("a mount point can be made");
        let image = path.with_extension("ext4");
        let file = File::create(&image).expect("an image can be made");
        file.set_len(bytes).expect("an image can be made");
        let features = ["-q", "-F", "-b", "4096", "-i", "8192", "-m", "0", "-O", "ea_inode"];
        run(Command::new("mkfs.ext4").args(features).arg(&image));
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(&image).arg(path));
        Self { path: path.to_path_buf() }
    }

    /// Mounts it again with another option.
    pub(crate) fn remount(&self, option: &str) {
        let options = format!("remount,{option}");
        run(Command::new("mount").args(["-o", &options]).arg(&self.path));
    }

    /// Returns where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// Runs a tool of the system, which must succeed, and returns what it prints.
pub(crate) fn run(command: &mut Command) -> Vec<u8> {
    let output = command.env("PATH", SEARCH_PATH).env("LC_ALL", "C.UTF-8").output().unwrap_or_else(
        |error| panic!("cannot run {command:?} (see \"packages\" in tests/run): {error}"),
    );
    assert!(
        output.status.success(),
        "{command:?} failed with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}
