//! Making a failing history small: whatever can be left out so that it still fails is left out.

use std::time::{Duration, Instant};

use crate::history::{Failure, live};
use crate::machine::Fate;
use crate::script::{Death, IndexFate, Script, Step};

/// Returns a smaller history that fails, and how. Takes no longer than `limit`, give or take one history.
pub(crate) fn shrink(script: &Script, failure: &Failure, limit: Duration) -> (Script, Failure) {
    let start = Instant::now();
    let mut best = (script.clone(), failure.clone());
    best.0.steps.truncate(failure.step + 1);
    if let Err(failure) = live(&best.0) {
        best.1 = failure;
    } else {
        best.0 = script.clone();
    }
    loop {
        let before = best.0.steps.clone();
        let mut number = best.0.steps.len();
        while number > 0 {
            number -= 1;
            for candidate in simpler(&best.0, number) {
                if start.elapsed() > limit {
                    return best;
                }
                if let Err(failure) = live(&candidate) {
                    best = (candidate, failure);
                    break;
                }
            }
        }
        if best.0.steps == before {
            return best;
        }
    }
}

// The history without a step, or with a simpler one.
fn simpler(script: &Script, number: usize) -> Vec<Script> {
    let mut without = script.clone();
    without.steps.remove(number);
    let mut all = vec![without];
    let mut change = |change: fn(&mut Step)| {
        let mut changed = script.clone();
        change(&mut changed.steps[number]);
        if changed.steps != script.steps {
            all.push(changed);
        }
    };
    change(|step| step.beside = None);
    change(|step| step.fate = Fate::Lives);
    change(|step| step.troubles.clear());
    change(|step| step.troubles.truncate(step.troubles.len().saturating_sub(1)));
    change(|step| step.death = Death::PowerCut);
    change(|step| step.death = Death::Kill);
    change(|step| step.index = IndexFate::Kept);
    all
}

/// Writes a history down for people.
pub(crate) fn describe(script: &Script) -> String {
    let mut text = format!("a pool of {} disks, {:?}\n", script.disks, script.company);
    for (number, step) in script.steps.iter().enumerate() {
        text.push_str(&format!("{number:3}. server {}: {:?}", step.who, step.op));
        if let Some((other, seed)) = &step.beside {
            text.push_str(&format!(", beside {other:?} in turns of {seed:x}"));
        }
        if step.fate != Fate::Lives {
            text.push_str(&format!(", {:?}", step.fate));
        }
        if !step.troubles.is_empty() {
            text.push_str(&format!(", on the line {:?}", step.troubles));
        }
        if !step.is_calm() {
            text.push_str(&format!(", then {:?}, index {:?}", step.death, step.index));
        }
        text.push('\n');
    }
    text
}
