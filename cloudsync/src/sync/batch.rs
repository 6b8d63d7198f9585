//! What one commit will say: packs that are in the vault, the index of them, points; and the commit itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use storepool::id::PointId;
use storepool::pack::Toc;
use storepool::simulated::{self, Mistake};
use tokio::sync::Mutex;
use tokio::task::JoinError;

use crate::crypto::container::{self, Content, Sealed};
use crate::error::{Error, Result};
use crate::layout::{ObjectHash, ObjectKind};
use crate::ledger::{Ledger, LedgerPack};
use crate::notes::notes_of;
use crate::store::proof::{PutOutcome, put_proved};
use crate::sync::Skipped;
use crate::sync::ground::Ground;
use crate::sync::packing::{BuiltPack, PackedPoint};
use crate::vault::Ordinals;
use crate::vault::anchor::Anchor;
use crate::vault::chain::{Draft, Realm, Surroundings};
use crate::vault::commit::{
    Changes, CommitKind, Moved, ObjectRecord, PointRecord, ServerConfiguration,
};
use crate::vault::pack::seal_pack;
use crate::vault::snapshot::Snapshot;
use crate::vault::tables::IndexBuilder;

/// Bytes of tables after which an index is closed.
const INDEX_LENGTH: usize = 8 << 20;
/// How often a commit is decided anew when it is not known what became of it.
const COMMIT_TRIES: u32 = 4;

/// How the putting of a pack ended.
pub(super) type PutTask = std::result::Result<Result<PutPack>, JoinError>;

/// A pack that is in the vault.
#[derive(Debug)]
pub(super) struct PutPack {
    pub(super) no: LedgerPack,
    pub(super) record: ObjectRecord,
    pub(super) toc: Toc,
    pub(super) place: PackPlace,
    pub(super) bytes_put: u64,
}

/// Whether a commit names a pack already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PackPlace {
    Live(u64),
    Unnamed,
}

/// Seals a pack and puts it. On return it is proved to be in the vault. The ledger is told before: a sync that is killed
/// while the answer is on its way finds the pack by that, and does not put it again.
pub(super) async fn put_pack(
    realm: Realm,
    ledger: Arc<Ledger>,
    ground: Ground,
    sealing: Arc<Mutex<()>>,
    pack: BuiltPack,
) -> Result<PutPack> {
    let BuiltPack { no, kind, toc, frames, place: _place } = pack;
    let keys = realm.keys().clone();
    let work = move || {
        let sealed = seal_pack(&keys, kind, &toc, &[&frames]);
        (sealed, toc)
    };
    let turn = sealing.lock().await;
    let (sealed, toc) = tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Interrupted { stage: "sealing a pack" })?;
    drop(turn);
    let sealed = sealed.map_err(|_| Error::TooLarge { what: "a pack" })?;
    let record = record_of(&ground, kind, &sealed);
    ledger.begin_upload(no, &record)?;
    let (place, bytes_put) = put_object(&realm, &ground, &record, sealed).await?;
    Ok(PutPack { no, record, toc, place, bytes_put })
}

fn record_of(ground: &Ground, kind: ObjectKind, sealed: &Sealed) -> ObjectRecord {
    ObjectRecord {
        kind,
        hash: sealed.hash,
        copy: ground.next_copy(sealed.hash),
        size: sealed.object.len() as u64,
        salt: sealed.salt,
    }
}

// Puts an object that is named by its content, unless it is there.
async fn put_object(
    realm: &Realm,
    ground: &Ground,
    record: &ObjectRecord,
    sealed: Sealed,
) -> Result<(PackPlace, u64)> {
    if let Some(ordinal) = ground.live_object(record.hash) {
        return Ok((PackPlace::Live(ordinal), 0));
    }
    let name = record.name(realm.id());
    let put = put_proved(realm.store().as_ref(), &name, sealed.object.into()).await?;
    let bytes = match put {
        PutOutcome::Created(_) => record.size,
        PutOutcome::Present => 0,
    };
    Ok((PackPlace::Unnamed, bytes))
}

/// What the next commit will say, and what all commits of this sync did.
pub(super) struct Batch {
    realm: Realm,
    // On what names of objects are decided.
    ground: Ground,
    // Packs that wait for their index, in the order in which they were built, whichever arrived first: the index of the
    // same packs is then the same object, also when the sync was cut before its commit.
    unindexed: BTreeMap<LedgerPack, (ObjectRecord, Toc)>,
    unindexed_bytes: usize,
    // Objects in the order in which they get their ordinals: packs, then the index of them, and so on.
    added: Vec<ObjectRecord>,
    numbers: HashMap<ObjectHash, usize>,
    // Packs of the ledger: named by a commit, or by their number in `added`.
    live: BTreeMap<LedgerPack, u64>,
    unnamed: BTreeMap<LedgerPack, usize>,
    pub(super) points: Vec<PackedPoint>,
    /// The configuration, until a commit says it.
    pub(super) configuration: Option<ServerConfiguration>,
    pub(super) copied: Vec<PointId>,
    pub(super) skipped: Vec<Skipped>,
    pub(super) packs_put: u64,
    pub(super) objects_put: u64,
    pub(super) bytes_put: u64,
}

impl Batch {
    pub(super) fn new(realm: &Realm, ground: Ground) -> Self {
        Self {
            realm: realm.clone(),
            ground,
            unindexed: BTreeMap::new(),
            unindexed_bytes: 0,
            added: Vec::new(),
            numbers: HashMap::new(),
            live: BTreeMap::new(),
            unnamed: BTreeMap::new(),
            points: Vec::new(),
            configuration: None,
            copied: Vec::new(),
            skipped: Vec::new(),
            packs_put: 0,
            objects_put: 0,
            bytes_put: 0,
        }
    }

    /// Returns on what names of objects are decided.
    pub(super) fn ground(&self) -> &Ground {
        &self.ground
    }

    /// Takes notice of packs that cannot be relied on.
    pub(super) fn doubt(&mut self, doubted: BTreeSet<u64>) {
        self.ground = Ground::new(self.ground.state().clone(), Arc::new(doubted));
    }

    /// Takes notice of a pack that a commit names.
    pub(super) fn know_live(&mut self, pack: LedgerPack, ordinal: u64) {
        self.live.insert(pack, ordinal);
    }

    /// Takes a pack that is in the vault.
    pub(super) async fn take_pack(&mut self, pack: PutPack) -> Result<()> {
        self.packs_put += u64::from(pack.bytes_put > 0);
        self.count(pack.bytes_put);
        if let PackPlace::Live(ordinal) = pack.place {
            self.live.insert(pack.no, ordinal);
            return Ok(());
        }
        let PutPack { no, record, toc, .. } = pack;
        self.unindexed_bytes += Toc::encoded_length(toc.frames().len(), toc.chunks().len());
        self.unindexed.insert(no, (record, toc));
        match self.unindexed_bytes >= INDEX_LENGTH {
            true => self.close_index().await,
            false => Ok(()),
        }
    }

    fn add(&mut self, record: ObjectRecord) -> usize {
        let next = self.added.len();
        let number = *self.numbers.entry(record.hash).or_insert(next);
        if number == next {
            self.added.push(record);
        }
        number
    }

    fn count(&mut self, bytes: u64) {
        self.objects_put += u64::from(bytes > 0);
        self.bytes_put += bytes;
    }

    // Puts an object that belongs to this commit.
    async fn put(&mut self, kind: ObjectKind, sealed: Sealed) -> Result<ObjectHash> {
        let record = record_of(&self.ground, kind, &sealed);
        let (place, bytes) = put_object(&self.realm, &self.ground, &record, sealed).await?;
        self.count(bytes);
        if place == PackPlace::Unnamed {
            self.add(record);
        }
        Ok(record.hash)
    }

    async fn close_index(&mut self) -> Result<()> {
        let mut tables = IndexBuilder::default();
        for (no, (record, toc)) in std::mem::take(&mut self.unindexed) {
            let fresh = !self.numbers.contains_key(&record.hash);
            let number = self.add(record);
            self.unnamed.insert(no, number);
            if fresh {
                tables.push(record.hash, record.copy, record.kind, &toc);
            }
        }
        self.unindexed_bytes = 0;
        if tables.is_empty() {
            return Ok(());
        }
        let sealed =
            tables.seal(self.realm.keys()).map_err(|_| Error::TooLarge { what: "an index" })?;
        self.put(ObjectKind::Index, sealed).await?;
        Ok(())
    }

    /// Makes the points exist: index, manifests, and last the commit. Afterwards `snapshot` is the new state and
    /// the ledger knows it.
    pub(super) async fn commit(
        &mut self,
        ledger: &Ledger,
        snapshot: &mut Snapshot,
        anchor: &mut Anchor,
        around: &Surroundings<'_>,
    ) -> Result<()> {
        if self.points.is_empty() && self.configuration.is_none() {
            // Packs without a point stay known to the ledger, and serve the next sync.
            return Ok(());
        }
        self.close_index().await?;
        let (mut manifests, mut late) = (Vec::new(), Vec::new());
        for number in 0..self.points.len() {
            let body = std::mem::take(&mut self.points[number].manifest);
            let content = Content::Object(ObjectKind::Manifest);
            let sealed = container::seal_body(self.realm.keys(), content, &body)
                .map_err(|_| Error::TooLarge { what: "a manifest" })?;
            if simulated::makes(Mistake::CommitFirst) {
                let record = record_of(&self.ground, ObjectKind::Manifest, &sealed);
                self.add(record);
                manifests.push(record.hash);
                late.push((record, sealed));
                continue;
            }
            manifests.push(self.put(ObjectKind::Manifest, sealed).await?);
        }
        self.append(snapshot, anchor, around, &manifests).await?;
        for (record, sealed) in late {
            put_object(&self.realm, &self.ground, &record, sealed).await?;
        }
        if let Err(error) = self.realm.checkpoint_if_due(snapshot).await {
            tracing::warn!(%error, "the checkpoint is left to the next sync");
        }
        let mut named = Vec::new();
        for (pack, number) in std::mem::take(&mut self.unnamed) {
            let hash = self.added[number].hash;
            let lost = Error::CommitLost { generation: snapshot.generation() };
            let ordinal = snapshot.live_object(hash).ok_or(lost)?;
            named.push((pack, ordinal));
            self.live.insert(pack, ordinal);
        }
        ledger.store(self.realm.keys(), snapshot, &named)?;
        self.copied.extend(self.points.drain(..).map(|packed| packed.point.id));
        self.configuration = None;
        self.added.clear();
        self.numbers.clear();
        self.ground = self.ground.moved_on(Arc::new(snapshot.clone()));
        Ok(())
    }

    async fn append(
        &mut self,
        snapshot: &mut Snapshot,
        anchor: &mut Anchor,
        around: &Surroundings<'_>,
        manifests: &[ObjectHash],
    ) -> Result<()> {
        let mut tries = 1;
        loop {
            let changes = self.changes(snapshot, manifests)?;
            if changes.points_added.is_empty() && changes.configuration.is_none() {
                // An earlier attempt arrived after all.
                return Ok(());
            }
            let draft = Draft { kind: CommitKind::Sync, changes, witnesses: Vec::new() };
            match self.realm.append(snapshot, draft, anchor, around).await {
                Ok(after) => {
                    self.objects_put += 1;
                    *snapshot = after;
                    return Ok(());
                }
                Err(error @ (Error::CommitLost { .. } | Error::CommitUnknown { .. }))
                    if tries < COMMIT_TRIES =>
                {
                    tracing::debug!(%error, tries, "deciding again");
                    tries += 1;
                    *snapshot = self.realm.load(Some(snapshot.clone())).await?;
                    self.realm.reconcile(anchor, snapshot).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    // What the commit after `snapshot` changes.
    fn changes(&self, snapshot: &Snapshot, manifests: &[ObjectHash]) -> Result<Changes> {
        let mut changes = Changes::default();
        changes.configuration.clone_from(&self.configuration);
        changes.configuration.take_if(|known| snapshot.configuration() == Some(known));
        let ground = self.ground.moved_on(Arc::new(snapshot.clone()));
        let (mut ordinals, mut replaced) = (Vec::with_capacity(self.added.len()), Vec::new());
        for record in &self.added {
            ordinals.push(match ground.live_object(record.hash) {
                Some(ordinal) => ordinal,
                None if record.copy == ground.next_copy(record.hash) => {
                    let ordinal = snapshot.next_ordinal() + changes.objects_added.len() as u64;
                    changes.objects_added.push(*record);
                    replaced.extend(ground.replaced_by(record.hash).map(|old| (old, ordinal)));
                    ordinal
                }
                // Condemned since it was put: the name is used up.
                None => return Err(Error::CommitLost { generation: snapshot.generation().next() }),
            });
        }
        let ordinal_of = |hash: ObjectHash| match self.numbers.get(&hash) {
            Some(number) => Ok(ordinals[*number]),
            None => snapshot
                .live_object(hash)
                .ok_or(Error::CommitLost { generation: snapshot.generation().next() }),
        };
        let indexes = self.indexes(snapshot, &ordinals);
        for (old, new) in replaced {
            let to = std::iter::once(new).chain(indexes.range(new..).next().copied()).collect();
            changes.objects_condemned.insert(old);
            changes.moved.push(Moved { from: old, to });
        }
        for (packed, manifest) in self.points.iter().zip(manifests) {
            if snapshot.points().contains_key(&packed.point.id) {
                continue;
            }
            let manifest = ordinal_of(*manifest)?;
            let mut needs = Ordinals::default();
            needs.insert(manifest);
            for pack in &packed.packs {
                let known = self.live.get(pack).copied();
                let ordinal = known
                    .or_else(|| self.unnamed.get(pack).map(|number| ordinals[*number]))
                    .ok_or(Error::Interrupted { stage: "naming the packs of a point" })?;
                needs.insert(ordinal);
                if let Some(index) = indexes.range(ordinal..).next() {
                    needs.insert(*index);
                }
            }
            changes.points_added.push(point_record(packed, manifest, needs));
        }
        Ok(changes)
    }

    // The ordinals of all indexes after this commit: the first one after a pack tells its table.
    fn indexes(&self, snapshot: &Snapshot, ordinals: &[u64]) -> BTreeSet<u64> {
        let old = snapshot.objects().iter().filter(|(_, object)| {
            object.record.kind == ObjectKind::Index && object.condemned.is_none()
        });
        let new =
            self.added.iter().zip(ordinals).filter(|(record, _)| record.kind == ObjectKind::Index);
        old.map(|(ordinal, _)| *ordinal).chain(new.map(|(_, ordinal)| *ordinal)).collect()
    }
}

fn point_record(packed: &PackedPoint, manifest: u64, needs: Ordinals) -> PointRecord {
    let point = &packed.point;
    let notes = notes_of(point);
    PointRecord {
        id: point.id,
        started: point.started,
        finished: point.finished,
        host: point.host.clone(),
        group: point.group.clone(),
        source: point.source.clone(),
        workload: point.workload.clone(),
        files: point.files,
        bytes: point.bytes,
        bytes_stored: packed.bytes_stored,
        problems: point.problem_count,
        keep_until: notes.keep_until,
        on_demand: notes.on_demand,
        tags: notes.tags,
        manifest,
        needs,
    }
}
