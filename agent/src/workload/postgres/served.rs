//! A base that the server reads itself and sends: one answer that holds an archive per tablespace, then its own list of what it sent.
//!
//! The WAL that makes the base consistent comes with it (`WAL true`): a base that the server ended successfully can be restored by itself, and one
//! whose WAL was gone is no base at all, since the server ends it with an error.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use storepool::monitor::Monitor;
use storepool::source::{SourceStream, Texture};

use super::archive::Archive;
use super::base::{
    ArchiveDetail, BaseBackup, BaseDetail, DETAIL_FORMAT, Ended, INVENTORY, OLDEST_VERSION,
    Tablespace, watched,
};
use super::connection::{Address, Connection, Purpose, Row, Said};
use super::error::PostgresError;
use super::inventory::Arrived;
use super::lsn::Lsn;
use super::settings::Settings;
use super::stream::Closer;
use crate::workload::streams::OpenStream;

type Result<T> = std::result::Result<T, PostgresError>;

/// What the server says at the end when it met a page with a wrong checksum (`ERRCODE_DATA_CORRUPTED`).
const DATA_CORRUPTED: &str = "XX001";
/// Longest list of what was sent; a file takes some 150 bytes in it.
const INVENTORY_LIMIT: usize = 1 << 30;

/// A base backup that arrives.
pub(super) struct ServedBase {
    inner: Mutex<Inner>,
    // Beside the lock, which whoever waits for the server holds.
    closer: Closer,
}

struct Inner {
    connection: Connection,
    detail: BaseDetail,
    part: Part,
    // Where the connection keeps what was not handed over yet.
    pending: Range<usize>,
    archive: Archive,
    arrived: Arrived,
    inventory: Vec<u8>,
    failure: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Before,
    Archive(usize),
    Inventory,
    End,
}

impl ServedBase {
    /// Asks the server to begin. Returns when it has: then it is known which archives will come. That may take a checkpoint's time; when `monitor` is
    /// cancelled meanwhile, it ends with an error.
    pub(super) fn begin(address: &Address, monitor: &dyn Monitor) -> Result<Self> {
        let connection = Connection::open(address, Purpose::Replication)?;
        let closer = connection.closer()?;
        let inner = watched(&closer, monitor, || Inner::begin(connection))?;
        Ok(Self { inner: Mutex::new(inner), closer })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BaseBackup for ServedBase {
    fn files(&self) -> Vec<String> {
        self.lock().detail.files()
    }

    fn stream(self: Arc<Self>, file: &str) -> Option<OpenStream> {
        let number = self.lock().detail.archives.iter().position(|archive| archive.file == file);
        let part = match number {
            Some(number) => Part::Archive(number),
            None if file == INVENTORY => Part::Inventory,
            None => return None,
        };
        let base = Arc::downgrade(&self);
        let end = move || base.upgrade().iter().for_each(|base| base.closer.close());
        Some(OpenStream::knowing(BaseStream { base: self, part }).ended_by(end))
    }

    fn finish(&self) -> Result<Ended> {
        let mut inner = self.lock();
        inner.finish()?;
        let (named, bad_page_count) = inner.arrived.bad_pages();
        Ok(Ended { detail: inner.detail.clone(), bad_pages: named.to_vec(), bad_page_count })
    }
}

impl Inner {
    fn begin(mut connection: Connection) -> Result<Self> {
        let settings = Settings::ask(&mut connection)?;
        if settings.version < OLDEST_VERSION {
            return Err(PostgresError::TooOld {
                server: connection.server().to_string(),
                version: connection.ask_one("SHOW server_version")?,
            });
        }
        let system_identifier = connection.ask_one("IDENTIFY_SYSTEM")?;
        connection.start(
            "BASE_BACKUP (LABEL 'keepwell', CHECKPOINT 'fast', WAL true, WAIT false, TABLESPACE_MAP true, \
             MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C', VERIFY_CHECKSUMS true)",
        )?;
        let [begin] = &result(&mut connection)?[..] else {
            return Err(connection.unexpected("a backup without a beginning".to_string()));
        };
        let (start, timeline) = place(&connection, begin)?;
        let spaces = result(&mut connection)?;
        let detail = BaseDetail {
            format: DETAIL_FORMAT,
            system_identifier,
            server_version: settings.version,
            wal_segment_bytes: settings.wal_segment_bytes,
            timeline,
            start,
            end: start,
            page_checksums: settings.page_checksums,
            archives: archives(&spaces),
        };
        Ok(Self {
            connection,
            detail,
            part: Part::Before,
            pending: 0..0,
            archive: Archive::new(),
            arrived: Arrived::new(settings.judged_from(start)),
            inventory: Vec::new(),
            failure: None,
        })
    }

    // Reads on until bytes of `part` are pending, or it is over.
    fn fill(&mut self, part: Part) -> Result<()> {
        while self.pending.is_empty() && self.part <= part {
            match self.connection.next()? {
                Said::Copy(place) => {
                    let content = place.start + 1..place.end;
                    match self.connection.copied(place).first() {
                        None => {
                            return Err(self.connection.unexpected("an empty piece".to_string()));
                        }
                        Some(b'n') => self.enter_archive()?,
                        Some(b'd') => self.take(content)?,
                        Some(b'm') => {
                            self.leave_archive()?;
                            self.part = Part::Inventory;
                        }
                        // Progress.
                        Some(b'p') => {}
                        Some(_) => {
                            return Err(self
                                .connection
                                .unexpected("a piece of a kind that is unknown".to_string()));
                        }
                    }
                }
                Said::CopyEnd => {
                    if self.part != Part::Inventory {
                        return Err(self.connection.unexpected("an early end".to_string()));
                    }
                    self.part = Part::End;
                }
                Said::Failed { message, code } => {
                    return Err(self.connection.refused(message, code));
                }
                Said::Row(_) | Said::ResultEnd | Said::Ready => {
                    return Err(self.connection.unexpected("an early end".to_string()));
                }
            }
        }
        Ok(())
    }

    fn enter_archive(&mut self) -> Result<()> {
        self.leave_archive()?;
        let number = match self.part {
            Part::Before => 0,
            Part::Archive(number) => number + 1,
            _ => return Err(self.connection.unexpected("an archive out of order".to_string())),
        };
        let Some(archive) = self.detail.archives.get(number) else {
            return Err(self.connection.unexpected("an archive too many".to_string()));
        };
        self.arrived.enter(match &archive.tablespace {
            Some(space) => PathBuf::from("pg_tblspc").join(&space.oid),
            None => PathBuf::new(),
        });
        self.archive = Archive::new();
        self.part = Part::Archive(number);
        Ok(())
    }

    fn leave_archive(&mut self) -> Result<()> {
        match self.part {
            Part::Archive(_) => self.archive.finish().map_err(|error| self.not_as_sent(&error)),
            _ => Ok(()),
        }
    }

    fn take(&mut self, place: Range<usize>) -> Result<()> {
        match self.part {
            Part::Archive(_) => {}
            Part::Inventory => {
                if self.inventory.len() + place.len() > INVENTORY_LIMIT {
                    return Err(self.connection.unexpected("a list without an end".to_string()));
                }
                self.inventory.extend_from_slice(self.connection.copied(place.clone()));
            }
            Part::Before | Part::End => {
                return Err(self.connection.unexpected("data out of order".to_string()));
            }
        }
        self.pending = place;
        Ok(())
    }

    // Hands over what is pending, as much as fits and has one texture, and looks at it on the way.
    fn give(&mut self, room: &mut [u8]) -> Result<(usize, Texture)> {
        let pending = self.connection.copied(self.pending.clone());
        let mut length = room.len().min(pending.len());
        let mut texture = Texture::Plain;
        if matches!(self.part, Part::Archive(_)) {
            length = length.min(self.archive.until_next_part());
            if self.archive.is_in_content() && self.arrived.is_of_many_pages() {
                texture = Texture::Pages;
            }
            let pushed = self.archive.push(&pending[..length], &mut self.arrived);
            pushed.map_err(|error| self.not_as_sent(&error))?;
        }
        // A second reading of what the first has just fetched: from the cache.
        room[..length].copy_from_slice(&self.connection.copied(self.pending.clone())[..length]);
        self.pending.start += length;
        Ok((length, texture))
    }

    fn not_as_sent(&self, what: &dyn std::fmt::Display) -> PostgresError {
        let server = self.connection.server().to_string();
        PostgresError::NotAsSent { server, what: what.to_string() }
    }

    fn finish(&mut self) -> Result<()> {
        if let Some(failure) = &self.failure {
            return Err(self.connection.unexpected(failure.clone()));
        }
        let complete = self.detail.archives.len();
        self.fill(Part::Inventory)?;
        if self.part != Part::End || !self.pending.is_empty() {
            return Err(self
                .connection
                .unexpected(format!("not all of its {complete} archives were read")));
        }
        let mut end = None;
        let mut refusal = None;
        loop {
            match self.connection.next()? {
                Said::Row(row) => end = Some(place(&self.connection, &row)?),
                Said::Failed { message, code } => refusal = Some((message, code)),
                Said::Ready => break,
                Said::ResultEnd | Said::Copy(_) | Said::CopyEnd => {}
            }
        }
        match refusal {
            // It reads a page again before it calls it damaged: what we saw was torn by a write, and the WAL mends it.
            None => self.arrived.clear(),
            // All was sent, and the end is known: the base is whole but for the pages that are damaged in the cluster itself.
            Some((_, code)) if code == DATA_CORRUPTED && end.is_some() => {
                let (named, _) = self.arrived.bad_pages();
                if named.is_empty() {
                    self.arrived.doubt();
                }
            }
            Some((message, code)) => return Err(self.connection.refused(message, code)),
        }
        let Some((lsn, timeline)) = end else {
            return Err(self.connection.unexpected("a backup without an end".to_string()));
        };
        (self.detail.end, self.detail.timeline) = (lsn, timeline);
        self.arrived.compare(&self.inventory).map_err(|what| self.not_as_sent(&what))
    }
}

struct BaseStream {
    base: Arc<ServedBase>,
    part: Part,
}

impl SourceStream for BaseStream {
    fn read(&mut self, room: &mut [u8]) -> io::Result<(usize, Texture)> {
        let mut inner = self.base.lock();
        let given = inner.fill(self.part).and_then(|()| {
            // The next one has begun. (Somebody who leaves one in the middle is found out at the end.)
            if inner.part != self.part { Ok((0, Texture::Plain)) } else { inner.give(room) }
        });
        given.map_err(|error| {
            inner.failure = Some(error.to_string());
            io::Error::other(error)
        })
    }
}

// The rows of one result.
fn result(connection: &mut Connection) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    loop {
        match connection.next()? {
            Said::Row(row) => rows.push(row),
            Said::ResultEnd => return Ok(rows),
            Said::Failed { message, code } => return Err(connection.refused(message, code)),
            Said::Copy(_) | Said::CopyEnd | Said::Ready => {
                return Err(connection.unexpected("an answer out of order".to_string()));
            }
        }
    }
}

fn place(connection: &Connection, row: &Row) -> Result<(Lsn, u32)> {
    let [Some(lsn), Some(timeline)] = &row[..] else {
        return Err(connection.unexpected("a place that is none".to_string()));
    };
    let lsn = lsn.parse().map_err(|error| connection.unexpected(error))?;
    let timeline = timeline.parse();
    Ok((lsn, timeline.map_err(|_| connection.unexpected("a timeline that is none".to_string()))?))
}

fn archives(spaces: &[Row]) -> Vec<ArchiveDetail> {
    let tablespace = |row: &Row| {
        let field = |place: usize| row.get(place).cloned().flatten();
        Some(Tablespace { oid: field(0)?, location: field(1)?.into() })
    };
    ArchiveDetail::in_order(spaces.iter().map(tablespace))
}
