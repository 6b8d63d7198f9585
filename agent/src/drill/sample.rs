//! The sample: which files of a point a drill restores. Chosen by a seed, so that the same seed chooses the same files of the same point again.

use std::collections::{BTreeSet, BinaryHeap};
use std::fmt;
use std::str::FromStr;

use ring::digest::{Context, SHA256};
use storepool::entropy::{Entropy, random_bytes};
use storepool::entry::EntryPath;
use storepool::id::hex;
use storepool::manifest::Manifest;
use storepool::restore::find_path;
use storepool::tree::{ChunkFetch, Node};

use crate::config::SampleSize;
use crate::contents::{Descend, walk};

/// Files of a sample: more of them prove little, and take memory.
const FILES_MOST: usize = 100_000;

/// What the choice begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed([u8; 8]);

impl Seed {
    /// Returns a fresh one.
    pub(crate) fn fresh(entropy: &dyn Entropy) -> Self {
        Self(random_bytes(entropy))
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16);
        let number = number.ok_or("expected a seed of 16 digits, as a drill prints it")?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// What is restored of a point.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// The chosen entries; `None` for all.
    pub(crate) only: Option<BTreeSet<EntryPath>>,
    /// Entries chosen that are no directories.
    pub(crate) files: u64,
    /// Bytes of the files among them, holes included.
    pub(crate) bytes: u64,
    /// Entries of the point that are no directories.
    pub(crate) all_files: u64,
    /// Their bytes.
    pub(crate) all_bytes: u64,
    /// Directories; all of them are restored.
    pub(crate) directories: u64,
}

/// A file and the number that the seed draws for it: the lowest are chosen.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Drawn {
    number: [u8; 8],
    path: EntryPath,
    bytes: u64,
}

impl Sample {
    /// Chooses files of a point.
    ///
    /// # Errors
    /// The trees cannot be read.
    pub(crate) fn choose(
        fetch: &dyn ChunkFetch,
        manifest: &Manifest,
        size: SampleSize,
        seed: Seed,
    ) -> storepool::Result<Self> {
        let mut sample = Self::default();
        let mut drawn: BinaryHeap<Drawn> = BinaryHeap::new();
        let root = find_path(fetch, manifest, &EntryPath::root())?;
        walk(fetch, &EntryPath::root(), &root, &mut |path, entry| {
            let bytes = match entry.node {
                Node::Directory { .. } => {
                    sample.directories += 1;
                    return Ok(Descend::Into);
                }
                Node::File { size, .. } => size,
                _ => 0,
            };
            sample.all_files += 1;
            sample.all_bytes += bytes;
            if let SampleSize::Bytes(limit) = size
                && bytes <= limit
            {
                drawn.push(Drawn { number: draw(seed, path), path: path.clone(), bytes });
                if drawn.len() > FILES_MOST {
                    drawn.pop();
                }
            }
            Ok(Descend::Into)
        })?;
        let fits = match size {
            SampleSize::All => true,
            SampleSize::Bytes(limit) => {
                sample.all_bytes <= limit && sample.all_files <= FILES_MOST as u64
            }
        };
        let SampleSize::Bytes(limit) = size else { return Ok(sample.whole()) };
        if fits {
            return Ok(sample.whole());
        }
        let mut only = BTreeSet::new();
        for file in drawn.into_sorted_vec() {
            // What does not fit any more leaves room for a smaller one.
            if sample.bytes + file.bytes <= limit {
                sample.files += 1;
                sample.bytes += file.bytes;
                only.insert(file.path);
            }
        }
        sample.only = Some(only);
        Ok(sample)
    }

    fn whole(self) -> Self {
        Self { files: self.all_files, bytes: self.all_bytes, ..self }
    }

    /// Returns whether everything is restored.
    pub(crate) fn is_whole(&self) -> bool {
        self.only.is_none()
    }
}

fn draw(seed: Seed, path: &EntryPath) -> [u8; 8] {
    let mut context = Context::new(&SHA256);
    context.update(&seed.0);
    context.update(path.as_bytes());
    let digest = context.finish();
    let mut number = [0; 8];
    number.copy_from_slice(&digest.as_ref()[..8]);
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_read_as_it_is_printed_and_draws_the_same_again() {
        let seed: Seed = "00ff00ff00ff00ff".parse().unwrap();
        let path = |text: &str| EntryPath::parse(text.as_bytes()).unwrap();

        assert_eq!(seed.to_string().parse(), Ok(seed));
        assert_eq!(draw(seed, &path("a/b")), draw(seed, &path("a/b")));
        assert_ne!(draw(seed, &path("a/b")), draw(seed, &path("a/c")));
        for wrong in ["", "1", "00ff00ff00ff00fg", "00ff00ff00ff00ff0"] {
            assert!(wrong.parse::<Seed>().is_err(), "{wrong}");
        }
    }
}
