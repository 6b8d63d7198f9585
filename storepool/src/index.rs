//! The index: which pack holds a chunk, which packs there are, who relies on them. In SQLite, bounded in memory.
//!
//! A row of `chunk` is a hint: 8 bytes of the id and a place. Whoever follows it compares the full id with the pack's table of contents
//! ([`crate::pool::Pool::find`]), so a wrong row costs time, never a chunk.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{OptionalExtension, Transaction, params};

use crate::error::Result;
use crate::id::{ChunkId, DirectoryId, PackId, PointId};
use crate::pack::writer::SealedPack;
use crate::pack::{CHUNKS_LIMIT, PackKind, Toc};
use crate::sqlite::{Database, Migration, ReadConnection};

/// The schema of `pool.db`, step by step.
pub const MIGRATIONS: &[Migration] =
    &[Migration { sql: include_str!("../../migrations/storepool/0001_pool.sql") }];

/// So many rows are passed in order in the time of one search (measured: 0.2 and 2 microseconds).
const ROWS_PASSED_FOR_A_SEARCH: u64 = 10;

/// Number of a pack in this index; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackNo(pub i64);

/// Number of a pool directory in this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DirectoryNo(pub i64);

/// Number of a session; later sessions have larger ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionNo(pub i64);

/// A chunk's place: a pack and its ordinal in the pack's table of contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The pack.
    pub pack: PackNo,
    /// The ordinal.
    pub ordinal: u32,
}

impl Place {
    pub(crate) fn to_row(self) -> i64 {
        self.pack.0 * CHUNKS_LIMIT as i64 + i64::from(self.ordinal)
    }

    pub(crate) fn from_row(row: i64) -> Self {
        let limit = CHUNKS_LIMIT as i64;
        Self { pack: PackNo(row.div_euclid(limit)), ordinal: row.rem_euclid(limit) as u32 }
    }
}

/// What the index knows of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackRow {
    /// Its number.
    pub no: PackNo,
    /// Its name.
    pub id: PackId,
    /// The directory that holds it.
    pub directory: DirectoryNo,
    /// What it holds.
    pub kind: PackKind,
    /// Bytes of the file.
    pub length: u64,
    /// Bytes of its chunks before compression.
    pub raw_length: u64,
    /// Number of its chunks.
    pub chunks: u64,
    /// Set when nothing refers to it any more: the newest session at that time, or [`GOING`].
    pub condemned_after: Option<SessionNo>,
}

/// Stands in [`PackRow::condemned_after`] while the pack's file is being removed: nothing but prune brings such a pack back.
pub const GOING: SessionNo = SessionNo(-1);

impl PackRow {
    /// Returns whether the pack's file is being removed.
    pub fn is_going(&self) -> bool {
        self.condemned_after == Some(GOING)
    }
}

/// The rows of a pack's chunks, added up: equal sums mean equal rows, short of a forged index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowSum {
    /// Number of rows.
    pub rows: u64,
    // Sum of a mixture of each row's two numbers, so the order does not matter.
    digest: u64,
}

impl RowSum {
    /// Returns the sum that the rows of pack `no` should have.
    pub fn of(no: PackNo, toc: &Toc) -> Self {
        let mut sum = Self::default();
        for (chunk, ordinal) in toc.chunks().iter().zip(0u32..) {
            sum.add(chunk.id.prefix(), Place { pack: no, ordinal }.to_row());
        }
        sum
    }

    fn add(&mut self, prefix: i64, place: i64) {
        // The finalizer of SplitMix64: every bit of both numbers reaches every bit of the digest.
        let mut mixed =
            (prefix as u64).rotate_left(32) ^ (place as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        self.digest = self.digest.wrapping_add(mixed ^ (mixed >> 31));
        self.rows += 1;
    }
}

/// What the index says, as one consistent picture.
#[derive(Clone, Debug, Default)]
pub struct IndexSurvey {
    /// The packs.
    pub packs: Vec<PackRow>,
    /// The rows of each pack, added up.
    pub sums: HashMap<PackNo, RowSum>,
    /// Rows of packs that are not there any more: harmless.
    pub stale_rows: u64,
}

/// A session as recorded in the index; whether it is alive, its lock file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// Its number.
    pub no: SessionNo,
    /// Name of its lock file.
    pub lock: String,
    /// Packs from this number on may be its own, not yet named by any point.
    pub first_pack: PackNo,
    /// The point whose chunks it relies on.
    pub base: Option<PointId>,
}

/// The index of a pool.
#[derive(Clone, Debug)]
pub struct Index {
    database: Arc<Database>,
}

const PACK_COLUMNS: &str = "no, id, directory, kind, length, raw_length, chunks, condemned_after";

impl Index {
    /// Creates the index over an open database.
    pub fn new(database: Arc<Database>) -> Self {
        Self { database }
    }

    /// Returns the number of a directory, giving it one if it is new.
    pub fn directory(&self, id: DirectoryId) -> Result<DirectoryNo> {
        let known = self.database.read(|tx| {
            tx.query_row("SELECT no FROM directory WHERE id = ?", [&id.0[..]], |row| row.get(0))
                .optional()
        })?;
        if let Some(no) = known {
            return Ok(DirectoryNo(no));
        }
        self.database.write(|tx| {
            tx.execute("INSERT OR IGNORE INTO directory (id) VALUES (?)", [&id.0[..]])?;
            tx.query_row("SELECT no FROM directory WHERE id = ?", [&id.0[..]], |row| row.get(0))
                .map(DirectoryNo)
        })
    }

    /// Returns all packs, in the order of their numbers.
    pub fn packs(&self) -> Result<Vec<PackRow>> {
        let rows = self.database.read(pack_rows)?;
        // SQLite follows the tree without comparing: a flipped bit may give two packs one number, and hide one of them.
        if !rows.is_sorted_by(|one, next| one.no < next.no) {
            return Err(self.database.damaged("packs are out of order"));
        }
        Ok(rows)
    }

    /// Returns one pack.
    pub fn pack(&self, no: PackNo) -> Result<Option<PackRow>> {
        self.database.read(|tx| {
            tx.query_row(&format!("SELECT {PACK_COLUMNS} FROM pack WHERE no = ?"), [no.0], pack_row)
                .optional()
        })
    }

    /// Enters sealed packs and their chunks in one transaction. A pack that is known already is left as it is.
    pub fn add_packs(&self, packs: &[(SealedPack, DirectoryNo)]) -> Result<Vec<PackNo>> {
        self.database.write(|tx| {
            packs.iter().map(|(pack, directory)| insert_pack(tx, pack, *directory)).collect()
        })
    }

    /// Removes packs and the rows of their chunks, in one transaction. Without a table of contents the chunk rows stay behind, harmless.
    pub fn remove_packs(&self, packs: &[(PackNo, Option<Arc<Toc>>)]) -> Result<()> {
        self.database.write(|tx| {
            for (no, toc) in packs {
                if let Some(toc) = toc {
                    let mut delete =
                        tx.prepare_cached("DELETE FROM chunk WHERE prefix = ? AND place = ?")?;
                    for (prefix, place) in sorted_rows(*no, toc) {
                        delete.execute(params![prefix, place])?;
                    }
                }
                tx.execute("DELETE FROM pack WHERE no = ?", [no.0])?;
            }
            Ok(())
        })
    }

    /// Marks packs as no longer needed by any point, if `still_true` holds inside the same transaction. Returns whether it did.
    pub fn condemn(
        &self,
        packs: &[PackNo],
        still_true: impl FnOnce(&[SessionRow], &[PointId]) -> bool,
    ) -> Result<bool> {
        self.database.write(|tx| {
            let sessions = session_rows(tx)?;
            let points = point_ids(tx)?;
            if !still_true(&sessions, &points) {
                return Ok(false);
            }
            let newest = newest_session(tx)?;
            let mut update = tx.prepare_cached(
                "UPDATE pack SET condemned_after = ?2 WHERE no = ?1 AND condemned_after IS NULL",
            )?;
            for no in packs {
                update.execute(params![no.0, newest])?;
            }
            Ok(true)
        })
    }

    /// Takes packs back among the needed ones, except those whose files are being removed.
    pub fn pardon(&self, packs: &[PackNo]) -> Result<()> {
        self.database.write(|tx| pardon_rows(tx, packs))
    }

    /// Takes back a pack whose removal was begun by a run that died. Only for the holder of the lock `prune`.
    pub fn keep_after_all(&self, pack: PackNo) -> Result<()> {
        self.database.write(|tx| {
            tx.execute("UPDATE pack SET condemned_after = NULL WHERE no = ?", [pack.0]).map(|_| ())
        })
    }

    /// Begins the removal of condemned packs ([`GOING`]), if `still_true` holds inside the same transaction. Returns those that are
    /// still condemned and so may go; none if it did not hold.
    pub fn begin_removal(
        &self,
        packs: &[PackNo],
        still_true: impl FnOnce(&[SessionRow], &[PointId]) -> bool,
    ) -> Result<Vec<PackNo>> {
        self.database.write(|tx| {
            if !still_true(&session_rows(tx)?, &point_ids(tx)?) {
                return Ok(Vec::new());
            }
            let mut update = tx.prepare_cached(
                "UPDATE pack SET condemned_after = ?2 WHERE no = ?1 AND condemned_after IS NOT NULL",
            )?;
            let mut going = Vec::new();
            for no in packs {
                if update.execute(params![no.0, GOING.0])? == 1 {
                    going.push(*no);
                }
            }
            Ok(going)
        })
    }

    /// Records a session that is alive from now on and returns its number.
    pub fn begin_session(&self, lock: &str) -> Result<SessionNo> {
        self.database.write(|tx| {
            tx.execute(
                "INSERT INTO session (lock, first_pack) VALUES (?, 1 + coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'pack'), 0))",
                [lock],
            )?;
            Ok(SessionNo(tx.last_insert_rowid()))
        })
    }

    /// Records that a session relies on the chunks of `base`, unless that point is gone. Returns whether it may.
    pub fn rely_on(&self, session: SessionNo, base: PointId) -> Result<bool> {
        self.database.write(|tx| {
            let exists = tx
                .query_row("SELECT 1 FROM point WHERE id = ?", [&base.0[..]], |_| Ok(()))
                .optional()?
                .is_some();
            if exists {
                tx.execute(
                    "UPDATE session SET base = ?2 WHERE no = ?1",
                    params![session.0, &base.0[..]],
                )?;
            }
            Ok(exists)
        })
    }

    /// Removes sessions that have ended or died.
    pub fn end_sessions(&self, sessions: &[SessionNo]) -> Result<()> {
        if sessions.is_empty() {
            return Ok(());
        }
        self.database.write(|tx| {
            for session in sessions {
                tx.execute("DELETE FROM session WHERE no = ?", [session.0])?;
            }
            Ok(())
        })
    }

    /// Returns the recorded sessions, alive or not.
    pub fn sessions(&self) -> Result<Vec<SessionRow>> {
        self.database.read(session_rows)
    }

    /// Records that points may have holes: until a check finds the pool sound, backups look for every chunk they reuse and read again what is
    /// missing.
    pub fn suspect(&self, reason: &str) -> Result<()> {
        self.database.write(|tx| {
            tx.execute("INSERT OR IGNORE INTO suspicion (reason) VALUES (?)", [reason])?;
            Ok(())
        })
    }

    /// Returns whether points may have holes.
    pub fn is_suspect(&self) -> Result<bool> {
        self.database.read(|tx| {
            tx.query_row("SELECT EXISTS (SELECT 1 FROM suspicion)", [], |row| row.get(0))
        })
    }

    /// Records that every point is whole.
    pub fn clear_suspicion(&self) -> Result<()> {
        self.database.write(|tx| tx.execute("DELETE FROM suspicion", []).map(|_| ()))
    }

    /// Reads the whole index and adds up the rows of each pack.
    pub fn survey(&self) -> Result<IndexSurvey> {
        let connection = self.database.reader()?;
        connection.query(|connection| {
            // One transaction: a pack and its rows come and go together.
            let tx = connection.unchecked_transaction()?;
            let packs = pack_rows(&tx)?;
            let mut sums: HashMap<_, _> =
                packs.iter().map(|row| (row.no, RowSum::default())).collect();
            let mut stale_rows = 0;
            let mut select = tx.prepare("SELECT prefix, place FROM chunk")?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                let place: i64 = row.get(1)?;
                match sums.get_mut(&Place::from_row(place).pack) {
                    Some(sum) => sum.add(row.get(0)?, place),
                    None => stale_rows += 1,
                }
            }
            Ok(IndexSurvey { packs, sums, stale_rows })
        })
    }

    /// Returns how many chunk rows there are. Reads the whole table.
    pub fn chunk_rows(&self) -> Result<u64> {
        self.database.read(|tx| tx.query_row("SELECT count(*) FROM chunk", [], |row| row.get(0)))
    }

    /// Passes over all chunk rows, in their order, and shows the first 8 bytes of each id. Reads the whole table.
    pub fn visit_prefixes(&self, visit: &mut dyn FnMut(i64)) -> Result<()> {
        let connection = self.database.reader()?;
        connection.query(|connection| {
            let mut select = connection.prepare("SELECT prefix FROM chunk")?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                visit(row.get(0)?);
            }
            Ok(())
        })
    }

    /// Opens a connection for looking chunks up from one thread.
    pub fn lookup(&self) -> Result<IndexLookup> {
        Ok(IndexLookup { connection: self.database.reader()? })
    }

    /// Returns the database, for a check of its structure.
    pub fn database(&self) -> &Database {
        &self.database
    }
}

/// Looks chunks up; belongs to one thread.
#[derive(Debug)]
pub struct IndexLookup {
    connection: ReadConnection,
}

impl IndexLookup {
    /// Appends to `places` where chunks with the same first 8 bytes as `id` are said to be, in the order of their packs.
    pub fn candidates(&self, id: &ChunkId, places: &mut Vec<Place>) -> Result<()> {
        self.connection.query(|connection| {
            let mut select = connection
                .prepare_cached("SELECT place FROM chunk WHERE prefix = ? ORDER BY place")?;
            let mut rows = select.query([id.prefix()])?;
            while let Some(row) = rows.next()? {
                places.push(Place::from_row(row.get(0)?));
            }
            Ok(())
        })
    }

    /// Appends, for each of the ascending `prefixes`, the places that chunks with these first 8 bytes are said to have, with the ordinal of the
    /// prefix. `rows` is about how many rows there are: when they are few for the question, they are all passed once.
    pub fn candidates_of_all(
        &self,
        prefixes: &[i64],
        rows: u64,
        places: &mut Vec<(Place, u32)>,
    ) -> Result<()> {
        let pass = rows < prefixes.len() as u64 * ROWS_PASSED_FOR_A_SEARCH;
        self.connection.query(|connection| match prefixes {
            [] => Ok(()),
            [first, ..] if pass => pass_rows(connection, *first, prefixes, places),
            _ => search_rows(connection, prefixes, places),
        })
    }
}

fn pass_rows(
    connection: &rusqlite::Connection,
    first: i64,
    prefixes: &[i64],
    places: &mut Vec<(Place, u32)>,
) -> rusqlite::Result<()> {
    let mut select = connection.prepare_cached(
        "SELECT prefix, place FROM chunk WHERE prefix >= ? ORDER BY prefix, place",
    )?;
    let mut rows = select.query([first])?;
    let mut next = 0;
    while let Some(row) = rows.next()? {
        let prefix: i64 = row.get(0)?;
        while prefixes.get(next).is_some_and(|wanted| *wanted < prefix) {
            next += 1;
        }
        let Some(_) = prefixes.get(next) else { break };
        // Two ids may begin alike.
        for (index, _) in
            prefixes.iter().enumerate().skip(next).take_while(|(_, wanted)| **wanted == prefix)
        {
            places.push((Place::from_row(row.get(1)?), index as u32));
        }
    }
    Ok(())
}

fn search_rows(
    connection: &rusqlite::Connection,
    prefixes: &[i64],
    places: &mut Vec<(Place, u32)>,
) -> rusqlite::Result<()> {
    let mut select = connection.prepare_cached("SELECT place FROM chunk WHERE prefix = ?")?;
    for (index, prefix) in (0u32..).zip(prefixes) {
        let mut rows = select.query([prefix])?;
        while let Some(row) = rows.next()? {
            places.push((Place::from_row(row.get(0)?), index));
        }
    }
    Ok(())
}

pub(crate) fn pardon_rows(tx: &Transaction<'_>, packs: &[PackNo]) -> rusqlite::Result<()> {
    let mut update = tx.prepare_cached(
        "UPDATE pack SET condemned_after = NULL WHERE no = ? AND condemned_after >= 0",
    )?;
    for no in packs {
        update.execute([no.0])?;
    }
    Ok(())
}

fn insert_pack(
    tx: &Transaction<'_>,
    pack: &SealedPack,
    directory: DirectoryNo,
) -> rusqlite::Result<PackNo> {
    let known: Option<i64> = tx
        .query_row("SELECT no FROM pack WHERE id = ?", [&pack.id.0[..]], |row| row.get(0))
        .optional()?;
    if let Some(no) = known {
        return Ok(PackNo(no));
    }
    tx.execute(
        "INSERT INTO pack (id, directory, kind, length, raw_length, chunks) VALUES (?, ?, ?, ?, ?, ?)",
        params![
            &pack.id.0[..],
            directory.0,
            pack.kind as u8,
            pack.length as i64,
            pack.toc.raw_length() as i64,
            pack.toc.chunks().len() as i64,
        ],
    )?;
    let no = PackNo(tx.last_insert_rowid());
    let mut insert =
        tx.prepare_cached("INSERT OR IGNORE INTO chunk (prefix, place) VALUES (?, ?)")?;
    for (prefix, place) in sorted_rows(no, &pack.toc) {
        insert.execute(params![prefix, place])?;
    }
    Ok(no)
}

// In order of the key: neighbouring rows touch the same page of a large index once.
fn sorted_rows(no: PackNo, toc: &Toc) -> Vec<(i64, i64)> {
    let mut rows: Vec<_> = toc
        .chunks()
        .iter()
        .zip(0u32..)
        .map(|(chunk, ordinal)| (chunk.id.prefix(), Place { pack: no, ordinal }.to_row()))
        .collect();
    rows.sort_unstable();
    rows
}

fn session_rows(tx: &Transaction<'_>) -> rusqlite::Result<Vec<SessionRow>> {
    tx.prepare_cached("SELECT no, lock, first_pack, base FROM session ORDER BY no")?
        .query_map([], |row| {
            Ok(SessionRow {
                no: SessionNo(row.get(0)?),
                lock: row.get(1)?,
                first_pack: PackNo(row.get(2)?),
                base: row.get::<_, Option<[u8; 32]>>(3)?.map(PointId),
            })
        })?
        .collect()
}

fn point_ids(tx: &Transaction<'_>) -> rusqlite::Result<Vec<PointId>> {
    tx.prepare_cached("SELECT id FROM point")?
        .query_map([], |row| row.get(0).map(PointId))?
        .collect()
}

fn newest_session(tx: &Transaction<'_>) -> rusqlite::Result<i64> {
    tx.query_row("SELECT seq FROM sqlite_sequence WHERE name = 'session'", [], |row| row.get(0))
        .optional()
        .map(|newest| newest.unwrap_or(0))
}

fn pack_rows(tx: &Transaction<'_>) -> rusqlite::Result<Vec<PackRow>> {
    tx.prepare(&format!("SELECT {PACK_COLUMNS} FROM pack ORDER BY no"))?
        .query_map([], pack_row)?
        .collect()
}

fn pack_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<PackRow> {
    let kind: u8 = row.get(3)?;
    Ok(PackRow {
        no: PackNo(row.get(0)?),
        id: PackId(row.get(1)?),
        directory: DirectoryNo(row.get(2)?),
        kind: PackKind::from_number(kind)
            .ok_or(rusqlite::Error::IntegralValueOutOfRange(3, i64::from(kind)))?,
        length: row.get(4)?,
        raw_length: row.get(5)?,
        chunks: row.get(6)?,
        condemned_after: row.get::<_, Option<i64>>(7)?.map(SessionNo),
    })
}
