//! Writing packs: frames are appended to a file in `tmp/`, the seal adds table and trailer, syncs and names the file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskWrite};
use crate::error::{Error, Result};
use crate::id::PackId;
use crate::pack::frame::SealedFrame;
use crate::pack::{ChunkEntry, HEADER_LENGTH, Header, PackKind, TRAILER_LENGTH, Toc, Trailer};
use crate::simulated::{self, Mistake};

/// A pack being written. Dropping it unsealed removes the file.
pub struct PackWriter {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Option<Box<dyn DiskWrite>>,
    header: Header,
    toc: Toc,
}

impl std::fmt::Debug for PackWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackWriter").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A pack that is complete under its final name.
#[derive(Clone, Debug)]
pub struct SealedPack {
    /// Its name.
    pub id: PackId,
    /// What it holds.
    pub kind: PackKind,
    /// Length of the file in bytes.
    pub length: u64,
    /// Its table of contents.
    pub toc: Arc<Toc>,
}

impl PackWriter {
    /// Creates the file `path` (below `tmp/`) and writes the header.
    pub fn create(disk: Arc<dyn Disk>, path: PathBuf, header: Header) -> Result<Self> {
        let mut file = disk.create(&path).map_err(Error::io("create", &path))?;
        file.append(&header.encode()).map_err(Error::io("write", &path))?;
        Ok(Self { disk, path, file: Some(file), header, toc: Toc::default() })
    }

    /// Appends a sealed frame and enters its chunks in the table of contents.
    pub fn append(&mut self, frame: &SealedFrame<'_>, chunks: &[ChunkEntry]) -> Result<()> {
        let file = self.file.as_mut().expect("a writer has its file until it is sealed");
        file.append(frame.stored).map_err(Error::io("write", &self.path))?;
        self.toc.push(frame.entry, chunks);
        Ok(())
    }

    /// Returns the bytes written so far, table and trailer not counted.
    pub fn length(&self) -> u64 {
        HEADER_LENGTH as u64 + self.toc.stored_length()
    }

    /// Returns the table of contents so far.
    pub fn toc(&self) -> &Toc {
        &self.toc
    }

    /// Writes table and trailer, syncs the file and renames it into `packs` (a directory of the pool). On return the content
    /// is durable; the name is after the caller has synced the directory returned by [`pack_path`]'s parent.
    pub fn seal(mut self, packs: &Path) -> Result<SealedPack> {
        let toc_bytes = self.toc.encode();
        let trailer = Trailer::seal(&self.header.encode(), &self.toc, &toc_bytes);
        let mut file = self.file.take().expect("a writer has its file until it is sealed");
        let written = file.append(&toc_bytes).and_then(|()| file.append(&trailer.encode()));
        written.map_err(Error::io("write", &self.path))?;
        // A failed sync is never retried on the same file: the kernel may have marked the lost pages clean.
        if !simulated::makes(Mistake::PackUnsynced) {
            file.sync().map_err(Error::io("sync", &self.path))?;
        }
        drop(file);
        let target = pack_path(packs, trailer.pack);
        self.disk.rename(&self.path, &target).map_err(Error::io("rename", &self.path))?;
        self.path = PathBuf::new();
        Ok(SealedPack {
            id: trailer.pack,
            kind: self.header.kind,
            length: trailer.toc_offset + toc_bytes.len() as u64 + TRAILER_LENGTH as u64,
            toc: Arc::new(std::mem::take(&mut self.toc)),
        })
    }
}

impl Drop for PackWriter {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // What cannot be removed here is removed at the next start: tmp/ is worth nothing.
            let _ = self.disk.remove(&self.path);
        }
    }
}

/// Returns the file name of a pack below the `packs` directory.
pub fn pack_path(packs: &Path, id: PackId) -> PathBuf {
    let name = id.to_string();
    packs.join(&name[..2]).join(format!("{name}.pack"))
}
