//! The door to foreign SQLite databases: copied while others write to them, proved, and given back in one transaction.

use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use storepool::size::Size;

use crate::workload::WorkloadError;

/// Longest wait for somebody else's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);
/// Pages copied at once.
const PAGES: i32 = 1024;
/// Between two tries of a step that found a lock.
const TRY_EVERY: Duration = Duration::from_millis(50);
/// Faults of a damaged database that are told.
const FAULTS: u32 = 3;
/// Room that a scratch copy leaves on the disk of the state.
const ROOM_LEFT: u64 = 64 << 20;

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A copy for the moment, in a folder of the state; gone when dropped.
pub(super) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Names a copy that is not there yet, after removing what dead processes left behind.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub(super) fn new(state: &Path) -> io::Result<Self> {
        let folder = state.join("scratch");
        std::fs::create_dir_all(&folder)?;
        for entry in std::fs::read_dir(&folder)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.strip_prefix("sqlite-").and_then(|rest| rest.split(['-', '.']).next());
            let owner = owner.and_then(|owner| owner.parse::<u32>().ok());
            if owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists()) {
                // Somebody else may have been faster.
                let _ = std::fs::remove_file(entry.path());
            }
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("sqlite-{}-{number}.db", std::process::id()));
        Ok(Self { path })
    }

    /// Returns where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            // Most of them were never there.
            let _ = std::fs::remove_file(beside(&self.path, suffix));
        }
    }
}

/// Returns the path of a file that belongs to a database, such as its `-wal`.
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The bytes of a copy that was proved sound.
pub(super) struct CopyStream {
    file: std::fs::File,
    _scratch: Scratch,
}

impl Read for CopyStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

/// Copies the database at `path` as it is at one moment, while others may go on writing, and proves the copy.
///
/// # Errors
/// There is no room for the copy, the database stays locked, or is damaged.
pub(crate) fn copy_stream(
    path: &Path,
    state: &Path,
) -> Result<Box<dyn Read + Send>, WorkloadError> {
    let failed = |what: &str| format!("cannot {what} the database {}", path.display());
    let io_failed = |cause: io::Error| WorkloadError::failed(failed("copy")).because(cause);
    make_sure_of_room(path, state)?;
    let scratch = Scratch::new(state).map_err(io_failed)?;
    // Made here with the narrowest rights: the content is nobody else's business.
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(scratch.path())
        .map_err(io_failed)?;
    copy(path, scratch.path())
        .map_err(|cause| WorkloadError::failed(failed("copy")).because(cause))?;
    prove(scratch.path(), path)?;
    let file = std::fs::File::open(scratch.path()).map_err(io_failed)?;
    Ok(Box::new(CopyStream { file, _scratch: scratch }))
}

fn make_sure_of_room(path: &Path, state: &Path) -> Result<(), WorkloadError> {
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let needed = length(path) + length(&beside(path, "-wal"));
    let Ok(disk) = rustix::fs::statvfs(state) else { return Ok(()) };
    let room = disk.f_bavail.saturating_mul(disk.f_frsize);
    if needed.saturating_add(ROOM_LEFT) <= room {
        return Ok(());
    }
    let message = format!(
        "there is no room for a copy of {} ({}) beside the state in {}",
        path.display(),
        Size(needed),
        state.display()
    );
    Err(WorkloadError::failed(message).hint("free some space on that disk"))
}

fn copy(from: &Path, to: &Path) -> rusqlite::Result<()> {
    let live = open_live(from)?;
    // A snapshot: in WAL mode nobody waits for it, and no change makes the copying begin again.
    live.execute_batch("BEGIN")?;
    live.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    let mut copy = Connection::open(to)?;
    // Nobody else reads it, and a crash leaves nothing of worth.
    copy.pragma_update(None, "synchronous", "off")?;
    transfer(&live, &mut copy)
}

fn open_live(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let writing = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_READ_WRITE);
    // What may not be written may still be read, if nothing has to be recovered.
    let live = writing
        .or_else(|_| Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_READ_ONLY))?;
    live.busy_timeout(BUSY_TIMEOUT)?;
    // To read a database is no reason to tidy up its log.
    live.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(live)
}

fn transfer(from: &Connection, to: &mut Connection) -> rusqlite::Result<()> {
    let backup = Backup::new(from, to)?;
    let mut waited = Duration::ZERO;
    loop {
        match backup.step(PAGES)? {
            StepResult::Done => return Ok(()),
            StepResult::More => waited = Duration::ZERO,
            _ if waited < BUSY_TIMEOUT => {
                std::thread::sleep(TRY_EVERY);
                waited += TRY_EVERY;
            }
            _ => {
                let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
                let text = "somebody holds a lock on it all the time".to_string();
                return Err(rusqlite::Error::SqliteFailure(busy, Some(text)));
            }
        }
    }
}

/// Proves the database at `path`, which nobody else uses; `named` is what people know it as.
///
/// # Errors
/// It is damaged: the first faults are told.
pub(super) fn prove(path: &Path, named: &Path) -> Result<(), WorkloadError> {
    let damaged = |text: String| {
        WorkloadError::failed(format!("the database {} is damaged", named.display()))
            .hint("restore it from an older point, or mend it with \"sqlite3 FILE .recover\"")
            .because(text)
    };
    let faults = || -> rusqlite::Result<Vec<String>> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let ask = |what: &str| -> rusqlite::Result<Vec<String>> {
            let mut question = connection.prepare(&format!("PRAGMA {what}({FAULTS})"))?;
            question.query_map([], |row| row.get(0))?.collect()
        };
        // Collations of the application's own keep the longer check from running.
        ask("integrity_check").or_else(|_| ask("quick_check"))
    };
    match faults() {
        Ok(faults) if faults == ["ok"] => Ok(()),
        Ok(faults) => Err(damaged(faults.join("; "))),
        Err(cause) => Err(damaged(cause.to_string())),
    }
}

/// Gives the database at `live` the content of the one at `from`, in one transaction: whoever has it open sees the old content or the new.
///
/// # Errors
/// Somebody holds a lock on it all the time, or the disk is full: then it is as it was.
pub(super) fn replace_content(from: &Path, live: &Path) -> Result<(), WorkloadError> {
    let replace = || -> rusqlite::Result<()> {
        let source = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_READ_WRITE;
        let mut target = Connection::open_with_flags(live, flags)?;
        target.busy_timeout(BUSY_TIMEOUT)?;
        target.pragma_update(None, "synchronous", "full")?;
        transfer(&source, &mut target)
    };
    replace().map_err(|cause| {
        WorkloadError::failed(format!("{} keeps its old content", live.display()))
            .hint("stop what uses the database and try again")
            .because(cause)
    })
}
