//! Where points are read from: the pool, or the second copy in a vault. Whoever lists, searches or restores does not care.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use cloudsync::recovery::{VaultChunks, manifest_of};
use cloudsync::standing::Subscription;
use cloudsync::vault::chain::Realm;
use cloudsync::vault::commit::PointRecord;
use cloudsync::vault::snapshot::Snapshot;
use cloudsync::vault::state::SignedState;
use cloudsync::vault::{Ordinals, Vault};
use storepool::catalog::{Notes, Point};
use storepool::chunks::{ChunkSource, PoolChunks};
use storepool::id::{ChunkId, PointId};
use storepool::manifest::Manifest;
use storepool::pool::Session;

use crate::assembly::Assembly;
use crate::error::{Attempt, Cause, Error};
use crate::selection::{Selection, select};
use crate::subscription::{Work, allow_local};
use crate::vaults::{self, Engine};
use crate::workload::WorkloadError;
use crate::workload::postgres::wal_tree::WAL_WORKLOAD;

/// Points of one set begin within this time.
const SET_SPAN: Duration = Duration::from_secs(7 * 86_400);

/// Which copy is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Side {
    /// The pool of this server
    Pool,
    /// The second copy in a vault
    Vault,
}

/// The options that choose it.
#[derive(Args, Debug)]
pub(crate) struct OriginArgs {
    /// Which copy is read
    #[arg(long, value_enum, value_name = "COPY", default_value = "pool")]
    from: Side,
    /// Which vault of the configuration, with --from vault
    #[arg(long, value_name = "NAME")]
    vault: Option<String>,
}

/// A copy that is open for reading.
pub(crate) struct Origin {
    points: Vec<Point>,
    copy: OpenCopy,
}

enum OpenCopy {
    Pool(Arc<Session>),
    Vault(Box<VaultCopy>),
}

struct VaultCopy {
    engine: Engine,
    realm: Realm,
    snapshot: Snapshot,
}

impl OriginArgs {
    /// Returns the options that choose this copy.
    pub(crate) fn of(from: Side, vault: Option<String>) -> Self {
        Self { from, vault }
    }

    /// Returns the word of the copy that was chosen.
    pub(crate) fn word(&self) -> &'static str {
        match self.from {
            Side::Pool => "pool",
            Side::Vault => "vault",
        }
    }

    /// Returns which vault was named.
    pub(crate) fn vault(&self) -> Option<&str> {
        self.vault.as_deref()
    }

    /// Opens the copy that was chosen.
    pub(crate) fn open(&self, assembly: &Assembly) -> Result<Origin, Error> {
        match (self.from, &self.vault) {
            (Side::Pool, Some(_)) => Err(Error::usage("--vault is for --from vault")),
            (Side::Pool, None) => {
                let pool = assembly.open_pool()?;
                let points = pool.points().attempt(|| "list the points".to_string())?;
                let session = pool.begin_session().attempt(|| "read the pool".to_string())?;
                Ok(Origin { points, copy: OpenCopy::Pool(Arc::new(session)) })
            }
            (Side::Vault, name) => {
                let config = assembly.config()?;
                let (name, vault) = vaults::choose(&config, name.as_deref())?;
                let attempt = || format!("read the vault \"{name}\"");
                let engine = Engine::start()?;
                let (realm, snapshot) =
                    vaults::look_into(assembly, &engine, name, vault).attempt(attempt)?;
                Ok(Origin::of_vault(engine, realm, snapshot))
            }
        }
    }
}

impl Origin {
    /// Creates the origin over a vault that was opened.
    pub(crate) fn of_vault(engine: Engine, realm: Realm, snapshot: Snapshot) -> Self {
        let mut points: Vec<Point> = snapshot.points().values().map(as_point).collect();
        points.sort_by_key(|point| (point.started, point.id));
        Self { points, copy: OpenCopy::Vault(Box::new(VaultCopy { engine, realm, snapshot })) }
    }

    /// Returns all points, oldest first. Those of a vault do not tell their paths.
    pub(crate) fn points(&self) -> &[Point] {
        &self.points
    }

    /// Refuses to restore what the vault's owner has stopped.
    pub(crate) fn allow_restore(&self, assembly: &Assembly) -> Result<(), Error> {
        match &self.copy {
            // A pool without a configuration, as tests and recoveries have it, obeys nobody.
            OpenCopy::Pool(_) => match assembly.config() {
                Ok(config) => allow_local(assembly, &config, Work::DiskRestore),
                Err(_) => Ok(()),
            },
            OpenCopy::Vault(vault) => {
                let asked = vault.engine.run(vault_state(&vault.realm));
                refuse_given_up(asked.attempt(|| "ask for the state of the vault".to_string())?)
                    .attempt(String::new)
            }
        }
    }

    /// Returns whether a vault is read.
    pub(crate) fn is_vault(&self) -> bool {
        matches!(self.copy, OpenCopy::Vault(_))
    }

    /// Returns the manifest of a point.
    pub(crate) fn manifest(&self, point: PointId) -> Result<Manifest, Cause> {
        match &self.copy {
            OpenCopy::Pool(session) => Ok(session.pool().manifest(point)?),
            OpenCopy::Vault(vault) => {
                let record = vault.record(point)?;
                let handle = vault.engine.handle().clone();
                let manifest = manifest_of(&vault.realm, &vault.snapshot, record, handle);
                Ok(vault.engine.run(manifest)?)
            }
        }
    }

    /// Finds what `POINT` or `POINT:PATH` means, and the manifest of that point.
    pub(crate) fn select(&self, text: &str) -> Result<(Selection, Manifest), Cause> {
        let selection = select(&self.points, text).map_err(|error| self.unfound(error))?;
        let manifest = self.manifest(selection.point.id)?;
        if !self.is_vault() {
            return Ok((selection, manifest));
        }
        // Only now it is known which paths of the source the point is of.
        let mut points = self.points.clone();
        if let Some(point) = points.iter_mut().find(|point| point.id == selection.point.id) {
            *point = Point::of(point.id, &manifest, Notes::default());
        }
        let whole = select(&points, text).unwrap_or(selection);
        Ok((whole, manifest))
    }

    /// Returns the points of the set that `point` belongs to, in order of their sources.
    ///
    /// # Errors
    /// It belongs to none, or the set is not whole any more.
    pub(crate) fn set_of(&self, point: &Point, manifest: &Manifest) -> Result<Vec<PointId>, Cause> {
        let Some(set) = manifest.set else {
            let message = format!("point {} belongs to no set", point.id.short());
            let hint = "groups with consistent = true make sets; without --set the point itself is restored";
            return Err(WorkloadError::failed(message).hint(hint).into());
        };
        let mut members = Vec::new();
        // A set is made in one run: its points begin while it lasts, and no run lasts so long.
        let near = |other: &&Point| {
            other.group == point.group
                && other.host == point.host
                && other.started.0.abs_diff(point.started.0) < SET_SPAN.as_nanos() as u64
        };
        for other in self.points.iter().filter(near) {
            if self.manifest(other.id)?.set.is_some_and(|other| other.id == set.id) {
                members.push(other);
            }
        }
        members.sort_by(|one, other| one.source.cmp(&other.source));
        if members.len() != set.count as usize {
            let message =
                format!("only {} of the {} points of this set are here", members.len(), set.count);
            return Err(WorkloadError::failed(message)
                .hint("each of them can be restored by itself, without --set")
                .into());
        }
        Ok(members.into_iter().map(|member| member.id).collect())
    }

    /// Returns the points with WAL of the cluster that `base` is a point of, the newest first.
    ///
    /// # Errors
    /// [`storepool::Error::PointNotFound`] if one was replaced meanwhile: then this copy has to be opened anew.
    pub(crate) fn wal_of(&self, base: &Point) -> Result<Vec<(PointId, Manifest)>, Cause> {
        let source = format!("{} WAL", base.source);
        let own = |point: &&Point| {
            point.workload == WAL_WORKLOAD
                && (&point.host, &point.group, &point.source) == (&base.host, &base.group, &source)
        };
        let mut wal = Vec::new();
        for point in self.points.iter().rev().filter(own) {
            match self.manifest(point.id) {
                Err(Cause::Pool(error)) if error.is_damage() => {
                    tracing::warn!(point = %point.id, %error, "damaged WAL is left out");
                }
                manifest => wal.push((point.id, manifest?)),
            }
        }
        Ok(wal)
    }

    /// Returns the fact that a point was not found, as this copy tells it.
    pub(crate) fn unfound(&self, error: storepool::Error) -> Cause {
        match error {
            storepool::Error::PointNotFound { name } if self.is_vault() => {
                Cause::Vault(cloudsync::Error::NoSuchPoint { name })
            }
            error => Cause::Pool(error),
        }
    }

    /// Returns the chunks of these points.
    pub(crate) fn chunks(
        &self,
        points: impl IntoIterator<Item = PointId>,
    ) -> Result<Box<dyn ChunkSource + '_>, Cause> {
        match &self.copy {
            OpenCopy::Pool(session) => Ok(Box::new(PoolChunks::new(session))),
            OpenCopy::Vault(vault) => {
                let mut needs = Ordinals::default();
                for point in points {
                    for ordinal in vault.record(point)?.needs.iter() {
                        needs.insert(ordinal);
                    }
                }
                let handle = vault.engine.handle().clone();
                let open = VaultChunks::open(&vault.realm, &vault.snapshot, &needs, handle);
                Ok(Box::new(vault.engine.run(open)?))
            }
        }
    }
}

// What the owner of a realm's vault has set.
async fn vault_state(realm: &Realm) -> Result<Option<SignedState>, cloudsync::Error> {
    Vault::reopen(realm).await?.subscription().await
}

/// Refuses to restore from a vault that its owner has given up.
pub(crate) fn refuse_given_up(state: Option<SignedState>) -> Result<(), Cause> {
    match state.filter(|state| state.subscription == Subscription::Deprovisioned) {
        None => Ok(()),
        Some(_) => Err(Cause::Stopped {
            work: "restoring",
            vault: "that was asked".to_string(),
            why: "its owner set it deprovisioned".to_string(),
            way_out: "the vault's owner must set it active again",
        }),
    }
}

impl VaultCopy {
    fn record(&self, point: PointId) -> Result<&PointRecord, Cause> {
        let missing = || cloudsync::Error::NoSuchPoint { name: point.to_string() };
        Ok(self.snapshot.points().get(&point).ok_or_else(missing)?)
    }
}

/// Returns a point of a vault as one of a pool would be listed.
pub(crate) fn as_point(record: &PointRecord) -> Point {
    Point {
        id: record.id,
        started: record.started,
        finished: record.finished,
        host: record.host.clone(),
        group: record.group.clone(),
        source: record.source.clone(),
        workload: record.workload.clone(),
        // Only the manifest knows these two.
        paths: Vec::new(),
        root: ChunkId([0; 32]),
        files: record.files,
        bytes: record.bytes,
        bytes_stored: record.bytes_stored,
        problem_count: record.problems,
        notes: Notes::default(),
    }
}
