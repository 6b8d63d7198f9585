//! The model: which points were promised, in which copy, and what they hold. Whatever it says must be so after every step.

use std::collections::{BTreeMap, BTreeSet};

use storepool::clock::Timestamp;
use storepool::id::PointId;

use crate::tree::Files;

/// What is known of a point in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InPool {
    /// It is promised.
    Sure,
    /// It is being forgotten, or was when something broke.
    Leaving,
    /// It must not be there.
    Gone,
}

/// What is known of a point in the vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InVault {
    /// It was never copied, or is gone for good.
    Gone,
    /// It is promised.
    Sure,
    /// It is forgotten, and can be taken back for a while from this moment of the vault on.
    Forgotten(Timestamp),
}

/// A point and its promises.
#[derive(Clone, Debug)]
pub(crate) struct Promise {
    pub(crate) files: Files,
    pub(crate) source: usize,
    pub(crate) pool: InPool,
    pub(crate) vault: InVault,
    /// What was asked of the vault without an answer: it may come to pass at any later time.
    pub(crate) asked: BTreeSet<Asked>,
    /// Damage took it from the pool for good, because no other copy had it.
    pub(crate) lost: bool,
}

/// A request that may still be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asked {
    Copy,
    Forget,
    Undelete,
}

/// All points that ever were.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promises {
    pub(crate) points: BTreeMap<PointId, Promise>,
    /// What backups that did not return were making.
    pub(crate) attempts: Vec<(usize, Files)>,
}

impl Promises {
    /// Promises a new point in the pool.
    pub(crate) fn make(&mut self, point: PointId, source: usize, files: Files) {
        let (pool, vault) = (InPool::Sure, InVault::Gone);
        // Any sync from now on may copy it, even one whose end nobody hears of.
        let asked = BTreeSet::from([Asked::Copy]);
        self.points.insert(point, Promise { files, source, pool, vault, asked, lost: false });
    }

    /// Returns the points of the pool, in the order of their names.
    pub(crate) fn in_pool(&self) -> Vec<PointId> {
        self.those(|promise| promise.pool == InPool::Sure)
    }

    /// Returns the points of the vault.
    pub(crate) fn in_vault(&self) -> Vec<PointId> {
        self.those(|promise| promise.vault == InVault::Sure)
    }

    /// Returns the forgotten points of the vault.
    pub(crate) fn forgotten(&self) -> Vec<PointId> {
        self.those(|promise| matches!(promise.vault, InVault::Forgotten(_)))
    }

    fn those(&self, wanted: impl Fn(&Promise) -> bool) -> Vec<PointId> {
        self.points.iter().filter(|(_, promise)| wanted(promise)).map(|(id, _)| *id).collect()
    }

    /// Compares what a fresh look at the pool shows with what was promised, and remembers it. In a pool with damage (`is_rotten`) a point that was
    /// finished without an answer may need what is damaged, like the points before it; then its manifest says of which source it is.
    pub(crate) fn settle_pool(
        &mut self,
        seen: &BTreeSet<PointId>,
        is_rotten: bool,
        mut read: impl FnMut(PointId) -> Result<BTreeMap<String, Vec<u8>>, String>,
        source_of: impl Fn(PointId) -> Option<usize>,
    ) -> Result<(), String> {
        for (id, promise) in &mut self.points {
            promise.pool = match (promise.pool, seen.contains(id)) {
                (InPool::Sure, false) => {
                    return Err(format!("the promised point {} is not in the pool", id.short()));
                }
                (InPool::Gone, true) => {
                    return Err(format!("the forgotten point {} is back", id.short()));
                }
                (_, true) => InPool::Sure,
                (_, false) => InPool::Gone,
            };
        }
        for id in
            seen.iter().filter(|id| !self.points.contains_key(id)).copied().collect::<Vec<_>>()
        {
            let attempt = match read(id) {
                Ok(found) => self.attempts.iter().find(|(_, files)| is_same(files, &found)),
                Err(_) if is_rotten => {
                    let source = source_of(id);
                    self.attempts.iter().find(|(other, _)| Some(*other) == source)
                }
                Err(error) => {
                    return Err(format!("the new point {} has a hole: {error}", id.short()));
                }
            };
            let attempt = attempt.cloned();
            let (source, files) = attempt.ok_or_else(|| {
                format!("the point {} holds what no backup was making", id.short())
            })?;
            self.make(id, source, files);
        }
        self.attempts.clear();
        Ok(())
    }

    /// Compares what a fresh look at the vault shows with what was promised, and remembers it.
    pub(crate) fn settle_vault(
        &mut self,
        live: &BTreeSet<PointId>,
        forgotten: &BTreeSet<PointId>,
        now: Timestamp,
        restorable: impl Fn(Timestamp) -> bool,
    ) -> Result<(), String> {
        for (id, promise) in &mut self.points {
            let name = id.short();
            let asked = |asked| promise.asked.contains(&asked);
            promise.vault = match (promise.vault, live.contains(id), forgotten.contains(id)) {
                (InVault::Gone, true, _) if !asked(Asked::Copy) => {
                    return Err(format!("the point {name} is in the vault, and nobody copied it"));
                }
                (InVault::Forgotten(_), true, _)
                    if !asked(Asked::Undelete) && !asked(Asked::Copy) =>
                {
                    return Err(format!("the forgotten point {name} is back in the vault"));
                }
                (_, true, _) => InVault::Sure,
                (InVault::Sure, _, true) if !asked(Asked::Forget) => {
                    return Err(format!("the vault forgot the promised point {name}"));
                }
                (InVault::Forgotten(since), _, true) => InVault::Forgotten(since),
                (_, _, true) => InVault::Forgotten(now),
                (InVault::Sure, false, false) => {
                    return Err(format!("the promised point {name} is not in the vault"));
                }
                (InVault::Forgotten(since), false, false) if restorable(since) => {
                    return Err(format!("the forgotten point {name} is gone before its time"));
                }
                (_, false, false) => InVault::Gone,
            };
        }
        match live.iter().find(|id| !self.points.contains_key(id)) {
            // Perhaps of a backup that died beside the sync, in a pool that cannot be looked at now.
            Some(_) if !self.attempts.is_empty() => Ok(()),
            Some(id) => Err(format!("the vault has a point {} that nobody made", id.short())),
            None => Ok(()),
        }
    }
}

/// Returns whether these are the same files.
pub(crate) fn is_same(expected: &Files, found: &BTreeMap<String, Vec<u8>>) -> bool {
    expected.len() == found.len()
        && expected.iter().all(|(name, bytes)| found.get(name).is_some_and(|it| it == bytes))
}
