//! A base of a cluster while it is made: an archive per tablespace, then a list of all that is in them.
//!
//! Two ways lead there: the server reads its files and sends them ([`ServedBase`]), or they are read here, between the server's words that a backup has
//! begun and ended ([`LocalBase`]). What comes of them is the same.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use storepool::monitor::Monitor;

use super::connection::{Address, Way};
use super::error::PostgresError;
use super::local::LocalBase;
use super::lsn::Lsn;
use super::served::ServedBase;
use super::stream::Closer;
use crate::config::ReadFrom;
use crate::workload::streams::OpenStream;

type Result<T> = std::result::Result<T, PostgresError>;

/// The oldest version whose base backups come as one stream, and that knows `pg_backup_start`.
pub(super) const OLDEST_VERSION: u32 = 150_000;
/// How soon somebody who gives up waiting for the beginning is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Name of the list of what is in the archives.
pub(super) const INVENTORY: &str = "backup_manifest";

/// A base that is being made.
pub(super) trait BaseBackup: Send + Sync {
    /// Returns the files that will come, in their order.
    fn files(&self) -> Vec<String>;

    /// Opens one of [`BaseBackup::files`]; they must be read in their order, each to its end.
    fn stream(self: Arc<Self>, file: &str) -> Option<OpenStream>;

    /// Ends the backup, after everything was read.
    ///
    /// # Errors
    /// The server did not end the backup successfully, or something is missing: then there is no base.
    fn finish(&self) -> Result<Ended>;
}

/// A base that is whole.
pub(super) struct Ended {
    /// What its point says of it.
    pub(super) detail: BaseDetail,
    /// Pages that are damaged in the cluster itself, as many as are named.
    pub(super) bad_pages: Vec<BadPage>,
    /// How many there are.
    pub(super) bad_page_count: u64,
}

/// A page whose checksum is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadPage {
    /// The file, as in the data directory.
    pub(super) file: PathBuf,
    /// Its number in the relation.
    pub(super) block: u32,
}

/// Begins a base. Returns when the server has: that may take a checkpoint's time; when `monitor` is cancelled meanwhile, it ends with an error.
///
/// # Errors
/// The server cannot be reached or refuses, or its files cannot be read here and nothing else is wanted.
pub(super) fn begin(
    address: &Address,
    read_from: ReadFrom,
    monitor: &dyn Monitor,
) -> Result<Arc<dyn BaseBackup>> {
    // Over TCP its files are never ours to read: it is not even asked.
    if read_from != ReadFrom::Server && matches!(address.way, Way::Socket(_)) {
        match LocalBase::begin(address, monitor) {
            Ok(base) => return Ok(Arc::new(base)),
            Err(error) if read_from == ReadFrom::Files || monitor.cancelled() => return Err(error),
            // If it is the server that has a fault, it will say so again.
            Err(error) => tracing::info!("the server reads its files itself: {}", error.chain()),
        }
    }
    Ok(Arc::new(ServedBase::begin(address, monitor)?))
}

/// Does what may wait for a server, and closes the way to it when `monitor` is cancelled meanwhile.
pub(super) fn watched<T>(closer: &Closer, monitor: &dyn Monitor, wait: impl FnOnce() -> T) -> T {
    let (is_over, watch) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while watch.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                if monitor.cancelled() {
                    return closer.close();
                }
            }
        });
        let done = wait();
        drop(is_over);
        done
    })
}

/// What a point says of its base, in the manifest's detail.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct BaseDetail {
    /// Version of this description.
    pub(crate) format: u32,
    /// Which cluster.
    pub(crate) system_identifier: String,
    /// Version of the server, as `server_version_num`.
    pub(crate) server_version: u32,
    /// Bytes of a WAL segment.
    pub(crate) wal_segment_bytes: u64,
    /// Timeline at the end.
    pub(crate) timeline: u32,
    /// Where recovery begins.
    pub(crate) start: Lsn,
    /// From here on the cluster is consistent.
    pub(crate) end: Lsn,
    /// Whether its pages have checksums.
    pub(crate) page_checksums: bool,
    /// The archives, in the order in which they came; the last one is the data directory.
    pub(crate) archives: Vec<ArchiveDetail>,
}

/// One archive of a base.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct ArchiveDetail {
    /// File of the point.
    pub(crate) file: String,
    /// Number and place of the tablespace; `None` for the data directory itself.
    pub(crate) tablespace: Option<Tablespace>,
}

/// A tablespace.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Tablespace {
    /// OID.
    pub(crate) oid: String,
    /// Where it was.
    pub(crate) location: PathBuf,
}

impl BaseDetail {
    /// Returns the files of the point that make the base, in the order in which they are read.
    pub(super) fn files(&self) -> Vec<String> {
        let archives = self.archives.iter().map(|archive| archive.file.clone());
        archives.chain([INVENTORY.to_string()]).collect()
    }
}

impl ArchiveDetail {
    /// Names the archives of these tablespaces; `None` is the data directory.
    pub(super) fn in_order(spaces: impl IntoIterator<Item = Option<Tablespace>>) -> Vec<Self> {
        let name = |(number, tablespace): (usize, Option<Tablespace>)| {
            let what = match &tablespace {
                Some(space) => format!("tablespace-{}", space.oid),
                None => "base".to_string(),
            };
            // Numbered, since files are read in the order of their names.
            Self { file: format!("{:04}-{what}.tar", number + 1), tablespace }
        };
        spaces.into_iter().enumerate().map(name).collect()
    }
}

/// The version of [`BaseDetail`] that is written.
pub(crate) const DETAIL_FORMAT: u32 = 1;
