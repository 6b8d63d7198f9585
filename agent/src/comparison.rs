//! Comparing a restored tree: with its source as it lives ([`live`]), or with what its point says of it ([`point`]).

mod live;
mod point;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub(crate) use live::Comparison;
pub(crate) use point::PointComparison;

/// Differences that are listed; the count goes on.
const DIFFERENCES_LISTED: usize = 20;
const ATTRIBUTES_LIMIT: usize = 64 << 10;

/// What came out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// Entries compared.
    pub(crate) entries: u64,
    /// Regular files among them.
    pub(crate) files: u64,
    /// Bytes of content compared.
    pub(crate) bytes: u64,
    /// Entries that changed in the source meanwhile.
    pub(crate) changed: u64,
    /// Entries that the point reports as problems.
    pub(crate) problems: u64,
    /// Differences, the first of them.
    pub(crate) differences: Vec<String>,
    /// How many there were.
    pub(crate) difference_count: u64,
    /// What could not be compared here, and why.
    pub(crate) remarks: BTreeSet<&'static str>,
}

impl Findings {
    /// Enters that something at `path` is not as it should be.
    pub(crate) fn differ(&mut self, path: &str, what: &str) {
        self.difference_count += 1;
        if self.differences.len() < DIFFERENCES_LISTED {
            self.differences.push(format!("{path}: {what}"));
        }
    }
}

// Names and values, sorted; what cannot be read is the same on both sides.
fn attributes(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut list = vec![0; ATTRIBUTES_LIMIT];
    let Ok(length) = rustix::fs::llistxattr(path, list.as_mut_slice()) else { return Vec::new() };
    let mut found: Vec<_> = list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; ATTRIBUTES_LIMIT];
            let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), value.as_mut_slice());
            value.truncate(length.unwrap_or(0));
            (name.to_vec(), value)
        })
        .collect();
    found.sort();
    found
}
