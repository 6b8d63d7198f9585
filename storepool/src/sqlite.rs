//! The door to SQLite: opening, pragmas, migrations, transactions.
//!
//! The index is a cache of packs and point files, so `synchronous = NORMAL` is enough: a power cut may roll the last
//! transactions back, never tear them, and [`crate::pool::Pool::open`] reconciles what was rolled back.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use crate::disk::{Disk, SystemDisk};
use crate::error::{Error, Result};

/// Longest wait for another process's transaction; they take milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);
/// Page cache of the writing connection in KiB.
const WRITER_CACHE_KIB: i64 = 16 << 10;
/// Page cache of a reading connection in KiB.
const READER_CACHE_KIB: i64 = 8 << 10;
/// The write-ahead log is cut back to this many bytes after a checkpoint.
const LOG_BYTES: i64 = 16 << 20;
/// With less room than this a failure of the system is taken for a full disk.
const LEAST_ROOM: u64 = 64 << 10;
/// SQLite before 3.51.3 can lose committed pages (the WAL-reset bug found in March 2026).
const SQLITE_LEAST: i32 = 3_051_003;

/// Ends the name of the empty file beside a database that was found damaged.
const DISTRUST: &str = "-damaged";

/// One step of a schema: the SQL that leads from the version before to this one.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// The SQL text.
    pub sql: &'static str,
}

/// A database file with one writing connection of this process.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    writer: Mutex<Connection>,
}

impl Database {
    /// Opens the database, creating it if it is not there, and brings its schema up to date.
    ///
    /// # Errors
    /// [`Error::SqliteTooOld`]; [`Error::NewerFormat`] if a newer version made it; [`Error::Index`] with `corrupt` set if the file is no sound database.
    pub fn open(path: &Path, migrations: &[Migration]) -> Result<Self> {
        require_version(rusqlite::version_number())?;
        let connection = Connection::open(path).map_err(|error| index_error(path, &error))?;
        let prepare = || -> rusqlite::Result<()> {
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.pragma_update(None, "journal_mode", "wal")?;
            connection.pragma_update(None, "synchronous", "normal")?;
            connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
            connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
            connection.set_prepared_statement_cache_capacity(64);
            Ok(())
        };
        prepare().map_err(|error| index_error(path, &error))?;
        let database = Self { path: path.to_path_buf(), writer: Mutex::new(connection) };
        database.migrate(migrations)?;
        Ok(database)
    }

    /// Makes every commit durable on return, for what cannot be made anew from other files.
    ///
    /// # Errors
    /// [`Error::Index`] if SQLite refuses.
    pub fn sync_every_commit(&self) -> Result<()> {
        let set = self.connection().pragma_update(None, "synchronous", "full");
        set.map_err(|error| index_error(&self.path, &error))
    }

    fn migrate(&self, migrations: &[Migration]) -> Result<()> {
        let version =
            |tx: &Transaction<'_>| tx.query_row("PRAGMA user_version", [], |row| row.get(0));
        let current: usize = self.read(|tx| version(tx))?;
        if current > migrations.len() {
            return Err(Error::NewerFormat {
                object: self.path.display().to_string(),
                found: current as u64,
                supported: migrations.len() as u64,
            });
        }
        if current == migrations.len() {
            return Ok(());
        }
        self.write(|tx| {
            // Read again: another process may have migrated in between.
            let current: usize = version(tx)?;
            for migration in migrations.iter().skip(current) {
                tx.execute_batch(migration.sql)?;
            }
            tx.pragma_update(None, "user_version", migrations.len())
        })
    }

    /// Says that the file is damaged, so that whoever opens it next makes it anew; only for databases that are caches. Best effort: what
    /// cannot be noted now is found out again.
    pub fn distrust(&self) {
        distrust(&self.path);
    }

    /// Returns the error for contents that cannot be as they were written, and distrusts the file.
    pub fn damaged(&self, detail: &str) -> Error {
        distrust(&self.path);
        Error::Index { path: self.path.clone(), detail: detail.to_string(), corrupt: true }
    }

    /// Returns whether somebody found the database at `path` damaged.
    pub fn is_distrusted(path: &Path) -> bool {
        beside(path, DISTRUST).exists()
    }

    /// Removes the database at `path` with its companions; it may be missing.
    pub fn remove(path: &Path) -> Result<()> {
        // The note last: a removal that is cut off is done again.
        for suffix in ["", "-wal", "-shm", DISTRUST] {
            let file = beside(path, suffix);
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", &file)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the path of the database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `action` in a read transaction: it sees one state of the database.
    pub fn read<T>(
        &self,
        action: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.transact(TransactionBehavior::Deferred, action)
    }

    /// Runs `action` in a write transaction and commits it; on an error nothing of it remains.
    pub fn write<T>(
        &self,
        action: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.transact(TransactionBehavior::Immediate, action)
    }

    fn transact<T>(
        &self,
        behavior: TransactionBehavior,
        action: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let mut connection = self.connection();
        let run = || {
            let transaction = connection.transaction_with_behavior(behavior)?;
            let value = action(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run().map_err(|error| index_error(&self.path, &error))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic inside a transaction has rolled it back, so the connection is sound.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens another connection, for reading, to be used by one thread.
    pub fn reader(&self) -> Result<ReadConnection> {
        let open = || -> rusqlite::Result<Connection> {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
            Ok(connection)
        };
        let connection = open().map_err(|error| index_error(&self.path, &error))?;
        Ok(ReadConnection { path: self.path.clone(), connection })
    }

    /// Returns the statements that make its tables, as the `schema.sql` beside the migrations pins them.
    ///
    /// # Errors
    /// [`Error::Index`] if SQLite cannot tell.
    pub fn schema(&self) -> Result<String> {
        const STATEMENTS: &str = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY name";
        let statements: Vec<String> =
            self.read(|tx| tx.prepare(STATEMENTS)?.query_map([], |row| row.get(0))?.collect())?;
        Ok(statements.join(";\n\n") + ";\n")
    }

    /// Checks the structure of the whole file; `None` if it is sound, else SQLite's first complaint.
    pub fn integrity(&self) -> Result<Option<String>> {
        let answer: String =
            self.read(|tx| tx.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)))?;
        Ok((answer != "ok").then_some(answer))
    }
}

/// A connection that only reads; each query sees the newest committed state.
#[derive(Debug)]
pub struct ReadConnection {
    path: PathBuf,
    connection: Connection,
}

impl ReadConnection {
    /// Runs `action` on the connection.
    pub fn query<T>(&self, action: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        action(&self.connection).map_err(|error| index_error(&self.path, &error))
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

fn distrust(path: &Path) {
    if let Err(error) = std::fs::write(beside(path, DISTRUST), b"") {
        tracing::debug!(%error, "the damaged database is found out again next time");
    }
}

fn require_version(number: i32) -> Result<()> {
    if number < SQLITE_LEAST {
        return Err(Error::SqliteTooOld { version: rusqlite::version().to_string() });
    }
    Ok(())
}

// Whether the disk has room for the shared memory of a database and some pages.
fn has_room(path: &Path) -> bool {
    let folder = path.parent().unwrap_or(Path::new("."));
    SystemDisk.space(folder).is_ok_and(|space| space.available >= LEAST_ROOM)
}

// Whether a failure says nothing about the file. Everything else does: values that cannot be, tables that are gone, formats that nobody wrote. Since the
// file is a cache, taking too much for damage costs only the time to make it anew.
fn is_of_the_moment(code: Option<ErrorCode>) -> bool {
    matches!(
        code,
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::SystemIoFailure
                | ErrorCode::OutOfMemory
                | ErrorCode::OperationInterrupted
                | ErrorCode::PermissionDenied
                | ErrorCode::AuthorizationForStatementDenied
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::NoLargeFileSupport
        )
    )
}

fn index_error(path: &Path, error: &rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        // For its shared memory SQLite has no better words than "disk I/O error".
        Some(ErrorCode::SystemIoFailure) if !has_room(path) => {
            Error::NoSpace { path: path.to_path_buf(), shortage: None }
        }
        Some(ErrorCode::DiskFull) => Error::NoSpace { path: path.to_path_buf(), shortage: None },
        code => {
            let corrupt = !is_of_the_moment(code);
            if corrupt {
                distrust(path);
            }
            Error::Index { path: path.to_path_buf(), detail: error.to_string(), corrupt }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::MIGRATIONS;

    fn open(directory: &tempfile::TempDir) -> Result<Database> {
        Database::open(&directory.path().join("pool.db"), MIGRATIONS)
    }

    #[test]
    fn migrations_lead_to_the_pinned_schema() {
        let directory = tempfile::TempDir::new().unwrap();
        let database = open(&directory).unwrap();

        let schema = database.schema().unwrap();

        let pinned = include_str!("../../migrations/storepool/schema.sql");
        assert!(schema == pinned, "migrations/storepool/schema.sql should be:\n{schema}");
    }

    #[test]
    fn a_database_of_a_newer_version_is_refused_politely() {
        let directory = tempfile::TempDir::new().unwrap();
        let newer = MIGRATIONS.len() + 1;
        open(&directory)
            .unwrap()
            .write(|tx| tx.pragma_update(None, "user_version", newer))
            .unwrap();

        let error = open(&directory).unwrap_err();

        assert!(matches!(error, Error::NewerFormat { .. }), "{error}");
    }

    /// A flipped bit in a text made every command fail instead of making the index anew.
    #[test]
    fn a_value_that_cannot_be_is_damage() {
        let directory = tempfile::TempDir::new().unwrap();
        let database = open(&directory).unwrap();
        let insert = "INSERT INTO suspicion (reason) VALUES (CAST(x'ff' AS TEXT))";
        database.write(|tx| tx.execute(insert, [])).unwrap();

        let read = database.read(|tx| {
            tx.query_row("SELECT reason FROM suspicion", [], |row| row.get::<_, String>(0))
        });

        assert!(matches!(read, Err(Error::Index { corrupt: true, .. })), "{read:?}");
    }

    #[test]
    fn a_library_that_can_lose_pages_is_refused() {
        assert!(matches!(require_version(3_051_002), Err(Error::SqliteTooOld { .. })));
        assert!(require_version(rusqlite::version_number()).is_ok());
    }

    #[test]
    fn a_failed_transaction_leaves_nothing_behind() {
        let directory = tempfile::TempDir::new().unwrap();
        let database = open(&directory).unwrap();

        let failed = database.write(|tx| {
            tx.execute("INSERT INTO suspicion (reason) VALUES ('half')", [])?;
            tx.execute("INSERT INTO nowhere VALUES (1)", [])
        });

        assert!(failed.is_err());
        let rows: i64 = database
            .read(|tx| tx.query_row("SELECT count(*) FROM suspicion", [], |row| row.get(0)))
            .unwrap();
        assert_eq!(rows, 0);
    }
}
