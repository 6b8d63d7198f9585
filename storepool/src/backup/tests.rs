//! What a backup promises, shown with a source that misbehaves on cue.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use crate::backup::{BackupOptions, BackupReport, backup};
use crate::chunks::PoolChunks;
use crate::entry::{FileTime, Run};
use crate::error::Error;
use crate::manifest::{Owners, ProblemKind};
use crate::monitor::{Event, Monitor, SilentMonitor};
use crate::pool::{Pool, PoolOptions, World};
use crate::source::{
    DataSource, Listing, SourceDetail, SourceDirectory, SourceEntry, SourceError, SourceFile,
    SourceKind, SourceStat,
};
use crate::tree::{Content, Entry, Extents, Node, TreeCursor, read_list};

/// What a scripted file shows from its n-th reading on.
#[derive(Clone, Default)]
struct Phase {
    content: Vec<u8>,
    mtime: i64,
}

#[derive(Clone, Default)]
struct ScriptedFile {
    // The last phase goes on for ever.
    phases: Vec<Phase>,
    unreadable: bool,
    vanished: bool,
    panics: bool,
    readings: Arc<AtomicU64>,
}

impl ScriptedFile {
    fn still(content: &[u8]) -> Self {
        Self::changing(&[content])
    }

    fn changing(contents: &[&[u8]]) -> Self {
        let phases = contents
            .iter()
            .zip(1000..)
            .map(|(content, mtime)| Phase { content: content.to_vec(), mtime })
            .collect();
        Self { phases, ..Self::default() }
    }

    fn phase(&self) -> &Phase {
        let reading = self.readings.load(Ordering::SeqCst) as usize;
        &self.phases[reading.min(self.phases.len() - 1)]
    }

    fn stat(&self) -> SourceStat {
        let phase = self.phase();
        let time = FileTime { seconds: phase.mtime, nanos: 0 };
        SourceStat {
            kind: SourceKind::File,
            mode: 0o644,
            uid: 1,
            gid: 1,
            links: 1,
            size: phase.content.len() as u64,
            allocated: phase.content.len() as u64,
            mtime: time,
            ctime: time,
            inode: 5,
            device: 1,
            special: (0, 0),
        }
    }
}

#[derive(Clone, Default)]
struct ScriptedSource {
    files: Vec<(String, ScriptedFile)>,
    unlistable: bool,
}

impl SourceDirectory for ScriptedSource {
    fn list(&self) -> Result<Listing, SourceError> {
        if self.unlistable {
            return Err(SourceError::io("list", &io::ErrorKind::PermissionDenied.into()));
        }
        let entries = self
            .files
            .iter()
            .map(|(name, file)| SourceEntry { name: name.as_bytes().into(), stat: file.stat() })
            .collect();
        Ok(Listing { entries, problems: Vec::new() })
    }

    fn directory(&self, _entry: &SourceEntry) -> Result<Arc<dyn SourceDirectory>, SourceError> {
        unreachable!("the script has no directories")
    }

    fn file(&self, entry: &SourceEntry) -> Result<Box<dyn SourceFile>, SourceError> {
        let (_, file) = self
            .files
            .iter()
            .find(|(name, _)| name.as_bytes() == &*entry.name)
            .expect("only listed files are opened");
        assert!(!file.panics, "the script panics here");
        if file.unreadable {
            return Err(SourceError::io("open", &io::ErrorKind::PermissionDenied.into()));
        }
        if file.vanished {
            return Err(SourceError::io("open", &io::ErrorKind::NotFound.into()));
        }
        Ok(Box::new(file.clone()))
    }

    fn detail(&self, _entry: &SourceEntry) -> Result<SourceDetail, SourceError> {
        unreachable!("the script has only files")
    }

    fn own_detail(&self) -> Result<SourceDetail, SourceError> {
        Ok(SourceDetail::default())
    }
}

impl SourceFile for ScriptedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = &self.phase().content;
        let rest = content.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        if offset as usize + length >= content.len() || length == 0 {
            self.readings.fetch_add(1, Ordering::SeqCst);
        }
        Ok(length)
    }

    fn stat(&self) -> io::Result<SourceStat> {
        Ok(ScriptedFile::stat(self))
    }

    fn detail(&self) -> Result<SourceDetail, SourceError> {
        Ok(SourceDetail::default())
    }

    fn runs(&self, start: u64, end: u64) -> io::Result<Vec<Run>> {
        Ok(vec![Run { hole: 0, data: end - start }])
    }
}

impl DataSource for ScriptedSource {
    fn workload(&self) -> &str {
        "scripted"
    }

    fn paths(&self) -> Vec<Vec<u8>> {
        vec![b"/script".to_vec()]
    }

    fn root(&self) -> Result<(SourceStat, Arc<dyn SourceDirectory>), SourceError> {
        let stat = SourceStat { kind: SourceKind::Directory, ..ScriptedFile::still(b"").stat() };
        Ok((stat, Arc::new(self.clone())))
    }

    fn owners(&self, _users: &BTreeSet<u32>, _groups: &BTreeSet<u32>) -> Owners {
        Owners::default()
    }
}

fn source(files: &[(&str, ScriptedFile)]) -> ScriptedSource {
    let mut files: Vec<_> =
        files.iter().map(|(name, file)| (name.to_string(), file.clone())).collect();
    files.sort_by(|one, other| one.0.cmp(&other.0));
    ScriptedSource { files, unlistable: false }
}

struct Fixture {
    _directory: TempDir,
    paths: Vec<PathBuf>,
    pool: Arc<Pool>,
}

impl Fixture {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let paths = vec![directory.path().join("pool")];
        let pool = Pool::create(&paths, PoolOptions::default(), World::system()).unwrap();
        Self { _directory: directory, paths, pool: Arc::new(pool) }
    }

    fn reopen(self) -> Self {
        let Self { _directory, paths, pool } = self;
        drop(pool);
        let pool = Pool::open(&paths, PoolOptions::default(), World::system()).unwrap();
        Self { _directory, paths, pool: Arc::new(pool) }
    }

    fn backup(&self, source: &dyn DataSource) -> BackupReport {
        let options = BackupOptions { source: "script".to_string(), ..BackupOptions::default() };
        backup(&self.pool, source, &options, &SilentMonitor).unwrap()
    }

    fn entries(&self, report: &BackupReport) -> Vec<Entry> {
        let manifest = self.pool.manifest(report.point.unwrap()).unwrap();
        let session = self.pool.begin_session().unwrap();
        let reader = PoolChunks::new(&session).pool_reader().unwrap();
        TreeCursor::new(&reader, manifest.root).collect::<Result<_, _>>().unwrap()
    }

    fn content(&self, entry: &Entry) -> Vec<u8> {
        use crate::id::ChunkKind;
        use crate::tree::ChunkFetch;
        let session = self.pool.begin_session().unwrap();
        let reader = PoolChunks::new(&session).pool_reader().unwrap();
        let Node::File { content, .. } = &entry.node else { panic!("not a file") };
        let extents: Vec<Extents> = match content {
            Content::None => Vec::new(),
            Content::Inline(extents) => vec![extents.clone()],
            Content::Listed(lists) => {
                lists.iter().map(|list| read_list(&reader, *list).unwrap()).collect()
            }
        };
        extents
            .iter()
            .flat_map(|extents| &extents.chunks)
            .flat_map(|chunk| reader.fetch(chunk.id, ChunkKind::Data).unwrap())
            .collect()
    }
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_derive_key("test noise").finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn contents_of_every_size_come_back() {
    let fixture = Fixture::new();
    let noise = noise(6 << 20);
    let sizes = [0, 1, 8 << 10, (8 << 10) + 1, 100_000, 256 << 10, (2 << 20) + 7, 6 << 20];
    let files: Vec<_> = sizes
        .iter()
        .map(|size| (format!("f{size:08}"), ScriptedFile::still(&noise[..*size])))
        .collect();
    let named: Vec<_> = files.iter().map(|(name, file)| (name.as_str(), file.clone())).collect();

    let report = fixture.backup(&source(&named));

    let entries = fixture.entries(&report);
    assert_eq!(entries.len(), sizes.len());
    for (entry, size) in entries.iter().zip(sizes) {
        assert!(fixture.content(entry) == noise[..size], "a file of {size} bytes differs");
    }
}

#[test]
fn a_second_backup_of_an_unchanged_tree_reads_and_stores_nothing() {
    let fixture = Fixture::new();
    let script = source(&[("a", ScriptedFile::still(b"one")), ("b", ScriptedFile::still(b"two"))]);
    let first = fixture.backup(&script);

    let second = fixture.backup(&script);

    assert_eq!((first.entries_new, first.totals.chunks_new > 0), (2, true));
    assert_eq!(second.entries_unchanged, 2);
    assert_eq!(second.totals.bytes_read, 0);
    assert_eq!(second.totals.chunks_new, 0);
    assert_eq!(second.base, first.point);
    assert_ne!(second.point, first.point);
}

#[test]
fn a_file_that_settles_after_a_change_is_read_again_and_whole() {
    let fixture = Fixture::new();
    let file =
        ScriptedFile::changing(&[b"half of the old", b"the new content", b"the new content"]);

    let report = fixture.backup(&source(&[("f", file)]));

    assert_eq!(report.problem_count, 0, "{:?}", report.problems);
    assert_eq!(fixture.content(&fixture.entries(&report)[0]), b"the new content");
}

#[test]
fn a_file_that_never_settles_is_a_problem_and_not_a_torn_file() {
    let fixture = Fixture::new();
    let contents: Vec<_> = (0..20).map(|index| format!("content number {index:02}")).collect();
    let contents: Vec<_> = contents.iter().map(|content| content.as_bytes()).collect();
    let script =
        source(&[("f", ScriptedFile::changing(&contents)), ("g", ScriptedFile::still(b"calm"))]);

    let report = fixture.backup(&script);

    assert_eq!(report.problem_count, 1);
    assert_eq!(report.problems[0].kind, ProblemKind::Changed);
    let names: Vec<_> = fixture.entries(&report).into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, [b"g"]);
}

#[test]
fn a_log_that_only_grows_is_kept_as_it_was_at_one_moment() {
    let fixture = Fixture::new();
    let contents: Vec<_> = (1..20).map(|lines| "a line\n".repeat(lines)).collect();
    let contents: Vec<_> = contents.iter().map(|content| content.as_bytes()).collect();

    let report = fixture.backup(&source(&[("log", ScriptedFile::changing(&contents))]));

    assert_eq!(report.problem_count, 0, "{:?}", report.problems);
    let content = fixture.content(&fixture.entries(&report)[0]);
    assert_eq!(content, b"a line\n", "the first bytes were the same in two readings");
}

#[test]
fn a_file_that_shrinks_is_read_again() {
    let fixture = Fixture::new();
    let long = noise(300_000);
    let file = ScriptedFile {
        phases: vec![
            Phase { content: long.clone(), mtime: 1 },
            Phase { content: long[..1000].to_vec(), mtime: 2 },
        ],
        ..ScriptedFile::default()
    };

    let report = fixture.backup(&source(&[("f", file)]));

    assert_eq!(report.problem_count, 0, "{:?}", report.problems);
    assert_eq!(fixture.content(&fixture.entries(&report)[0]), long[..1000]);
}

#[test]
fn unreadable_and_vanished_files_are_problems_and_the_rest_is_kept() {
    let fixture = Fixture::new();
    let unreadable = ScriptedFile { unreadable: true, ..ScriptedFile::still(b"secret") };
    let vanished = ScriptedFile { vanished: true, ..ScriptedFile::still(b"gone") };
    let script = source(&[("a", unreadable), ("b", ScriptedFile::still(b"kept")), ("c", vanished)]);

    let report = fixture.backup(&script);

    let kinds: Vec<_> = report.problems.iter().map(|problem| problem.kind).collect();
    assert_eq!(kinds, [ProblemKind::Unreadable, ProblemKind::Vanished]);
    assert_eq!(fixture.entries(&report).len(), 1);
    let manifest = fixture.pool.manifest(report.point.unwrap()).unwrap();
    assert_eq!(manifest.problem_count, 2);
}

#[test]
fn a_source_that_cannot_be_listed_makes_no_point() {
    let fixture = Fixture::new();
    let script = ScriptedSource { unlistable: true, ..ScriptedSource::default() };
    let options = BackupOptions { source: "script".to_string(), ..BackupOptions::default() };

    let error = backup(&fixture.pool, &script, &options, &SilentMonitor).unwrap_err();

    assert!(matches!(error, Error::SourceFailed { .. }), "{error}");
    assert!(fixture.pool.points().unwrap().is_empty());
}

#[test]
fn a_worker_that_panics_ends_the_run_without_a_point() {
    let fixture = Fixture::new();
    let broken = ScriptedFile { panics: true, ..ScriptedFile::still(b"two") };
    let script = source(&[("a", ScriptedFile::still(b"one")), ("b", broken)]);
    let options = BackupOptions { threads: 2, source: "s".to_string(), ..BackupOptions::default() };

    let error = backup(&fixture.pool, &script, &options, &SilentMonitor).unwrap_err();

    assert!(matches!(error, Error::WorkerPanicked { .. }), "{error}");
    assert!(fixture.pool.points().unwrap().is_empty());
    // The pool is as good as before.
    fixture.backup(&source(&[("a", ScriptedFile::still(b"one"))]));
}

#[test]
fn a_dry_run_stores_nothing() {
    let fixture = Fixture::new();
    let script = source(&[("a", ScriptedFile::still(b"one"))]);
    let options =
        BackupOptions { dry_run: true, source: "s".to_string(), ..BackupOptions::default() };

    let report = backup(&fixture.pool, &script, &options, &SilentMonitor).unwrap();

    assert_eq!((report.point, report.entries_new), (None, 1));
    assert!(fixture.pool.points().unwrap().is_empty());
    assert!(fixture.pool.index().packs().unwrap().is_empty());
}

#[test]
fn a_run_that_was_told_to_stop_makes_no_point_and_the_next_one_does() {
    struct Stopper;
    impl Monitor for Stopper {
        fn event(&self, _event: Event) {}
        fn cancelled(&self) -> bool {
            true
        }
    }
    let fixture = Fixture::new();
    let script = source(&[("a", ScriptedFile::still(b"one"))]);
    let options = BackupOptions { source: "script".to_string(), ..BackupOptions::default() };

    let error = backup(&fixture.pool, &script, &options, &Stopper).unwrap_err();

    assert!(matches!(error, Error::Interrupted), "{error}");
    assert!(fixture.pool.points().unwrap().is_empty());
    assert!(fixture.backup(&script).point.is_some());
}

#[test]
fn what_a_lost_pack_held_is_read_and_stored_again() {
    let mut fixture = Fixture::new();
    let script = source(&[("a", ScriptedFile::still(&noise(100_000)))]);
    fixture.backup(&script);
    let rows = fixture.pool.index().packs().unwrap();
    let data = rows.iter().find(|row| row.kind == crate::pack::PackKind::Data).unwrap();
    std::fs::remove_file(fixture.pool.pack_file(data).unwrap()).unwrap();

    fixture = fixture.reopen();
    let report = fixture.backup(&script);

    assert_eq!(report.entries_unchanged, 0);
    assert!(fixture.content(&fixture.entries(&report)[0]) == noise(100_000));
}

#[test]
fn the_index_is_made_anew_from_packs_and_points_alone() {
    let mut fixture = Fixture::new();
    let script = source(&[("a", ScriptedFile::still(&noise(100_000)))]);
    let first = fixture.backup(&script);
    let database = fixture.paths[0].join("pool.db");
    let paths = fixture.paths.clone();
    let spoil: [&dyn Fn(); 3] = [
        &|| std::fs::remove_file(&database).unwrap(),
        &|| std::fs::write(&database, b"not a database at all").unwrap(),
        &|| {
            let bytes = std::fs::read(&database).unwrap();
            std::fs::write(&database, &bytes[..bytes.len() / 2]).unwrap();
        },
    ];
    for damage in spoil {
        let Fixture { _directory, pool, .. } = fixture;
        drop(pool);
        damage();
        let pool = Pool::open(&paths, PoolOptions::default(), World::system()).unwrap();
        fixture = Fixture { _directory, paths: paths.clone(), pool: Arc::new(pool) };

        assert!(fixture.pool.index_was_rebuilt());
        let points: Vec<_> = fixture.pool.points().unwrap().iter().map(|point| point.id).collect();
        assert_eq!(points, [first.point.unwrap()]);
        assert!(fixture.content(&fixture.entries(&first)[0]) == noise(100_000));
    }
}

#[test]
fn progress_adds_up_to_the_whole() {
    #[derive(Default)]
    struct Sum(Mutex<(u64, u64)>);
    impl Monitor for Sum {
        fn event(&self, event: Event) {
            if let Event::Done { items, bytes } = event {
                let mut sum = self.0.lock().unwrap();
                sum.0 += items;
                sum.1 += bytes;
            }
        }
    }
    let fixture = Fixture::new();
    let script =
        source(&[("a", ScriptedFile::still(&noise(500_000))), ("b", ScriptedFile::still(b"x"))]);
    let options = BackupOptions { source: "script".to_string(), ..BackupOptions::default() };
    let sum = Sum::default();

    backup(&fixture.pool, &script, &options, &sum).unwrap();

    assert_eq!(*sum.0.lock().unwrap(), (2, 500_001));
}
