//! What every base needs to know of its server.

use super::connection::Connection;
use super::error::PostgresError;
use super::lsn::Lsn;
use super::pages::PAGE;

type Result<T> = std::result::Result<T, PostgresError>;

/// Settings that stay as long as a server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// Version, as `server_version_num`.
    pub(super) version: u32,
    /// Bytes of a segment of WAL.
    pub(super) wal_segment_bytes: u64,
    /// Whether pages have checksums.
    pub(super) page_checksums: bool,
    // Whether pages and files of relations are as large as nearly everywhere.
    usual_pages: bool,
}

impl Settings {
    /// Asks for them.
    ///
    /// # Errors
    /// The connection breaks, or the server answers what cannot be.
    pub(super) fn ask(connection: &mut Connection) -> Result<Self> {
        Ok(Self {
            version: number(connection, "server_version_num")?,
            wal_segment_bytes: wal_segment_bytes(connection)?,
            page_checksums: connection.ask_one("SHOW data_checksums")? == "on",
            usual_pages: number::<usize>(connection, "block_size")? == PAGE
                && connection.ask_one("SHOW segment_size")? == "1GB",
        })
    }

    /// Returns from where on pages are judged in a backup that began there; `None`: they have no checksums, or not as we know them.
    pub(super) fn judged_from(&self, start: Lsn) -> Option<Lsn> {
        (self.page_checksums && self.usual_pages).then_some(start)
    }
}

fn number<T: std::str::FromStr>(connection: &mut Connection, name: &str) -> Result<T> {
    let text = connection.ask_one(&format!("SHOW {name}"))?;
    text.parse().map_err(|_| connection.unexpected(format!("{name} is {text}")))
}

fn wal_segment_bytes(connection: &mut Connection) -> Result<u64> {
    let text = connection.ask_one("SHOW wal_segment_size")?;
    let units = [("GB", 30), ("MB", 20), ("kB", 10), ("B", 0)];
    let parsed = units.into_iter().find_map(|(unit, shift)| {
        text.strip_suffix(unit)?.parse::<u64>().ok().map(|value| value << shift)
    });
    let usual =
        parsed.filter(|bytes| bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(bytes));
    usual.ok_or_else(|| connection.unexpected(format!("wal_segment_size is {text}")))
}
