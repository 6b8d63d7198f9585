//! Streams by name as a data source: what programs and servers hand over, each read once when its turn comes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use storepool::clock::Timestamp;
use storepool::entry::{EntryPath, FileTime};
use storepool::filetree::OwnerNames;
use storepool::manifest::{Owners, ProblemKind};
use storepool::source::{
    DataSource, Listing, PlainStream, SourceDetail, SourceDirectory, SourceEntry, SourceError,
    SourceFile, SourceKind, SourceStat, SourceStream, Texture,
};

use super::WorkloadError;

/// A stream that is open.
pub(crate) struct OpenStream {
    stream: Box<dyn SourceStream>,
    stop: Option<Stop>,
}

/// Ends from outside what a stream waits for: its reading fails then.
type Stop = Box<dyn Fn() + Send>;

impl OpenStream {
    /// Returns the stream of a reader that never waits for long.
    pub(crate) fn of(reader: impl Read + Send + 'static) -> Self {
        Self::knowing(PlainStream(reader))
    }

    /// Returns a stream that knows how its content is made, and never waits for long.
    pub(crate) fn knowing(stream: impl SourceStream + 'static) -> Self {
        Self { stream: Box::new(stream), stop: None }
    }

    /// Says how it is ended while somebody waits for it.
    pub(crate) fn ended_by(self, stop: impl Fn() + Send + 'static) -> Self {
        Self { stop: Some(Box::new(stop)), ..self }
    }

    /// Keeps its first `most` bytes for whoever asks when it was read.
    pub(crate) fn beginning_in(self, kept: Arc<Mutex<Vec<u8>>>, most: usize) -> Self {
        Self { stream: Box::new(Beginning { stream: self.stream, kept, most }), ..self }
    }
}

// Keeps the beginning of what is read.
struct Beginning {
    stream: Box<dyn SourceStream>,
    kept: Arc<Mutex<Vec<u8>>>,
    most: usize,
}

impl SourceStream for Beginning {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Texture)> {
        let (length, texture) = self.stream.read(buffer)?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let room = self.most.saturating_sub(kept.len()).min(length);
        kept.extend(&buffer[..room]);
        Ok((length, texture))
    }
}

/// The stream that was opened last, for who gives up reading it: the reading thread may wait for a program or a server that never says anything again.
#[derive(Clone, Default)]
pub(crate) struct LastStream(Arc<Mutex<Option<Stop>>>);

impl LastStream {
    /// Ends what it waits for.
    pub(crate) fn end(&self) {
        if let Some(stop) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            stop();
        }
    }

    fn note(&self, stop: Option<Stop>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stop;
    }
}

/// Opens the stream of a name.
pub(crate) type Opener = dyn Fn(&str) -> Result<OpenStream, WorkloadError> + Send + Sync;
/// Judges, when all streams were read, whether they are sound, and returns what the point keeps beside them (JSON).
pub(crate) type Finisher = dyn Fn() -> Result<String, WorkloadError> + Send + Sync;

/// What only the owner may read: the content of a database is nobody else's business.
const FILE_MODE: u16 = 0o600;
const DIRECTORY_MODE: u16 = 0o700;

/// A source of streams.
pub(crate) struct StreamTree {
    /// Kind of workload.
    pub(crate) workload: &'static str,
    /// What is backed up, for people.
    pub(crate) label: String,
    /// Names of the streams, with `/` between folder and name.
    pub(crate) names: Vec<String>,
    /// Owner, mode and time of streams that have their own; others are this user's alone.
    pub(crate) looks: BTreeMap<String, StreamLook>,
    /// The moment that the streams show, or at which their reading began.
    pub(crate) time: Timestamp,
    /// Opens them.
    pub(crate) opener: Arc<Opener>,
    /// Ends the reading.
    pub(crate) finisher: Box<Finisher>,
    /// The one that is open; ended with the source.
    pub(crate) last: LastStream,
}

impl Drop for StreamTree {
    fn drop(&mut self) {
        self.last.end();
    }
}

impl DataSource for StreamTree {
    fn workload(&self) -> &str {
        self.workload
    }

    fn paths(&self) -> Vec<Vec<u8>> {
        vec![self.label.clone().into_bytes()]
    }

    fn root(&self) -> Result<(SourceStat, Arc<dyn SourceDirectory>), SourceError> {
        // What a tree cannot hold must not come into one.
        if let Some(name) =
            self.names.iter().find(|name| EntryPath::parse(name.as_bytes()).is_none())
        {
            let message = format!("\"{name}\" cannot be the name of a file in a point");
            return Err(SourceError { kind: ProblemKind::Unsupported, message });
        }
        let folder = Folder {
            prefix: String::new(),
            names: self.names.clone().into(),
            looks: Arc::new(self.looks.clone()),
            time: self.time,
            opener: self.opener.clone(),
            last: self.last.clone(),
        };
        Ok((folder.stat(SourceKind::Directory), Arc::new(folder)))
    }

    fn owners(&self, users: &BTreeSet<u32>, groups: &BTreeSet<u32>) -> Owners {
        OwnerNames::load().select(users, groups)
    }

    fn finish(&self) -> Result<String, SourceError> {
        (self.finisher)().map_err(|error| source_error(&error))
    }
}

/// What a stream's file looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamLook {
    /// The 12 permission bits.
    pub(crate) mode: u16,
    /// Numeric owner.
    pub(crate) uid: u32,
    /// Numeric group.
    pub(crate) gid: u32,
    /// Last change.
    pub(crate) time: FileTime,
}

struct Folder {
    // Empty, or ending with a slash.
    prefix: String,
    names: Arc<[String]>,
    looks: Arc<BTreeMap<String, StreamLook>>,
    time: Timestamp,
    opener: Arc<Opener>,
    last: LastStream,
}

impl Folder {
    fn stat(&self, kind: SourceKind) -> SourceStat {
        let time = FileTime {
            seconds: self.time.0.div_euclid(1_000_000_000),
            nanos: self.time.0.rem_euclid(1_000_000_000) as u32,
        };
        SourceStat {
            kind,
            mode: if kind == SourceKind::Directory { DIRECTORY_MODE } else { FILE_MODE },
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
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

    fn stat_of(&self, name: &str, kind: SourceKind) -> SourceStat {
        let stat = self.stat(kind);
        match self.looks.get(&format!("{}{name}", self.prefix)) {
            None => stat,
            Some(look) => SourceStat {
                mode: look.mode,
                uid: look.uid,
                gid: look.gid,
                mtime: look.time,
                ctime: look.time,
                ..stat
            },
        }
    }

    fn full_name(&self, entry: &SourceEntry) -> String {
        format!("{}{}", self.prefix, String::from_utf8_lossy(&entry.name))
    }
}

impl SourceDirectory for Folder {
    fn list(&self) -> Result<Listing, SourceError> {
        let mut kinds: BTreeMap<&str, SourceKind> = BTreeMap::new();
        for name in self.names.iter().filter_map(|name| name.strip_prefix(&self.prefix)) {
            match name.split_once('/') {
                Some((folder, _)) => kinds.insert(folder, SourceKind::Directory),
                None => kinds.insert(name, SourceKind::Stream),
            };
        }
        let entries = kinds.into_iter().map(|(name, kind)| SourceEntry {
            name: name.as_bytes().into(),
            stat: self.stat_of(name, kind),
        });
        Ok(Listing { entries: entries.collect(), problems: Vec::new() })
    }

    fn directory(&self, entry: &SourceEntry) -> Result<Arc<dyn SourceDirectory>, SourceError> {
        Ok(Arc::new(Self {
            prefix: format!("{}/", self.full_name(entry)),
            names: self.names.clone(),
            looks: self.looks.clone(),
            time: self.time,
            opener: self.opener.clone(),
            last: self.last.clone(),
        }))
    }

    fn file(&self, entry: &SourceEntry) -> Result<Box<dyn SourceFile>, SourceError> {
        let cause = io::Error::new(io::ErrorKind::Unsupported, "it is a stream");
        Err(SourceError::io(&format!("open {} as a file", self.full_name(entry)), &cause))
    }

    fn stream(&self, entry: &SourceEntry) -> Result<Box<dyn SourceStream>, SourceError> {
        // One that cannot be opened is no lesser failure than one that dies: there is no point without it.
        let stream = (self.opener)(&self.full_name(entry))
            .unwrap_or_else(|error| OpenStream::of(Stillborn(source_error(&error).message)));
        self.last.note(stream.stop);
        Ok(stream.stream)
    }

    fn detail(&self, _entry: &SourceEntry) -> Result<SourceDetail, SourceError> {
        Ok(SourceDetail::default())
    }

    fn own_detail(&self) -> Result<SourceDetail, SourceError> {
        Ok(SourceDetail::default())
    }
}

struct Stillborn(String);

impl Read for Stillborn {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other(self.0.clone()))
    }
}

/// Returns an error of a workload as one of its source.
pub(crate) fn source_error(error: &WorkloadError) -> SourceError {
    let message = match &error.cause {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    SourceError { kind: ProblemKind::Unreadable, message }
}
