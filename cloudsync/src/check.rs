//! Check of a vault: proves that what its state says is there, or says exactly what is not and which points it affects.
//!
//! Three depths, and the report tells which was reached. Always: the chain from the newest checkpoint on, every index, and that
//! every live object is there with the right size. With a share of the data: these packs and manifests are fetched, and seal,
//! name and every chunk compared. With all of it: the whole chain, and a walk through every point's trees, so that nothing is
//! called safe that was not looked at. Nothing is changed.

mod content;
mod history;
mod trees;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use storepool::clock::Timestamp;
use storepool::id::PointId;
use storepool::monitor::{Event, Monitor};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::check::history::View;
use crate::crypto::container::object_limit;
use crate::crypto::slot::SLOT_LENGTH;
use crate::error::{Error, Result, StoreFault};
use crate::layout::{Generation, ObjectHash, ObjectKind, ObjectName, content_prefixes};
use crate::ledger::Ledger;
use crate::vault::chain::Realm;
use crate::vault::commit::ObjectRecord;
use crate::vault::snapshot::Snapshot;
use crate::vault::tables::open_index;

pub(crate) use content::is_chunk;

/// Most damages that are listed; the count goes on.
pub const DAMAGES_LIMIT: usize = 10_000;
/// Lists and small objects that are asked for side by side.
const READS_AT_ONCE: usize = 8;
const SECONDS_OF_DAY: i64 = 24 * 60 * 60;

/// How to check.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CheckOptions {
    /// Fetches so many percent of the packs and manifests; the share rotates from day to day, so that small shares see everything
    /// in time.
    pub read_data: Option<f64>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultDamage {
    /// What it is, in a word.
    pub what: &'static str,
    /// Its name.
    pub object: String,
    /// The ordinal of an object of the state.
    pub ordinal: Option<u64>,
    /// What is wrong with it, for people.
    pub detail: String,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The newest generation that could be reached.
    pub generation: Generation,
    /// Commits that were read.
    pub commits_read: u64,
    /// Commits that cannot be read any more and that nobody needs, because a later checkpoint says what they said.
    pub commits_needless: u64,
    /// Live objects, all in all; each was looked for.
    pub objects: u64,
    /// Live packs.
    pub packs: u64,
    /// Packs that were fetched whole.
    pub packs_read: u64,
    /// Indexes that were read.
    pub indexes_read: u64,
    /// Manifests that were read.
    pub manifests_read: u64,
    /// Bytes that were fetched.
    pub bytes_read: u64,
    /// Points that the state names.
    pub points: u64,
    /// Points whose trees were walked, every chunk of them looked up.
    pub points_walked: u64,
    /// Objects that no commit names: of a sync that was interrupted or runs now.
    pub orphans: u64,
    /// What is wrong, the first [`DAMAGES_LIMIT`] of `damage_count`.
    pub damages: Vec<VaultDamage>,
    /// How many things are wrong.
    pub damage_count: u64,
    /// The points that cannot be recovered completely, or cannot be relied on until a repair; forgotten ones that can be had back included.
    pub affected_points: Vec<PointId>,
}

impl CheckOptions {
    fn reads_everything(&self) -> bool {
        self.read_data.is_some_and(|percent| percent >= 100.0)
    }
}

impl CheckReport {
    /// Returns whether nothing that was looked at is wrong.
    pub fn is_sound(&self) -> bool {
        self.damage_count == 0
    }

    fn add(
        &mut self,
        what: &'static str,
        object: impl ToString,
        ordinal: Option<u64>,
        detail: impl ToString,
    ) {
        self.damage_count += 1;
        if self.damages.len() < DAMAGES_LIMIT {
            self.damages.push(VaultDamage {
                what,
                object: object.to_string(),
                ordinal,
                detail: detail.to_string(),
            });
        }
    }
}

/// Checks a realm of a vault. Returns the report and the state that it speaks of.
///
/// `known` is the state that this installation remembers: what is behind a damaged commit is checked by it. Damage is data of
/// the report; an error means that the check could not be carried out. Takes up to 150 MiB of memory.
pub async fn check(
    realm: &Realm,
    known: Option<Snapshot>,
    options: &CheckOptions,
    now: Timestamp,
    monitor: Arc<dyn Monitor>,
) -> Result<(CheckReport, Snapshot)> {
    let mut report = CheckReport::default();
    monitor.event(Event::Stage("checking the history"));
    let view = View::load(realm, known, &mut report).await?;
    report.generation = view.state.generation();
    let all = options.reads_everything();
    view.check_chain(realm, all, &mut report).await?;
    let View { state, hidden, .. } = view;
    check_slots(realm, &state, &mut report).await?;

    monitor.event(Event::Stage("looking for objects"));
    let mut wrong = find_objects(realm, &state, &mut report).await?;
    check_indexes(realm, &state, &mut wrong, &mut report).await?;
    if let Some(percent) = options.read_data {
        monitor.event(Event::Stage("reading objects"));
        let share: Vec<_> = state
            .live_objects()
            .filter(|(ordinal, record)| {
                record.kind != ObjectKind::Index
                    && !wrong.contains(ordinal)
                    && is_in_share(record.hash, percent, now)
            })
            .collect();
        content::read(realm, share, &mut wrong, &mut report, &*monitor).await?;
    }
    let mut affected = hidden;
    // Forgotten points can be had back, and so are spoken of.
    for point in state.points_and_forgotten() {
        if wrong.iter().any(|ordinal| {
            let index = |object: &ObjectRecord| object.kind == ObjectKind::Index;
            // What an index says can be read from the packs.
            point.needs.contains(*ordinal)
                && !state.object(*ordinal).is_some_and(|object| index(&object.record))
        }) {
            affected.insert(point.id);
        }
    }
    if all {
        monitor.event(Event::Stage("walking through points"));
        let points = state.points().len();
        let holes = trees::walk(realm, &state, monitor, Handle::current()).await?;
        for (point, detail) in holes {
            if affected.insert(point) {
                report.add("point", point, None, detail);
            }
        }
        report.points_walked = points as u64;
    }
    report.points = state.points().len() as u64;
    report.affected_points = affected.into_iter().collect();
    report.affected_points.sort_unstable();
    Ok((report, state))
}

/// Makes a ledger remember what a check found: no later sync relies on packs that are lost or damaged, until they were replaced, or
/// a check read everything and found them sound.
pub fn remember(
    ledger: &Ledger,
    state: &Snapshot,
    report: &CheckReport,
    options: &CheckOptions,
) -> Result<()> {
    let damaged: BTreeSet<u64> =
        report.damages.iter().filter_map(|damage| damage.ordinal).collect();
    let packs = |ordinals: &BTreeSet<u64>| -> Vec<ObjectRecord> {
        let records = ordinals.iter().filter_map(|ordinal| Some(state.object(*ordinal)?.record));
        records.filter(|record| record.kind.is_pack()).collect()
    };
    if options.reads_everything() && report.damage_count <= DAMAGES_LIMIT as u64 {
        let mut sound = ledger.doubted(state)?;
        sound.retain(|ordinal| !damaged.contains(ordinal));
        ledger.trust(&packs(&sound))?;
    }
    ledger.doubt(&packs(&damaged))
}

// Each object has a fixed place on a circle; the share is a window that moves on by its own length each day.
fn is_in_share(hash: ObjectHash, percent: f64, now: Timestamp) -> bool {
    let share = percent / 100.0;
    if share >= 1.0 {
        return true;
    }
    let day = now.seconds().div_euclid(SECONDS_OF_DAY) as f64;
    let start = (day * share).rem_euclid(1.0);
    let first = hash.0[..4].iter().fold(0u32, |all, byte| all << 8 | u32::from(*byte));
    let place = f64::from(first) / (f64::from(u32::MAX) + 1.0);
    (place - start).rem_euclid(1.0) < share
}

// Without a sound slot nobody opens the vault, and only a person can make one.
async fn check_slots(realm: &Realm, state: &Snapshot, report: &mut CheckReport) -> Result<()> {
    for (slot, revision) in &state.slots().slots {
        let name = ObjectName::slot(realm.id(), *slot, *revision);
        match realm.store().get(&name, SLOT_LENGTH as u64).await {
            Ok(body) => {
                let sound = body.bytes.len() == SLOT_LENGTH && {
                    let (content, checksum) = body.bytes.split_at(SLOT_LENGTH - 32);
                    blake3::hash(content).as_bytes() == checksum
                };
                if !sound {
                    report.add("passphrase slot", &name, None, "its checksum is wrong");
                }
            }
            Err(error) if matches!(error.fault, StoreFault::NotFound | StoreFault::Corrupt) => {
                report.add("passphrase slot", &name, None, error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

// Returns the ordinals of live objects that are missing or have the wrong size.
async fn find_objects(
    realm: &Realm,
    state: &Snapshot,
    report: &mut CheckReport,
) -> Result<HashSet<u64>> {
    let names: BTreeMap<ObjectName, (u64, ObjectRecord)> = state
        .live_objects()
        .map(|(ordinal, record)| (record.name(realm.id()), (ordinal, record)))
        .collect();
    let condemned: HashSet<ObjectName> = state
        .objects()
        .values()
        .filter(|object| object.condemned.is_some())
        .map(|object| object.record.name(realm.id()))
        .collect();
    report.objects = names.len() as u64;
    report.packs = names.values().filter(|(_, record)| record.kind.is_pack()).count() as u64;
    let prefixes: Vec<String> =
        ObjectKind::RECORDED.iter().flat_map(|kind| content_prefixes(realm.id(), *kind)).collect();
    let mut sizes: HashMap<ObjectName, u64> = HashMap::new();
    for group in prefixes.chunks(READS_AT_ONCE) {
        let mut lists = JoinSet::new();
        for prefix in group {
            let (store, prefix) = (realm.store().clone(), prefix.clone());
            lists.spawn(async move { store.list(&prefix).await });
        }
        while let Some(list) = lists.join_next().await {
            for meta in list.map_err(|_| Error::Interrupted { stage: "listing objects" })?? {
                if names.contains_key(&meta.name) {
                    sizes.insert(meta.name, meta.size);
                } else if !condemned.contains(&meta.name) {
                    report.orphans += 1;
                }
            }
        }
    }
    let mut wrong = HashSet::new();
    for (name, (ordinal, record)) in names {
        let size = match sizes.get(&name) {
            Some(size) => Some(*size),
            // A list may be old.
            None => match realm.store().head(&name).await {
                Ok(meta) => Some(meta.size),
                Err(error) if error.fault == StoreFault::NotFound => None,
                Err(error) => return Err(error.into()),
            },
        };
        let detail = match size {
            Some(size) if size == record.size => continue,
            Some(size) => format!("it has {size} bytes instead of {}", record.size),
            None => "it is missing".to_string(),
        };
        report.add(word(record.kind), &name, Some(ordinal), detail);
        wrong.insert(ordinal);
    }
    Ok(wrong)
}

async fn check_indexes(
    realm: &Realm,
    state: &Snapshot,
    wrong: &mut HashSet<u64>,
    report: &mut CheckReport,
) -> Result<()> {
    let indexes = state.live_objects().filter(|(_, record)| record.kind == ObjectKind::Index);
    for (ordinal, record) in indexes {
        if wrong.contains(&ordinal) {
            continue;
        }
        let name = record.name(realm.id());
        match fetch(realm, &record).await {
            Ok(body) => {
                report.indexes_read += 1;
                report.bytes_read += body.len() as u64;
                if let Err(reason) = open_index(realm.keys(), &body) {
                    report.add("index", &name, Some(ordinal), reason);
                    wrong.insert(ordinal);
                }
            }
            Err(error) if error.is_gap() => {
                report.add("index", &name, Some(ordinal), error);
                wrong.insert(ordinal);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fetches an object of the state; its bytes are those that its record names.
pub(crate) async fn fetch(realm: &Realm, record: &ObjectRecord) -> Result<bytes::Bytes> {
    let name = record.name(realm.id());
    let body = realm.store().get(&name, object_limit(record.kind)).await?.bytes;
    match ObjectHash::of(&body) == record.hash {
        true => Ok(body),
        false => Err(Error::damaged(&name, crate::error::SealError::Name)),
    }
}

fn word(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Data | ObjectKind::Metadata => "pack",
        ObjectKind::Index => "index",
        ObjectKind::Manifest => "manifest",
        _ => "object",
    }
}
