//! Harm to what names the content of a vault: commits and slots. What is left for others is read in the same moment.

use cloudsync::layout::ObjectName;

use super::{Server, perform};
use crate::chance::Chance;
use crate::host::runtime;
use crate::machine::Fate;
use crate::work::{Outcome, Work};

impl Server {
    /// Finds out whether harmed commits still matter: not once a load from nothing gets past them.
    pub(super) fn settle_commits(&mut self) {
        self.lost_commits.settle(&self.host.store);
        if self.lost_commits.is_empty() {
            return;
        }
        let process = self.host.start(Fate::Lives);
        let line = self.host.line_to(&process, self.host.store.clone());
        let host = &self.host;
        let loaded = runtime().block_on(async { host.realm(line).await?.load(None).await });
        if loaded.is_ok() {
            self.lost_commits.let_go();
        }
    }

    /// Harms a commit that this machine has seen, and reads what is left for others.
    pub(super) fn harm_commit(&mut self, pick: u64, place: u64) -> Result<(), String> {
        self.settle_commits();
        let seen = self.host.seen_generation();
        let commits: Vec<_> = self.host.commits();
        let is_seen = |name: &&String| {
            name.parse::<ObjectName>().is_ok_and(|it| it.generation() <= Some(seen))
        };
        let harmable: Vec<_> = commits.iter().filter(is_seen).cloned().collect();
        let Some(name) = Chance::new(pick).pick(&harmable) else { return Ok(()) };
        if !self.lost_commits.is_empty() || self.host.network.is_busy() {
            return Ok(());
        }
        match (place & 1 == 1, commits.last() == Some(name)) {
            (false, _) => self.lost_commits.rot(&self.host.store, name, place),
            (true, false) => self.lost_commits.lose(&self.host.store, name),
            (true, true) => return self.lose_newest_commit(name),
        }
        let reading = self.read_bare()?;
        self.compare("vault without a commit", reading, true)
    }

    // Without its newest commit a vault looks like one that was rewound: nothing is written until it is back.
    fn lose_newest_commit(&mut self, name: &str) -> Result<(), String> {
        self.lost_commits.lose(&self.host.store, name);
        let before = self.host.store.names();
        let process = self.host.start(Fate::Lives);
        let line = self.host.line(&process, Vec::new());
        let outcome = perform(&self.host, &Work::Sync, &process, &line);
        let written = self.host.store.names() != before;
        self.lost_commits.put_back(&self.host.store);
        match outcome {
            Outcome::Failed(_) if !written => Ok(()),
            other => Err(format!("the newest commit was lost, and nobody noticed: {other:?}")),
        }
    }

    /// Harms the slot. Whoever has a passphrase alone is told what is wrong: not that it is the wrong one.
    pub(super) fn harm_slot(&mut self, place: u64) -> Result<(), String> {
        let Some(name) = self.host.slots().pop() else { return Ok(()) };
        if place & 1 == 1 {
            self.host.store.lose(&name);
        } else {
            let mut bytes = self.host.store.peek(&name).expect("listed").to_vec();
            let at = place as usize % bytes.len();
            bytes[at] ^= 1 << (place >> 61);
            self.host.store.tamper(&name, bytes);
        }
        self.slot_is_rotten = true;
        match self.host.unlock() {
            Err(error) if error.is_damage() => Ok(()),
            other => Err(format!("the only slot is harmed, and unlocking says {other:?}")),
        }
    }

    /// Brings back from outside whatever nobody can mend here; returns whether there was anything.
    pub(crate) fn bring_commits_back(&mut self) -> bool {
        self.settle_commits();
        let is_anything_lost = !self.lost_commits.is_empty();
        self.lost_commits.put_back(&self.host.store);
        is_anything_lost
    }
}
