//! Reading chunks: one trait for pool and vault, so that restore is the same engine whichever copy feeds it.

use std::any::Any;
use std::cell::RefCell;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind};
use crate::index::{IndexLookup, PackNo, PackRow};
use crate::pack::frame::{FrameCodec, verify_chunks};
use crate::pack::reader::PackReader;
use crate::pool::{Found, Session};
use crate::tree::ChunkFetch;

/// Decoded frames kept by one reader; trees of neighbouring directories share frames.
const FRAMES_CACHED: usize = 8;

/// Where a chunk lies, in the order in which it is best read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Placement {
    /// The pack, by a number that only its source understands.
    pub pack: u64,
    /// The frame in the pack.
    pub frame: u32,
    /// Offset of the chunk in the decoded frame.
    pub offset: u32,
    /// Length of the chunk.
    pub length: u32,
}

/// A decoded frame, every chunk of it compared with its name.
#[derive(Debug)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    damaged: &'a [ChunkId],
}

impl<'a> Frame<'a> {
    /// Creates the view of a decoded frame; `damaged` names the chunks whose bytes do not match their names.
    pub fn new(bytes: &'a [u8], damaged: &'a [ChunkId]) -> Self {
        Self { bytes, damaged }
    }

    /// Returns the bytes of the chunk `id` that lies at `placement`; `None` if they are damaged.
    pub fn chunk(&self, placement: &Placement, id: &ChunkId) -> Option<&'a [u8]> {
        if self.damaged.contains(id) {
            return None;
        }
        let start = placement.offset as usize;
        self.bytes.get(start..start + placement.length as usize)
    }
}

/// What a source makes of frames that it was told to expect.
#[derive(Debug)]
pub struct Expectation {
    /// How many of the frames, in their order, belong together: they come at once, so one thread had best read them.
    pub stretches: Vec<usize>,
    /// Dropped when nobody wants the frames any more: the source then forgets what it holds for them.
    pub hold: Box<dyn Any + Send + Sync>,
}

/// A store of chunks that can be read by several threads.
pub trait ChunkSource: Sync {
    /// Opens a reader for one thread.
    fn reader(&self) -> Result<Box<dyn ChunkReader + '_>>;

    /// Tells that `frames` (packs and frames in them, sorted) are about to be read, each once, by so many threads, which begin at the first stretches and
    /// go on with whichever comes next. A source that is far away reads ahead; what is read, and what fails, is the same without. Does not block.
    fn expect(&self, frames: &[(u64, u32)], readers: usize) -> Option<Expectation> {
        let _ = (frames, readers);
        None
    }

    /// Tells that all trees above so many files are about to be read. Does not block.
    fn expect_trees(&self, files: u64) {
        let _ = files;
    }
}

/// Reads chunks; belongs to one thread.
pub trait ChunkReader: ChunkFetch {
    /// Returns where a chunk of file content lies.
    ///
    /// # Errors
    /// [`Error::ChunkMissing`].
    fn locate(&mut self, id: ChunkId) -> Result<Placement>;

    /// Tells where all chunks of file content in a pack lie: whoever needs one of them is likely to need its neighbours, and saves asking for each.
    /// A source that does not know tells nothing.
    ///
    /// # Errors
    /// Failures of the source as a whole. A damaged pack tells nothing.
    fn visit_pack(&mut self, pack: u64, visit: &mut dyn FnMut(&ChunkId, Placement)) -> Result<()> {
        let _ = (pack, visit);
        Ok(())
    }

    /// Reads and verifies a frame.
    ///
    /// # Errors
    /// [`Error::PackDamaged`], [`Error::PackMissing`]: then each of its chunks may still be had by
    /// [`ChunkFetch::fetch`], which looks for other copies.
    fn read_frame(&mut self, pack: u64, frame: u32) -> Result<Frame<'_>>;
}

/// Reads the chunks of a pool within a session, which keeps prune from taking files away.
#[derive(Clone, Copy, Debug)]
pub struct PoolChunks<'a> {
    session: &'a Session,
}

impl<'a> PoolChunks<'a> {
    /// Creates the source.
    pub fn new(session: &'a Session) -> Self {
        Self { session }
    }

    /// Opens a reader for one thread.
    pub fn pool_reader(&self) -> Result<PoolReader<'a>> {
        let pool = self.session.pool();
        Ok(PoolReader {
            session: self.session,
            lookup: pool.index().lookup()?,
            state: RefCell::new(ReaderState {
                codec: FrameCodec::new(pool.options().compression_level)?,
                stored: Vec::new(),
                damaged: Vec::new(),
                frames: Vec::new(),
            }),
        })
    }
}

impl ChunkSource for PoolChunks<'_> {
    fn reader(&self) -> Result<Box<dyn ChunkReader + '_>> {
        Ok(Box::new(self.pool_reader()?))
    }
}

/// Reads chunks of a pool; belongs to one thread.
#[derive(Debug)]
pub struct PoolReader<'a> {
    session: &'a Session,
    lookup: IndexLookup,
    state: RefCell<ReaderState>,
}

#[derive(Debug)]
struct ReaderState {
    codec: FrameCodec,
    stored: Vec<u8>,
    damaged: Vec<ChunkId>,
    // Decoded metadata frames, the most recently used last.
    frames: Vec<CachedFrame>,
}

/// A decoded frame and where it came from.
type CachedFrame = ((PackNo, u32), Arc<[u8]>);

impl PoolReader<'_> {
    /// Finds a chunk in any pack that is there.
    pub fn find(&self, id: ChunkId) -> Result<Option<Found>> {
        self.session.pool().find_needed(&self.lookup, &id, |_| true)
    }

    fn fetch_found(&self, found: &Found, id: ChunkId, kind: ChunkKind) -> Result<Vec<u8>> {
        let mut state = self.state.borrow_mut();
        let frame = state.frame(found)?;
        let start = found.slot.offset as usize;
        let chunk = &frame[start..start + found.slot.length as usize];
        if ChunkId::of(kind, chunk) != id {
            return Err(Error::ChunkDamaged { chunk: id, pack: found.pack.id() });
        }
        Ok(chunk.to_vec())
    }
}

impl ReaderState {
    fn frame(&mut self, found: &Found) -> Result<Arc<[u8]>> {
        let key = (found.place.pack, found.slot.frame);
        if let Some(index) = self.frames.iter().position(|(cached, _)| *cached == key) {
            let cached = self.frames.remove(index);
            let bytes = cached.1.clone();
            self.frames.push(cached);
            return Ok(bytes);
        }
        let decoded = found.pack.read_frame(found.slot.frame, &mut self.stored, &mut self.codec)?;
        let bytes: Arc<[u8]> = decoded.into();
        if self.frames.len() == FRAMES_CACHED {
            self.frames.remove(0);
        }
        self.frames.push((key, bytes.clone()));
        Ok(bytes)
    }
}

impl ChunkFetch for PoolReader<'_> {
    fn fetch(&self, id: ChunkId, kind: ChunkKind) -> Result<Vec<u8>> {
        let mut tried = Vec::new();
        let mut failure = Error::ChunkMissing { chunk: id };
        // Usually one round; a damaged copy is passed over in the next.
        loop {
            let untried = |row: &PackRow| !tried.contains(&row.no);
            let found = self.session.pool().find_needed(&self.lookup, &id, untried)?;
            let Some(found) = found else { return Err(failure) };
            match self.fetch_found(&found, id, kind) {
                Ok(bytes) => return Ok(bytes),
                Err(error) if error.is_damage() => {
                    tried.push(found.place.pack);
                    failure = error;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl ChunkReader for PoolReader<'_> {
    fn locate(&mut self, id: ChunkId) -> Result<Placement> {
        let found = self.find(id)?.ok_or(Error::ChunkMissing { chunk: id })?;
        Ok(Placement {
            pack: found.place.pack.0 as u64,
            frame: found.slot.frame,
            offset: found.slot.offset,
            length: found.slot.length,
        })
    }

    fn visit_pack(&mut self, pack: u64, visit: &mut dyn FnMut(&ChunkId, Placement)) -> Result<()> {
        let pool = self.session.pool();
        let Some(row) = pool.pack_row(PackNo(pack as i64))? else { return Ok(()) };
        let reader = match pool.open_pack(&row) {
            Ok(reader) => reader,
            Err(error) if error.is_damage() => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut chunks = reader.toc().chunks().iter();
        for (frame, entry) in (0u32..).zip(reader.toc().frames()) {
            let mut offset = 0;
            for chunk in chunks.by_ref().take(entry.chunks as usize) {
                if chunk.kind == ChunkKind::Data {
                    visit(&chunk.id, Placement { pack, frame, offset, length: chunk.length });
                }
                offset += chunk.length;
            }
        }
        Ok(())
    }

    fn read_frame(&mut self, pack: u64, frame: u32) -> Result<Frame<'_>> {
        let pool = self.session.pool();
        let missing = || Error::damaged(format!("pack number {pack}"), "is not in the index");
        let row = pool.pack_row(PackNo(pack as i64))?.ok_or_else(missing)?;
        let reader: Arc<PackReader> = pool.open_pack(&row)?;
        let ReaderState { codec, stored, damaged, .. } = self.state.get_mut();
        let decoded = reader.read_frame(frame, stored, codec)?;
        let (_, chunks) = reader.toc().chunks_of(frame).ok_or_else(missing)?;
        damaged.clear();
        if verify_chunks(chunks, decoded).is_err() {
            let mut rest = decoded;
            for chunk in chunks {
                let (own, after) = rest.split_at(chunk.length as usize);
                if ChunkId::of(chunk.kind, own) != chunk.id {
                    damaged.push(chunk.id);
                }
                rest = after;
            }
        }
        Ok(Frame::new(decoded, damaged))
    }
}
