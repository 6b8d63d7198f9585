//! Comparing the history that a vault shows with the one that was seen there before: what was rewound or forked, and who may write
//! (`docs/format-vault.md`, sections 7 and 9).
//!
//! An object that rotted since is no other history: the commit after it carries the hash of the one that was seen.

use crate::crypto::container;
use crate::error::{Error, Result};
use crate::layout::{Generation, ObjectHash, ObjectKind, ObjectName};
use crate::vault::anchor::Anchor;
use crate::vault::chain::Realm;
use crate::vault::snapshot::Snapshot;

impl Realm {
    /// Compares what the vault shows with what this installation remembers, and finds out whether it may still write.
    ///
    /// Remembers the new state if all is well. A restore needs none of this: whatever [`Realm::load`] returns
    /// was sealed by the realm's owner.
    ///
    /// # Errors
    /// [`Error::Rewound`] and [`Error::Forked`] when the vault's history is not the one that was seen;
    /// [`Error::Damaged`] and [`Error::ChainBroken`] when it cannot be known, because the commit that was seen cannot be read any more;
    /// [`Error::TakenOver`] and [`Error::Twin`] when somebody else writes in this server's place.
    pub async fn reconcile(&self, anchor: &mut Anchor, snapshot: &Snapshot) -> Result<()> {
        if anchor.realm() != self.id() {
            return Err(Error::OtherRealm { expected: self.id(), found: anchor.realm() });
        }
        self.check_history(anchor, snapshot).await?;
        if snapshot.owner() != anchor.instance() {
            return Err(Error::TakenOver {
                owner: snapshot.owner(),
                generation: snapshot.generation(),
            });
        }
        let next = anchor.generation().next();
        let own_unknown = snapshot.generation() == next && anchor.is_pending(next, snapshot.head());
        if snapshot.generation() > anchor.generation() {
            if !own_unknown {
                return Err(Error::Twin { generation: next });
            }
            anchor.advance(snapshot, None);
            anchor.save(self.keys())?;
        }
        Ok(())
    }

    /// Proves that the vault still holds the commit that led to this state: one request.
    ///
    /// # Errors
    /// [`Error::Rewound`] if it is not there, [`Error::Forked`] if it is another one.
    pub async fn confirm(&self, known: &Snapshot) -> Result<()> {
        let generation = known.generation();
        let Some(object) = self.read_commit(generation).await? else {
            let found = Generation(generation.0.saturating_sub(1));
            return Err(Error::Rewound { found, anchored: generation });
        };
        match ObjectHash::of(&object) == known.head() {
            true => Ok(()),
            false => Err(self.difference(generation, &object)),
        }
    }

    /// Compares what the vault shows with what an installation remembers, for somebody who only reads.
    ///
    /// # Errors
    /// [`Error::Rewound`] and [`Error::Forked`]. What is shown is genuine all the same, and can be restored.
    pub async fn compare(&self, anchor: &Anchor, snapshot: &Snapshot) -> Result<()> {
        self.check_history(anchor, snapshot).await
    }

    pub(super) async fn check_history(&self, anchor: &Anchor, snapshot: &Snapshot) -> Result<()> {
        let (anchored, shown) = (anchor.generation(), snapshot.generation());
        if shown < anchored {
            return Err(Error::Rewound { found: shown, anchored });
        }
        if anchored == Generation(0) {
            return Ok(());
        }
        if shown == anchored {
            return match snapshot.head() == anchor.head() {
                true => Ok(()),
                false => Err(Error::Forked { generation: anchored }),
            };
        }
        let object = self.read_commit(anchored).await?;
        if object.as_ref().is_some_and(|object| ObjectHash::of(object) == anchor.head())
            || self.previous(anchored.next()).await? == Some(anchor.head())
        {
            return Ok(());
        }
        Err(match object {
            None => Error::ChainBroken { generation: anchored, reason: "it is missing" },
            Some(object) => self.difference(anchored, &object),
        })
    }

    // What the commit of this generation says that it follows; nothing if it cannot be read.
    async fn previous(&self, generation: Generation) -> Result<Option<ObjectHash>> {
        let Some(object) = self.read_commit(generation).await? else { return Ok(None) };
        let opened = container::open(self.keys(), ObjectKind::Commit, &object).ok();
        let link = opened.and_then(|opened| opened.header.link());
        Ok(link.filter(|link| link.generation == generation).map(|link| link.previous))
    }

    // Another sealed commit is another history; anything else is rot, which can be healed.
    fn difference(&self, generation: Generation, object: &[u8]) -> Error {
        match container::open(self.keys(), ObjectKind::Commit, object) {
            Ok(_) => Error::Forked { generation },
            Err(reason) => Error::damaged(&ObjectName::commit(self.id(), generation), reason),
        }
    }
}
