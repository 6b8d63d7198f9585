//! Histories with a plot: each is what a random one once showed, at every moment at which it can happen.

use storepool::simulated::Mistake;

use crate::alone;
use crate::history::live;
use crate::machine::{Fate, Scope};
use crate::network::Trouble;
use crate::script::{Company, Death, IndexFate, Op, Script, Step, calm};

fn step(op: Op, fate: Fate, death: Death) -> Step {
    Step { who: 0, op, beside: None, fate, troubles: Vec::new(), death, index: IndexFate::Kept }
}

/// The next backup found the killed one's packs, relied on them and synced only its own; then the power went.
#[test]
fn what_a_killed_backup_left_is_durable_before_another_relies_on_it() {
    let _alone = alone();
    let backup = Op::Backup { source: 0, force: false };
    for at in 0..20 {
        let killed = Fate::Dies { at, scope: Scope::All };
        let cut = Fate::Dies { at: 0, scope: Scope::All };
        let steps = vec![
            calm(Op::Change { source: 0, seed: 1 }),
            step(backup, killed, Death::Kill),
            calm(backup),
            calm(Op::Change { source: 0, seed: 2 }),
            step(backup, cut, Death::PowerCut),
        ];
        let script = Script { seed: at, disks: 1, company: Company::Alone, steps };

        let lived = live(&script);

        assert!(lived.is_ok(), "killed at change {at}: {lived:?}");
    }
}

// Two of three points leave the vault for good, by a prune that dies before its request number `at`.
fn cut_prune(at: u64) -> Script {
    let backup = Op::Backup { source: 0, force: false };
    let mut steps = Vec::new();
    for seed in 1..=3 {
        steps.extend([calm(Op::Change { source: 0, seed }), calm(backup), calm(Op::Sync)]);
    }
    let mut cut = calm(Op::VaultPrune { with_pool: true, all: true });
    cut.troubles = vec![(at, Trouble::Dies(Scope::All))];
    steps.extend([
        calm(Op::VaultForget { pick: 0 }),
        calm(Op::VaultForget { pick: 0 }),
        calm(Op::Pass { hours: 15 * 24 }),
        cut,
        calm(Op::VaultCheck),
    ]);
    Script { seed: at, disks: 1, company: Company::Alone, steps }
}

/// Requests of that prune: lists first, then deletes, the commit, and what comes after it.
const REQUESTS: std::ops::Range<u64> = 0..90;

#[test]
fn a_prune_of_the_vault_may_end_at_any_request() {
    let _alone = alone();
    for at in REQUESTS {
        let lived = live(&cut_prune(at));

        assert!(lived.is_ok(), "cut at request {at}: {lived:?}");
    }
}

/// Chance alone seldom cuts a prune in just that moment.
#[test]
fn a_delete_before_its_commit_is_noticed() {
    let _alone = alone();
    let _planted = crate::mistakes::Planted::new(Mistake::DeleteBeforeCommit);
    let noticed = REQUESTS.filter(|at| live(&cut_prune(*at)).is_err()).count();

    assert!(noticed > 0, "a prune deletes first, and nobody noticed");
}
