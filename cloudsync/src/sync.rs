//! Copying points from the pool to the vault.
//!
//! A thread reads the pool in its order, verifies every chunk and builds packs ([`packing`]); packs are sealed and
//! put side by side; then come the index, the manifests, and last the one commit that makes the points exist. What
//! was put before a break is known by the ledger, or found in the vault, and not put again. Nothing here deletes
//! anything, whatever the ledger says.

mod batch;
mod bury;
mod gate;
mod ground;
mod packing;
mod settle;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use storepool::catalog::Point;
use storepool::id::PointId;
use storepool::monitor::{Event, Monitor};
use storepool::pool::Session;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use crate::crypto::ring::Witness;
use crate::error::{Error, Result, StoreFault};
use crate::layout::{Generation, ObjectName};
use crate::ledger::Ledger;
use crate::retention::{POINTS_PER_SOURCE, POINTS_WARNING};
use crate::sync::batch::Batch;
use crate::sync::gate::Gate;
use crate::sync::ground::Ground;
use crate::sync::packing::{Halt, Packer, Parcel};
use crate::vault::anchor::Anchor;
use crate::vault::chain::{Realm, Surroundings};
use crate::vault::commit::ServerConfiguration;
use crate::vault::snapshot::Snapshot;

pub(crate) use crate::sync::settle::{read_index, read_table};

/// Names of half objects that one sync gives up before it gives up itself.
const BURIALS_MOST: u32 = 16;
/// Packs that are built at the same time: one of data and one of metadata.
const BUILDERS: usize = 2;

/// Choices that do not change the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncOptions {
    /// Packs are closed when their frames reach this many bytes.
    pub pack_length: usize,
    /// Packs that are put side by side.
    pub uploads: usize,
}

impl Default for SyncOptions {
    fn default() -> Self {
        // Five packs in memory, and one more while one of them is sealed: below 150 MiB. Packs of 24 MiB
        // leave room for index, manifest and commit within one put for each 16 MiB of content.
        Self { pack_length: 24 << 20, uploads: 3 }
    }
}

/// What is copied: points of a pool, within a session that keeps prune from taking their chunks away.
#[derive(Clone, Debug)]
pub struct SyncSource {
    /// The claim on the pool.
    pub session: Arc<Session>,
    /// The points, in the order in which they are to be copied. Those that the vault has are left out.
    pub points: Vec<Point>,
    /// The server's configuration, to be kept beside them; `None` leaves the one in the vault as it is.
    pub configuration: Option<ServerConfiguration>,
}

/// A point that was not copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Which.
    pub point: PointId,
    /// Why, for people.
    pub reason: String,
}

/// A data source that nears the most points that one can have in a vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullSource {
    /// Its protection group.
    pub group: String,
    /// The source.
    pub source: String,
    /// How many points it has.
    pub points: usize,
}

/// What a sync did.
#[derive(Clone, Debug)]
pub struct SyncReport {
    /// The points that are in the vault now and were not before.
    pub copied: Vec<PointId>,
    /// Points that could not be copied.
    pub skipped: Vec<Skipped>,
    /// Points that were refused because their source has [`POINTS_PER_SOURCE`] points in the vault already.
    pub refused: Vec<PointId>,
    /// Sources that have, or are about to have, as many points as there can be.
    pub fullest: Vec<FullSource>,
    /// Packs that were put.
    pub packs: u64,
    /// Objects that were put, commits included.
    pub objects: u64,
    /// Bytes that were put.
    pub bytes: u64,
    /// The newest generation.
    pub generation: Generation,
    /// What to compare with, to notice a vault that was rewound.
    pub witness: Witness,
    /// Points in the vault, all in all.
    pub points: u64,
    /// Bytes of all live objects.
    pub bytes_stored: u64,
}

/// Copies the points that the vault does not have.
///
/// When this returns, every point it calls copied can be recovered from the vault by its credentials and the
/// passphrase alone; nothing else is changed. Run again after an interruption it goes on where it was. With
/// nothing to copy it makes two requests. When the future is dropped, its thread that reads the pool ends at its next
/// step; until then it may still write to the ledger.
///
/// # Errors
/// Those of [`Realm::load`], [`Realm::reconcile`] and [`Realm::append`]; [`Error::Pool`] for failures of the pool
/// and [`storepool::Error::Interrupted`] in it when the monitor says so. A point that is damaged in the pool is
/// skipped, the others are copied.
pub async fn sync(
    realm: &Realm,
    anchor: &mut Anchor,
    ledger: &Arc<Ledger>,
    source: SyncSource,
    options: &SyncOptions,
    around: &Surroundings<'_>,
    monitor: Arc<dyn Monitor>,
) -> Result<SyncReport> {
    let mut copied = Vec::new();
    for burials in 0.. {
        let (source, monitor) = (source.clone(), monitor.clone());
        let run =
            sync_once(realm, anchor, ledger, source, options, around, monitor, &mut copied).await;
        match run {
            Err(Error::Store(error))
                if error.fault == StoreFault::AlreadyExists && burials < BURIALS_MOST =>
            {
                // Half of an object, left by a sync that was cut off: its name is used up.
                let Some(name) = content_name(&error.object) else { return Err(error.into()) };
                tracing::warn!(object = %name, "an object without a commit is not what its name says");
                bury::bury(realm, anchor, ledger, around, &name).await?;
                ledger.forget_unfinished()?;
            }
            other => return other,
        }
    }
    Err(Error::Interrupted { stage: "copying" })
}

fn content_name(object: &str) -> Option<ObjectName> {
    object.parse::<ObjectName>().ok().filter(|name| name.content_parts().is_some())
}

// `copied` collects the points of all runs.
#[expect(clippy::too_many_arguments, reason = "those of `sync`, and what it keeps between runs")]
async fn sync_once(
    realm: &Realm,
    anchor: &mut Anchor,
    ledger: &Arc<Ledger>,
    source: SyncSource,
    options: &SyncOptions,
    around: &Surroundings<'_>,
    monitor: Arc<dyn Monitor>,
    copied: &mut Vec<PointId>,
) -> Result<SyncReport> {
    let mut snapshot = load_to_write(realm, ledger, anchor).await?;
    let (points, refused) = missing_points(&snapshot, &ledger.dismissed()?, source.points);
    let mut skipped = Vec::new();
    let ground = Ground::new(Arc::new(snapshot.clone()), Arc::default());
    let mut batch = Batch::new(realm, ground);
    batch.configuration =
        source.configuration.filter(|configuration| is_new(configuration, &snapshot));
    if !points.is_empty() {
        monitor.event(Event::Stage("looking into the vault"));
        settle::settle(realm, ledger, &mut batch).await?;
        monitor.event(Event::Stage("copying to the vault"));
        let bytes = points.iter().map(|point| point.bytes).sum();
        monitor.event(Event::Expected { items: 0, bytes });
        // Closed as well when this future is dropped: then the thread ends at its next step.
        let keeper = Gate::open(BUILDERS + options.uploads);
        let (sender, parcels) = mpsc::channel(1);
        let packer = Packer::new(
            source.session.clone(),
            ledger.clone(),
            realm.keys().clone(),
            *options,
            monitor.clone(),
            keeper.gate(),
            sender,
        )?;
        let reading = tokio::task::spawn_blocking(move || packer.run(points));
        let sealing = Arc::new(Mutex::new(()));
        let mut upload = Upload { realm, ledger, options, around, monitor, sealing, batch };
        let uploaded = upload.run(parcels, &mut snapshot, anchor).await;
        drop(keeper);
        let read = reading.await.map_err(|_| Error::Interrupted { stage: "reading the pool" })?;
        // Whoever failed first is the reason; the other one only noticed.
        if let Err(Halt::Failed(error)) = read {
            return Err(error);
        }
        batch = upload.batch;
        copied.append(&mut batch.copied);
        uploaded?;
    } else if batch.configuration.is_some() {
        batch.commit(ledger, &mut snapshot, anchor, around).await?;
    } else if ledger.snapshot(realm.keys())?.as_ref().map(Snapshot::generation)
        != Some(snapshot.generation())
    {
        ledger.store(realm.keys(), &snapshot, &[])?;
    }
    skipped.extend(std::mem::take(&mut batch.skipped));
    let live = snapshot.objects().values().filter(|object| object.condemned.is_none());
    Ok(SyncReport {
        copied: std::mem::take(copied),
        skipped,
        refused,
        fullest: fullest(&snapshot),
        packs: batch.packs_put,
        objects: batch.objects_put,
        bytes: batch.bytes_put,
        generation: snapshot.generation(),
        witness: snapshot.witness(realm.keys()),
        points: snapshot.points().len() as u64,
        bytes_stored: live.map(|object| object.record.size).sum(),
    })
}

fn is_new(configuration: &ServerConfiguration, snapshot: &Snapshot) -> bool {
    if configuration.text.len() > ServerConfiguration::TEXT_LIMIT {
        tracing::warn!("the configuration is too long to be kept in the vault");
        return false;
    }
    snapshot.configuration() != Some(configuration)
}

/// Loads the newest state, going on from the one that the ledger remembers.
pub async fn load_state(realm: &Realm, ledger: &Ledger) -> Result<Snapshot> {
    let Some(known) = ledger.snapshot(realm.keys())? else { return realm.load(None).await };
    // A vault that was rewound would otherwise look like one in which nothing happened.
    realm.confirm(&known).await?;
    match realm.load(Some(known)).await {
        // What the ledger remembers may be of another history than the vault's: the vault decides, the anchor judges.
        Err(error) if error.is_damage() => realm.load(None).await,
        other => other,
    }
}

/// Loads the newest state, as [`load_state`] does, and finds out whether this installation may write.
///
/// An old ledger may end at or before a commit that was lost since and that a checkpoint made needless: going on from there looks like a vault that was
/// rewound, so that is believed only when a load from nothing says the same.
///
/// # Errors
/// Those of [`Realm::load`] and [`Realm::reconcile`].
pub async fn load_to_write(
    realm: &Realm,
    ledger: &Ledger,
    anchor: &mut Anchor,
) -> Result<Snapshot> {
    let mut loaded = load_state(realm, ledger).await;
    let is_behind = match &loaded {
        Ok(state) => state.generation() < anchor.generation(),
        Err(error) => matches!(error, Error::Rewound { .. } | Error::Damaged { .. }),
    };
    if is_behind
        && let Ok(state) = realm.load(None).await
        && state.generation() >= anchor.generation()
    {
        loaded = Ok(state);
    }
    let state = loaded?;
    realm.reconcile(anchor, &state).await?;
    Ok(state)
}

// The points to copy, and those for which their source has no room.
fn missing_points(
    snapshot: &Snapshot,
    dismissed: &BTreeSet<PointId>,
    points: Vec<Point>,
) -> (Vec<Point>, Vec<PointId>) {
    let mut counts = points_per_source(snapshot);
    let (mut refused, mut missing) = (Vec::new(), Vec::new());
    for point in points {
        let known = snapshot.points().contains_key(&point.id);
        // A point that was forgotten in the vault is not wanted there.
        if known || snapshot.forgotten().contains_key(&point.id) || dismissed.contains(&point.id) {
            continue;
        }
        let count = counts.entry((point.group.clone(), point.source.clone())).or_insert(0);
        if *count >= POINTS_PER_SOURCE {
            refused.push(point.id);
            continue;
        }
        *count += 1;
        missing.push(point);
    }
    (missing, refused)
}

fn points_per_source(snapshot: &Snapshot) -> BTreeMap<(String, String), usize> {
    let mut counts = BTreeMap::new();
    for point in snapshot.points().values() {
        *counts.entry((point.group.clone(), point.source.clone())).or_insert(0) += 1;
    }
    counts
}

fn fullest(snapshot: &Snapshot) -> Vec<FullSource> {
    let counts = points_per_source(snapshot).into_iter();
    counts
        .filter(|(_, points)| *points >= POINTS_WARNING)
        .map(|((group, source), points)| FullSource { group, source, points })
        .collect()
}

// The putting side: takes parcels, seals and puts, commits.
struct Upload<'a> {
    realm: &'a Realm,
    ledger: &'a Arc<Ledger>,
    options: &'a SyncOptions,
    around: &'a Surroundings<'a>,
    monitor: Arc<dyn Monitor>,
    // One at a time: a pack that is being sealed is in memory twice.
    sealing: Arc<Mutex<()>>,
    batch: Batch,
}

impl Upload<'_> {
    async fn run(
        &mut self,
        mut parcels: mpsc::Receiver<Parcel>,
        snapshot: &mut Snapshot,
        anchor: &mut Anchor,
    ) -> Result<()> {
        let mut uploads = JoinSet::new();
        loop {
            while uploads.len() >= self.options.uploads.max(1) {
                self.take(uploads.join_next().await).await?;
            }
            let parcel = tokio::select! {
                parcel = parcels.recv() => parcel,
                done = uploads.join_next(), if !uploads.is_empty() => {
                    self.take(done).await?;
                    continue;
                }
            };
            match parcel {
                Some(Parcel::Pack(pack)) => {
                    uploads.spawn(batch::put_pack(
                        self.realm.clone(),
                        self.ledger.clone(),
                        self.batch.ground().clone(),
                        self.sealing.clone(),
                        pack,
                    ));
                }
                Some(Parcel::Point(point)) => self.batch.points.push(*point),
                Some(Parcel::Skipped(skipped)) => self.batch.skipped.push(skipped),
                Some(Parcel::Commit) => {
                    while !uploads.is_empty() {
                        self.take(uploads.join_next().await).await?;
                    }
                    self.batch.commit(self.ledger, snapshot, anchor, self.around).await?;
                }
                None => return Ok(()),
            }
        }
    }

    async fn take(&mut self, done: Option<batch::PutTask>) -> Result<()> {
        let Some(done) = done else { return Ok(()) };
        let pack = done.map_err(|_| Error::Interrupted { stage: "putting a pack" })??;
        self.monitor.event(Event::Stored { bytes: pack.bytes_put });
        self.batch.take_pack(pack).await
    }
}
