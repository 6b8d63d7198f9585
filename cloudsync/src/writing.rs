//! Writing to a vault: decide, commit, and decide anew when somebody else was faster. The loop around every change that is not a sync.

use crate::error::{Error, Result};
use crate::ledger::Ledger;
use crate::vault::anchor::Anchor;
use crate::vault::chain::{Draft, Realm, Surroundings};
use crate::vault::commit::{Changes, CommitKind};
use crate::vault::snapshot::Snapshot;

/// How often a change is decided anew.
const TRIES: u32 = 4;

/// What a change of the vault's state needs besides the change itself.
#[derive(Debug)]
pub struct Writing<'a> {
    /// What this server owns in the vault.
    pub realm: &'a Realm,
    /// What this installation has seen there.
    pub anchor: &'a mut Anchor,
    /// What it remembers of the state.
    pub ledger: &'a Ledger,
    /// Time and randomness.
    pub around: &'a Surroundings<'a>,
}

impl Writing<'_> {
    /// Loads the newest state and finds out whether this installation may write.
    ///
    /// # Errors
    /// Those of [`Realm::load`] and [`Realm::reconcile`].
    pub async fn begin(&mut self) -> Result<Snapshot> {
        crate::sync::load_to_write(self.realm, self.ledger, self.anchor).await
    }

    /// Makes the change that `decide` asks for on the newest state; returns whether there was one to make.
    ///
    /// `decide` is asked again whenever the state moved on, and answers `None` when nothing is left to do, for
    /// instance because an attempt whose answer was lost did arrive. On return the commit was read back, `snapshot` is
    /// the state after it, and the ledger knows it.
    pub async fn commit(
        &mut self,
        snapshot: &mut Snapshot,
        kind: CommitKind,
        mut decide: impl FnMut(&Snapshot) -> Result<Option<Changes>>,
    ) -> Result<bool> {
        let mut tries = 1;
        let changed = loop {
            let changes = decide(snapshot)?.filter(|changes| !changes.is_empty());
            let Some(changes) = changes else { break tries > 1 };
            let draft = Draft { kind, changes, witnesses: Vec::new() };
            match self.realm.append(snapshot, draft, self.anchor, self.around).await {
                Ok(after) => {
                    *snapshot = after;
                    break true;
                }
                Err(error @ (Error::CommitLost { .. } | Error::CommitUnknown { .. }))
                    if tries < TRIES =>
                {
                    tracing::debug!(%error, tries, "deciding again");
                    tries += 1;
                    *snapshot = self.realm.load(Some(snapshot.clone())).await?;
                    self.realm.reconcile(self.anchor, snapshot).await?;
                }
                Err(error) => return Err(error),
            }
        };
        if changed {
            if let Err(error) = self.realm.checkpoint_if_due(snapshot).await {
                tracing::warn!(%error, "the checkpoint is left to the next commit");
            }
            self.ledger.store(self.realm.keys(), snapshot, &[])?;
        }
        Ok(changed)
    }
}
