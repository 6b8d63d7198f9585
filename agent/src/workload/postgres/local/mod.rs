//! A base whose files are read here, while the server runs: between its words that a backup has begun and that it has ended
//! (<https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-LOWLEVEL-BASE-BACKUP>). See docs/decisions/0052.
//!
//! What makes it sound is the server's: the first checkpoint, whole pages in the WAL, the label, and a slot that keeps the WAL until it is read. If the
//! connection ends before the server has said that the backup ended, there is no base.

mod cluster;
mod content;
mod control;
mod folder;
mod list;
mod reading;
mod selection;
mod session;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use storepool::monitor::Monitor;
use storepool::source::{SourceStream, Texture};

use self::cluster::Cluster;
use self::control::{CONTROL, Control};
use self::reading::Reading;
use self::session::Session;
use super::base::{ArchiveDetail, BaseBackup, BaseDetail, DETAIL_FORMAT, Ended, watched};
use super::connection::{Address, Connection, Purpose};
use super::error::PostgresError;
use super::stream::Closer;
use crate::workload::streams::OpenStream;

type Result<T> = std::result::Result<T, PostgresError>;

/// The database for questions: there from the beginning, and hardly ever removed.
const DATABASE: &str = "postgres";

/// A base that is read.
pub(super) struct LocalBase {
    inner: Mutex<Inner>,
    // Beside the lock, which whoever waits for the server holds.
    closer: Closer,
}

struct Inner {
    reading: Reading,
    failure: Option<String>,
}

impl LocalBase {
    /// Finds the files of the server and has the backup begin, for which a checkpoint is waited for; when `monitor` is cancelled meanwhile, it ends with
    /// an error.
    ///
    /// # Errors
    /// Its files cannot be read here ([`PostgresError::NotReadHere`]), or it refuses.
    pub(super) fn begin(address: &Address, monitor: &dyn Monitor) -> Result<Self> {
        let connection = Connection::open(address, Purpose::Database(DATABASE))?;
        let closer = connection.closer()?;
        let reading = watched(&closer, monitor, || begin(connection))?;
        Ok(Self { inner: Mutex::new(Inner { reading, failure: None }), closer })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns nothing, if the files of the server at `address` can be read here.
///
/// # Errors
/// Why they cannot.
pub(super) fn examine(address: &Address) -> Result<()> {
    let mut connection = Connection::open(address, Purpose::Database(DATABASE))?;
    Cluster::find(&mut connection).map(drop)
}

fn begin(mut connection: Connection) -> Result<Reading> {
    let cluster = Cluster::find(&mut connection)?;
    let session = Session::begin(connection, cluster.system_identifier)?;
    // The server has noted there the checkpoint with which the backup began; a copy of its files, however like them, does not know of it.
    let control = Control::read(&cluster.data);
    let control = control.map_err(|error| session.not_here(format!("{CONTROL}: {error}")))?;
    if control.redo() < session.start {
        let path = cluster.data.path().display();
        return Err(session.not_here(format!("{path} is a copy that the server does not write to")));
    }
    // Only now: one that is made from here on comes with the WAL, and the server's own map shows whether one was in between.
    let spaces = cluster.spaces().map_err(|error| session.not_here(error.to_string()))?;
    let tablespaces = spaces.iter().map(|space| Some(space.tablespace.clone())).chain([None]);
    let detail = BaseDetail {
        format: DETAIL_FORMAT,
        system_identifier: cluster.system_identifier.to_string(),
        server_version: session.settings.version,
        wal_segment_bytes: session.settings.wal_segment_bytes,
        timeline: session.timeline,
        start: session.start,
        end: session.start,
        page_checksums: session.settings.page_checksums,
        archives: ArchiveDetail::in_order(tablespaces),
    };
    Ok(Reading::new(session, cluster, spaces, detail))
}

impl BaseBackup for LocalBase {
    fn files(&self) -> Vec<String> {
        self.lock().reading.detail().files()
    }

    fn stream(self: Arc<Self>, file: &str) -> Option<OpenStream> {
        let number = self.lock().reading.detail().files().iter().position(|one| one == file)?;
        let base = Arc::downgrade(&self);
        let end = move || base.upgrade().iter().for_each(|base| base.closer.close());
        Some(OpenStream::knowing(FileStream { base: self, number }).ended_by(end))
    }

    fn finish(&self) -> Result<Ended> {
        let mut inner = self.lock();
        match inner.failure.take() {
            Some(what) => Err(inner.reading.no_base(what)),
            None => inner.reading.finish(),
        }
    }
}

struct FileStream {
    base: Arc<LocalBase>,
    // Of the files of the point.
    number: usize,
}

impl SourceStream for FileStream {
    fn read(&mut self, room: &mut [u8]) -> io::Result<(usize, Texture)> {
        let mut inner = self.base.lock();
        inner.reading.read(self.number, room).map_err(|error| {
            inner.failure = Some(error.chain());
            io::Error::other(error.chain())
        })
    }
}
