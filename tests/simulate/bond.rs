//! A machine and its copy, which both take themselves for the server: one of them may write, from its first commit on, and the other one is fenced off.

use crate::host::Host;
use crate::promises::{InPool, Promise, Promises};

/// Which of the two is fenced off, as far as that can be said.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    fenced: Option<usize>,
}

/// What one of them did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deed {
    pub(crate) who: usize,
    /// Whether it might have changed the vault.
    pub(crate) online: bool,
    /// Whether it was told that a commit of its own is there.
    pub(crate) committed: bool,
    /// Whether it was told that nothing was done, or died.
    pub(crate) failed: bool,
}

/// The vault at one moment.
#[derive(Debug)]
pub(crate) struct Sight {
    commits: usize,
    objects: Vec<String>,
}

impl Sight {
    /// Looks.
    pub(crate) fn of(host: &Host) -> Self {
        Self { commits: host.commits().len(), objects: host.objects() }
    }
}

impl Fence {
    /// Returns whether nothing stands in the way of this one.
    pub(crate) fn may_write(&self, who: usize) -> bool {
        self.fenced == Some(1 - who)
    }

    /// Returns whether this one is fenced off.
    pub(crate) fn is_off(&self, who: usize) -> bool {
        self.fenced == Some(who)
    }

    /// Takes notice that this one took the place back.
    pub(crate) fn claim(&mut self, who: usize) {
        self.fenced = Some(1 - who);
    }

    /// Holds what was done to the rules, and finds out who may write from now on.
    pub(crate) fn judge(
        &mut self,
        before: &Sight,
        after: &Sight,
        deeds: &[Deed],
    ) -> Result<(), String> {
        let online: Vec<_> = deeds.iter().filter(|deed| deed.online).collect();
        let grew = after.commits > before.commits;
        for deed in online.iter().filter(|deed| self.is_off(deed.who)) {
            if !deed.failed {
                return Err("the copy that is fenced off went on".into());
            }
            if online.len() == 1 && before.objects != after.objects {
                return Err("the copy that is fenced off changed the vault".into());
            }
        }
        let winners: Vec<_> = match online[..] {
            [only] if grew => vec![only.who],
            _ => online.iter().filter(|deed| deed.committed).map(|deed| deed.who).collect(),
        };
        match winners[..] {
            [one, other] if one != other => Err("both copies of one machine committed".into()),
            [winner, ..] if grew && self.fenced.is_none() => {
                self.claim(winner);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Makes one model of the vault's promises know what another one learnt since `before`. Pools are apart.
pub(crate) fn learn(own: &mut Promises, other: &Promises, before: &Promises) {
    for (id, theirs) in &other.points {
        let is_new = |known: &Promise| known.vault != theirs.vault;
        let changed = before.points.get(id).is_none_or(is_new);
        let promise = own
            .points
            .entry(*id)
            .or_insert_with(|| Promise { pool: InPool::Gone, ..theirs.clone() });
        promise.asked.extend(&theirs.asked);
        if changed {
            promise.vault = theirs.vault;
        }
    }
}
