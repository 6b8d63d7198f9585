//! The ledger: what a vault holds of one realm, remembered locally so that a sync need not ask. A cache, never
//! the truth: whatever does not fit the vault's own state is dropped and read again from the vault.
//!
//! A chunk is found by the first 16 bytes of its vault chunk id. They are keyed, so nobody can make two chunks
//! alike in them, and by chance it does not happen; that is why a row may be believed without looking further.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use rusqlite::{OptionalExtension, Row, Transaction, params};
use storepool::id::{ChunkId, PointId};
use storepool::pack::Toc;
use storepool::sqlite::{Database, Migration};

use crate::crypto::ring::{RealmKeys, VaultChunkId};
use crate::error::{Error, Result};
use crate::layout::{Generation, ObjectHash, ObjectKind, RealmId};
use crate::vault::commit::ObjectRecord;
use crate::vault::snapshot::Snapshot;

/// The schema, step by step.
const MIGRATIONS: &[Migration] = &[
    Migration { sql: include_str!("../../migrations/cloudsync/0001_ledger.sql") },
    Migration { sql: include_str!("../../migrations/cloudsync/0002_dismissed.sql") },
    Migration { sql: include_str!("../../migrations/cloudsync/0003_doubted.sql") },
];
/// Bytes of a vault chunk id that the ledger keeps.
const NAME_LENGTH: usize = 16;

/// The number of a pack in a ledger; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LedgerPack(i64);

/// The part of a vault chunk id by which the ledger knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ChunkName([u8; NAME_LENGTH]);

impl ChunkName {
    /// Returns the name of a chunk.
    pub(crate) fn of(chunk: &VaultChunkId) -> Self {
        Self::of_vault_id(&chunk.0)
    }

    /// Returns the name of a chunk from its entry in a vault pack's table.
    pub(crate) fn of_vault_id(id: &ChunkId) -> Self {
        let mut name = [0; NAME_LENGTH];
        name.copy_from_slice(&id.as_bytes()[..NAME_LENGTH]);
        Self(name)
    }

    /// Returns the bytes of the name.
    pub(crate) fn as_bytes(&self) -> &[u8; NAME_LENGTH] {
        &self.0
    }
}

/// A pack that was put, or was about to be, as the ledger knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KnownPack {
    pub(crate) no: LedgerPack,
    pub(crate) record: ObjectRecord,
    /// `None`: no commit names it yet.
    pub(crate) ordinal: Option<u64>,
}

/// What a realm's vault holds, as far as this installation remembers.
#[derive(Debug)]
pub struct Ledger {
    database: Database,
    made_anew: bool,
}

impl Ledger {
    /// Opens the ledger of a realm, making it if it is not there. One that is damaged, of another realm or of
    /// another version is made anew.
    pub fn open(path: &Path, realm: RealmId) -> Result<Self> {
        let sound = match Database::is_distrusted(path) {
            true => Ok(None),
            false => Self::open_sound(path, realm),
        };
        match sound {
            Ok(Some(ledger)) => return Ok(ledger),
            Ok(None) => {}
            Err(
                storepool::Error::Index { corrupt: true, .. }
                | storepool::Error::NewerFormat { .. },
            ) => tracing::warn!(ledger = %path.display(), "the ledger is made anew"),
            Err(error) => return Err(error.into()),
        }
        Database::remove(path)?;
        let ledger = Self::open_sound(path, realm)?;
        ledger.ok_or(Error::Interrupted { stage: "making the ledger" })
    }

    // `None` if it is the ledger of another realm.
    fn open_sound(path: &Path, realm: RealmId) -> storepool::Result<Option<Self>> {
        let database = Database::open(path, MIGRATIONS)?;
        // What is doubted, and what is about to be put, must not be forgotten in a power cut.
        database.sync_every_commit()?;
        let found: Option<Vec<u8>> = database.write(|tx| {
            let found = tx.query_row("SELECT realm FROM state", [], |row| row.get(0)).optional()?;
            if found.is_none() {
                tx.execute(
                    "INSERT INTO state VALUES (1, ?, 0, x'', 0, x'')",
                    [realm.as_bytes().as_slice()],
                )?;
            }
            delete_unfinished(tx)?;
            Ok(found)
        })?;
        let made_anew = found.is_none();
        let own = found.is_none_or(|found| found == realm.as_bytes());
        Ok(own.then_some(Self { database, made_anew }))
    }

    /// Returns whether nothing was known when the ledger was opened.
    pub fn was_made_anew(&self) -> bool {
        self.made_anew
    }

    /// Returns the newest state that was stored; nothing if there is none or it cannot be read.
    pub fn snapshot(&self, keys: &RealmKeys) -> Result<Option<Snapshot>> {
        let (generation, checkpoint, sealed): (i64, i64, Vec<u8>) = self.database.read(|tx| {
            tx.query_row("SELECT generation, checkpoint, snapshot FROM state", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
        })?;
        if sealed.is_empty() {
            return Ok(None);
        }
        // What cannot be opened is loaded from the vault; nothing depends on it.
        let Ok(mut snapshot) = Snapshot::open(keys, &sealed) else { return Ok(None) };
        if snapshot.generation() != Generation(generation as u64) {
            return Ok(None);
        }
        snapshot.set_checkpoint(Generation(checkpoint as u64));
        Ok(Some(snapshot))
    }

    /// Stores a newer state and the ordinals that packs got by it, in one transaction.
    pub(crate) fn store(
        &self,
        keys: &RealmKeys,
        snapshot: &Snapshot,
        ordinals: &[(LedgerPack, u64)],
    ) -> Result<()> {
        let sealed = snapshot.seal(keys).map_err(|_| Error::TooLarge { what: "the state" })?;
        self.database.write(|tx| {
            let mut name = tx.prepare("UPDATE pack SET ordinal = ?2 WHERE no = ?1")?;
            for (pack, ordinal) in ordinals {
                name.execute(params![pack.0, *ordinal as i64])?;
            }
            drop(name);
            tx.execute(
                "UPDATE state SET generation = ?, head = ?, checkpoint = ?, snapshot = ?",
                params![
                    snapshot.generation().0 as i64,
                    snapshot.head().as_bytes().as_slice(),
                    snapshot.checkpoint().0 as i64,
                    sealed.object,
                ],
            )
        })?;
        Ok(())
    }

    /// Returns all packs that were put, or were about to be.
    pub(crate) fn packs(&self) -> Result<Vec<KnownPack>> {
        let packs = self.database.read(|tx| {
            tx.prepare("SELECT no, kind, ordinal, hash, copy, size, salt FROM pack ORDER BY no")?
                .query_map([], read_pack)?
                .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        Ok(packs.into_iter().flatten().collect())
    }

    /// Begins a pack that is being built. Unless it was about to be put, it is forgotten when the ledger is opened next.
    pub(crate) fn begin_pack(&self, kind: ObjectKind) -> Result<LedgerPack> {
        let no = self.database.write(|tx| {
            tx.execute("INSERT INTO pack (kind) VALUES (?)", [kind as u8])?;
            Ok(tx.last_insert_rowid())
        })?;
        Ok(LedgerPack(no))
    }

    /// Forgets packs that were begun and not about to be put.
    pub(crate) fn forget_unfinished(&self) -> Result<()> {
        Ok(self.database.write(delete_unfinished)?)
    }

    /// Enters the chunks of a pack that was built.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the pack was forgotten meanwhile, because somebody else opened the ledger: whoever
    /// built it is not needed any more.
    pub(crate) fn enter_chunks(&self, pack: LedgerPack, names: &[ChunkName]) -> Result<()> {
        let mut sorted = names.to_vec();
        // Neighbours in the tree of the table.
        sorted.sort_unstable();
        let entered = self.database.write(|tx| {
            let known = tx.prepare_cached("SELECT 1 FROM pack WHERE no = ?")?.exists([pack.0])?;
            // Chunks of a pack that is not there would be taken for copied.
            if known {
                enter(tx, pack, sorted.into_iter())?;
            }
            Ok(known)
        })?;
        match entered {
            true => Ok(()),
            false => Err(Error::Interrupted { stage: "building a pack" }),
        }
    }

    /// Says that a pack is about to be put, before it is: whether it arrived, the next sync finds out.
    pub(crate) fn begin_upload(&self, pack: LedgerPack, record: &ObjectRecord) -> Result<()> {
        self.database.write(|tx| {
            tx.execute(
                "UPDATE pack SET hash = ?2, copy = ?3, size = ?4, salt = ?5 WHERE no = ?1",
                params![
                    pack.0,
                    record.hash.as_bytes().as_slice(),
                    record.copy,
                    record.size as i64,
                    record.salt.as_slice(),
                ],
            )
        })?;
        Ok(())
    }

    /// Enters a pack that was found in the vault.
    pub(crate) fn adopt(
        &self,
        record: &ObjectRecord,
        ordinal: Option<u64>,
        toc: &Toc,
    ) -> Result<LedgerPack> {
        let mut names: Vec<_> =
            toc.chunks().iter().map(|chunk| ChunkName::of(&VaultChunkId(chunk.id))).collect();
        names.sort_unstable();
        let no = self.database.write(|tx| {
            tx.execute(
                "INSERT INTO pack (kind, ordinal, hash, copy, size, salt) VALUES (?, ?, ?, ?, ?, ?)",
                params![
                    record.kind as u8,
                    ordinal.map(|ordinal| ordinal as i64),
                    record.hash.as_bytes().as_slice(),
                    record.copy,
                    record.size as i64,
                    record.salt.as_slice(),
                ],
            )?;
            let no = LedgerPack(tx.last_insert_rowid());
            enter(tx, no, names.into_iter())?;
            Ok(no)
        })?;
        Ok(no)
    }

    /// Forgets packs and their chunks, and sets the ordinals of others.
    pub(crate) fn correct(
        &self,
        gone: &[LedgerPack],
        ordinals: &[(LedgerPack, u64)],
    ) -> Result<()> {
        if gone.is_empty() && ordinals.is_empty() {
            return Ok(());
        }
        self.database.write(|tx| {
            for pack in gone {
                tx.execute("DELETE FROM pack WHERE no = ?", [pack.0])?;
            }
            if !gone.is_empty() {
                delete_orphaned_chunks(tx)?;
            }
            for (pack, ordinal) in ordinals {
                tx.execute(
                    "UPDATE pack SET ordinal = ?2 WHERE no = ?1",
                    params![pack.0, *ordinal as i64],
                )?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Remembers that somebody forgot these points by name, so that they are not copied again once the vault has
    /// nothing of them any more.
    pub(crate) fn dismiss(&self, points: &BTreeSet<PointId>) -> Result<()> {
        self.for_each_point("INSERT OR IGNORE INTO dismissed VALUES (?)", points)
    }

    /// Takes that back.
    pub(crate) fn welcome(&self, points: &BTreeSet<PointId>) -> Result<()> {
        self.for_each_point("DELETE FROM dismissed WHERE point = ?", points)
    }

    fn for_each_point(&self, sql: &'static str, points: &BTreeSet<PointId>) -> Result<()> {
        Ok(self.database.write(|tx| {
            let mut statement = tx.prepare(sql)?;
            for point in points {
                statement.execute([point.as_bytes().as_slice()])?;
            }
            Ok(())
        })?)
    }

    /// Returns the points that somebody forgot by name.
    pub(crate) fn dismissed(&self) -> Result<BTreeSet<PointId>> {
        let rows: Vec<Vec<u8>> = self.database.read(|tx| {
            tx.prepare("SELECT point FROM dismissed")?.query_map([], |row| row.get(0))?.collect()
        })?;
        Ok(rows.into_iter().filter_map(|id| Some(PointId(id.try_into().ok()?))).collect())
    }

    /// Remembers that these packs were found lost or damaged: a sync does not rely on them until they are trusted again.
    pub(crate) fn doubt(&self, packs: &[ObjectRecord]) -> Result<()> {
        self.for_each_copy("INSERT OR IGNORE INTO doubted VALUES (?, ?)", packs)
    }

    /// Takes that back.
    pub(crate) fn trust(&self, packs: &[ObjectRecord]) -> Result<()> {
        self.for_each_copy("DELETE FROM doubted WHERE hash = ? AND copy = ?", packs)
    }

    fn for_each_copy(&self, sql: &'static str, packs: &[ObjectRecord]) -> Result<()> {
        if packs.is_empty() {
            return Ok(());
        }
        Ok(self.database.write(|tx| {
            let mut statement = tx.prepare(sql)?;
            for pack in packs {
                statement.execute(params![pack.hash.as_bytes().as_slice(), pack.copy])?;
            }
            Ok(())
        })?)
    }

    /// Returns the ordinals of the live packs of this state that are doubted.
    pub(crate) fn doubted(&self, state: &Snapshot) -> Result<BTreeSet<u64>> {
        let rows: Vec<(Vec<u8>, u32)> = self.database.read(|tx| {
            tx.prepare("SELECT hash, copy FROM doubted")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })?;
        let ordinal = |(hash, copy): (Vec<u8>, u32)| {
            let ordinal = state.live_object(ObjectHash(hash.try_into().ok()?))?;
            state.object(ordinal).is_some_and(|it| it.record.copy == copy).then_some(ordinal)
        };
        Ok(rows.into_iter().filter_map(ordinal).collect())
    }

    /// Returns the chunks that are known to be in this pack. Reads the whole table.
    pub(crate) fn names(&self, pack: LedgerPack) -> Result<Vec<ChunkName>> {
        let rows: Vec<Vec<u8>> = self.database.read(|tx| {
            tx.prepare("SELECT name FROM chunk WHERE pack = ?")?
                .query_map([pack.0], |row| row.get(0))?
                .collect()
        })?;
        Ok(rows.into_iter().filter_map(|name| Some(ChunkName(name.try_into().ok()?))).collect())
    }

    /// Returns in which packs these chunks are, those that are nowhere left out.
    pub(crate) fn locate(&self, names: &[ChunkName]) -> Result<HashMap<ChunkName, LedgerPack>> {
        let mut sorted: Vec<_> = names.iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        let found = self.database.read(|tx| {
            let mut found = HashMap::with_capacity(sorted.len());
            let mut query = tx.prepare_cached("SELECT pack FROM chunk WHERE name = ?")?;
            for name in sorted {
                let pack: Option<i64> =
                    query.query_row([name.0.as_slice()], |row| row.get(0)).optional()?;
                if let Some(pack) = pack {
                    found.insert(*name, LedgerPack(pack));
                }
            }
            Ok(found)
        })?;
        Ok(found)
    }
}

fn enter(
    tx: &Transaction<'_>,
    pack: LedgerPack,
    names: impl Iterator<Item = ChunkName>,
) -> rusqlite::Result<()> {
    // One place is enough; the first stays.
    let mut insert = tx.prepare_cached("INSERT OR IGNORE INTO chunk VALUES (?, ?)")?;
    for name in names {
        insert.execute(params![name.0.as_slice(), pack.0])?;
    }
    Ok(())
}

// Packs of a run that did not get to put them.
fn delete_unfinished(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    match tx.execute("DELETE FROM pack WHERE hash IS NULL", [])? {
        0 => Ok(()),
        _ => delete_orphaned_chunks(tx),
    }
}

fn delete_orphaned_chunks(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM chunk WHERE pack NOT IN (SELECT no FROM pack)", [])?;
    Ok(())
}

// `None` for a row that says nothing usable: its pack is then read from the vault.
fn read_pack(row: &Row<'_>) -> rusqlite::Result<Option<KnownPack>> {
    let (kind, ordinal): (u8, Option<i64>) = (row.get(1)?, row.get(2)?);
    let (hash, copy, size, salt): (Option<Vec<u8>>, u32, i64, Option<Vec<u8>>) =
        (row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?);
    let record = || {
        Some(ObjectRecord {
            kind: ObjectKind::from_number(kind)?,
            hash: ObjectHash(hash?.try_into().ok()?),
            copy,
            size: u64::try_from(size).ok()?,
            salt: salt?.try_into().ok()?,
        })
    };
    let no = LedgerPack(row.get(0)?);
    Ok(record().map(|record| KnownPack { no, record, ordinal: ordinal.map(|it| it as u64) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_lead_to_the_pinned_schema() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&directory.path().join("ledger.db"), RealmId([1; 16])).unwrap();

        let schema = ledger.database.schema().unwrap();

        let pinned = include_str!("../../migrations/cloudsync/schema.sql");
        assert!(schema == pinned, "migrations/cloudsync/schema.sql should be:\n{schema}");
    }
}
