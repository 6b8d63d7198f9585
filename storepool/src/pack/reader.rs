//! Reading packs: the table of contents is proved against the pack's name, every frame against its chunks' names.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::disk::{Disk, DiskRead};
use crate::error::{Error, Result};
use crate::id::{PackId, PoolId};
use crate::pack::frame::FrameCodec;
use crate::pack::{
    CHUNKS_LIMIT, FRAMES_LIMIT, HEADER_LENGTH, Header, PACK_LIMIT, TRAILER_LENGTH, Toc, Trailer,
};

/// A pack whose header, table of contents and trailer agree with its name.
pub struct PackReader {
    id: PackId,
    header: Header,
    toc: Arc<Toc>,
    file: Arc<dyn DiskRead>,
    length: u64,
}

impl std::fmt::Debug for PackReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackReader").field("id", &self.id).finish_non_exhaustive()
    }
}

impl PackReader {
    /// Opens the pack `id` stored in the file `path` and checks everything but the frames.
    ///
    /// # Errors
    /// [`Error::PackMissing`] if there is no such file, [`Error::PackDamaged`] if its bytes are not those of the pack, [`Error::Io`] if
    /// they cannot be read.
    pub fn open(disk: &dyn Disk, path: &Path, id: PackId, pool: PoolId) -> Result<Self> {
        let damaged = |reason: &str| Error::PackDamaged { pack: id, reason: reason.to_string() };
        let read_failed = |cause: io::Error| match cause.kind() {
            io::ErrorKind::NotFound => Error::PackMissing { pack: id },
            io::ErrorKind::UnexpectedEof => damaged("ends too early"),
            _ => Error::io("read", path)(cause),
        };
        let file = disk.open(path).map_err(read_failed)?;
        let length = file.length().map_err(read_failed)?;
        let shortest = (HEADER_LENGTH + TRAILER_LENGTH) as u64;
        let longest =
            PACK_LIMIT + Toc::encoded_length(FRAMES_LIMIT, CHUNKS_LIMIT) as u64 + shortest;
        if !(shortest..=longest).contains(&length) {
            return Err(damaged("has an impossible length"));
        }
        let mut header_bytes = [0; HEADER_LENGTH];
        file.read_exact_at(&mut header_bytes, 0).map_err(read_failed)?;
        let mut trailer_bytes = [0; TRAILER_LENGTH];
        let trailer_offset = length - TRAILER_LENGTH as u64;
        file.read_exact_at(&mut trailer_bytes, trailer_offset).map_err(read_failed)?;
        let trailer = Trailer::decode(&trailer_bytes).map_err(|error| damaged(error.0))?;
        if trailer.toc_offset.checked_add(u64::from(trailer.toc_length)) != Some(trailer_offset) {
            return Err(damaged("its table of contents does not end at the trailer"));
        }
        let mut toc_bytes = vec![0; trailer.toc_length as usize];
        file.read_exact_at(&mut toc_bytes, trailer.toc_offset).map_err(read_failed)?;
        if trailer.name(&header_bytes, &toc_bytes) != id || trailer.pack != id {
            return Err(damaged("its content does not match its name"));
        }
        let header = Header::decode(&header_bytes).map_err(|error| damaged(error.0))?;
        if header.pool != pool {
            return Err(damaged("it belongs to another pool"));
        }
        let toc = Toc::decode(&toc_bytes, trailer.frames as usize, trailer.chunks as usize)
            .map_err(|error| damaged(error.0))?;
        if HEADER_LENGTH as u64 + toc.stored_length() != trailer.toc_offset {
            return Err(damaged("its frames do not end at the table of contents"));
        }
        Ok(Self { id, header, toc: Arc::new(toc), file, length })
    }

    /// Returns the pack's name.
    pub fn id(&self) -> PackId {
        self.id
    }

    /// Returns what the pack holds.
    pub fn header(&self) -> Header {
        self.header
    }

    /// Returns the table of contents.
    pub fn toc(&self) -> &Arc<Toc> {
        &self.toc
    }

    /// Returns the length of the file in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads the stored bytes of a frame into `stored`, replacing what it held.
    pub fn read_stored(&self, frame: u32, stored: &mut Vec<u8>) -> Result<()> {
        let damaged =
            |reason: &str| Error::PackDamaged { pack: self.id, reason: reason.to_string() };
        let entry = self.toc.frames().get(frame as usize).ok_or(damaged("has no such frame"))?;
        let offset = self.toc.frame_offset(frame).ok_or(damaged("has no such frame"))?;
        stored.resize(entry.stored_length as usize, 0);
        self.file.read_exact_at(stored, HEADER_LENGTH as u64 + offset).map_err(|cause| match cause
            .kind()
        {
            io::ErrorKind::UnexpectedEof => damaged("ends too early"),
            _ => Error::PackDamaged { pack: self.id, reason: format!("cannot be read: {cause}") },
        })
    }

    /// Reads and decodes a frame. The caller compares the chunks it uses with their names
    /// ([`crate::pack::frame::verify_chunks`]); `stored` is scratch room.
    pub fn read_frame<'a>(
        &self,
        frame: u32,
        stored: &'a mut Vec<u8>,
        codec: &'a mut FrameCodec,
    ) -> Result<&'a [u8]> {
        self.read_stored(frame, stored)?;
        let entry = self.toc.frames()[frame as usize];
        codec.decode(&entry, stored).map_err(|error| Error::PackDamaged {
            pack: self.id,
            reason: format!("frame {frame}: {error}"),
        })
    }
}
