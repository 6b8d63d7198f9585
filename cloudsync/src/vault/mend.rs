//! When a commit or checkpoint object cannot be read: getting as far as possible, and making the chain whole again
//! (`docs/format-vault.md`, section 7). A commit cannot be written again, but a later checkpoint makes it needless.

use std::cmp::Ordering;

use crate::crypto::container;
use crate::error::{Error, Result, StoreFault};
use crate::layout::{Generation, ObjectHash, ObjectKind, ObjectName, checkpoint_prefix};
use crate::vault::anchor::Anchor;
use crate::vault::chain::{Draft, Realm, Surroundings};
use crate::vault::commit::{Changes, CommitKind};
use crate::vault::snapshot::Snapshot;

/// What became of the chain.
#[derive(Debug)]
pub struct MendedChain {
    /// The newest state.
    pub snapshot: Snapshot,
    /// Whether anything was wrong.
    pub mended: bool,
}

impl Realm {
    /// Loads the newest state as [`Realm::load`] does; a commit that cannot be read ends it instead of failing it. Then the damage is returned
    /// as well: whatever was committed there and later is not in the state. For who reads; whoever writes must not decide on it.
    pub async fn load_readable(&self) -> Result<(Snapshot, Option<Error>)> {
        let damage = match self.load(None).await {
            Ok(snapshot) => return Ok((snapshot, None)),
            Err(error) => error,
        };
        let Some(generation) = unreadable_commit(&damage) else { return Err(damage) };
        match self.load_before(None, generation).await {
            Ok(snapshot) => Ok((snapshot, Some(damage))),
            Err(_) => Err(damage),
        }
    }

    /// Returns what is wrong with the newest checkpoint, if there is one and anything is.
    pub async fn newest_checkpoint_damage(&self) -> Result<Option<Error>> {
        let listed = self.store().list(&checkpoint_prefix(self.id())).await?;
        let checkpoints =
            listed.into_iter().filter_map(|meta| Some((meta.name.generation()?, meta.name)));
        let Some((generation, name)) = checkpoints.max() else { return Ok(None) };
        match self.read_checkpoint(generation, &name).await {
            Ok(_) => Ok(None),
            Err(error) if error.is_damage() || error.store_fault() == Some(StoreFault::Corrupt) => {
                Ok(Some(error))
            }
            Err(error) => Err(error),
        }
    }

    /// Makes sure that the newest state can be loaded by somebody who has nothing: where a commit or the newest checkpoint cannot be read, writes a
    /// checkpoint of a later generation. `known` is the state that this installation remembers.
    ///
    /// # Errors
    /// The damage, if nobody knows the state behind it; those of [`Realm::reconcile`] and [`Realm::append`].
    pub async fn mend_chain(
        &self,
        known: Option<Snapshot>,
        anchor: &mut Anchor,
        around: &Surroundings<'_>,
    ) -> Result<MendedChain> {
        let (readable, damage) = match self.load_readable().await {
            Ok((state, None)) => {
                if self.newest_checkpoint_damage().await?.is_none() {
                    self.reconcile(anchor, &state).await?;
                    return Ok(MendedChain { snapshot: state, mended: false });
                }
                return self.go_on(state, anchor, around).await;
            }
            Ok((state, Some(damage))) => (Some(state), damage),
            // Not even the first commit can be read.
            Err(damage) if damage.is_damage() => (None, damage),
            Err(error) => return Err(error),
        };
        let bases = known.into_iter().chain(readable);
        let Some(state) = self.newest_from(bases, anchor).await? else { return Err(damage) };
        let next = state.generation().next();
        // Whoever wrote the commit after it knew it: an installation in this one's place, whose points must not be passed over.
        if self.read_commit(next.next()).await?.is_some() {
            return Err(Error::Twin { generation: next });
        }
        match self.read_commit(next).await? {
            None => self.go_on(state, anchor, around).await,
            Some(object) => match container::open(self.keys(), ObjectKind::Commit, &object) {
                // It follows another commit than the one that is known.
                Ok(_) => Err(damage),
                Err(_) => self.pass_over(state, ObjectHash::of(&object), anchor).await,
            },
        }
    }

    // The newest state that can be reached from one of these, if it is no older than what this installation has seen: whoever was stopped between
    // its commit and its notes knows an older one.
    async fn newest_from(
        &self,
        bases: impl Iterator<Item = Snapshot>,
        anchor: &Anchor,
    ) -> Result<Option<Snapshot>> {
        for base in bases {
            let state = match self.load(Some(base.clone())).await {
                Ok(state) => state,
                Err(error) if unreadable_commit(&error).is_some() => base,
                Err(error) => return Err(error),
            };
            let is_seen = match state.generation().cmp(&anchor.generation()) {
                Ordering::Less => false,
                Ordering::Equal => state.head() == anchor.head(),
                Ordering::Greater => true,
            };
            if is_seen {
                return Ok(Some(state));
            }
        }
        Ok(None)
    }

    // A commit that changes nothing, and a checkpoint of it: whoever loads begins there.
    async fn go_on(
        &self,
        state: Snapshot,
        anchor: &mut Anchor,
        around: &Surroundings<'_>,
    ) -> Result<MendedChain> {
        let draft =
            Draft { kind: CommitKind::Repack, changes: Changes::default(), witnesses: Vec::new() };
        let mut snapshot = self.append(&state, draft, anchor, around).await?;
        self.checkpoint(&mut snapshot).await?;
        Ok(MendedChain { snapshot, mended: true })
    }

    // The next generation's name is taken by something that nobody can read: it changes nothing, and the chain goes on behind it.
    async fn pass_over(
        &self,
        mut state: Snapshot,
        hash: ObjectHash,
        anchor: &mut Anchor,
    ) -> Result<MendedChain> {
        self.reconcile(anchor, &state).await?;
        state.pass_over(hash);
        // Expected first: if this ends half-way, the checkpoint is not taken for a twin's.
        anchor.expect(state.generation(), hash);
        anchor.save(self.keys())?;
        self.checkpoint(&mut state).await?;
        anchor.advance(&state, None);
        anchor.save(self.keys())?;
        Ok(MendedChain { snapshot: state, mended: true })
    }
}

// The commit at which a load stopped, if it was one.
fn unreadable_commit(damage: &Error) -> Option<Generation> {
    let name = |object: &str| object.parse::<ObjectName>().ok()?.generation();
    match damage {
        Error::ChainBroken { generation, .. } => Some(*generation),
        Error::Damaged { object, .. } => name(object),
        Error::Store(error) if error.fault == StoreFault::Corrupt => name(&error.object),
        _ => None,
    }
}
