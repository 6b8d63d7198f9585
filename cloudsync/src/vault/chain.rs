//! A realm and its chain: loading the state, and appending to it (`docs/format-vault.md`, sections 7 and 8).
//!
//! A commit is one conditional create of generation g + 1, decided on the state of exactly generation g.
//! Whoever loses the race decides again on the new state; nothing is merged, and no lock or clock is
//! involved.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use storepool::clock::{Clock, Timestamp};
use storepool::entropy::{Entropy, random_bytes};
use tokio::task::JoinSet;

use crate::crypto::container::{self, Content, object_limit};
use crate::crypto::ring::RealmKeys;
use crate::error::{Error, Result, SealError, StoreFault};
use crate::layout::{
    Generation, InstanceId, Label, ObjectHash, ObjectKind, ObjectName, RealmId, VaultId,
    checkpoint_prefix, commit_block_prefix,
};
use crate::store::ObjectStore;
use crate::store::proof::{PutOutcome, put_proved};
use crate::vault::anchor::Anchor;
use crate::vault::commit::{Changes, Commit, CommitKind, ForeignWitness};
use crate::vault::snapshot::Snapshot;

/// A checkpoint is due after so many commits.
pub const CHECKPOINT_EVERY: u64 = 256;
/// Commits that are read side by side.
const READS_AT_ONCE: usize = 16;
/// Bytes of commits that are read side by side, so that large ones come one by one.
const READ_BYTES_AT_ONCE: u64 = 32 << 20;

/// Time and randomness, for operations that need both.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// This machine's clock.
    pub clock: &'a dyn Clock,
    /// This machine's randomness.
    pub entropy: &'a dyn Entropy,
}

impl fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

/// What the next commit is to say.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Why it is made.
    pub kind: CommitKind,
    /// What it changes.
    pub changes: Changes,
    /// What other vaults look like now.
    pub witnesses: Vec<ForeignWitness>,
}

/// What one server owns in a vault, unlocked.
#[derive(Clone)]
pub struct Realm {
    store: Arc<dyn ObjectStore>,
    vault: VaultId,
    keys: Arc<RealmKeys>,
}

impl fmt::Debug for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Realm")
            .field("vault", &self.vault)
            .field("realm", &self.id())
            .finish_non_exhaustive()
    }
}

impl Realm {
    pub(super) fn new(store: Arc<dyn ObjectStore>, vault: VaultId, keys: RealmKeys) -> Self {
        Self { store, vault, keys: Arc::new(keys) }
    }

    /// Returns the realm's name.
    pub fn id(&self) -> RealmId {
        self.keys.realm()
    }

    /// Returns the vault.
    pub fn vault(&self) -> VaultId {
        self.vault
    }

    /// Returns the keys.
    pub fn keys(&self) -> &Arc<RealmKeys> {
        &self.keys
    }

    /// Returns the store.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Loads the newest state, going on from `base` if an earlier state is at hand.
    ///
    /// From nothing it takes a list of checkpoints, the newest of them, a list of the commits after it and
    /// those commits; from a current `base` a single request. The state is what the vault shows: whether it
    /// shows everything, only [`Realm::reconcile`] can tell.
    pub async fn load(&self, base: Option<Snapshot>) -> Result<Snapshot> {
        self.load_before(base, Generation(u64::MAX)).await
    }

    /// Loads the newest state before the commit `end`.
    pub(super) async fn load_before(
        &self,
        base: Option<Snapshot>,
        end: Generation,
    ) -> Result<Snapshot> {
        let mut look_ahead = base.is_none();
        let mut snapshot = match base {
            Some(snapshot) => snapshot,
            None => self.newest_checkpoint().await?,
        };
        let mut newest: Option<Commit> = None;
        loop {
            let next = snapshot.generation().next();
            if next >= end {
                break;
            }
            let mut listed = if look_ahead { self.listed_commits(next).await? } else { Vec::new() };
            listed.retain(|(generation, _)| *generation < end);
            if listed.is_empty() {
                // A list is only a hint; the end of the chain is where a read finds nothing.
                match self.read_commit(next).await? {
                    None => break,
                    Some(object) => newest = Some(self.apply(&mut snapshot, next, &object)?),
                }
                look_ahead = true;
                continue;
            }
            for window in windows(&listed) {
                for object in self.read_commits(window).await? {
                    let next = snapshot.generation().next();
                    newest = Some(self.apply(&mut snapshot, next, &object)?);
                }
            }
            look_ahead = false;
        }
        if snapshot.generation() == Generation(0) {
            return Err(Error::ChainBroken { generation: Generation(1), reason: "it is missing" });
        }
        if newest.is_some_and(|commit| commit.state != snapshot.digest()) {
            return Err(Error::ChainBroken {
                generation: snapshot.generation(),
                reason: "it knows other points or objects than there are",
            });
        }
        if snapshot.vault() != Some(self.vault) {
            return Err(Error::ChainBroken {
                generation: Generation(1),
                reason: "it was made for another vault",
            });
        }
        Ok(snapshot)
    }

    // A checkpoint that cannot be read costs time, not data: commits are never deleted.
    async fn newest_checkpoint(&self) -> Result<Snapshot> {
        let listed = self.store.list(&checkpoint_prefix(self.id())).await?;
        let mut checkpoints: Vec<_> = listed
            .into_iter()
            .filter_map(|meta| Some((meta.name.generation()?, meta.name)))
            .collect();
        checkpoints.sort();
        for (generation, name) in checkpoints.into_iter().rev() {
            match self.read_checkpoint(generation, &name).await {
                Ok(snapshot) => return Ok(snapshot),
                Err(error) if error.is_gap() => {
                    tracing::warn!(checkpoint = %name, %error, "going back to the checkpoint before");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Snapshot::genesis())
    }

    pub(super) async fn read_checkpoint(
        &self,
        generation: Generation,
        name: &ObjectName,
    ) -> Result<Snapshot> {
        let body = self.store.get(name, object_limit(ObjectKind::Checkpoint)).await?;
        let snapshot = Snapshot::open(&self.keys, &body.bytes)
            .map_err(|reason| Error::damaged(name, reason))?;
        match snapshot.generation() == generation {
            true => Ok(snapshot),
            false => Err(Error::damaged(name, SealError::Name)),
        }
    }

    // Every commit from `first` on up to the last one that a list of its block shows, with sizes where they
    // are shown.
    async fn listed_commits(&self, first: Generation) -> Result<Vec<(Generation, u64)>> {
        let listed = self.store.list(&commit_block_prefix(self.id(), first)).await?;
        let sizes: std::collections::BTreeMap<_, _> = listed
            .into_iter()
            .filter_map(|meta| Some((meta.name.generation()?, meta.size)))
            .filter(|(generation, _)| *generation >= first)
            .collect();
        let Some(last) = sizes.keys().next_back().copied() else { return Ok(Vec::new()) };
        // Also those that the list leaves out: only a read proves that one is missing.
        let all =
            (first.0..=last.0.min(first.0 + crate::layout::COMMITS_PER_BLOCK)).map(Generation);
        Ok(all
            .map(|generation| (generation, sizes.get(&generation).copied().unwrap_or(0)))
            .collect())
    }

    /// Reads one commit of the chain, and when the vault stamped it.
    pub(crate) async fn commit(
        &self,
        generation: Generation,
    ) -> Result<(Commit, Option<Timestamp>)> {
        let name = ObjectName::commit(self.id(), generation);
        let body = self.store.get(&name, object_limit(ObjectKind::Commit)).await?;
        let damaged = |reason: SealError| Error::damaged(&name, reason);
        let opened =
            container::open(&self.keys, ObjectKind::Commit, &body.bytes).map_err(damaged)?;
        if opened.header.link().is_none_or(|link| link.generation != generation) {
            return Err(damaged(SealError::Name));
        }
        let inside = container::body(ObjectKind::Commit, &opened.plaintext).map_err(damaged)?;
        let commit = Commit::decode(inside).map_err(|error| damaged(error.into()))?;
        Ok((commit, body.modified))
    }

    pub(super) async fn read_commit(&self, generation: Generation) -> Result<Option<Bytes>> {
        read_commit(self.store.clone(), self.id(), generation).await
    }

    async fn read_commits(&self, window: &[(Generation, u64)]) -> Result<Vec<Bytes>> {
        let mut tasks = JoinSet::new();
        for (generation, _) in window {
            let (store, realm, generation) = (self.store.clone(), self.id(), *generation);
            tasks.spawn(async move { (generation, read_commit(store, realm, generation).await) });
        }
        let mut objects = std::collections::BTreeMap::new();
        while let Some(task) = tasks.join_next().await {
            let (generation, object) =
                task.map_err(|_| Error::Interrupted { stage: "reading commits" })?;
            let missing = Error::ChainBroken {
                generation,
                reason: "it is missing, although later ones are there",
            };
            objects.insert(generation, object?.ok_or(missing)?);
        }
        Ok(objects.into_values().collect())
    }

    fn apply(
        &self,
        snapshot: &mut Snapshot,
        generation: Generation,
        object: &[u8],
    ) -> Result<Commit> {
        let name = ObjectName::commit(self.id(), generation);
        let damaged = |reason: SealError| Error::damaged(&name, reason);
        let opened = container::open(&self.keys, ObjectKind::Commit, object).map_err(damaged)?;
        let link = opened.header.link().expect("a commit has a place in the chain");
        let body = container::body(ObjectKind::Commit, &opened.plaintext).map_err(damaged)?;
        let commit = Commit::decode(body).map_err(|error| damaged(error.into()))?;
        snapshot
            .apply(link, ObjectHash::of(object), &commit, false)
            .map_err(|reason| Error::ChainBroken { generation, reason })?;
        Ok(commit)
    }

    /// Appends a commit to exactly this state; returns the state after it.
    ///
    /// When this returns, the commit was read back from the vault and the anchor knows it. Nothing may be
    /// acknowledged to anybody before.
    ///
    /// # Errors
    /// [`Error::CommitLost`]: somebody else was faster; load, decide again. [`Error::CommitUnknown`]: it may
    /// be there or still arrive; load, and find out with [`Realm::reconcile`]. [`Error::ChainBroken`]: the
    /// draft breaks a rule, nothing was sent.
    pub async fn append(
        &self,
        snapshot: &Snapshot,
        draft: Draft,
        anchor: &mut Anchor,
        around: &Surroundings<'_>,
    ) -> Result<Snapshot> {
        self.reconcile(anchor, snapshot).await?;
        self.send(snapshot, draft, None, anchor, around).await
    }

    /// Takes the realm over for the installation that `anchor` was begun for: from now on only it may write.
    ///
    /// For a registration (on the state before the first commit), for a machine that becomes this server
    /// again, and for the right one of two twins.
    pub async fn claim(
        &self,
        snapshot: &Snapshot,
        label: &Label,
        changes: Changes,
        anchor: &mut Anchor,
        around: &Surroundings<'_>,
    ) -> Result<Snapshot> {
        self.check_history(anchor, snapshot).await?;
        let draft = Draft { kind: CommitKind::Claim, changes, witnesses: Vec::new() };
        self.send(snapshot, draft, Some((self.vault, label.clone())), anchor, around).await
    }

    async fn send(
        &self,
        snapshot: &Snapshot,
        draft: Draft,
        claim: Option<(VaultId, Label)>,
        anchor: &mut Anchor,
        around: &Surroundings<'_>,
    ) -> Result<Snapshot> {
        let link = snapshot.next_link(draft.kind);
        let name = ObjectName::commit(self.id(), link.generation);
        let (commit, mut after) =
            decide(snapshot, draft, claim, anchor.instance(), anchor, around)?;
        let body = commit.encode();
        let sealed = container::seal_body(&self.keys, Content::Commit(link), &body)
            .map_err(|_| Error::TooLarge { what: "the commit" })?;
        after
            .apply(link, sealed.hash, &commit, false)
            .map_err(|reason| Error::ChainBroken { generation: link.generation, reason })?;

        anchor.expect(link.generation, sealed.hash);
        anchor.save(&self.keys)?;
        let object = Bytes::from(sealed.object);
        let receipt = match put_proved(self.store.as_ref(), &name, object.clone()).await {
            Ok(PutOutcome::Created(receipt)) => receipt.server_time,
            Ok(PutOutcome::Present) => None,
            Err(error) if error.fault == StoreFault::AlreadyExists => {
                return Err(Error::CommitLost { generation: link.generation });
            }
            Err(cause) if cause.fault.is_ambiguous() => {
                return Err(Error::CommitUnknown { generation: link.generation, cause });
            }
            Err(error) => return Err(error.into()),
        };
        // A store may say yes and keep nothing.
        let unknown = |cause| Error::CommitUnknown { generation: link.generation, cause };
        let found = self.store.get(&name, object.len() as u64).await.map_err(unknown)?;
        if found.bytes != object {
            return Err(Error::damaged(&name, SealError::Name));
        }
        anchor.advance(&after, receipt.or(found.modified));
        anchor.save(&self.keys)?;
        Ok(after)
    }

    /// Writes a checkpoint of this state if the newest one is old enough; returns whether it did.
    ///
    /// It only saves time at the next load, so a failure need not stop anything.
    pub async fn checkpoint_if_due(&self, snapshot: &mut Snapshot) -> Result<bool> {
        if snapshot.generation().0 < snapshot.checkpoint().0 + CHECKPOINT_EVERY {
            return Ok(false);
        }
        self.checkpoint(snapshot).await?;
        Ok(true)
    }

    /// Writes a checkpoint of this state.
    pub async fn checkpoint(&self, snapshot: &mut Snapshot) -> Result<()> {
        let sealed =
            snapshot.seal(&self.keys).map_err(|_| Error::TooLarge { what: "the checkpoint" })?;
        let name = ObjectName::checkpoint(self.id(), snapshot.generation());
        match put_proved(self.store.as_ref(), &name, sealed.object.into()).await {
            Ok(_) => {}
            // Written by another version in its own way; it is as good.
            Err(error) if error.fault == StoreFault::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        snapshot.set_checkpoint(snapshot.generation());
        Ok(())
    }
}

// The commit that makes the draft's changes to this state, and the state it is to be applied to.
fn decide(
    snapshot: &Snapshot,
    draft: Draft,
    claim: Option<(VaultId, Label)>,
    instance: InstanceId,
    anchor: &Anchor,
    around: &Surroundings<'_>,
) -> Result<(Commit, Snapshot)> {
    let generation = snapshot.generation().next();
    let mut changed = snapshot.clone();
    changed
        .change(generation, &draft.changes)
        .map_err(|reason| Error::ChainBroken { generation, reason })?;
    let commit = Commit {
        kind: draft.kind,
        instance,
        nonce: random_bytes(around.entropy),
        agent_time: around.clock.now(),
        vault_time: anchor.vault_time(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        witnesses: draft.witnesses,
        claim,
        changes: draft.changes,
        state: changed.digest(),
    };
    Ok((commit, snapshot.clone()))
}

async fn read_commit(
    store: Arc<dyn ObjectStore>,
    realm: RealmId,
    generation: Generation,
) -> Result<Option<Bytes>> {
    let name = ObjectName::commit(realm, generation);
    match store.get(&name, object_limit(ObjectKind::Commit)).await {
        Ok(body) => Ok(Some(body.bytes)),
        Err(error) if error.fault == StoreFault::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn windows(listed: &[(Generation, u64)]) -> impl Iterator<Item = &[(Generation, u64)]> {
    let mut rest = listed;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let count = rest.iter().take(READS_AT_ONCE).take_while(|(_, size)| {
            bytes += size;
            bytes <= READ_BYTES_AT_ONCE
        });
        let (window, after) = rest.split_at(count.count().max(1).min(rest.len()));
        rest = after;
        (!window.is_empty()).then_some(window)
    })
}
