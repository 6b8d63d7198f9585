//! What is fetched, how often, how much of it is in memory, and what becomes of failures.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use storepool::clock::Timestamp;
use storepool::entry::EntryPath;
use storepool::id::{ChunkId, ChunkKind};
use storepool::monitor::{Event, Monitor};
use storepool::pack::{ChunkEntry, Codec, FrameEntry, Toc};
use storepool::restore::{RestoreOptions, RestoreReport, restore};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::ReadAhead;
use crate::crypto::ring::{KeyRing, RealmKeys};
use crate::error::{StoreError, StoreFault};
use crate::layout::{ObjectKind, ObjectName, RealmId};
use crate::recovery::VaultPoint;
use crate::store::{ObjectBody, ObjectMeta, ObjectStore, PutReceipt};
use crate::testing::server::{Server, content, files};
use crate::testing::{Fault, FaultyStore, MemoryStore, SeededEntropy};
use crate::vault::pack::{OpenedSegments, PackReader, seal_pack};

/// In the names of packs with content.
const DATA: &str = "/p/";
const FRAMES: u32 = 40;
const FRAME_LENGTH: usize = 5000;
/// No piece of these packs is longer.
const PIECE: u64 = 140_000;
/// Two threads with a piece each, and as much ahead.
const ROOM: u64 = 4 * PIECE;

/// A store that counts the reads of each object, and lets only so many through if it is told to.
#[derive(Debug)]
struct Watched {
    inner: Arc<MemoryStore>,
    reads: Mutex<BTreeMap<String, u32>>,
    gate: Option<(String, Semaphore)>,
}

impl Watched {
    fn new(inner: Arc<MemoryStore>) -> Self {
        Self { inner, reads: Mutex::default(), gate: None }
    }

    fn count(&self, name: &ObjectName) {
        let mut reads = self.reads.lock().expect("no test panics with it");
        *reads.entry(name.as_str().to_owned()).or_default() += 1;
    }

    fn reads(&self, part: &str) -> Vec<u32> {
        let reads = self.reads.lock().expect("no test panics with it");
        reads.iter().filter(|(name, _)| name.contains(part)).map(|(_, count)| *count).collect()
    }
}

#[async_trait]
impl ObjectStore for Watched {
    fn address(&self) -> &str {
        self.inner.address()
    }

    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutReceipt, StoreError> {
        self.inner.put_new(name, body).await
    }

    async fn get(&self, name: &ObjectName, limit_bytes: u64) -> Result<ObjectBody, StoreError> {
        self.inner.get(name, limit_bytes).await
    }

    async fn get_range(
        &self,
        name: &ObjectName,
        range: Range<u64>,
    ) -> Result<ObjectBody, StoreError> {
        if let Some((part, gate)) = &self.gate
            && name.as_str().contains(part)
        {
            let passed = tokio::time::timeout(Duration::from_secs(60), gate.acquire()).await;
            let Ok(Ok(passed)) = passed else {
                return Err(StoreError::new("read", name.as_str(), StoreFault::Timeout));
            };
            passed.forget();
        }
        self.count(name);
        self.inner.get_range(name, range).await
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.inner.head(name).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.inner.list(prefix).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.inner.delete(name).await
    }
}

/// Packs in a store, and what their frames hold.
struct Shelf {
    memory: Arc<MemoryStore>,
    packs: BTreeMap<u64, Arc<PackReader>>,
    bytes: BTreeMap<u64, Vec<u8>>,
}

impl Shelf {
    async fn new(count: u64) -> Self {
        let ring = KeyRing::generate(&SeededEntropy::new(1), Timestamp(0), "");
        let keys = RealmKeys::new(RealmId([1; 16]), ring);
        let mut shelf =
            Self { memory: Arc::default(), packs: BTreeMap::new(), bytes: BTreeMap::new() };
        for number in 0..count {
            shelf.add(&keys, number).await;
        }
        shelf.memory.take_requests();
        shelf
    }

    async fn add(&mut self, keys: &RealmKeys, number: u64) {
        let mut bytes = vec![0; FRAMES as usize * FRAME_LENGTH];
        blake3::Hasher::new().update(&[number as u8]).finalize_xof().fill(&mut bytes);
        let mut toc = Toc::default();
        for chunk in bytes.chunks(FRAME_LENGTH) {
            let id = keys.chunk_id(&ChunkId::of(ChunkKind::Data, chunk)).0;
            let length = FRAME_LENGTH as u32;
            let entry = ChunkEntry { id, kind: ChunkKind::Data, length };
            let codec = Codec::Stored;
            let frame = FrameEntry { stored_length: length, raw_length: length, chunks: 1, codec };
            toc.push(frame, &[entry]);
        }
        let sealed = seal_pack(keys, ObjectKind::Data, &toc, &[&bytes]).expect("sealed");
        let name = ObjectName::content(keys.realm(), ObjectKind::Data, sealed.hash, 0);
        self.memory.put_new(&name, Bytes::from(sealed.object)).await.expect("put");
        let store = self.memory.as_ref();
        let reader = PackReader::open(store, keys, ObjectKind::Data, name, None).await;
        self.packs.insert(number, Arc::new(reader.expect("opened")));
        self.bytes.insert(number, bytes);
    }

    // All frames, without those that came with the tables.
    fn frames(&self) -> Vec<(u64, u32)> {
        self.packs.keys().flat_map(|pack| (30..FRAMES).map(|frame| (*pack, frame))).collect()
    }

    fn ahead(&self, store: Arc<dyn ObjectStore>) -> Arc<ReadAhead> {
        ReadAhead::new(store, Handle::current(), ROOM)
    }
}

// Takes frames one by one, as a reader would; returns how many were not there, and how much was held at most.
async fn read(
    shelf: &Shelf,
    ahead: &Arc<ReadAhead>,
    frames: &[(u64, u32)],
) -> crate::Result<(usize, u64)> {
    let (ahead, frames) = (ahead.clone(), frames.to_vec());
    let (packs, bytes) = (shelf.packs.clone(), shelf.bytes.clone());
    let work = move || {
        let mut opened = OpenedSegments::default();
        let (mut missed, mut most) = (0, 0);
        for (pack, frame) in frames {
            let stretch = ahead.take(pack, frame)?;
            most = ahead.lock().bytes.max(most);
            let Some(stretch) = stretch else {
                missed += 1;
                continue;
            };
            let found = packs[&pack].open_frame(&stretch, frame, &mut opened)?;
            let start = frame as usize * FRAME_LENGTH;
            assert_eq!(found, &bytes[&pack][start..start + FRAME_LENGTH]);
        }
        Ok((missed, most))
    };
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_pack_is_fetched_once_and_forgotten_when_it_was_read() {
    let shelf = Shelf::new(12).await;
    let store = Arc::new(Watched::new(shelf.memory.clone()));
    let ahead = shelf.ahead(store.clone());
    let frames = shelf.frames();
    let expected = ahead.expect(&shelf.packs, &frames, 2);
    assert_eq!(expected.stretches.iter().sum::<usize>(), frames.len());

    let (missed, most) = read(&shelf, &ahead, &frames).await.expect("read");

    assert_eq!(missed, 0);
    assert!((1..=ROOM).contains(&most), "{most}");
    assert_eq!(store.reads(""), [1; 12]);
    assert_eq!(ahead.lock().bytes, 0);
    assert_eq!(read(&shelf, &ahead, &frames).await.expect("read").0, frames.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_overlap_are_read_one_after_the_other() {
    let shelf = Shelf::new(4).await;
    let store = Arc::new(Watched::new(shelf.memory.clone()));
    let ahead = shelf.ahead(store.clone());
    let frames = shelf.frames();
    let (first, second) = (&frames[..25], &frames[24..]);
    let one = ahead.expect(&shelf.packs, first, 2);
    let two = ahead.expect(&shelf.packs, second, 2);

    assert_eq!(read(&shelf, &ahead, first).await.expect("read").0, 0);
    drop(one);
    assert_eq!(read(&shelf, &ahead, second).await.expect("read").0, 0);
    drop(two);

    // The pack between them twice, each time a part of it.
    assert_eq!(store.reads("").iter().sum::<u32>(), 5);
    assert_eq!(ahead.lock().plans.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_jumps_about_makes_room_and_loses_only_speed() {
    let shelf = Shelf::new(12).await;
    let ahead = shelf.ahead(shelf.memory.clone());
    let mut frames = shelf.frames();
    let _expected = ahead.expect(&shelf.packs, &frames, 2);
    frames.sort_by_key(|(pack, frame)| blake3::hash(&[*pack as u8, *frame as u8]).as_bytes()[0]);

    let (missed, most) = read(&shelf, &ahead, &frames).await.expect("read");

    assert!((1..frames.len()).contains(&missed), "{missed}");
    assert!(most <= ROOM + PIECE, "{most}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_cut_is_missed_and_a_store_that_fails_is_told() {
    let shelf = Shelf::new(3).await;
    let frames = shelf.frames();
    let faults = [(0, Fault::CutRead(9))];
    let ahead = shelf.ahead(Arc::new(FaultyStore::new(shelf.memory.clone(), faults)));
    let _expected = ahead.expect(&shelf.packs, &frames, 2);

    // One of the three.
    assert_eq!(read(&shelf, &ahead, &frames).await.expect("read").0, 10);

    let faults = [(1, Fault::Refuse(StoreFault::Timeout))];
    let ahead = shelf.ahead(Arc::new(FaultyStore::new(shelf.memory.clone(), faults)));
    let _expected = ahead.expect(&shelf.packs, &frames, 2);

    let error = read(&shelf, &ahead, &frames).await.expect_err("refused");

    assert_eq!(error.store_fault(), Some(StoreFault::Timeout));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_what_was_expected_waits_for_nothing() {
    let shelf = Shelf::new(6).await;
    let closed = (String::new(), Semaphore::new(0));
    let store = Arc::new(Watched { gate: Some(closed), ..Watched::new(shelf.memory.clone()) });
    let ahead = shelf.ahead(store.clone());
    let frames = shelf.frames();
    let expected = ahead.expect(&shelf.packs, &frames, 2);
    assert!(ahead.lock().bytes > 0);
    let waiting = {
        let ahead = ahead.clone();
        tokio::task::spawn_blocking(move || ahead.take(0, 30))
    };

    drop(expected);

    assert!(waiting.await.expect("no panic").expect("no failure").is_none());
    assert_eq!(ahead.lock().bytes, 0);
    assert_eq!(store.reads(""), Vec::<u32>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_runtime_that_has_ended() {
    let shelf = Shelf::new(2).await;
    let ended = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
    let ended = ended.expect("a runtime");
    let ahead = ReadAhead::new(shelf.memory.clone(), ended.handle().clone(), ROOM);
    ended.shutdown_background();
    let frames = shelf.frames();
    let _expected = ahead.expect(&shelf.packs, &frames, 2);

    read(&shelf, &ahead, &frames).await.expect_err("interrupted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_frame_costs_no_more_than_it_is() {
    let shelf = Shelf::new(1).await;
    let ahead = shelf.ahead(shelf.memory.clone());
    // The one came with the table.
    let _expected = ahead.expect(&shelf.packs, &[(0, 3)], 2);
    assert_eq!(ahead.lock().bytes, 0);
    let _other = ahead.expect(&shelf.packs, &[(0, 35)], 2);

    assert_eq!(read(&shelf, &ahead, &[(0, 3), (0, 35)]).await.expect("read").0, 1);

    let seen = shelf.memory.take_requests();
    assert!(seen.total() == 1 && seen.bytes_read <= 2 * 65_552, "{seen:?}");
}

/// Opens the gate of a store when the first file is there.
struct Opener(Arc<Watched>);

impl Monitor for Opener {
    fn event(&self, event: Event) {
        if let (Event::Done { items: 1.., bytes: 1.. }, Some((_, gate))) = (event, &self.0.gate) {
            gate.add_permits(1000);
        }
    }

    fn cancelled(&self) -> bool {
        false
    }
}

async fn restored(
    server: &Server,
    store: Arc<Watched>,
    point: storepool::id::PointId,
    target: &std::path::Path,
) -> RestoreReport {
    let realm = server.realm(store.clone()).await.expect("opened");
    let snapshot = realm.load(None).await.expect("loaded");
    let opened = VaultPoint::open(&realm, &snapshot, point, Handle::current()).await;
    let (point, target) = (opened.expect("a point"), target.to_path_buf());
    let work = move || {
        let options = RestoreOptions { threads: 2, ..RestoreOptions::default() };
        let root = EntryPath::root();
        restore(&point.chunks, &point.manifest, &root, &target, &options, &Opener(store))
    };
    tokio::task::spawn_blocking(work).await.expect("no panic").expect("restored")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_restored_while_another_pack_is_still_on_its_way() {
    let server = Server::new().await;
    let tree = files(1, 12, 1 << 20);
    let point = server.back_up("tree", &tree);
    server.sync(server.memory.clone()).await.expect("synced");
    // All packs but one come; that one when a file is there.
    let packs = server.memory.names().iter().filter(|name| name.contains(DATA)).count();
    assert!(packs > 10, "{packs}");
    let gate = Some((DATA.to_string(), Semaphore::new(packs - 1)));
    let store = Arc::new(Watched { gate, ..Watched::new(server.memory.clone()) });
    let target = tempfile::tempdir().expect("a folder");
    let out = target.path().join("out");

    let report = restored(&server, store.clone(), point, &out).await;

    assert_eq!(report.problems, []);
    assert!(content(&out) == tree);
    assert_eq!(store.reads(DATA), vec![1; packs]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_pack_is_named_and_costs_only_its_files() {
    let server = Server::new().await;
    let tree = files(1, 8, 1 << 20);
    let point = server.back_up("tree", &tree);
    server.sync(server.memory.clone()).await.expect("synced");
    let names = server.memory.names();
    let name = names.iter().filter(|name| name.contains(DATA)).nth(3).expect("a pack");
    let mut bytes = server.memory.peek(name).expect("there").to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    server.memory.tamper(name, bytes);
    let store = Arc::new(Watched::new(server.memory.clone()));
    let target = tempfile::tempdir().expect("a folder");
    let out = target.path().join("out");

    let report = restored(&server, store, point, &out).await;

    assert!((1..=4).contains(&report.problem_count), "{report:?}");
    assert!(report.problems.iter().all(|problem| problem.message.contains(name)), "{report:?}");
    let there = content(&out);
    assert_eq!(there.len() as u64, 8 - report.problem_count);
    assert!(there.iter().all(|(name, bytes)| tree.get(name) == Some(bytes)));
}
