//! What a point holds, as its kind needs it to give it back: the description it left, its files in order, their bytes verified.

use std::io::Write;

use serde::de::DeserializeOwned;
use storepool::chunks::ChunkSource;
use storepool::entry::EntryPath;
use storepool::id::PointId;
use storepool::manifest::Manifest;
use storepool::monitor::Monitor;
use storepool::restore::{find_path, read_file};
use storepool::tree::Node;

use super::WorkloadError;
use crate::contents::{Descend, walk};
use crate::error::Cause;

/// A point that is read, from pool or vault.
pub(crate) struct PointContents<'a> {
    /// Its id.
    pub(crate) id: PointId,
    /// Its description.
    pub(crate) manifest: &'a Manifest,
    /// Where its chunks come from.
    pub(crate) chunks: &'a dyn ChunkSource,
    /// Watches the restore and may ask it to stop.
    pub(crate) monitor: &'a dyn Monitor,
}

impl PointContents<'_> {
    /// Returns what the workload kept in the point beside the tree.
    ///
    /// # Errors
    /// It is not what this version of the kind writes.
    pub(crate) fn detail<T: DeserializeOwned>(&self) -> Result<T, Cause> {
        serde_json::from_str(&self.manifest.detail).map_err(|cause| {
            let kind = &self.manifest.workload;
            let message = format!(
                "point {} does not describe itself as {kind} points of this version do",
                self.id.short()
            );
            WorkloadError::failed(message)
                .hint("--to DIR gets what is in it as files; a newer Keepwell may know it")
                .because(cause)
                .into()
        })
    }

    /// Returns the error that tells everything that keeps the point from `target`, together: whoever restores is in a hurry.
    pub(crate) fn kept_from(&self, target: &str, faults: &[String], hint: &str) -> WorkloadError {
        let count = match faults.len() {
            1 => "one thing keeps".to_string(),
            count => format!("{count} things keep"),
        };
        let point = self.id.short();
        let faults = faults.join("; ");
        let message = format!("{count} point {point} from going into {target}: {faults}");
        WorkloadError::refused(message).hint(format!("nothing was changed; -n checks again{hint}"))
    }

    /// Returns the error for a point whose description is of a later version than we know.
    pub(crate) fn of_newer_version(&self) -> WorkloadError {
        let message = format!("point {} was made by a newer Keepwell", self.id.short());
        WorkloadError::failed(message).hint("use that version")
    }

    /// Returns all regular files, in order of their paths, with their lengths in bytes.
    pub(crate) fn files(&self) -> Result<Vec<(EntryPath, u64)>, Cause> {
        let reader = self.chunks.reader()?;
        let root = find_path(&*reader, self.manifest, &EntryPath::root())?;
        let mut files = Vec::new();
        walk(&*reader, &EntryPath::root(), &root, &mut |path, entry| {
            if let Node::File { size, .. } = entry.node {
                files.push((path.clone(), size));
            }
            Ok(Descend::Into)
        })?;
        Ok(files)
    }

    /// Writes the bytes of a file to `out`, in order, every chunk verified. Returns how many. What was written before an error is sound, but not all.
    pub(crate) fn copy(&self, path: &EntryPath, out: &mut dyn Write) -> Result<u64, Cause> {
        let mut watched = Watched { out, monitor: self.monitor };
        match read_file(self.chunks, self.manifest, path, &mut watched) {
            Err(_) if self.monitor.cancelled() => Err(storepool::Error::Interrupted.into()),
            result => Ok(result?),
        }
    }
}

struct Watched<'a> {
    out: &'a mut dyn Write,
    monitor: &'a dyn Monitor,
}

impl Write for Watched<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.monitor.cancelled() {
            return Err(std::io::Error::other("the run was asked to stop"));
        }
        let written = self.out.write(bytes)?;
        let event = storepool::monitor::Event::Done { items: 0, bytes: written as u64 };
        self.monitor.event(event);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
