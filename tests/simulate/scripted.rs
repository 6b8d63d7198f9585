//! Histories with a plot: each is what a random one once showed, at every moment at which it can happen.

use crate::alone;
use crate::history::live;
use crate::machine::{Fate, Scope};
use crate::script::{Death, IndexFate, Op, Script, Step, calm};

fn step(op: Op, fate: Fate, death: Death) -> Step {
    Step { op, beside: None, fate, troubles: Vec::new(), death, index: IndexFate::Kept }
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
        let script = Script { seed: at, disks: 1, steps };

        let lived = live(&script);

        assert!(lived.is_ok(), "killed at change {at}: {lived:?}");
    }
}
