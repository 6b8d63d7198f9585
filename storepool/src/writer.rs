//! The one way into the pool: decides what is new, fills frames and packs, makes them durable, then known.
//!
//! Order of every chunk: frame compressed and proved ([`FrameCodec::seal`]) -> appended to a pack in `tmp/` -> pack sealed and synced ->
//! named, directory synced -> rows in the index. Only then may anything refer to it ([`PoolWriter::flush`]). Two threads that bring the same new chunk
//! meet in the table of claims: the first stores it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::entropy::random_bytes;
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind};
use crate::index::{DirectoryNo, IndexLookup, PackNo, PackRow};
use crate::pack::frame::{ContentSum, FrameBuilder, FrameCodec, SealedFrame};
use crate::pack::writer::PackWriter;
use crate::pack::{CHUNK_LIMIT, ChunkEntry, FRAMES_LIMIT, Header, PackKind};
use crate::pool::{Found, Pool, Session};
use crate::sieve::{Sieve, SieveView};
use crate::simulated::{self, Mistake};

/// A frame of data is closed when it holds this many bytes: measured in docs/decisions/0001.
pub const DATA_FRAME_LENGTH: usize = 1 << 20;
/// A frame of metadata: smaller, since looking into a point reads single trees.
pub const METADATA_FRAME_LENGTH: usize = 128 << 10;
/// A pack is closed when it has so many chunks, though the format allows more: whoever opens it holds 40 bytes in memory for each.
const PACK_CHUNKS_MOST: usize = 1 << 16;
/// Sealed packs waiting to be synced; bounds what a crash can lose and how many files are open.
const PACKS_WAITING: usize = 2;
/// The table of claims is split so that threads seldom wait for each other.
const CLAIM_SHARDS: usize = 64;

/// What a writer has stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Chunks the pool did not have.
    pub chunks: u64,
    /// Their bytes before compression.
    pub raw_bytes: u64,
    /// Bytes added to packs, tables of contents included.
    pub stored_bytes: u64,
    /// Packs sealed.
    pub packs: u64,
}

/// Which part of the disk a writer may use up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpacePolicy {
    /// The reserve is kept: for backups.
    KeepReserve,
    /// The reserve may be used: for prune, which gives back more than it takes.
    UseReserve,
}

struct Shared {
    pool: Arc<Pool>,
    space: SpacePolicy,
    // Where new packs may go; the default is the directory with the most room.
    avoid: Option<DirectoryNo>,
    claims: Vec<Mutex<HashSet<ChunkId>>>,
    sieve: Sieve,
    open: [Mutex<Option<OpenPack>>; 2],
    // Packs handed over but not yet known to the index.
    waiting: Mutex<u64>,
    settled: Condvar,
    failed: AtomicBool,
    failure: Mutex<Option<Error>>,
    chunks: AtomicU64,
    raw_bytes: AtomicU64,
    stored_bytes: AtomicU64,
    packs: AtomicU64,
    made: Mutex<Vec<PackNo>>,
}

struct OpenPack {
    writer: PackWriter,
    directory: DirectoryNo,
    packs: PathBuf,
}

enum Handover {
    Pack(Box<OpenPack>),
    Stop,
}

/// Stores chunks in a pool, from several threads, within a session.
pub struct PoolWriter {
    shared: Arc<Shared>,
    sender: Sender<Handover>,
    committer: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for PoolWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolWriter").finish_non_exhaustive()
    }
}

impl PoolWriter {
    /// Starts a writer and its committing thread.
    pub fn new(session: &Session, space: SpacePolicy) -> Result<Self> {
        Self::avoiding(session, space, None)
    }

    /// Starts a writer that puts nothing into the directory `avoid`.
    pub fn avoiding(
        session: &Session,
        space: SpacePolicy,
        avoid: Option<DirectoryNo>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            pool: session.pool().clone(),
            space,
            avoid,
            claims: (0..CLAIM_SHARDS).map(|_| Mutex::default()).collect(),
            sieve: Sieve::new(session.pool().index().clone(), session.pool().known_chunks()),
            open: [Mutex::new(None), Mutex::new(None)],
            waiting: Mutex::new(0),
            settled: Condvar::new(),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
            chunks: AtomicU64::new(0),
            raw_bytes: AtomicU64::new(0),
            stored_bytes: AtomicU64::new(0),
            packs: AtomicU64::new(0),
            made: Mutex::default(),
        });
        // Before anything is written: a disk down to its reserve is told at once.
        shared.pool.roomiest_directory(space == SpacePolicy::UseReserve, avoid)?;
        let (sender, receiver) = bounded(PACKS_WAITING);
        let committing = shared.clone();
        let committer = std::thread::Builder::new()
            .name("committer".to_string())
            .spawn(move || commit_packs(&committing, &receiver))
            .map_err(Error::io("start a thread for", std::path::Path::new("committing packs")))?;
        Ok(Self { shared, sender, committer: Some(committer) })
    }

    /// Opens the entrance for one thread. Its last frames are stored by [`ChunkWriter::finish`].
    pub fn chunk_writer(&self) -> Result<ChunkWriter> {
        let pool = &self.shared.pool;
        Ok(ChunkWriter {
            shared: self.shared.clone(),
            sender: self.sender.clone(),
            codec: FrameCodec::new(pool.options().compression_level)?,
            lookup: pool.index().lookup()?,
            sieve: SieveView::default(),
            frames: [FrameBuilder::default(), FrameBuilder::default()],
            relied_on: HashSet::new(),
        })
    }

    /// Seals the open packs and waits until everything stored so far is durable and in the index. All [`ChunkWriter`]s must have been
    /// flushed or finished before.
    pub fn flush(&self) -> Result<()> {
        for open in &self.shared.open {
            let taken = lock(open).take();
            if let Some(pack) = taken {
                self.shared.hand_over(&self.sender, pack)?;
            }
        }
        self.shared.await_settled()
    }

    /// Returns what was stored so far.
    pub fn stored(&self) -> Stored {
        self.shared.stored()
    }

    /// Returns the packs that this writer has put into the index so far.
    pub fn made(&self) -> Vec<PackNo> {
        lock(&self.shared.made).clone()
    }
}

impl Drop for PoolWriter {
    fn drop(&mut self) {
        // Told, not starved: a ChunkWriter that is still about would keep the channel open. If the thread is gone, so is the receiver.
        let _ = self.sender.send(Handover::Stop);
        if let Some(committer) = self.committer.take() {
            // Its failure has been recorded; a panic there has already failed the run.
            let _ = committer.join();
        }
    }
}

impl Shared {
    fn claim(&self, id: &ChunkId) -> MutexGuard<'_, HashSet<ChunkId>> {
        lock(&self.claims[usize::from(id.0[31]) % CLAIM_SHARDS])
    }

    fn stored(&self) -> Stored {
        Stored {
            chunks: self.chunks.load(Ordering::Relaxed),
            raw_bytes: self.raw_bytes.load(Ordering::Relaxed),
            stored_bytes: self.stored_bytes.load(Ordering::Relaxed),
            packs: self.packs.load(Ordering::Relaxed),
        }
    }

    // After a failure nothing more is accepted: the run is over, a later one starts from what is durable.
    fn check(&self) -> Result<()> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let failure = lock(&self.failure).take();
        Err(failure.unwrap_or(Error::Interrupted))
    }

    fn fail(&self, error: Error) {
        lock(&self.failure).get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }

    fn hand_over(&self, sender: &Sender<Handover>, pack: OpenPack) -> Result<()> {
        *lock(&self.waiting) += 1;
        if sender.send(Handover::Pack(Box::new(pack))).is_err() {
            *lock(&self.waiting) -= 1;
            self.check()?;
            return Err(Error::WorkerPanicked { stage: "committing packs" });
        }
        if simulated::is_lockstep() { self.await_settled() } else { Ok(()) }
    }

    // Returns when no pack is on its way any more.
    fn await_settled(&self) -> Result<()> {
        let mut waiting = lock(&self.waiting);
        while *waiting > 0 {
            waiting = self.settled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        drop(waiting);
        self.check()
    }

    fn create_pack(&self, kind: PackKind) -> Result<OpenPack> {
        let use_reserve = self.space == SpacePolicy::UseReserve;
        let (directory, path) = self.pool.roomiest_directory(use_reserve, self.avoid)?;
        let writer = PackWriter::create(
            self.pool.world().disk.clone(),
            self.pool.temporary(&path),
            Header { kind, pool: self.pool.id(), nonce: random_bytes(&*self.pool.world().entropy) },
        )?;
        Ok(OpenPack { writer, directory, packs: path.join("packs") })
    }
}

fn commit_packs(shared: &Shared, receiver: &Receiver<Handover>) {
    // Counted down however the loop ends, so that flush never waits for ever.
    struct Settle<'a>(&'a Shared);
    impl Drop for Settle<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                self.0.fail(Error::WorkerPanicked { stage: "committing packs" });
            }
            *lock(&self.0.waiting) -= 1;
            self.0.settled.notify_all();
        }
    }
    while let Ok(Handover::Pack(pack)) = receiver.recv() {
        let _settle = Settle(shared);
        if shared.failed.load(Ordering::Acquire) {
            continue;
        }
        if let Err(error) = commit_pack(shared, *pack) {
            shared.fail(error);
        }
    }
}

fn commit_pack(shared: &Shared, pack: OpenPack) -> Result<()> {
    let sealed = pack.writer.seal(&pack.packs)?;
    let target = crate::pack::writer::pack_path(&pack.packs, sealed.id);
    let directory = target.parent().expect("a pack lies in a directory");
    // The directory is synced too: without it a crash may keep the index rows and lose the file they name.
    if !simulated::makes(Mistake::PackNameUnsynced) {
        shared.pool.world().disk.sync_directory(directory).map_err(Error::io("sync", directory))?;
    }
    let toc = sealed.toc.clone();
    let length = sealed.length;
    let made =
        shared.sieve.enter(&toc, || shared.pool.index().add_packs(&[(sealed, pack.directory)]))?;
    lock(&shared.made).extend(made);
    shared.packs.fetch_add(1, Ordering::Relaxed);
    let overhead = length.saturating_sub(toc.stored_length());
    shared.stored_bytes.fetch_add(overhead, Ordering::Relaxed);
    // From here on the index answers for these chunks.
    for chunk in toc.chunks() {
        shared.claim(&chunk.id).remove(&chunk.id);
    }
    Ok(())
}

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The pool had it, or another thread has just brought it.
    Known,
    /// It was stored.
    New,
}

/// The entrance to a [`PoolWriter`] for one thread. Dropped without [`ChunkWriter::finish`], its last frames are lost, and their run must not
/// commit.
#[derive(Debug)]
pub struct ChunkWriter {
    shared: Arc<Shared>,
    sender: Sender<Handover>,
    codec: FrameCodec,
    lookup: IndexLookup,
    sieve: SieveView,
    frames: [FrameBuilder; 2],
    relied_on: HashSet<PackNo>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for OpenPack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.writer.fmt(f)
    }
}

impl ChunkWriter {
    /// Names a chunk and stores it if the pool does not have it.
    pub fn put(&mut self, kind: ChunkKind, plaintext: &[u8]) -> Result<(ChunkId, Put)> {
        // Before the name: whatever happens to the bytes from here on is found when their frame is sealed.
        let sum = ContentSum::of(plaintext);
        let id = ChunkId::of(kind, plaintext);
        Ok((id, self.put_named(id, kind, plaintext, Some(sum))?))
    }

    /// Stores a chunk under the id that the caller has computed from it. `sum` is one that was taken before that.
    pub fn put_named(
        &mut self,
        id: ChunkId,
        kind: ChunkKind,
        plaintext: &[u8],
        sum: Option<ContentSum>,
    ) -> Result<Put> {
        assert!(plaintext.len() <= CHUNK_LIMIT, "chunks are cut within the format's limit");
        // Claimed before it is looked up: else two threads could both miss it and both store it.
        if !self.shared.claim(&id).insert(id) {
            return Ok(Put::Known);
        }
        match self.find(&id) {
            Ok(None) => {}
            Ok(Some(found)) => {
                self.relied_on.insert(found.place.pack);
                self.shared.claim(&id).remove(&id);
                return Ok(Put::Known);
            }
            Err(error) => {
                self.shared.claim(&id).remove(&id);
                return Err(error);
            }
        }
        self.store(id, kind, plaintext, sum)?;
        Ok(Put::New)
    }

    /// Stores a chunk even though the pool has it in a pack that is about to go.
    pub fn put_again(&mut self, id: ChunkId, kind: ChunkKind, plaintext: &[u8]) -> Result<Put> {
        if !self.shared.claim(&id).insert(id) {
            return Ok(Put::Known);
        }
        self.store(id, kind, plaintext, None)?;
        Ok(Put::New)
    }

    fn store(
        &mut self,
        id: ChunkId,
        kind: ChunkKind,
        plaintext: &[u8],
        sum: Option<ContentSum>,
    ) -> Result<()> {
        self.shared.chunks.fetch_add(1, Ordering::Relaxed);
        self.shared.raw_bytes.fetch_add(plaintext.len() as u64, Ordering::Relaxed);
        let (pack_kind, full) = frame_of(kind);
        let frame = &mut self.frames[pack_kind as usize - 1];
        frame.push(id, kind, plaintext, sum);
        if frame.raw_length() >= full {
            self.close_frame(pack_kind)?;
        }
        Ok(())
    }

    /// Returns whether the pool has a chunk that this run may refer to.
    pub fn has(&mut self, id: ChunkId) -> Result<bool> {
        let found = self.find(&id)?;
        if let Some(found) = &found {
            self.relied_on.insert(found.place.pack);
        }
        Ok(found.is_some())
    }

    fn find(&mut self, id: &ChunkId) -> Result<Option<Found>> {
        let shared = &self.shared;
        if shared.sieve.excludes(id, &mut self.sieve)? {
            return Ok(None);
        }
        let usable = |row: &PackRow| {
            row.condemned_after.is_none() || simulated::makes(Mistake::CondemnedReused)
        };
        let found = shared.pool.find(&self.lookup, id, usable)?;
        if found.is_none() {
            shared.sieve.searched_in_vain();
        }
        Ok(found)
    }

    /// Notes that the caller refers to chunks of this pack without having put them.
    pub fn rely_on(&mut self, pack: PackNo) {
        self.relied_on.insert(pack);
    }

    /// Returns what the writer has stored so far, all threads together.
    pub fn stored(&self) -> Stored {
        self.shared.stored()
    }

    /// Stores the frames gathered so far.
    pub fn flush(&mut self) -> Result<()> {
        for kind in [PackKind::Data, PackKind::Metadata] {
            if !self.frames[kind as usize - 1].is_empty() {
                self.close_frame(kind)?;
            }
        }
        Ok(())
    }

    /// Stores the last frames; returns the packs whose chunks were taken as known.
    pub fn finish(mut self) -> Result<HashSet<PackNo>> {
        self.flush()?;
        Ok(std::mem::take(&mut self.relied_on))
    }

    fn close_frame(&mut self, kind: PackKind) -> Result<()> {
        self.shared.check()?;
        // Chunks of a lost frame were claimed: others may count on them, so nothing of this run may commit any more.
        self.append_frame(kind).inspect_err(|_| self.shared.failed.store(true, Ordering::Release))
    }

    fn append_frame(&mut self, kind: PackKind) -> Result<()> {
        let frame = &mut self.frames[kind as usize - 1];
        let sealed = self.codec.seal(frame)?;
        append(&self.shared, &self.sender, kind, &sealed, frame.chunks())?;
        frame.clear();
        Ok(())
    }

    /// Stores a whole frame of another pack as it is, without compressing it again, even though the pool has its chunks. The caller has decoded
    /// `frame` and compared every chunk with its name.
    pub fn put_frame(
        &mut self,
        kind: PackKind,
        frame: &SealedFrame<'_>,
        chunks: &[ChunkEntry],
    ) -> Result<()> {
        self.shared.check()?;
        self.shared.chunks.fetch_add(chunks.len() as u64, Ordering::Relaxed);
        self.shared.raw_bytes.fetch_add(u64::from(frame.entry.raw_length), Ordering::Relaxed);
        append(&self.shared, &self.sender, kind, frame, chunks)
            .inspect_err(|_| self.shared.failed.store(true, Ordering::Release))
    }
}

fn append(
    shared: &Shared,
    sender: &Sender<Handover>,
    kind: PackKind,
    frame: &SealedFrame<'_>,
    chunks: &[ChunkEntry],
) -> Result<()> {
    let mut open = lock(&shared.open[kind as usize - 1]);
    let mut pack = match open.take() {
        Some(pack) => pack,
        None => shared.create_pack(kind)?,
    };
    pack.writer.append(frame, chunks)?;
    let toc = pack.writer.toc();
    let full = pack.writer.length() >= shared.pool.options().pack_length
        || toc.frames().len() >= FRAMES_LIMIT
        || toc.chunks().len() >= PACK_CHUNKS_MOST;
    shared.stored_bytes.fetch_add(frame.stored.len() as u64, Ordering::Relaxed);
    if full {
        drop(open);
        shared.hand_over(sender, pack)?;
    } else {
        *open = Some(pack);
    }
    Ok(())
}

fn frame_of(kind: ChunkKind) -> (PackKind, usize) {
    match PackKind::of(kind) {
        PackKind::Data => (PackKind::Data, DATA_FRAME_LENGTH),
        PackKind::Metadata => (PackKind::Metadata, METADATA_FRAME_LENGTH),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
