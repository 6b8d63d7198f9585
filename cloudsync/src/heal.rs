//! Healing, both ways: the vault gives the pool what it lost ([`VaultHealer`]), the pool gives the vault ([`heal`]).
//!
//! In the vault nothing is written twice under one name: what is damaged or missing gets a replacement, and one commit moves every
//! point to it. A pack of which something cannot be had again that a point needs stays, and points need both; the ledger doubts it, so that no later
//! sync relies on it. Nothing is deleted here.

mod packs;
mod pool;

use std::collections::BTreeSet;
use std::sync::Arc;

use storepool::id::{ChunkId, ChunkKind, PointId};
use storepool::monitor::{Event, Monitor};
use storepool::pool::Session;
use tokio::runtime::Handle;

use crate::check::{CheckOptions, CheckReport, check, remember};
use crate::crypto::container::{self, Content, Sealed};
use crate::error::{Error, Result};
use crate::layout::ObjectKind;
use crate::marks::LiveChunks;
use crate::recovery::manifest_of;
use crate::store::proof::{PutOutcome, put_proved};
use crate::sync::read_table;
use crate::vault::Ordinals;
use crate::vault::chain::{Draft, Realm};
use crate::vault::commit::{Changes, CommitKind, Moved, ObjectRecord, PointRecord};
use crate::vault::snapshot::Snapshot;
use crate::vault::tables::IndexBuilder;
use crate::writing::Writing;

pub use pool::VaultHealer;

use packs::Losses;

/// What is said of a pack that this look did not find damaged.
const FOUND_BEFORE: &str = "it was found damaged before";

/// How a damage of the vault ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was replaced, and everything that needed it needs the replacement.
    Replaced,
    /// Some of it was replaced; the rest is nowhere.
    Partly,
    /// Nobody has what it held.
    Left,
}

/// A damaged object of the vault and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealedObject {
    /// What it is, in a word.
    pub what: &'static str,
    /// Its name.
    pub object: String,
    /// What was wrong with it.
    pub detail: String,
    /// What became of it.
    pub fate: Fate,
    /// Chunks that were had again.
    pub chunks: u64,
    /// Chunks that were not.
    pub chunks_lost: u64,
}

/// What a healing did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealReport {
    /// Whether the history had to be made readable again.
    pub chain_mended: bool,
    /// The damaged objects, and things nobody can mend but a person.
    pub objects: Vec<HealedObject>,
    /// Bytes that were put.
    pub bytes_put: u64,
    /// Points that cannot be recovered completely all the same.
    pub affected_points: Vec<PointId>,
}

impl HealReport {
    /// Returns whether everything that was found damaged has been replaced.
    pub fn is_whole(&self) -> bool {
        self.affected_points.is_empty()
            && self.objects.iter().all(|object| object.fate == Fate::Replaced)
    }
}

/// Checks a vault and replaces what is damaged or missing from the pool, or from what can still be read of it.
///
/// When this returns, every replacement is in the vault and committed. Run again after an interruption it goes on where it was.
///
/// # Errors
/// Those of [`check`] and [`Realm::append`]. What cannot be healed is no error but part of the report.
pub async fn heal(
    writing: &mut Writing<'_>,
    session: Arc<Session>,
    options: &CheckOptions,
    monitor: Arc<dyn Monitor>,
) -> Result<(CheckReport, HealReport)> {
    let Writing { realm, anchor, ledger, around } = writing;
    let (realm, ledger, around) = (*realm, *ledger, *around);
    let now = around.clock.now();
    let known = ledger.snapshot(realm.keys())?;
    monitor.event(Event::Stage("checking the history"));
    let mended = realm.mend_chain(known, anchor, around).await?;
    ledger.store(realm.keys(), &mended.snapshot, &[])?;
    let (found, state) = check(realm, Some(mended.snapshot), options, now, monitor.clone()).await?;
    let mut report = HealReport { chain_mended: mended.mended, ..HealReport::default() };
    let mut damaged = BTreeSet::new();
    for damage in &found.damages {
        match damage.ordinal {
            Some(ordinal) => {
                damaged.insert(ordinal);
            }
            // Old commits are not needed any more once there is a checkpoint.
            None if damage.what == "commit" => {}
            None => report.objects.push(HealedObject {
                what: damage.what,
                object: damage.object.clone(),
                detail: damage.detail.clone(),
                fate: Fate::Left,
                chunks: 0,
                chunks_lost: 0,
            }),
        }
    }
    monitor.event(Event::Stage("replacing what is damaged"));
    // What is replaced below is not live any more, and so not doubted.
    remember(ledger, &state, &found, options)?;
    damaged.append(&mut ledger.doubted(&state)?);
    let work: Vec<u64> = damaged.iter().copied().collect();
    let losses = packs::find_losses(realm, &state, ledger, &damaged, &session).await?;
    let mut healing = Healing {
        realm,
        session,
        state,
        damaged,
        losses,
        needed: None,
        monitor: monitor.clone(),
        bytes_put: 0,
    };
    for ordinal in work {
        if monitor.cancelled() {
            return Err(storepool::Error::Interrupted.into());
        }
        let Some(record) = healing.state.object(ordinal).map(|object| object.record) else {
            continue;
        };
        let mut replacement = match record.kind {
            ObjectKind::Manifest => healing.replace_manifest(ordinal).await?,
            ObjectKind::Index => healing.replace_index(ordinal).await?,
            _ => healing.replace_pack(ordinal, record).await?,
        };
        let damage = found.damages.iter().find(|damage| damage.ordinal == Some(ordinal));
        report.objects.push(HealedObject {
            what: damage.map_or("pack", |damage| damage.what),
            object: record.name(realm.id()).to_string(),
            detail: damage.map_or_else(|| FOUND_BEFORE.to_string(), |damage| damage.detail.clone()),
            fate: replacement.fate,
            chunks: replacement.chunks,
            chunks_lost: replacement.chunks_lost,
        });
        if replacement.fate == Fate::Left {
            continue;
        }
        if replacement.fate == Fate::Replaced {
            replacement.changes.objects_condemned.insert(ordinal);
            healing.damaged.remove(&ordinal);
        } else {
            replacement.to.push(ordinal);
        }
        replacement.changes.moved.push(Moved { from: ordinal, to: replacement.to });
        let draft =
            Draft { kind: CommitKind::Repack, changes: replacement.changes, witnesses: Vec::new() };
        let mut after = realm.append(&healing.state, draft, anchor, around).await?;
        if let Err(error) = realm.checkpoint_if_due(&mut after).await {
            tracing::warn!(%error, "the checkpoint is left to the next sync");
        }
        ledger.store(realm.keys(), &after, &[])?;
        healing.state = after;
    }
    let needs_damaged = |needs: &Ordinals| {
        healing.damaged.iter().any(|ordinal| {
            let object = healing.state.object(*ordinal);
            needs.contains(*ordinal)
                && object.is_none_or(|object| object.record.kind != ObjectKind::Index)
        })
    };
    let points = healing.state.points().values();
    report.affected_points =
        points.filter(|point| needs_damaged(&point.needs)).map(|point| point.id).collect();
    report.bytes_put = healing.bytes_put;
    Ok((found, report))
}

// What a commit will say about one damaged object.
struct Replacement {
    fate: Fate,
    changes: Changes,
    to: Vec<u64>,
    chunks: u64,
    chunks_lost: u64,
}

impl Replacement {
    fn none() -> Self {
        let (changes, to) = (Changes::default(), Vec::new());
        Self { fate: Fate::Left, changes, to, chunks: 0, chunks_lost: 0 }
    }
}

struct Healing<'a> {
    realm: &'a Realm,
    session: Arc<Session>,
    state: Snapshot,
    // Objects that are wrong and not replaced yet.
    damaged: BTreeSet<u64>,
    losses: Losses,
    // What the points need, once somebody asked; nothing if it cannot be known.
    needed: Option<Option<LiveChunks>>,
    monitor: Arc<dyn Monitor>,
    bytes_put: u64,
}

impl Healing<'_> {
    // Puts an object that takes the place of `ordinal`, unless it is there under another ordinal, and notes it.
    async fn put(
        &mut self,
        ordinal: u64,
        kind: ObjectKind,
        sealed: Sealed,
        replacement: &mut Replacement,
    ) -> Result<()> {
        let Sealed { object, hash, salt, .. } = sealed;
        let copy = match self.state.live_object(hash) {
            Some(other) if !self.damaged.contains(&other) => {
                replacement.to.push(other);
                return Ok(());
            }
            // The same bytes once more, under the next name.
            Some(own) if own == ordinal => {
                self.state.object(own).map_or(0, |object| object.record.copy) + 1
            }
            // It is another damaged object's place; that one comes later.
            Some(_) => {
                return Err(Error::CommitLost { generation: self.state.generation().next() });
            }
            None => self.state.next_copy(hash),
        };
        let record = ObjectRecord { kind, hash, copy, size: object.len() as u64, salt };
        let name = record.name(self.realm.id());
        if let PutOutcome::Created(_) =
            put_proved(self.realm.store().as_ref(), &name, object.into()).await?
        {
            self.bytes_put += record.size;
        }
        let added = replacement.changes.objects_added.len() as u64;
        replacement.changes.objects_added.push(record);
        replacement.to.push(self.state.next_ordinal() + added);
        Ok(())
    }

    async fn replace_manifest(&mut self, ordinal: u64) -> Result<Replacement> {
        let mut replacement = Replacement::none();
        let is_of = |point: &&PointRecord| point.manifest == ordinal;
        let Some(point) = self.state.points_and_forgotten().find(is_of).cloned() else {
            return Ok(replacement);
        };
        let is_it = |bytes: &Vec<u8>| ChunkId::of(ChunkKind::Manifest, bytes) == point.id.into();
        let in_pool = self.session.pool().manifest(point.id).ok();
        let bytes = match in_pool.map(|manifest| manifest.encode()).filter(is_it) {
            Some(bytes) => bytes,
            None => match manifest_of(self.realm, &self.state, &point, Handle::current()).await {
                Ok(manifest) => manifest.encode(),
                Err(error) if error.is_gap() => return Ok(replacement),
                Err(error) => return Err(error),
            },
        };
        if !is_it(&bytes) {
            return Ok(replacement);
        }
        let content = Content::Object(ObjectKind::Manifest);
        let sealed = container::seal_body(self.realm.keys(), content, &bytes)
            .map_err(|_| Error::TooLarge { what: "a manifest" })?;
        self.put(ordinal, ObjectKind::Manifest, sealed, &mut replacement).await?;
        replacement.fate = Fate::Replaced;
        Ok(replacement)
    }

    // An index tells the packs between the index before and itself.
    async fn replace_index(&mut self, ordinal: u64) -> Result<Replacement> {
        let mut replacement = Replacement::none();
        let is_index = |record: &ObjectRecord| record.kind == ObjectKind::Index;
        let before = self
            .state
            .live_objects()
            .take_while(|(other, _)| *other < ordinal)
            .filter(|(_, record)| is_index(record))
            .last()
            .map_or(0, |(other, _)| other);
        let told: Vec<_> = self
            .state
            .live_objects()
            .filter(|(other, record)| (before..ordinal).contains(other) && record.kind.is_pack())
            .collect();
        let mut tables = IndexBuilder::default();
        for (_, record) in told {
            match read_table(self.realm, &record).await {
                Ok(toc) => tables.push(record.hash, record.copy, record.kind, &toc),
                // Its own replacement brings an index of its own.
                Err(error) if error.is_gap() => {}
                Err(error) => return Err(error),
            }
        }
        self.put_index(ordinal, tables, &mut replacement).await?;
        replacement.fate = Fate::Replaced;
        Ok(replacement)
    }

    async fn put_index(
        &mut self,
        ordinal: u64,
        mut tables: IndexBuilder,
        replacement: &mut Replacement,
    ) -> Result<()> {
        let sealed =
            tables.seal(self.realm.keys()).map_err(|_| Error::TooLarge { what: "an index" })?;
        self.put(ordinal, ObjectKind::Index, sealed, replacement).await
    }
}

#[cfg(test)]
mod tests;
