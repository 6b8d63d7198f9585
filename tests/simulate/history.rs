//! One history from its beginning to its end: each step is done, and then everything promised is looked for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cloudsync::forget::UNDELETE_PERIOD;
use storepool::clock::Timestamp;
use storepool::id::PointId;
use storepool::pool::Pool;

use crate::chance::Chance;
use crate::host::{Found, Host, read_pool_point, read_vault_point, runtime};
use crate::machine::{Fate, Scope};
use crate::promises::{Asked, InPool, InVault, Promises, is_same};
use crate::script::{Op, Script, Step, calm};
use crate::tree::Source;
use crate::work::{Outcome, Work, perform};

/// What was not as promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The number of the step after which it showed.
    pub(crate) step: usize,
    /// What it is.
    pub(crate) what: String,
}

/// Lives a history; returns all that was done to the disks, line by line.
pub(crate) fn live(script: &Script) -> Result<String, Failure> {
    let mut history = History::new(script);
    for (step, what) in script.steps.iter().enumerate() {
        history.step(what).map_err(|what| Failure { step, what })?;
    }
    history.end().map_err(|what| Failure { step: script.steps.len(), what })?;
    Ok(history.host.machine.trace())
}

struct History {
    host: Host,
    promises: Promises,
    sources: Vec<Source>,
    // Objects of the vault whose bytes were changed behind everybody's back.
    tampered: BTreeSet<String>,
    // Points that were there before the step: a check speaks of no others.
    known: BTreeSet<PointId>,
    // Damage that was done and not yet healed.
    pool_is_rotten: bool,
    vault_is_rotten: bool,
}

impl History {
    fn new(script: &Script) -> Self {
        Self {
            host: Host::new(script.seed, script.disks),
            promises: Promises::default(),
            sources: vec![Source::default(); 2],
            tampered: BTreeSet::new(),
            known: BTreeSet::new(),
            pool_is_rotten: false,
            vault_is_rotten: false,
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        self.host.machine.note(&format!("{step:?}"));
        let Some(work) = self.pick(step.op) else {
            return self.happen(step.op);
        };
        self.host.remember();
        self.known = self.promises.points.keys().copied().collect();
        let other = step.beside.and_then(|(op, seed)| Some((self.pick(op)?, seed)));
        // One at a time holds the lock of a vault.
        let other = other.filter(|(other, _)| !(is_online(&work) && is_online(other)));
        self.announce(&work);
        if let Some((other, _)) = &other {
            self.announce(other);
        }
        let (outcome, beside) = self.run(step, &work, other.as_ref());
        self.host.restart(step.death, step.index);
        let excused =
            !step.is_calm() || other.is_some() || self.is_hurt() || self.host.network.is_busy();
        self.conclude(step, &work, outcome, excused)?;
        if let (Some((other, _)), Some(outcome)) = (&other, beside) {
            self.conclude(step, other, outcome, true)?;
        }
        let works: Vec<_> =
            [Some(&work), other.as_ref().map(|(other, _)| other)].into_iter().flatten().collect();
        self.look(Places {
            pool: works.iter().any(|work| is_local(work)),
            vault: works.iter().any(|work| is_online(work)),
        })
    }

    fn is_hurt(&self) -> bool {
        let is_rotten = self.pool_is_rotten || self.vault_is_rotten;
        is_rotten || self.has_losses() || !self.host.absent.is_empty()
    }

    // Chooses what an operation is about; nothing if there is nothing.
    fn pick(&self, op: Op) -> Option<Work> {
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
            // Healing is for a whole pool.
            Op::Heal if self.host.absent.is_empty() => Work::Heal,
            _ => return None,
        })
    }

    fn is_restorable(&self, since: Timestamp) -> bool {
        let passed = Duration::from_nanos((self.host.store.now().0 - since.0).max(0) as u64);
        passed < UNDELETE_PERIOD
    }

    // What may come to pass from now on, whatever is heard of it.
    fn announce(&mut self, work: &Work) {
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

    fn promised(&mut self, point: &PointId) -> &mut crate::promises::Promise {
        self.promises.points.get_mut(point).expect("picked from there")
    }

    fn run(
        &mut self,
        step: &Step,
        work: &Work,
        other: Option<&(Work, u64)>,
    ) -> (Outcome, Option<Outcome>) {
        let (process, second) = (self.host.start(step.fate), self.host.start(Fate::Lives));
        let line = self.host.line(&process, step.troubles.clone());
        let quiet = self.host.line(&second, Vec::new());
        let host = &self.host;
        let Some((other, seed)) = other else {
            return (perform(host, work, &process, &line), None);
        };
        host.machine.schedule(&[process.pid(), second.pid()], *seed);
        std::thread::scope(|scope| {
            let beside = scope.spawn(|| {
                let _ended = Ended { host, pid: second.pid() };
                host.machine.await_first_turn(second.pid());
                perform(host, other, &second, &quiet)
            });
            let outcome = {
                let _ended = Ended { host, pid: process.pid() };
                host.machine.await_first_turn(process.pid());
                perform(host, work, &process, &line)
            };
            (outcome, Some(beside.join().expect("nothing panics")))
        })
    }

    // Holds the model to what was answered.
    fn conclude(
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
            (Work::Check | Work::VaultCheck, Outcome::Checked { sound, affected, detail })
                if step.is_calm() =>
            {
                self.judge(work, sound, &affected, &detail)?;
            }
            (Work::Heal, Outcome::Done) if self.is_hurt() => self.judge_healing()?,
            _ => {}
        }
        Ok(())
    }

    // A check says what is so, no more and no less.
    fn judge(
        &mut self,
        work: &Work,
        sound: bool,
        affected: &BTreeSet<PointId>,
        detail: &str,
    ) -> Result<(), String> {
        let in_pool = matches!(work, Work::Check);
        let hurt = if in_pool {
            self.pool_is_rotten || self.has_losses() || !self.host.absent.is_empty()
        } else {
            self.vault_is_rotten || self.has_losses()
        };
        if !hurt {
            return match sound {
                true => Ok(()),
                false => Err(format!("{} found damage that nobody did: {detail}", name(work))),
            };
        }
        if !self.host.absent.is_empty() {
            return Ok(());
        }
        let reading = if in_pool { self.read_pool()? } else { self.read_vault()? };
        let is_missed = |point| self.known.contains(point) && !affected.contains(point);
        let missed = reading.unreadable.iter().find(|(point, _)| is_missed(point));
        match missed {
            Some((point, error)) => Err(format!(
                "{} calls the point {} whole, but: {error}; found: {detail}",
                name(work),
                point.short()
            )),
            None => Ok(()),
        }
    }

    // What the other copy has is there again.
    fn judge_healing(&mut self) -> Result<(), String> {
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
            Outcome::Checked { sound, .. } if sound || self.has_losses() => Ok(()),
            Outcome::Checked { detail, .. } => {
                Err(format!("nothing is lost, and not everything was healed: {detail}"))
            }
            other => Err(format!("after healing: {other:?}")),
        }
    }

    fn has_losses(&self) -> bool {
        self.promises.points.values().any(|promise| promise.lost)
    }

    // What the world does.
    fn happen(&mut self, op: Op) -> Result<(), String> {
        match op {
            Op::Change { source, seed } => {
                let now = storepool::clock::Clock::now(&*self.host.clock).0;
                self.sources[source].change(seed, now);
                // Far enough from the next backup to be told apart from it.
                self.host.clock.shift(5_000_000_000);
            }
            Op::Pass { hours } => {
                self.host.store.advance(Duration::from_secs(hours * 3600));
                self.host.clock.shift(hours as i64 * 3_600_000_000_000);
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
            Op::Rewind if !self.host.network.is_busy() => self.rewind()?,
            _ => {}
        }
        Ok(())
    }

    // A ledger that is gone knew which bytes were found wrong; only another check that reads them finds out.
    fn forget_rot(&mut self) {
        let names = self.host.store.names();
        self.vault_is_rotten |= names.iter().any(|name| self.tampered.contains(name));
    }

    fn plug(&mut self) {
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

    // Looks for everything that was promised where something may have changed.
    fn look(&mut self, places: Places) -> Result<(), String> {
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
        let process = self.host.start(Fate::Lives);
        let line = self.host.line(&process, Vec::new());
        let now = self.host.store.now();
        let restorable = |since: Timestamp| {
            Duration::from_nanos((now.0 - since.0).max(0) as u64) < UNDELETE_PERIOD
        };
        let (host, promises) = (&self.host, &mut self.promises);
        runtime().block_on(async {
            let loaded = async {
                let realm = host.realm(line).await?;
                let state = realm.load(None).await?;
                Ok::<_, cloudsync::Error>((realm, state))
            };
            let (realm, state) =
                loaded.await.map_err(|error| format!("loading the vault's state: {error}"))?;
            let live = state.points().keys().copied().collect();
            let forgotten = state.forgotten().keys().copied().collect();
            promises.settle_vault(&live, &forgotten, now, restorable)?;
            let mut points = promises.in_vault();
            points.extend(promises.forgotten().into_iter().filter(|point| {
                matches!(promises.points[point].vault, InVault::Forgotten(since) if restorable(since))
            }));
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

    // Once nothing goes wrong any more, everything comes right by itself.
    fn end(&mut self) -> Result<(), String> {
        self.plug();
        // Requests that are still under way arrive, and clocks agree.
        runtime().block_on(self.host.network.deliver_all(&self.host.store));
        let everywhere = Places { pool: true, vault: true };
        self.look(everywhere).map_err(|what| format!("at the end: {what}"))?;
        let now = storepool::clock::Clock::now(&*self.host.clock).0;
        self.host.clock.shift(self.host.store.now().0 - now);
        if self.is_hurt() {
            self.step(&calm(Op::Heal)).map_err(|what| format!("at the end, healing: {what}"))?;
        }
        for op in [
            Op::Sync,
            Op::Prune { all: true },
            Op::VaultPrune { with_pool: true, all: true },
            Op::Pass { hours: 40 * 24 },
            Op::VaultPrune { with_pool: false, all: false },
            Op::VaultPrune { with_pool: false, all: false },
            Op::Check,
            Op::VaultCheck,
        ] {
            self.step(&calm(op)).map_err(|what| format!("at the end, {op:?}: {what}"))?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Places {
    pool: bool,
    vault: bool,
}

/// What could be read, and what could not.
#[derive(Default)]
struct Reading {
    found: Vec<(PointId, Found)>,
    unreadable: Vec<(PointId, String)>,
}

struct Ended<'a> {
    host: &'a Host,
    pid: u32,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Whoever waits for this one must not wait for ever.
            self.host.machine.die(self.pid, Scope::One);
        }
        self.host.machine.end(self.pid);
    }
}

fn name(work: &Work) -> String {
    let text = format!("{work:?}");
    text.split([' ', '(', '{']).next().unwrap_or_default().to_lowercase()
}

fn is_local(work: &Work) -> bool {
    !matches!(work, Work::VaultForget(_) | Work::Undelete(_) | Work::VaultCheck)
}

fn is_online(work: &Work) -> bool {
    matches!(
        work,
        Work::Sync
            | Work::VaultForget(_)
            | Work::Undelete(_)
            | Work::VaultPrune { .. }
            | Work::Heal
    )
}
