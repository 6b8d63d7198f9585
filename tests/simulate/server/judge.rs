//! Holding what checks and healings say to what is so.

use storepool::id::PointId;

use super::{Server, perform};
use crate::machine::Fate;
use crate::promises::{InPool, InVault};
use crate::work::{Findings, Outcome, Work};
use cloudsync::layout::ObjectName;

impl Server {
    /// A check of the pool says what is so, no more and no less.
    pub(super) fn judge_pool(&mut self, found: &Findings) -> Result<(), String> {
        let is_here = self.host.absent.is_empty();
        if is_here && !self.pool_is_rotten && !self.has_losses() {
            return match found.sound {
                true => Ok(()),
                false => Err(format!("check found damage that nobody did: {}", found.detail)),
            };
        }
        if !is_here {
            return Ok(());
        }
        let known = &self.known.clone();
        let unreadable = self.read_pool()?.unreadable;
        require_named(unreadable.into_iter().filter(|(point, _)| known.contains(point)), found)
    }

    /// And so does one of the vault.
    pub(super) fn judge_vault(&mut self, found: &Findings) -> Result<(), String> {
        self.settle_commits();
        let is_broken = !self.lost_commits.is_empty() || self.slot_is_rotten;
        if is_broken && found.sound {
            return Err("a commit or a slot cannot be read, and the check calls all sound".into());
        }
        if !is_broken && !self.vault_is_rotten && !self.has_losses() {
            return match found.sound {
                true => Ok(()),
                false => Err(format!("vaultcheck found damage that nobody did: {}", found.detail)),
            };
        }
        // Who has nothing but the keys sees less than this machine where a commit is missing.
        let mut unreadable = match self.lost_commits.is_empty() {
            true => self.read_vault()?.unreadable,
            false => self.read_bare()?.unreadable,
        };
        unreadable
            .retain(|(point, _)| self.known.contains(point) && found.spoken_of.contains(point));
        require_named(unreadable.into_iter(), found)
    }

    /// Healing may refuse only if nobody knows what the commits said that cannot be read.
    pub(super) fn judge_refusal(&mut self, error: &str) -> Result<(), String> {
        self.settle_commits();
        let Some(last) = self.lost_commits.last() else { return Ok(()) };
        let last = last.parse::<ObjectName>().expect("it is a name").generation();
        match self.host.remembered_generation() {
            Some(known) if Some(known) >= last && !self.host.network.is_busy() => {
                Err(format!("this machine knows what was lost, and cannot go on: {error}"))
            }
            _ => Ok(()),
        }
    }

    /// What the other copy has is there again.
    pub(super) fn judge_healing(&mut self) -> Result<(), String> {
        self.settle_commits();
        if !self.lost_commits.is_empty() {
            return Err("healed, and the history cannot be read all the same".into());
        }
        let (pool, vault) = (self.read_pool()?.unreadable, self.read_vault()?.unreadable);
        let broken = |points: &[(PointId, String)], id: &PointId| {
            points.iter().any(|(point, _)| point == id)
        };
        for (id, promise) in &mut self.promises.points {
            let in_pool = promise.pool == InPool::Sure && !promise.lost;
            let in_vault = promise.vault == InVault::Sure;
            let (bad, worse) = (broken(&pool, id), broken(&vault, id));
            if in_pool && bad && in_vault && !worse {
                return Err(format!("the vault has the point {}, the pool not yet", id.short()));
            }
            if in_vault && worse && in_pool && !bad {
                return Err(format!("the pool has the point {}, the vault not yet", id.short()));
            }
            promise.lost |= bad || worse;
        }
        // From now on only these may be missing: whatever comes later does not rely on what they lost.
        self.pool_is_rotten = false;
        self.vault_is_rotten = false;
        let process = self.host.start(Fate::Lives);
        let line = self.host.line(&process, Vec::new());
        match perform(&self.host, &Work::VaultCheck, &process, &line) {
            // What a lost point needs stays, and with it whatever else is in the same packs is told of.
            Outcome::Checked(found) if found.sound || self.has_losses() || self.slot_is_rotten => {
                Ok(())
            }
            Outcome::Checked(found) => {
                Err(format!("nothing is lost, and not everything was healed: {}", found.detail))
            }
            other => Err(format!("after healing: {other:?}")),
        }
    }
}

// Every point that cannot be read is among those that a check names.
fn require_named(
    mut unreadable: impl Iterator<Item = (PointId, String)>,
    found: &Findings,
) -> Result<(), String> {
    match unreadable.find(|(point, _)| !found.affected.contains(point)) {
        Some((point, error)) => Err(format!(
            "a check calls the point {} whole, but: {error}; found: {}",
            point.short(),
            found.detail
        )),
        None => Ok(()),
    }
}
