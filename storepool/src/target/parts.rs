//! Writing parts of a file with few calls.

use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use rustix::io::{Errno, Result as SystemResult};

/// Parts given to the kernel in one call.
const PARTS_MOST: usize = 64;

/// Some bytes and where in the file they belong.
pub(crate) type Part<'a> = (u64, &'a [u8]);

/// Writes parts in order of their offsets; neighbours go to the kernel together. Returns the bytes written.
pub(crate) fn write_parts(file: BorrowedFd<'_>, parts: &[Part<'_>]) -> SystemResult<u64> {
    let adjacent = |one: &Part<'_>, other: &Part<'_>| one.0 + one.1.len() as u64 == other.0;
    let mut written = 0;
    for group in parts.chunk_by(adjacent).flat_map(|group| group.chunks(PARTS_MOST)) {
        written += write_adjacent(file, group)?;
    }
    Ok(written)
}

fn write_adjacent(file: BorrowedFd<'_>, parts: &[Part<'_>]) -> SystemResult<u64> {
    let total: u64 = parts.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let mut done = 0;
    if parts.len() > 1 {
        let slices: Vec<_> = parts.iter().map(|(_, bytes)| IoSlice::new(bytes)).collect();
        done = rustix::io::pwritev(file, &slices, parts[0].0)? as u64;
        if done == total {
            return Ok(total);
        }
    }
    // One part, or the rest of a write that the kernel cut short.
    for (offset, bytes) in parts {
        let skipped = done.min(bytes.len() as u64);
        done -= skipped;
        let (mut at, mut rest) = (offset + skipped, &bytes[skipped as usize..]);
        while !rest.is_empty() {
            match rustix::io::pwrite(file, rest, at) {
                Ok(0) => return Err(Errno::IO),
                Ok(length) => {
                    at += length as u64;
                    rest = &rest[length..];
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(total)
}
