//! Streams in a backup: whatever their length, they become files; one that dies makes no point.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use crate::backup::{BackupOptions, BackupReport, backup};
use crate::chunks::PoolChunks;
use crate::entry::EntryPath;
use crate::error::{Error, Result};
use crate::manifest::Owners;
use crate::monitor::{Event, Monitor, SilentMonitor};
use crate::pool::Pool;
use crate::restore::read_file;
use crate::source::{
    DataSource, Listing, PlainStream, SourceDetail, SourceDirectory, SourceEntry, SourceError,
    SourceFile, SourceKind, SourceStat, SourceStream,
};
use crate::testing::fixture::{create_pool, noise, test_world};

type Streams = Vec<(&'static str, Script)>;

#[derive(Clone)]
enum Script {
    Gives(Vec<u8>),
    GivesThenFails(Vec<u8>),
    NeverEnds,
}

/// A source that notes which streams were open at the same time.
#[derive(Clone)]
struct ScriptedStreams {
    streams: Arc<Streams>,
    open: Arc<AtomicUsize>,
    overlapped: Arc<AtomicBool>,
    order: Arc<Mutex<Vec<String>>>,
    finished: Arc<AtomicUsize>,
}

impl ScriptedStreams {
    fn new(streams: Streams) -> Self {
        Self {
            streams: Arc::new(streams),
            open: Arc::default(),
            overlapped: Arc::default(),
            order: Arc::default(),
            finished: Arc::default(),
        }
    }
}

fn stat(kind: SourceKind) -> SourceStat {
    let time = crate::entry::FileTime { seconds: 5, nanos: 0 };
    SourceStat {
        kind,
        mode: 0o600,
        uid: 0,
        gid: 0,
        links: 1,
        size: 0,
        allocated: 0,
        mtime: time,
        ctime: time,
        inode: 0,
        device: 0,
        special: (0, 0),
    }
}

struct ScriptedStream {
    content: io::Cursor<Vec<u8>>,
    fails: bool,
    for_ever: bool,
    open: Arc<AtomicUsize>,
}

impl Read for ScriptedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.for_ever {
            std::thread::park();
            return Ok(0);
        }
        // Programs write in small parts.
        let part = buffer.len().min(10_007);
        match self.content.read(&mut buffer[..part])? {
            0 if self.fails => Err(io::Error::other("it died")),
            length => Ok(length),
        }
    }
}

impl Drop for ScriptedStream {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl SourceDirectory for ScriptedStreams {
    fn list(&self) -> std::result::Result<Listing, SourceError> {
        let entry = |(name, _): &(&str, Script)| SourceEntry {
            name: name.as_bytes().into(),
            stat: stat(SourceKind::Stream),
        };
        Ok(Listing { entries: self.streams.iter().map(entry).collect(), problems: Vec::new() })
    }

    fn directory(
        &self,
        _: &SourceEntry,
    ) -> std::result::Result<Arc<dyn SourceDirectory>, SourceError> {
        unreachable!("there is none")
    }

    fn file(&self, _: &SourceEntry) -> std::result::Result<Box<dyn SourceFile>, SourceError> {
        unreachable!("there is none")
    }

    fn stream(
        &self,
        entry: &SourceEntry,
    ) -> std::result::Result<Box<dyn SourceStream>, SourceError> {
        if self.open.fetch_add(1, Ordering::SeqCst) > 0 {
            self.overlapped.store(true, Ordering::SeqCst);
        }
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        let (_, script) = self.streams.iter().find(|(other, _)| *other == name).unwrap();
        self.order.lock().unwrap().push(name);
        let (content, fails, for_ever) = match script.clone() {
            Script::Gives(content) => (content, false, false),
            Script::GivesThenFails(content) => (content, true, false),
            Script::NeverEnds => (Vec::new(), false, true),
        };
        let content = io::Cursor::new(content);
        let stream = ScriptedStream { content, fails, for_ever, open: self.open.clone() };
        Ok(Box::new(PlainStream(stream)))
    }

    fn detail(&self, _: &SourceEntry) -> std::result::Result<SourceDetail, SourceError> {
        Ok(SourceDetail::default())
    }

    fn own_detail(&self) -> std::result::Result<SourceDetail, SourceError> {
        Ok(SourceDetail::default())
    }
}

impl DataSource for ScriptedStreams {
    fn workload(&self) -> &str {
        "scripted"
    }

    fn paths(&self) -> Vec<Vec<u8>> {
        vec![b"streams".to_vec()]
    }

    fn root(&self) -> std::result::Result<(SourceStat, Arc<dyn SourceDirectory>), SourceError> {
        Ok((stat(SourceKind::Directory), Arc::new(self.clone())))
    }

    fn owners(&self, _: &BTreeSet<u32>, _: &BTreeSet<u32>) -> Owners {
        Owners::default()
    }

    fn finish(&self) -> std::result::Result<String, SourceError> {
        self.finished.fetch_add(1, Ordering::SeqCst);
        Ok("{\"format\":1}".to_string())
    }
}

fn pool() -> (TempDir, Arc<Pool>) {
    let directory = TempDir::new().unwrap();
    let (_, pool) = create_pool(directory.path(), 1, test_world());
    (directory, pool)
}

fn run(
    pool: &Arc<Pool>,
    source: &ScriptedStreams,
    threads: usize,
    monitor: &dyn Monitor,
) -> Result<BackupReport> {
    let options = BackupOptions { source: "s".into(), threads, ..BackupOptions::default() };
    backup(pool, source, &options, monitor)
}

fn content(pool: &Arc<Pool>, report: &BackupReport, name: &str) -> Vec<u8> {
    let manifest = pool.manifest(report.point.unwrap()).unwrap();
    let session = pool.begin_session().unwrap();
    let path = EntryPath::parse(name.as_bytes()).unwrap();
    let mut out = Vec::new();
    read_file(&PoolChunks::new(&session), &manifest, &path, &mut out).unwrap();
    out
}

#[test]
fn streams_of_any_length_come_back_and_are_read_one_after_the_other() {
    let lengths = [0, 1, 8 << 10, 256 << 10, (1 << 20) + 17, 9 << 20];
    let names = ["a", "b", "c", "d", "e", "f"];
    let streams: Streams = names
        .into_iter()
        .zip(lengths)
        .map(|(name, length)| (name, Script::Gives(noise(name, length))))
        .collect();
    for threads in [1, 2, 5] {
        let (_directory, pool) = pool();
        let source = ScriptedStreams::new(streams.clone());

        let report = run(&pool, &source, threads, &SilentMonitor).unwrap();

        for (name, length) in names.into_iter().zip(lengths) {
            assert_eq!(content(&pool, &report, name), noise(name, length), "{name}, {threads}");
        }
        assert!(!source.overlapped.load(Ordering::SeqCst));
        assert_eq!(*source.order.lock().unwrap(), names);
        assert_eq!(source.finished.load(Ordering::SeqCst), 1);
        let total = lengths.iter().sum::<usize>() as u64;
        assert_eq!((report.totals.files, report.totals.bytes), (6, total));
        let manifest = pool.manifest(report.point.unwrap()).unwrap();
        assert_eq!(manifest.detail, "{\"format\":1}");
    }
}

#[test]
fn a_stream_longer_than_a_window_is_cut_there_and_comes_back() {
    let (_directory, pool) = pool();
    // Repeats itself, so that little has to be stored.
    let part = noise("part", 3 << 20);
    let long: Vec<u8> = part.iter().copied().cycle().take((64 << 20) + 12_345).collect();
    let source = ScriptedStreams::new(vec![("long", Script::Gives(long.clone()))]);

    let report = run(&pool, &source, 3, &SilentMonitor).unwrap();
    let again = run(&pool, &source, 1, &SilentMonitor).unwrap();

    assert!(content(&pool, &report, "long") == long);
    assert_eq!((again.entries_unchanged, again.entries_changed), (1, 0), "the same cuts again");
}

#[test]
fn a_stream_that_dies_makes_no_point_however_much_it_gave() {
    for length in [0, 5 << 20] {
        let (_directory, pool) = pool();
        let source = ScriptedStreams::new(vec![
            ("a", Script::Gives(noise("a", 1000))),
            ("b", Script::GivesThenFails(noise("b", length))),
        ]);

        let error = run(&pool, &source, 2, &SilentMonitor).unwrap_err();

        assert!(matches!(&error, Error::SourceFailed { name, .. } if name == "b"), "{error:?}");
        assert!(pool.points().unwrap().is_empty());
        assert_eq!(source.finished.load(Ordering::SeqCst), 0);
    }
}

/// Asks to stop as soon as a stream is read.
#[derive(Default)]
struct Impatient(AtomicBool);

impl Monitor for Impatient {
    fn event(&self, event: Event) {
        if matches!(event, Event::Current(_)) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[test]
fn a_stream_that_gives_nothing_keeps_no_run_from_being_stopped() {
    let (_directory, pool) = pool();
    let source = ScriptedStreams::new(vec![("silent", Script::NeverEnds)]);

    let error = run(&pool, &source, 2, &Impatient::default()).unwrap_err();

    assert!(matches!(error, Error::Interrupted), "{error:?}");
    assert!(pool.points().unwrap().is_empty());
}
