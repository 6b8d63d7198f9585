//! A history as data: what is done, in which order, and what goes wrong meanwhile. Drawn from a seed; any step can be left out.

use std::io::ErrorKind;

use crate::chance::Chance;
use crate::machine::{Fate, Scope};
use crate::network::Trouble;

/// Something that a person, a schedule or the world does. Numbers pick among what is there, so that a step means something whatever came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Files of a source change.
    Change { source: usize, seed: u64 },
    /// A point is made.
    Backup { source: usize, force: bool },
    /// A point of the pool is forgotten, or all but the newest.
    Forget { pick: u64, all: bool },
    /// Space of the pool is given back.
    Prune { all: bool },
    /// Points are copied to the vault.
    Sync,
    /// A point of the vault is forgotten.
    VaultForget { pick: u64 },
    /// A forgotten point of the vault is taken back.
    Undelete { pick: u64 },
    /// Space of the vault is given back.
    VaultPrune { with_pool: bool, all: bool },
    /// The pool is proved.
    Check,
    /// The vault is proved.
    VaultCheck,
    /// Pool and vault heal each other.
    Heal,
    /// Time passes, here and in the vault.
    Pass { hours: u64 },
    /// This machine's clock jumps.
    Jump { days: i64 },
    /// A bit of a pack flips.
    Rot { pick: u64, place: u64 },
    /// A bit of a vault object flips.
    VaultRot { pick: u64, place: u64 },
    /// An object of the vault is gone.
    VaultLose { pick: u64 },
    /// The index is gone.
    LoseIndex,
    /// What this installation remembers of the vault is gone.
    LoseLedger,
    /// The ledger is as it was some steps ago.
    OldLedger,
    /// A disk of the pool is not mounted.
    Unplug { pick: u64 },
    /// All disks are back.
    Plug,
    /// The vault shows an older state to one sync.
    Rewind,
    /// A commit is lost, or a bit of it flips.
    CommitRot { pick: u64, place: u64 },
    /// The slot of the passphrase is lost, or a bit of it flips.
    SlotRot { place: u64 },
    /// The passphrase is set anew, with the keys that this machine has.
    Rekey,
    /// The whole machine is copied, and the copy started.
    Twin,
    /// A machine whose place its copy took takes it back.
    Adopt,
}

/// What is left after all processes died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// They were killed: all of it.
    Kill,
    /// The power went: nothing that was not synced.
    PowerCut,
    /// The power went: of what was not synced, some.
    Torn(u64),
}

/// What is left of the index after the power went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IndexFate {
    /// All of it.
    Kept,
    /// Not its last transactions.
    RolledBack(u64),
    /// What it was before the step.
    Old,
    /// Nothing.
    Gone,
}

/// One step: one operation, or two at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// On which server.
    pub(crate) who: usize,
    pub(crate) op: Op,
    /// Another process, and the seed of their turns. Where there are two servers, an odd seed means one of the other server.
    pub(crate) beside: Option<(Op, u64)>,
    pub(crate) fate: Fate,
    pub(crate) troubles: Vec<(u64, Trouble)>,
    pub(crate) death: Death,
    pub(crate) index: IndexFate,
}

impl Step {
    /// Returns whether nothing is meant to go wrong.
    pub(crate) fn is_calm(&self) -> bool {
        self.fate == Fate::Lives && self.troubles.is_empty()
    }
}

/// Who else writes to the vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Company {
    /// Nobody.
    Alone,
    /// Another server, with a label and keys of its own.
    Neighbour,
    /// A copy of the same machine, from a [`Op::Twin`] on.
    Twin,
}

/// A whole history.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) seed: u64,
    pub(crate) disks: usize,
    pub(crate) company: Company,
    pub(crate) steps: Vec<Step>,
}

impl Script {
    /// Draws the history of this seed.
    pub(crate) fn draw(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let company = match chance.below(100) {
            0..10 => Company::Neighbour,
            10..22 => Company::Twin,
            _ => Company::Alone,
        };
        let is_alone = company == Company::Alone;
        let disks = 1 + usize::from(is_alone && chance.percent(35));
        // A swarm: each history has only some kinds of trouble, so that rare ones meet.
        let swarm = Swarm {
            disk: chance.percent(70),
            network: chance.percent(60),
            beside: chance.percent(if is_alone { 50 } else { 75 }),
            // What a twin finds damaged is not its own damage: rot is for those whose promises are their own.
            rot: company != Company::Twin && chance.percent(30),
            clock: chance.percent(40),
            plugs: disks > 1 && chance.percent(50),
        };
        let length = 8 + chance.below(if is_alone { 12 } else { 8 });
        let mut steps = Vec::new();
        for who in 0..=usize::from(company == Company::Neighbour) {
            steps.push(on(who, calm(Op::Change { source: 0, seed: chance.next() })));
            steps.push(on(who, calm(Op::Backup { source: 0, force: false })));
        }
        let twin_at = if company == Company::Twin { chance.below(length) } else { u64::MAX };
        for number in 0..length {
            if number == twin_at {
                steps.push(calm(Op::Twin));
            }
            let has_company = company == Company::Neighbour || number >= twin_at;
            let who = if has_company { chance.below(2) as usize } else { 0 };
            // Nothing is worth protecting that does not change.
            if chance.percent(35) {
                let change = Op::Change { source: source(&mut chance), seed: chance.next() };
                steps.push(on(who, calm(change)));
            }
            steps.push(on(who, swarm.step(&mut chance)));
            if number > twin_at && chance.percent(8) {
                steps.push(on(who, calm(Op::Adopt)));
            }
        }
        if company == Company::Twin && chance.percent(60) {
            steps.extend(race(&mut chance));
        }
        if is_alone && chance.percent(50) {
            steps.extend(plot(&mut chance));
        }
        Self { seed, disks, company, steps }
    }
}

fn on(who: usize, step: Step) -> Step {
    Step { who, ..step }
}

// A machine and its copy write in the same moment.
fn race(chance: &mut Chance) -> Vec<Step> {
    let mut steps = vec![calm(Op::Twin), on(chance.below(2) as usize, calm(Op::Adopt))];
    for who in 0..2 {
        steps.push(on(who, calm(Op::Change { source: 0, seed: chance.next() })));
        steps.push(on(who, calm(Op::Backup { source: 0, force: false })));
    }
    let other = match chance.below(3) {
        0 => Op::VaultPrune { with_pool: true, all: true },
        1 => Op::VaultForget { pick: chance.next() },
        _ => Op::Sync,
    };
    let mut both = on(chance.below(2) as usize, calm(Op::Sync));
    both.beside = Some((other, chance.next() | 1));
    if chance.coin() {
        both.troubles = vec![trouble(chance)];
    }
    steps.extend([both, on(0, calm(Op::Sync)), on(1, calm(Op::Sync)), calm(Op::VaultCheck)]);
    steps
}

// What chance alone seldom brings together.
fn plot(chance: &mut Chance) -> Vec<Step> {
    let change = |chance: &mut Chance| Op::Change { source: 0, seed: chance.next() };
    let backup = Op::Backup { source: 0, force: false };
    let mut ops = Vec::new();
    for _ in 0..3 {
        ops.extend([change(chance), backup, Op::Sync]);
    }
    match chance.below(7) {
        // Points leave the vault for good, and what they held comes back.
        0 => {
            ops.extend([
                Op::VaultForget { pick: chance.next() },
                Op::VaultForget { pick: chance.next() },
            ]);
            let prune = Op::VaultPrune { with_pool: chance.coin(), all: chance.coin() };
            ops.extend([
                Op::Pass { hours: 15 * 24 },
                prune,
                Op::Pass { hours: 15 * 24 },
                prune,
                prune,
            ]);
            for _ in 0..3 {
                ops.extend([change(chance), backup, Op::Sync]);
            }
        }
        // A clock that is wrong while points wait to be taken back.
        1 => {
            ops.push(Op::VaultForget { pick: chance.next() });
            let prune = Op::VaultPrune { with_pool: true, all: true };
            ops.extend([
                Op::Jump { days: 400 },
                prune,
                prune,
                Op::Undelete { pick: chance.next() },
            ]);
            ops.push(Op::Jump { days: -400 });
        }
        // A prune of the vault ends somewhere between what it decides and what it does.
        2 => {
            let forget = |chance: &mut Chance| Op::VaultForget { pick: chance.next() };
            ops.extend([forget(chance), forget(chance), Op::Pass { hours: 15 * 24 }]);
            let mut steps: Vec<_> = ops.into_iter().map(calm).collect();
            let mut cut = calm(Op::VaultPrune { with_pool: true, all: true });
            cut.troubles = vec![(chance.below(90), Trouble::Dies(Scope::All))];
            steps.extend([cut, calm(Op::VaultCheck), calm(Op::Sync)]);
            return steps;
        }
        // A commit is lost, and what makes the history whole again ends somewhere.
        3 => {
            if chance.coin() {
                ops.push(Op::VaultForget { pick: chance.next() });
            }
            ops.extend([
                Op::CommitRot { pick: chance.next(), place: chance.next() },
                Op::VaultCheck,
            ]);
            let mut steps: Vec<_> = ops.into_iter().map(calm).collect();
            let scope = Scope::All;
            for _ in 0..=chance.below(2) {
                let mut cut = calm(Op::Heal);
                let at = chance.below(14);
                cut.troubles = vec![match chance.coin() {
                    true => (at, Trouble::Dies(scope)),
                    false => (at, Trouble::DiesAfter(scope)),
                }];
                steps.push(cut);
            }
            let rest = [
                Op::Heal,
                Op::VaultCheck,
                Op::OldLedger,
                Op::Sync,
                Op::Pass { hours: 16 * 24 },
                Op::VaultPrune { with_pool: true, all: true },
            ];
            steps.extend(rest.into_iter().map(calm));
            return steps;
        }
        // An object never arrives, and nobody says so.
        4 => {
            let mut steps: Vec<_> = ops.into_iter().map(calm).collect();
            for _ in 0..3 {
                let mut unheard = calm(Op::Sync);
                unheard.troubles = vec![(chance.below(12), Trouble::Lost)];
                steps.extend([calm(change(chance)), calm(backup), unheard]);
            }
            steps.push(calm(Op::VaultCheck));
            return steps;
        }
        // What a killed run has left is relied on, and then the power goes.
        5 => {
            let mut steps: Vec<_> = ops.into_iter().map(calm).collect();
            for _ in 0..3 {
                let mut killed = calm(backup);
                killed.fate = Fate::Dies { at: chance.below(26), scope: Scope::All };
                let mut cut = calm(backup);
                cut.fate = Fate::Dies { at: chance.below(6), scope: Scope::All };
                cut.death = Death::PowerCut;
                steps.extend([calm(change(chance)), killed, calm(backup), cut]);
            }
            steps.push(calm(Op::Check));
            return steps;
        }
        // What is removed from the pool is wanted again in the same moment.
        _ if chance.coin() => {
            ops.extend([Op::Forget { pick: chance.next(), all: true }, change(chance)]);
            let mut steps: Vec<_> = ops.into_iter().map(calm).collect();
            for _ in 0..3 {
                let mut both = calm(Op::Prune { all: true });
                both.beside = Some((backup, chance.next()));
                steps.extend([both, calm(Op::Forget { pick: chance.next(), all: true })]);
                steps.push(calm(change(chance)));
            }
            return steps;
        }
        // What is to be removed waits for somebody who reads, and is wanted again when he has gone.
        _ => {
            let mut steps: Vec<_> = ops.into_iter().map(calm).collect();
            for _ in 0..2 {
                let wanted = change(chance);
                steps.extend([calm(wanted), calm(backup)]);
                steps.extend((0..3).map(|_| calm(change(chance))));
                steps.extend([calm(backup), calm(Op::Forget { pick: chance.next(), all: true })]);
                let mut waits = calm(Op::Prune { all: true });
                waits.beside = Some((Op::Check, chance.next()));
                let mut both = calm(backup);
                both.beside = Some((Op::Prune { all: true }, chance.next()));
                steps.extend([waits, calm(wanted), both]);
            }
            return steps;
        }
    }
    ops.into_iter().map(calm).collect()
}

fn source(chance: &mut Chance) -> usize {
    usize::from(chance.percent(25))
}

/// Returns the step in which nothing goes wrong.
pub(crate) fn calm(op: Op) -> Step {
    let (fate, troubles) = (Fate::Lives, Vec::new());
    Step { who: 0, op, beside: None, fate, troubles, death: Death::Kill, index: IndexFate::Kept }
}

struct Swarm {
    disk: bool,
    network: bool,
    beside: bool,
    rot: bool,
    clock: bool,
    plugs: bool,
}

impl Swarm {
    fn step(&self, chance: &mut Chance) -> Step {
        let op = self.op(chance);
        let mut step = calm(op);
        if is_work(op) {
            if self.disk && chance.percent(40) {
                step.fate = fate(op, chance);
            }
            if self.network && is_online(op) && chance.percent(50) {
                step.troubles = (0..=chance.below(3)).map(|_| trouble(chance)).collect();
            }
            if self.beside && chance.percent(45) {
                let other =
                    std::iter::repeat_with(|| self.op(chance)).find(|op| can_run_beside(*op));
                step.beside = other.map(|op| (op, chance.next()));
            }
        }
        step.death = match chance.below(3) {
            0 => Death::Kill,
            1 => Death::PowerCut,
            _ => Death::Torn(chance.next()),
        };
        step.index = match chance.below(6) {
            0 => IndexFate::Gone,
            1 => IndexFate::Old,
            2 | 3 => IndexFate::RolledBack(chance.next()),
            _ => IndexFate::Kept,
        };
        step
    }

    fn op(&self, chance: &mut Chance) -> Op {
        loop {
            let pick = chance.next();
            return match chance.below(104) {
                0..24 => Op::Backup { source: source(chance), force: chance.percent(15) },
                24..33 => Op::Forget { pick, all: chance.percent(20) },
                33..46 => Op::Prune { all: chance.percent(60) },
                46..60 => Op::Sync,
                60..65 => Op::VaultForget { pick },
                65..68 => Op::Undelete { pick },
                68..76 => Op::VaultPrune { with_pool: chance.coin(), all: chance.coin() },
                76..79 => Op::Check,
                79..81 => Op::VaultCheck,
                81..87 => Op::Pass { hours: 1 + chance.low(20 * 24) },
                87..88 => Op::LoseIndex,
                88..89 => Op::LoseLedger,
                89..90 => Op::OldLedger,
                90..91 => Op::Rewind,
                91..93 if self.clock => {
                    Op::Jump { days: *chance.pick(&[400, -400, 20, -20]).expect("some") }
                }
                93..95 if self.rot => Op::Rot { pick, place: chance.next() },
                95..96 if self.rot => Op::VaultRot { pick, place: chance.next() },
                96..97 if self.rot => Op::VaultLose { pick },
                93..97 if self.plugs => Op::Unplug { pick },
                97..98 if self.plugs => Op::Plug,
                98..100 if self.rot => Op::Heal,
                100..102 if self.rot => Op::CommitRot { pick, place: chance.next() },
                102..103 if self.rot => Op::SlotRot { place: chance.next() },
                103..104 if self.rot => Op::Rekey,
                _ => continue,
            };
        }
    }
}

fn is_work(op: Op) -> bool {
    can_run_beside(op) || matches!(op, Op::Heal)
}

fn can_run_beside(op: Op) -> bool {
    matches!(
        op,
        Op::Backup { .. }
            | Op::Forget { .. }
            | Op::Prune { .. }
            | Op::Sync
            | Op::VaultForget { .. }
            | Op::Undelete { .. }
            | Op::VaultPrune { .. }
            | Op::Check
    )
}

fn is_online(op: Op) -> bool {
    matches!(
        op,
        Op::Sync | Op::VaultForget { .. } | Op::Undelete { .. } | Op::VaultPrune { .. } | Op::Heal
    )
}

fn fate(op: Op, chance: &mut Chance) -> Fate {
    let most = if matches!(op, Op::Prune { .. }) { 40 } else { 26 };
    let at = chance.below(most);
    match chance.below(10) {
        0..6 => Fate::Dies { at, scope: Scope::All },
        6 => Fate::Dies { at, scope: Scope::One },
        7 => Fate::CannotChange { at, kind: ErrorKind::StorageFull, lasting: chance.coin() },
        8 => {
            let kinds = [ErrorKind::Other, ErrorKind::QuotaExceeded, ErrorKind::ReadOnlyFilesystem];
            let kind = *chance.pick(&kinds).expect("some");
            Fate::CannotChange { at, kind, lasting: kind != ErrorKind::Other || chance.percent(30) }
        }
        _ => Fate::CannotRead { at: chance.below(60) },
    }
}

fn trouble(chance: &mut Chance) -> (u64, Trouble) {
    let scope = if chance.percent(80) { Scope::All } else { Scope::One };
    let trouble = match chance.below(12) {
        0 | 1 => Trouble::Lost,
        2 => Trouble::Refused,
        3 | 4 => Trouble::LostReply,
        5 | 6 => Trouble::Late,
        7 => Trouble::Twice,
        8 => Trouble::CutRead,
        9 => Trouble::StaleList,
        10 => Trouble::Dies(scope),
        _ => Trouble::DiesAfter(scope),
    };
    (chance.below(22), trouble)
}
