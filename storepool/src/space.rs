//! The space policy: how much of a disk is kept back so that prune can always run.

use std::path::Path;
use std::str::FromStr;

use crate::disk::{Disk, Space};
use crate::error::{Error, Result};

/// Largest reserve that a percentage asks for: more would only be wasted on large disks.
const PERCENT_RESERVE_MOST: u64 = 10 << 30;
/// Name of the ballast file in a pool directory.
const BALLAST_NAME: &str = "reserve";
/// Size of the ballast file that prune drops when a disk is completely full: one pack and the index transactions that go with it.
const BALLAST_MOST: u64 = 24 << 20;
/// Size of the ballast while there is plenty of space: enough for the index transactions that delete packs, if others fill the disk at once.
const BALLAST_LEAST: u64 = 1 << 20;
/// There is plenty of space while so many bytes are available, and this part of the file system.
const PLENTY: u64 = 4 << 30;
const PLENTY_SHARE: u64 = 8;
/// The ballast takes at most this part of a file system.
const BALLAST_SHARE: u64 = 64;
/// Room for the index's shared memory and some transactions, on a disk that is full but for its ballast.
const TRANSACTIONS_ROOM: u64 = 1 << 20;

/// Space on each disk that only prune may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reserve {
    /// So many percent of the file system, at most 10 GiB.
    Percent(f64),
    /// So many bytes.
    Bytes(u64),
}

impl Default for Reserve {
    fn default() -> Self {
        Self::Percent(5.0)
    }
}

impl Reserve {
    /// Returns the bytes to keep back on a file system.
    pub fn bytes(&self, space: Space) -> u64 {
        match self {
            Self::Percent(percent) => {
                ((space.total as f64 * percent / 100.0) as u64).min(PERCENT_RESERVE_MOST)
            }
            Self::Bytes(bytes) => *bytes,
        }
    }

    /// Returns how many bytes may be written below `path` without touching the reserve.
    pub fn room(&self, disk: &dyn Disk, path: &Path) -> Result<u64> {
        let space = disk.space(path).map_err(Error::io("measure", path))?;
        Ok(space.available.saturating_sub(self.bytes(space)))
    }
}

impl FromStr for Reserve {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || {
            format!("\"{text}\" is neither a percentage such as \"5%\" nor a size such as \"20G\"")
        };
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.trim().parse().map_err(|_| wrong())?;
            return if (0.0..=50.0).contains(&percent) {
                Ok(Self::Percent(percent))
            } else {
                Err(wrong())
            };
        }
        parse_size(text).map(Self::Bytes).ok_or_else(wrong)
    }
}

/// Reads a size in bytes with an optional suffix K, M, G or T (powers of 1024, an `i` or `iB` may follow).
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits =
        text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let (number, suffix) = text.split_at(digits);
    let factor: u64 = match suffix.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "ki" | "kib" => 1 << 10,
        "m" | "mb" | "mi" | "mib" => 1 << 20,
        "g" | "gb" | "gi" | "gib" => 1 << 30,
        "t" | "tb" | "ti" | "tib" => 1 << 40,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    let bytes = number * factor as f64;
    (bytes.is_finite() && bytes < u64::MAX as f64).then_some(bytes as u64)
}

/// Sees to the ballast file of a pool directory: a small one while there is plenty of space, a full one once the disk gets short, as far as there is room
/// beyond it. Best effort: without it a full disk is only harder to clean up.
pub fn keep_ballast(disk: &dyn Disk, directory: &Path) {
    let Ok(space) = disk.space(directory) else { return };
    let is_short = space.available < PLENTY.max(space.total / PLENTY_SHARE);
    let wanted = match is_short {
        true => BALLAST_MOST.min(space.total / BALLAST_SHARE),
        false => BALLAST_LEAST,
    };
    let path = directory.join(BALLAST_NAME);
    let held = disk.open(&path).and_then(|file| file.length()).unwrap_or(0);
    if held < wanted && space.available > 4 * wanted {
        // What a failed attempt leaves is held as well.
        let _ = disk.allocate(&path, wanted);
    }
}

/// Makes as much ballast again as there is room for, but for what a few transactions need: on a disk that was full, when a little was needed for the
/// moment. What is kept this way cannot be taken by others.
pub(crate) fn raise_lesser_ballast(disk: &dyn Disk, directory: &Path) {
    let path = directory.join(BALLAST_NAME);
    let Ok(space) = disk.space(directory) else { return };
    let left_free = TRANSACTIONS_ROOM.min(space.available / 2);
    let length = BALLAST_MOST.min(space.total / BALLAST_SHARE).min(space.available - left_free);
    if length > 0 && disk.allocate(&path, length).is_err() {
        let _ = disk.remove(&path);
    }
}

/// Removes the ballast file, so that its room can be used. Returns whether there was one.
pub fn drop_ballast(disk: &dyn Disk, directory: &Path) -> bool {
    disk.remove(&directory.join(BALLAST_NAME)).is_ok()
}
