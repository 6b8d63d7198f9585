//! What the server does for a base that is read here: a checkpoint first, a slot that keeps the WAL, and the label at the end.

use super::super::connection::{Connection, Row};
use super::super::error::PostgresError;
use super::super::lsn::{Lsn, WalFile};
use super::super::settings::Settings;

type Result<T> = std::result::Result<T, PostgresError>;

/// A backup that the server knows of; it forgets it, and the slot, when the connection ends.
pub(super) struct Session {
    connection: Connection,
    /// What is known of the server.
    pub(super) settings: Settings,
    /// Where recovery begins.
    pub(super) start: Lsn,
    /// The timeline of the WAL from there.
    pub(super) timeline: u32,
}

/// What the server says when the backup has ended.
pub(super) struct Stopped {
    /// From here on the cluster is consistent.
    pub(super) end: Lsn,
    /// `backup_label`.
    pub(super) label: String,
    /// `tablespace_map`; empty without tablespaces.
    pub(super) map: String,
}

impl Session {
    /// Has the backup begin. Returns when all that was changed before is in the files.
    pub(super) fn begin(mut connection: Connection, system_identifier: u64) -> Result<Self> {
        // It says nothing while files are read, and waits for a checkpoint, however long the administrator lets others do so.
        connection.ask("SET idle_session_timeout = 0")?;
        connection.ask("SET statement_timeout = 0")?;
        let settings = Settings::ask(&mut connection)?;
        let own = "SELECT system_identifier FROM pg_catalog.pg_control_system()";
        if connection.ask_one(own)? != system_identifier.to_string() {
            return Err(not_here(&connection, "they are another cluster's".to_string()));
        }
        // Temporary, and it keeps the WAL from here on at once.
        connection.ask(
            "SELECT pg_catalog.pg_create_physical_replication_slot(
                 'keepwell_' || pg_catalog.pg_backend_pid(), true, true)",
        )?;
        let start = connection.ask_one("SELECT pg_catalog.pg_backup_start('keepwell', true)")?;
        let start = start.parse().map_err(|error| connection.unexpected(error))?;
        // A server that is no standby stays on its timeline.
        let file = connection
            .ask_one("SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())")?;
        let segment = WalFile::parse(&file).and_then(WalFile::segment);
        let segment = segment.ok_or_else(|| connection.unexpected(format!("{file} is no WAL")))?;
        Ok(Self { connection, settings, start, timeline: segment.timeline })
    }

    /// Has the backup end. The last segment of its WAL is whole then, and stays as long as the session.
    ///
    /// # Errors
    /// It was ended before, by whatever ended the session: then nothing that was read is a base.
    pub(super) fn stop(&mut self) -> Result<Stopped> {
        // Whether the archive has it already is nothing to us: the base has its own.
        let stop = "SELECT lsn, labelfile, spcmapfile FROM pg_catalog.pg_backup_stop(false)";
        let rows = self.connection.ask(stop)?;
        let [row] = &rows[..] else {
            return Err(self.connection.unexpected("a backup without an end".to_string()));
        };
        let field = |place: usize| field(row, place);
        let (Some(end), Some(label)) = (field(0), field(1)) else {
            return Err(self.connection.unexpected("a backup without a label".to_string()));
        };
        let end = end.parse().map_err(|error| self.connection.unexpected(error))?;
        Ok(Stopped { end, label, map: field(2).unwrap_or_default() })
    }

    /// Returns the server as it is named to people.
    pub(super) fn server(&self) -> &str {
        self.connection.server()
    }

    /// Returns the error for files that cannot be read.
    pub(super) fn not_here(&self, why: String) -> PostgresError {
        not_here(&self.connection, why)
    }
}

fn not_here(connection: &Connection, why: String) -> PostgresError {
    PostgresError::NotReadHere { server: connection.server().to_string(), why }
}

fn field(row: &Row, place: usize) -> Option<String> {
    row.get(place).cloned().flatten()
}
