//! What becomes of points and keys in a vault: forgetting, taking back, pruning, passphrases. Each fetches its inputs and
//! calls one function of the library.

use std::collections::BTreeSet;
use std::sync::Arc;

use cloudsync::forget::{self, ForgottenPoint, forgetting_commits, forgotten_points, unwanted};
use cloudsync::prune::{PruneOptions, PruneReport, prune};
use cloudsync::standing::Standing;
use cloudsync::vault::commit::PointNotes;
use cloudsync::vault::snapshot::Snapshot;
use cloudsync::vault::time::{Clocks, read_clocks, read_stamps};
use cloudsync::writing::Writing;
use jiff::tz::TimeZone;
use storepool::catalog::Point;
use storepool::id::PointId;
use storepool::monitor::Monitor;
use storepool::pool::Pool;

use crate::config::VaultConfig;
use crate::error::Cause;
use crate::subscription::{self, Work};
use crate::vaults::{Engine, OwnVault};

impl OwnVault {
    /// Returns the row of the table that is in force.
    pub(crate) fn standing(&self, engine: &Engine) -> Standing {
        self.contact.standing(self.policy, engine.around().clock.now())
    }

    /// Refuses to copy what the vault's owner does not want; strictly, what is there goes, too.
    pub(crate) fn obey(&mut self, engine: &Engine) -> Result<(), Cause> {
        let standing = self.standing(engine);
        if standing.forget_vault_points {
            self.forget_all(engine)?;
        }
        subscription::check(&self.name, &standing, Work::VaultBackup)
    }

    /// Returns the points that the vault's retention would not drop at once; judged by what is remembered of its state.
    pub(crate) fn wanted(&self, engine: &Engine, points: Vec<Point>) -> Result<Vec<Point>, Cause> {
        let Some(policy) = &self.retention else { return Ok(points) };
        let known = self.ledger.snapshot(self.realm.keys())?;
        let now = engine.around().clock.now();
        let unwanted = unwanted(known.as_ref(), &points, policy, &TimeZone::system(), now);
        Ok(points.into_iter().filter(|point| !unwanted.contains(&point.id)).collect())
    }

    /// Does something that changes the vault's state.
    pub(crate) fn write<T>(
        &mut self,
        engine: &Engine,
        action: impl AsyncFnOnce(&mut Writing<'_>) -> Result<T, cloudsync::Error>,
    ) -> Result<T, Cause> {
        let around = engine.around();
        let mut writing = self.writing(&around);
        Ok(engine.run(action(&mut writing))?)
    }

    /// Asks the vault and this machine for their time.
    pub(crate) fn clocks(&self, engine: &Engine) -> Result<Clocks, Cause> {
        Ok(engine.run(read_clocks(&self.realm, &self.anchor, &engine.around()))?)
    }

    /// Forgets points, and brings the vault's notes up to date.
    pub(crate) fn forget(
        &mut self,
        engine: &Engine,
        snapshot: &mut Snapshot,
        points: &BTreeSet<PointId>,
        notes: &[PointNotes],
    ) -> Result<(), Cause> {
        self.write(engine, async |writing| forget::forget(writing, snapshot, points, notes).await)
    }

    /// Forgets points that somebody named, and copies them no more.
    pub(crate) fn dismiss(
        &mut self,
        engine: &Engine,
        snapshot: &mut Snapshot,
        points: &BTreeSet<PointId>,
    ) -> Result<(), Cause> {
        self.write(engine, async |writing| forget::dismiss(writing, snapshot, points).await)
    }

    /// Forgets every point: the owner has given the vault up.
    pub(crate) fn forget_all(&mut self, engine: &Engine) -> Result<usize, Cause> {
        self.write(engine, async |writing| {
            let mut snapshot = writing.begin().await?;
            forget::forget_all(writing, &mut snapshot).await
        })
    }

    /// Restores forgotten points.
    pub(crate) fn undelete(
        &mut self,
        engine: &Engine,
        snapshot: &mut Snapshot,
        points: &BTreeSet<PointId>,
    ) -> Result<(), Cause> {
        self.write(engine, async |writing| forget::undelete(writing, snapshot, points).await)
    }

    /// Returns the forgotten points that can still be restored, and until when.
    pub(crate) fn forgotten(
        &self,
        engine: &Engine,
        snapshot: &Snapshot,
        config: &VaultConfig,
    ) -> Result<Vec<ForgottenPoint>, Cause> {
        let stamps = engine.run(read_stamps(&self.realm, forgetting_commits(snapshot)))?;
        Ok(forgotten_points(snapshot, &stamps, config.undelete))
    }

    /// Gives back the space that no point needs.
    pub(crate) fn prune(
        &mut self,
        engine: &Engine,
        pool: &Arc<Pool>,
        options: &PruneOptions,
        monitor: Arc<dyn Monitor>,
    ) -> Result<PruneReport, Cause> {
        let session = Arc::new(pool.begin_session()?);
        let known = self.ledger.snapshot(self.realm.keys())?;
        let wanted = self.wanted(engine, pool.points()?)?;
        let uploads_wait = wanted.iter().any(|point| {
            known.as_ref().is_none_or(|known| {
                !known.points().contains_key(&point.id)
                    && !known.forgotten().contains_key(&point.id)
            })
        });
        let around = engine.around();
        let mut writing = self.writing(&around);
        let pruning = prune(&mut writing, Some(session), uploads_wait, options, monitor.clone());
        let pruned = engine.run_stoppable(pruning, monitor.as_ref());
        Ok(pruned.unwrap_or_else(|| Err(storepool::Error::Interrupted.into()))?)
    }
}
