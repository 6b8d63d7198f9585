//! One server and the model of what it was promised: after each step everything promised is looked for.

mod harm;
mod judge;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cloudsync::forget::UNDELETE_PERIOD;
use storepool::clock::Timestamp;
use storepool::id::PointId;
use storepool::pool::Pool;

use crate::chance::Chance;
use crate::commits::LostCommits;
use crate::host::{Found, Host, read_pool_point, read_vault_point, runtime};
use crate::machine::Fate;
use crate::network::Line;
use crate::promises::{Asked, InPool, InVault, Promise, Promises, is_same};
use crate::script::{Op, Step};
use crate::tree::Source;
use crate::work::{Outcome, Work, perform};

/// A server, and what is known of it.
pub(crate) struct Server {
    pub(crate) host: Host,
    pub(crate) promises: Promises,
    sources: Vec<Source>,
    // Objects of the vault whose bytes were changed behind everybody's back.
    tampered: BTreeSet<String>,
    // Points that were there before the step: a check speaks of no others.
    known: BTreeSet<PointId>,
    // Damage that was done and not yet healed.
    pool_is_rotten: bool,
    vault_is_rotten: bool,
    slot_is_rotten: bool,
    lost_commits: LostCommits,
}

impl Server {
    /// Sets up a server that nothing was promised to yet.
    pub(crate) fn new(host: Host) -> Self {
        Self {
            host,
            promises: Promises::default(),
            sources: vec![Source::default(); 2],
            tampered: BTreeSet::new(),
            known: BTreeSet::new(),
            pool_is_rotten: false,
            vault_is_rotten: false,
            slot_is_rotten: false,
            lost_commits: LostCommits::default(),
        }
    }

    /// Copies the whole machine but the vault, which both reach.
    pub(crate) fn twin(&mut self) -> Self {
        let mut twin = Self::new(self.host.twin());
        twin.promises.clone_from(&self.promises);
        twin.sources.clone_from(&self.sources);
        twin
    }

    /// Remembers what there is before a step.
    pub(crate) fn begin(&mut self) {
        self.host.remember();
        self.known = self.promises.points.keys().copied().collect();
    }

    /// Returns whether there is damage, so that work may fail.
    pub(crate) fn is_hurt(&self) -> bool {
        let is_rotten =
            self.pool_is_rotten || self.vault_is_rotten || !self.lost_commits.is_empty();
        is_rotten || self.has_losses() || !self.host.absent.is_empty()
    }

    /// Chooses what an operation is about; nothing if there is nothing.
    pub(crate) fn pick(&self, op: Op) -> Option<Work> {
        let of = |points: Vec<PointId>, pick: u64| {
            points.get(pick as usize % points.len().max(1)).copied()
        };
        Some(match op {
            Op::Backup { source, force } => {
                Work::Backup { source, tree: self.sources[source].clone(), force }
            }
            Op::Forget { pick, all: false } => {
                Work::Forget(vec![of(self.promises.in_pool(), pick)?])
            }
            Op::Forget { pick, all: true } => {
                let mut points = self.promises.in_pool();
                let stays = of(points.clone(), pick)?;
                points.retain(|point| *point != stays);
                Work::Forget(points)
            }
            Op::Prune { all } => Work::Prune { all },
            Op::Sync => Work::Sync,
            Op::VaultForget { pick } => {
                let point = of(self.promises.in_vault(), pick)?;
                let source = |point| self.promises.points[point].source;
                // The last point of a source stays whatever is asked for.
                let others = self.promises.in_vault();
                others.iter().find(|it| **it != point && source(*it) == source(&point))?;
                Work::VaultForget(point)
            }
            Op::Undelete { pick } => {
                let mut points = self.promises.forgotten();
                points.retain(|point| match self.promises.points[point].vault {
                    InVault::Forgotten(since) => self.is_restorable(since),
                    _ => false,
                });
                Work::Undelete(of(points, pick)?)
            }
            Op::VaultPrune { with_pool, all } => Work::VaultPrune { with_pool, all },
            Op::Check => Work::Check,
            Op::VaultCheck => Work::VaultCheck,
            Op::Rekey if self.slot_is_rotten => Work::Rekey,
            // Healing is for a whole pool.
            Op::Heal if self.host.absent.is_empty() => Work::Heal,
            _ => return None,
        })
    }

    fn is_restorable(&self, since: Timestamp) -> bool {
        let passed = Duration::from_nanos((self.host.store.now().0 - since.0).max(0) as u64);
        passed < UNDELETE_PERIOD
    }

    /// Takes notice of what may come to pass from now on, whatever is heard of it.
    pub(crate) fn announce(&mut self, work: &Work) {
        match work {
            Work::Backup { source, tree, .. } => {
                self.promises.attempts.push((*source, tree.files()));
            }
            Work::Forget(points) => {
                for point in points {
                    self.promised(point).pool = InPool::Leaving;
                }
            }
            Work::VaultForget(point) => {
                self.promised(point).asked.insert(Asked::Forget);
            }
            Work::Undelete(point) => {
                self.promised(point).asked.insert(Asked::Undelete);
            }
            _ => {}
        }
    }

    fn promised(&mut self, point: &PointId) -> &mut Promise {
        self.promises.points.get_mut(point).expect("picked from there")
    }

    /// Holds the model to what was answered.
    pub(crate) fn conclude(
        &mut self,
        step: &Step,
        work: &Work,
        outcome: Outcome,
        excused: bool,
    ) -> Result<(), String> {
        if let Outcome::Failed(error) = &outcome
            && !excused
        {
            return Err(format!("{} failed without a reason: {error}", name(work)));
        }
        match (work, outcome) {
            (Work::Backup { source, tree, .. }, Outcome::Point(point)) => {
                self.promises.make(point, *source, tree.files());
            }
            (Work::Forget(points), Outcome::Done) => {
                for point in points {
                    self.promised(point).pool = InPool::Gone;
                }
            }
            (Work::Sync, Outcome::Copied(points)) => {
                for point in points {
                    // Others were made by a backup beside it: they show when pool and vault are looked at.
                    if let Some(promise) = self.promises.points.get_mut(&point) {
                        promise.vault = InVault::Sure;
                    }
                }
            }
            (Work::VaultForget(point), Outcome::Done) => {
                let now = self.host.store.now();
                self.promised(point).vault = InVault::Forgotten(now);
            }
            (Work::Undelete(point), Outcome::Done) => {
                let promise = self.promised(point);
                promise.vault = InVault::Sure;
            }
            (Work::Check, Outcome::Checked(found)) if step.is_calm() => {
                self.judge_pool(&found)?;
            }
            (Work::VaultCheck, Outcome::Checked(found)) if step.is_calm() => {
                self.judge_vault(&found)?;
            }
            (Work::Heal, Outcome::Done) if self.is_hurt() => self.judge_healing()?,
            (Work::Heal, Outcome::Failed(error)) if step.is_calm() && step.beside.is_none() => {
                self.judge_refusal(&error)?;
            }
            (Work::Rekey, Outcome::Done) => {
                self.slot_is_rotten = false;
                self.host.unlock().map_err(|error| format!("the new passphrase: {error}"))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn has_losses(&self) -> bool {
        self.promises.points.values().any(|promise| promise.lost)
    }

    /// Does what the world does to this server.
    pub(crate) fn happen(&mut self, op: Op) -> Result<(), String> {
        match op {
            Op::Change { source, seed } => {
                let now = storepool::clock::Clock::now(&*self.host.clock).0;
                self.sources[source].change(seed, now);
                // Far enough from the next backup to be told apart from it.
                self.host.clock.shift(5_000_000_000);
            }
            Op::Jump { days } => self.host.clock.shift(days * 86_400_000_000_000),
            Op::Rot { pick, place } => {
                let packs: Vec<_> = self
                    .host
                    .roots
                    .iter()
                    .flat_map(|root| self.host.machine.files(|files| files.below(root, ".pack")))
                    .collect();
                if let Some(path) = Chance::new(pick).pick(&packs) {
                    self.host.machine.files(|files| {
                        if let Ok(file) = files.find(path) {
                            let bytes = files.bytes(file);
                            let at = place as usize % bytes.len();
                            bytes[at] ^= 1 << (place >> 61);
                        }
                    });
                    self.pool_is_rotten = true;
                }
            }
            Op::VaultRot { pick, place } => {
                if let Some(name) = Chance::new(pick).pick(&self.host.contents()) {
                    let mut bytes = self.host.store.peek(name).expect("listed").to_vec();
                    let at = place as usize % bytes.len();
                    bytes[at] ^= 1 << (place >> 61);
                    self.host.store.tamper(name, bytes);
                    self.tampered.insert(name.clone());
                    self.vault_is_rotten = true;
                }
            }
            Op::VaultLose { pick } => {
                if let Some(name) = Chance::new(pick).pick(&self.host.contents()) {
                    self.host.store.lose(name);
                    self.vault_is_rotten = true;
                }
            }
            Op::CommitRot { pick, place } => self.harm_commit(pick, place)?,
            Op::SlotRot { place } if !self.slot_is_rotten => self.harm_slot(place)?,
            Op::LoseIndex => {
                for root in &self.host.roots {
                    self.host.lose(&root.join("pool.db"));
                }
            }
            Op::LoseLedger => {
                self.host.lose(&self.host.path("ledger"));
                self.forget_rot();
            }
            Op::OldLedger => {
                self.host.bring_back(&self.host.path("ledger"));
                self.forget_rot();
            }
            Op::Unplug { pick } if self.host.roots.len() > 1 => {
                let root = self.host.roots[pick as usize % self.host.roots.len()].clone();
                if self.host.absent.is_empty() {
                    self.host.machine.files(|files| files.set_absent(&root, true));
                    self.host.absent.insert(root);
                }
            }
            Op::Plug => self.plug(),
            Op::Rewind if !self.host.network.is_busy() && self.lost_commits.is_empty() => {
                self.rewind()?;
            }
            _ => {}
        }
        Ok(())
    }

    // A ledger that is gone knew which bytes were found wrong; only another check that reads them finds out.
    fn forget_rot(&mut self) {
        let names = self.host.store.names();
        self.vault_is_rotten |= names.iter().any(|name| self.tampered.contains(name));
    }

    /// Brings all disks back.
    pub(crate) fn plug(&mut self) {
        for root in std::mem::take(&mut self.host.absent) {
            self.host.machine.files(|files| files.set_absent(&root, false));
        }
    }

    // A vault that shows less than before is noticed before anything is written to it.
    fn rewind(&mut self) -> Result<(), String> {
        let old = self.host.store.copy();
        let process = self.host.start(Fate::Lives);
        let line = self.host.line(&process, Vec::new());
        let before = self.host.store.names().len();
        if !matches!(perform(&self.host, &Work::Sync, &process, &line), Outcome::Copied(points) if !points.is_empty())
        {
            return Ok(());
        }
        let now = self.host.store.copy();
        self.host.store.become_like(&old);
        let process = self.host.start(Fate::Lives);
        let line = self.host.line(&process, Vec::new());
        let outcome = perform(&self.host, &Work::Sync, &process, &line);
        let written = self.host.store.names().len() != before;
        self.host.store.become_like(&now);
        match outcome {
            Outcome::Failed(_) if !written => Ok(()),
            other => Err(format!("a vault that was rewound was not noticed: {other:?}")),
        }
    }

    /// Looks for everything that was promised where something may have changed.
    pub(crate) fn look(&mut self, places: Places) -> Result<(), String> {
        if places.pool && self.host.absent.is_empty() {
            self.settle_pool()?;
            let reading = self.read_pool()?;
            self.compare("pool", reading, self.pool_is_rotten)?;
        }
        if places.vault {
            let reading = self.read_vault()?;
            self.compare("vault", reading, self.vault_is_rotten)?;
            self.require_unique_keys()?;
        }
        Ok(())
    }

    fn compare(&self, place: &str, reading: Reading, rotten: bool) -> Result<(), String> {
        for (id, files) in reading.found {
            if !is_same(&self.promises.points[&id].files, &files) {
                return Err(format!("the point {} in the {place} has other content", id.short()));
            }
        }
        let whole = |id: &PointId| !self.promises.points.get(id).is_some_and(|it| it.lost);
        match reading.unreadable.into_iter().find(|(id, _)| whole(id)) {
            Some((id, error)) if !rotten => {
                Err(format!("the point {} cannot be read from the {place}: {error}", id.short()))
            }
            _ => Ok(()),
        }
    }

    fn settle_pool(&mut self) -> Result<(), String> {
        let pool = self.open()?;
        let seen = pool.points().map_err(|error| error.to_string())?;
        let seen: BTreeSet<_> = seen.iter().map(|point| point.id).collect();
        let source_of = |point| {
            let source = pool.manifest(point).ok()?.source;
            source.strip_prefix("source")?.parse().ok()
        };
        let read = |point| read_pool_point(&pool, point);
        self.promises.settle_pool(&seen, self.pool_is_rotten, read, source_of)
    }

    fn open(&mut self) -> Result<Arc<Pool>, String> {
        let process = self.host.start(Fate::Lives);
        self.host.open(&process).map_err(|error| format!("opening the pool: {error}"))
    }

    fn read_pool(&mut self) -> Result<Reading, String> {
        let pool = self.open()?;
        let mut reading = Reading::default();
        for id in self.promises.in_pool() {
            match read_pool_point(&pool, id) {
                Ok(files) => reading.found.push((id, files)),
                Err(error) => reading.unreadable.push((id, error)),
            }
        }
        Ok(reading)
    }

    // Looks at the vault as a machine would that has nothing but the keys. Forgotten points that can still be taken back are as good as live ones.
    fn read_vault(&mut self) -> Result<Reading, String> {
        let line = self.line_to_committed();
        let now = self.host.store.now();
        let restorable = |since: Timestamp| {
            Duration::from_nanos((now.0 - since.0).max(0) as u64) < UNDELETE_PERIOD
        };
        let host = &self.host;
        let (realm, state) = runtime().block_on(async {
            let loaded = async {
                let realm = host.realm(line).await?;
                let state = realm.load(None).await?;
                Ok::<_, cloudsync::Error>((realm, state))
            };
            loaded.await.map_err(|error| format!("loading the vault's state: {error}"))
        })?;
        let live = state.points().keys().copied().collect();
        let forgotten = state.forgotten().keys().copied().collect();
        self.promises.settle_vault(&live, &forgotten, now, restorable)?;
        let points = self.promised_in_vault(now);
        runtime().block_on(async {
            let mut reading = Reading::default();
            for id in points {
                match read_vault_point(&realm, &state, id).await {
                    Ok(files) => reading.found.push((id, files)),
                    Err(error) => reading.unreadable.push((id, error)),
                }
            }
            Ok(reading)
        })
    }

    // The line of somebody who looks at the vault as it would be had no commit been harmed: nobody can unmake what was committed.
    fn line_to_committed(&mut self) -> Arc<Line> {
        let process = self.host.start(Fate::Lives);
        match self.lost_commits.is_empty() {
            true => self.host.line(&process, Vec::new()),
            false => self.host.line_to(&process, self.lost_commits.undone(&self.host.store)),
        }
    }

    // Reads what was promised, as somebody does who has nothing but the keys, in a vault whose history ends where a commit cannot be read.
    fn read_bare(&mut self) -> Result<Reading, String> {
        let process = self.host.start(Fate::Lives);
        let line = self.host.line_to(&process, self.host.store.clone());
        let promised = self.promised_in_vault(self.host.store.now());
        let host = &self.host;
        runtime().block_on(async {
            let realm = host.realm(line).await.map_err(|error| error.to_string())?;
            let mut reading = Reading::default();
            let readable = realm.load_readable().await;
            for id in promised {
                let found = match &readable {
                    Ok((state, _)) => read_vault_point(&realm, state, id).await,
                    Err(error) => Err(error.to_string()),
                };
                match found {
                    Ok(files) => reading.found.push((id, files)),
                    Err(error) => reading.unreadable.push((id, error)),
                }
            }
            Ok(reading)
        })
    }

    // Points that the vault promises to keep, forgotten ones that can still be taken back included.
    fn promised_in_vault(&self, now: Timestamp) -> Vec<PointId> {
        let is_restorable = |since: Timestamp| {
            Duration::from_nanos((now.0 - since.0).max(0) as u64) < UNDELETE_PERIOD
        };
        let mut points = self.promises.in_vault();
        points.extend(self.promises.forgotten().into_iter().filter(|point| {
            matches!(self.promises.points[point].vault, InVault::Forgotten(since) if is_restorable(since))
        }));
        points
    }

    // Two objects never share the salt that their key comes from, unless they are the same object.
    fn require_unique_keys(&self) -> Result<(), String> {
        let mut salts = std::collections::BTreeMap::new();
        for name in self.host.contents().into_iter().filter(|name| !self.tampered.contains(name)) {
            let Some(bytes) = self.host.store.peek(&name) else { continue };
            if let Some(salt) = bytes.get(32..64) {
                let hash = blake3::hash(&bytes);
                if *salts.entry(salt.to_vec()).or_insert(hash) != hash {
                    return Err(format!("{name} has the key and nonces of another object"));
                }
            }
        }
        Ok(())
    }
}

/// Where to look.
#[derive(Clone, Copy)]
pub(crate) struct Places {
    pub(crate) pool: bool,
    pub(crate) vault: bool,
}

/// What could be read, and what could not.
#[derive(Default)]
struct Reading {
    found: Vec<(PointId, Found)>,
    unreadable: Vec<(PointId, String)>,
}

fn name(work: &Work) -> String {
    let text = format!("{work:?}");
    text.split([' ', '(', '{']).next().unwrap_or_default().to_lowercase()
}

/// Returns whether work may change the pool.
pub(crate) fn is_local(work: &Work) -> bool {
    !matches!(work, Work::VaultForget(_) | Work::Undelete(_) | Work::VaultCheck | Work::Rekey)
}

/// Returns whether work may change the vault.
pub(crate) fn is_online(work: &Work) -> bool {
    matches!(
        work,
        Work::Sync
            | Work::VaultForget(_)
            | Work::Undelete(_)
            | Work::VaultPrune { .. }
            | Work::Heal
            | Work::Rekey
    )
}
