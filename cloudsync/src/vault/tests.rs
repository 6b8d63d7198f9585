//! The life of a vault in memory: creation, registration, commits, faults at every call, twins, rewinds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use storepool::clock::{Clock, Timestamp};
use storepool::id::PointId;
use tempfile::TempDir;

use crate::crypto::container::{self, Content, Link};
use crate::crypto::passphrase::Passphrase;
use crate::crypto::slot::{KdfCosts, KdfLimits};
use crate::error::{Error, StoreFault};
use crate::layout::{Generation, InstanceId, Label, ObjectKind, ObjectName, VaultId};
use crate::store::ObjectStore;
use crate::testing::{Fault, FaultyStore, MemoryStore, SeededEntropy};
use crate::vault::anchor::Anchor;
use crate::vault::chain::{CHECKPOINT_EVERY, Draft, Realm, Surroundings};
use crate::vault::commit::{Changes, Commit, CommitKind, ObjectRecord, PointRecord, StateDigest};
use crate::vault::credentials::Credentials;
use crate::vault::snapshot::Snapshot;
use crate::vault::{NewServer, NewVault, REGISTRATION_PERIOD, Registration, Vault};

const COSTS: KdfCosts = KdfCosts { lanes: 1, ..KdfCosts::LIGHTEST };
const LIMITS: KdfLimits = KdfLimits { memory_kib: COSTS.memory_kib };

struct StoppedClock(Timestamp);

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        self.0
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

struct World {
    memory: Arc<MemoryStore>,
    entropy: SeededEntropy,
    clock: StoppedClock,
    directory: TempDir,
    label: Label,
    passphrase: Passphrase,
}

impl World {
    fn new() -> Self {
        let memory = Arc::new(MemoryStore::new());
        Self {
            clock: StoppedClock(memory.now()),
            memory,
            entropy: SeededEntropy::new(42),
            directory: tempfile::tempdir().expect("a directory"),
            label: "web1".parse().expect("a label"),
            passphrase: Passphrase::new("correct horse battery staple").expect("acceptable"),
        }
    }

    fn around(&self) -> Surroundings<'_> {
        Surroundings { clock: &self.clock, entropy: &self.entropy }
    }

    fn anchor_path(&self) -> PathBuf {
        self.directory.path().join("anchor")
    }

    fn request(&self) -> NewVault {
        NewVault {
            name: "main".into(),
            address: "file:///srv/vault".parse().expect("an address"),
            registration_period: REGISTRATION_PERIOD,
            labels: Vec::new(),
            access: Default::default(),
        }
    }

    async fn create(&self) -> (Vault, Credentials) {
        Vault::create(self.memory.clone(), &self.request(), &self.around()).await.expect("created")
    }

    async fn register(
        &self,
        vault: &Vault,
        credentials: &Credentials,
    ) -> crate::Result<Registration> {
        let anchor = self.anchor_path();
        let server = NewServer {
            label: &self.label,
            passphrase: &self.passphrase,
            costs: COSTS,
            anchor: &anchor,
        };
        vault.register(credentials, server, &self.around()).await
    }

    async fn registered(&self) -> (Vault, Credentials, Registration) {
        let (vault, credentials) = self.create().await;
        let registration = self.register(&vault, &credentials).await.expect("registered");
        self.memory.take_requests();
        (vault, credentials, registration)
    }

    // The same realm seen through another store.
    async fn through(
        &self,
        store: Arc<dyn ObjectStore>,
        credentials: &Credentials,
        own: &Registration,
    ) -> Realm {
        let vault = Vault::open(store, credentials).await.expect("opened");
        vault.unlock_with(&own.key).expect("unlocked")
    }
}

// One more point with one pack and one manifest; the number makes it unlike others.
fn draft(snapshot: &Snapshot, number: u8) -> Draft {
    let record = |kind, salt| ObjectRecord {
        kind,
        hash: crate::layout::ObjectHash::of(&[number, salt]),
        copy: 0,
        size: 100,
        salt: [salt; 32],
    };
    let next = snapshot.next_ordinal();
    let point = PointRecord {
        id: PointId([number; 32]),
        started: Timestamp(1),
        finished: Timestamp(2),
        host: "host".into(),
        group: "web".into(),
        source: "files".into(),
        workload: "files".into(),
        files: 1,
        bytes: 2,
        bytes_stored: 3,
        problems: 0,
        keep_until: None,
        on_demand: false,
        tags: Vec::new(),
        manifest: next + 1,
        needs: [next, next + 1].into_iter().collect(),
    };
    let changes = Changes {
        objects_added: vec![record(ObjectKind::Data, 1), record(ObjectKind::Manifest, 2)],
        points_added: vec![point],
        ..Changes::default()
    };
    Draft { kind: CommitKind::Sync, changes, witnesses: Vec::new() }
}

#[tokio::test]
async fn a_registered_server_is_found_again_with_credentials_and_passphrase_alone() {
    let world = World::new();
    let (vault, credentials, mut own) = world.registered().await;
    let around = world.around();
    let snapshot = own
        .realm
        .append(&own.snapshot, draft(&own.snapshot, 1), &mut own.anchor, &around)
        .await
        .expect("committed");

    let stranger = Vault::open(world.memory.clone(), &credentials).await.expect("opened");
    let servers = stranger.servers().await.expect("listed");
    let unlocked =
        stranger.unlock(&servers.found[0], &world.passphrase, &LIMITS).await.expect("unlocked");
    let seen = unlocked.realm.load(None).await.expect("loaded");

    assert_eq!(servers.found.len(), 1);
    assert_eq!(servers.found[0].label, world.label);
    assert_eq!(seen, snapshot);
    assert_eq!(seen.label(), Some(&world.label));
    assert_eq!(seen.points().len(), 1);
    assert!(!unlocked.is_retired(&seen));
    assert_eq!(seen.witness(unlocked.realm.keys()), snapshot.witness(own.realm.keys()));
    assert_eq!(vault.server(&world.label).await.expect("there").realm, own.realm.id());
    let missing = stranger.server(&"web2".parse().expect("a label")).await;
    assert!(matches!(missing, Err(Error::NoSuchServer { .. })));
}

#[tokio::test]
async fn nothing_but_the_label_shows_in_the_vault() {
    let world = World::new();
    let (_, _, mut own) = world.registered().await;
    let around = world.around();
    own.realm
        .append(&own.snapshot, draft(&own.snapshot, 1), &mut own.anchor, &around)
        .await
        .expect("committed");

    for name in world.memory.names() {
        let body = world.memory.peek(&name).expect("there");
        for planted in ["files", "correct", "battery", "host"] {
            let found = body.windows(planted.len()).any(|window| window == planted.as_bytes());
            assert!(!found && !name.contains(planted), "{planted} in {name}");
        }
        let shows_label = body.windows(4).any(|window| window == b"web1");
        assert_eq!(shows_label, name == "servers/web1.json", "{name}");
    }
}

#[tokio::test]
async fn what_went_wrong_is_told_apart() {
    let world = World::new();
    let (vault, credentials, own) = world.registered().await;
    let server = vault.server(&world.label).await.expect("there");
    let slot = world.memory.names().into_iter().find(|name| name.contains("/k/")).expect("a slot");

    let again = world.register(&vault, &credentials).await;
    assert!(matches!(again, Err(Error::LabelTaken { .. })), "{again:?}");

    world.memory.advance(REGISTRATION_PERIOD + Duration::from_secs(1));
    let expired = world.register(&vault, &credentials).await;
    assert!(matches!(expired, Err(Error::CredentialsExpired { .. })), "{expired:?}");

    let wrong = Passphrase::new("incorrect horse battery staple").expect("acceptable");
    let refused = vault.unlock(&server, &wrong, &LIMITS).await;
    assert!(matches!(refused, Err(Error::WrongPassphrase { .. })), "{refused:?}");

    let mut rotten = world.memory.peek(&slot).expect("there").to_vec();
    rotten[700] ^= 1;
    world.memory.tamper(&slot, rotten);
    let damaged = vault.unlock(&server, &world.passphrase, &LIMITS).await;
    assert!(matches!(damaged, Err(Error::Damaged { .. })), "{damaged:?}");

    let elsewhere = World::new();
    let (_, other) = Vault::create(elsewhere.memory.clone(), &world.request(), &world.around())
        .await
        .expect("created");
    let other_vault = Vault::open(world.memory.clone(), &other).await;
    assert!(matches!(other_vault, Err(Error::OtherVault { .. })), "{other_vault:?}");
    let other_key =
        Vault::open(elsewhere.memory.clone(), &other).await.expect("opened").unlock_with(&own.key);
    assert!(matches!(other_key, Err(Error::OtherVault { .. })));

    let nothing = Vault::open(Arc::new(MemoryStore::new()), &credentials).await;
    assert!(matches!(nothing, Err(Error::NotAVault { .. })), "{nothing:?}");

    let gone =
        FaultyStore::new(world.memory.clone(), [(0, Fault::Refuse(StoreFault::Unreachable))]);
    let unreachable = Vault::open(Arc::new(gone), &credentials).await.expect_err("no connection");
    assert_eq!(unreachable.store_fault(), Some(StoreFault::Unreachable));

    let twice = Vault::create(world.memory.clone(), &world.request(), &world.around()).await;
    assert!(matches!(twice, Err(Error::VaultExists { .. })), "{twice:?}");

    let careless =
        Vault::create(Arc::new(MemoryStore::overwriting()), &world.request(), &world.around())
            .await;
    assert!(matches!(careless, Err(Error::CreateNotExclusive { .. })), "{careless:?}");
}

#[tokio::test]
async fn too_many_slots_are_refused_before_any_is_tried() {
    let world = World::new();
    let (vault, _, own) = world.registered().await;
    let server = vault.server(&world.label).await.expect("there");
    for number in 1..=8 {
        let slot = ObjectName::slot(own.realm.id(), crate::layout::SlotId([number; 16]), 1);
        world.memory.tamper(slot.as_str(), vec![0; 10]);
    }
    let start = std::time::Instant::now();

    let refused = vault.unlock(&server, &world.passphrase, &LIMITS).await;

    assert!(matches!(refused, Err(Error::Damaged { .. })), "{refused:?}");
    assert!(start.elapsed() < Duration::from_millis(50));
}

#[tokio::test]
async fn nothing_new_costs_one_request_and_a_bare_machine_a_handful() {
    let world = World::new();
    let (_, credentials, mut own) = world.registered().await;
    let around = world.around();
    let mut snapshot = own.snapshot.clone();
    for number in 0..100 {
        snapshot = own
            .realm
            .append(&snapshot, draft(&snapshot, number), &mut own.anchor, &around)
            .await
            .expect("committed");
        assert!(!own.realm.checkpoint_if_due(&mut snapshot).await.expect("not due"));
    }
    world.memory.take_requests();

    let same = own.realm.load(Some(snapshot.clone())).await.expect("loaded");
    assert_eq!(world.memory.take_requests().total(), 1);
    assert_eq!(same, snapshot);

    let bare = world.through(world.memory.clone(), &credentials, &own).await;
    world.memory.take_requests();
    assert_eq!(bare.load(None).await.expect("loaded"), snapshot);
    let requests = world.memory.take_requests();
    assert_eq!((requests.list, requests.get), (2, 102));
}

#[tokio::test]
async fn a_checkpoint_shortens_the_load_and_a_rotten_one_only_costs_time() {
    let world = World::new();
    let (_, _, mut own) = world.registered().await;
    let around = world.around();
    let empty =
        || Draft { kind: CommitKind::Sync, changes: Changes::default(), witnesses: Vec::new() };
    let mut snapshot = own
        .realm
        .append(&own.snapshot, draft(&own.snapshot, 1), &mut own.anchor, &around)
        .await
        .expect("committed");
    let mut written = 0;
    for _ in 0..2 * CHECKPOINT_EVERY + 3 {
        snapshot = own
            .realm
            .append(&snapshot, empty(), &mut own.anchor, &around)
            .await
            .expect("committed");
        written += u32::from(own.realm.checkpoint_if_due(&mut snapshot).await.expect("written"));
    }
    assert_eq!(written, 2);
    world.memory.take_requests();

    assert_eq!(own.realm.load(None).await.expect("loaded"), snapshot);
    assert!(world.memory.take_requests().total() < 12);

    let newest =
        world.memory.names().into_iter().rfind(|name| name.contains("/h/")).expect("a checkpoint");
    world.memory.tamper(&newest, vec![0; 1000]);
    let mut slower = own.realm.load(None).await.expect("loaded");
    assert_eq!(slower.checkpoint(), Generation(CHECKPOINT_EVERY));
    slower.set_checkpoint(snapshot.checkpoint());
    assert_eq!(slower, snapshot);
}

#[tokio::test]
async fn whatever_call_fails_a_commit_is_either_there_or_not_and_never_half() {
    let world = World::new();
    let (_, credentials, own) = world.registered().await;
    let kinds = [
        Fault::Refuse(StoreFault::Unreachable),
        Fault::Refuse(StoreFault::PermissionDenied),
        Fault::LoseReply,
        Fault::LandLate,
        Fault::Pretend,
        Fault::StaleList(1),
    ];
    for fault in kinds {
        for call in 0..8 {
            let memory = Arc::new(world.memory.copy());
            let faulty = Arc::new(FaultyStore::new(memory.clone(), [(call, fault)]));
            let realm = Realm::new(faulty.clone(), own.key.vault, own.key.keys.clone());
            let mut anchor = own.anchor.clone();
            let around = world.around();

            let outcome = async {
                let snapshot = realm.load(None).await?;
                realm.append(&snapshot, draft(&snapshot, 1), &mut anchor, &around).await
            }
            .await;

            // Like a restart: only the file and the vault count.
            let realm = world.through(memory.clone(), &credentials, &own).await;
            drop(faulty.head(&ObjectName::descriptor()).await);
            let mut anchor =
                Anchor::load(&world.anchor_path(), realm.keys()).expect("sound").expect("there");
            let snapshot = realm.load(None).await.expect("loaded");
            let there = snapshot.points().len() == 1;
            assert!(there || outcome.is_err(), "{fault:?} at {call}: acknowledged but lost");
            realm
                .reconcile(&mut anchor, &snapshot)
                .await
                .unwrap_or_else(|error| panic!("{fault:?} at {call}: {error}"));
            let next = realm
                .append(&snapshot, draft(&snapshot, 2), &mut anchor, &around)
                .await
                .expect("goes on");
            assert_eq!(next.points().len(), 1 + usize::from(there));
            own.anchor.save(realm.keys()).expect("as it was");
        }
    }
}

#[tokio::test]
async fn a_commit_that_the_store_did_not_keep_whole_is_not_acknowledged() {
    let world = World::new();
    let (_, credentials, own) = world.registered().await;
    let around = world.around();
    for fault in [Fault::Pretend, Fault::CutBody(1), Fault::CutBody(1000), Fault::CutBody(5000)] {
        // Call 0 opened the vault.
        let memory = Arc::new(world.memory.copy());
        let careless = Arc::new(FaultyStore::new(memory, [(1, fault)]));
        let realm = world.through(careless, &credentials, &own).await;
        let mut anchor = own.anchor.clone();

        let outcome =
            realm.append(&own.snapshot, draft(&own.snapshot, 1), &mut anchor, &around).await;

        assert!(
            matches!(outcome, Err(Error::CommitUnknown { .. } | Error::Damaged { .. })),
            "{fault:?}: {outcome:?}"
        );
        assert_eq!(anchor.generation(), Generation(1));
    }
}

#[tokio::test]
async fn a_registration_that_fails_anywhere_can_be_run_again() {
    let world = World::new();
    let (vault, credentials) = world.create().await;
    for (first_call, fault) in [(0, Fault::Refuse(StoreFault::Unreachable)), (2, Fault::LoseReply)]
    {
        let mut call = first_call;
        loop {
            let memory = Arc::new(world.memory.copy());
            let faulty = Arc::new(FaultyStore::new(memory.clone(), [(call, fault)]));
            let disturbed = Vault { store: faulty.clone(), descriptor: vault.descriptor.clone() };
            let first = world.register(&disturbed, &credentials).await;
            if faulty.calls() <= call {
                first.expect("undisturbed");
                break;
            }
            let calm = Vault { store: memory, descriptor: vault.descriptor.clone() };
            if first.is_err() {
                let label_put = calm.server(&world.label).await.is_ok();
                assert!(!label_put || matches!(first, Err(Error::Store(_))), "{first:?}");
                if !label_put {
                    world.register(&calm, &credentials).await.expect("the second time");
                }
            }
            let server = calm.server(&world.label).await.expect("visible");
            let unlocked = calm.unlock(&server, &world.passphrase, &LIMITS).await.expect("opens");
            unlocked.realm.load(None).await.expect("loads");
            // Each step derives a key several times; every fifth call is enough for a quick test.
            call += 5;
        }
    }
}

#[tokio::test]
async fn of_two_installations_one_is_fenced_off() {
    let world = World::new();
    let (_, credentials, mut own) = world.registered().await;
    let around = world.around();
    let other = world.through(world.memory.clone(), &credentials, &own).await;
    let path = world.directory.path().join("other");
    let state = other.load(None).await.expect("loaded");
    let mut anchor = Anchor::begin(&path, own.key.vault, other.id(), InstanceId([9; 16]), &state);

    let refused = other.append(&state, draft(&state, 1), &mut anchor, &around).await;
    assert!(matches!(refused, Err(Error::TakenOver { .. })), "{refused:?}");
    let claimed = other
        .claim(&state, &world.label, Changes::default(), &mut anchor, &around)
        .await
        .expect("claimed");
    let theirs =
        other.append(&claimed, draft(&claimed, 1), &mut anchor, &around).await.expect("committed");
    assert_eq!((theirs.epoch(), theirs.owner()), (2, InstanceId([9; 16])));

    let stale =
        own.realm.append(&own.snapshot, draft(&own.snapshot, 2), &mut own.anchor, &around).await;
    assert!(matches!(stale, Err(Error::CommitLost { .. })), "{stale:?}");
    let newest = own.realm.load(Some(own.snapshot)).await.expect("loaded");
    let fenced = own.realm.append(&newest, draft(&newest, 2), &mut own.anchor, &around).await;
    assert!(
        matches!(fenced, Err(Error::TakenOver { owner: InstanceId([9, ..]), .. })),
        "{fenced:?}"
    );
}

#[tokio::test]
async fn a_cloned_machine_is_told_that_it_has_a_twin() {
    let world = World::new();
    let (_, _, mut own) = world.registered().await;
    let around = world.around();
    let path = world.directory.path().join("clone");
    std::fs::copy(world.anchor_path(), &path).expect("copied");
    let mut clone = Anchor::load(&path, own.realm.keys()).expect("sound").expect("there");

    own.realm
        .append(&own.snapshot, draft(&own.snapshot, 1), &mut own.anchor, &around)
        .await
        .expect("committed");
    let lost = own.realm.append(&own.snapshot, draft(&own.snapshot, 2), &mut clone, &around).await;
    assert!(matches!(lost, Err(Error::CommitLost { .. })), "{lost:?}");
    let newest = own.realm.load(None).await.expect("loaded");
    let twin = own.realm.append(&newest, draft(&newest, 2), &mut clone, &around).await;

    assert!(matches!(twin, Err(Error::Twin { generation: Generation(2) })), "{twin:?}");
}

#[tokio::test]
async fn a_commit_that_lands_late_is_recognised_as_ones_own() {
    let world = World::new();
    let (_, credentials, own) = world.registered().await;
    let around = world.around();
    // Calls of an append: put, and a read because the answer was lost.
    let faulty =
        Arc::new(FaultyStore::new(world.memory.clone(), [(1, Fault::Refuse(StoreFault::Timeout))]));
    let realm = world.through(faulty, &credentials, &own).await;
    let mut anchor = own.anchor.clone();
    let unknown = realm.append(&own.snapshot, draft(&own.snapshot, 1), &mut anchor, &around).await;
    assert!(matches!(unknown, Err(Error::CommitUnknown { .. })), "{unknown:?}");

    // A second attempt is sent, and again nothing is heard; then the first one turns out to have been lost
    // and the second to have landed.
    let late = Arc::new(FaultyStore::new(
        world.memory.clone(),
        [(1, Fault::LoseReply), (2, Fault::Refuse(StoreFault::Timeout))],
    ));
    let realm = world.through(late, &credentials, &own).await;
    let unknown = realm.append(&own.snapshot, draft(&own.snapshot, 2), &mut anchor, &around).await;
    assert!(matches!(unknown, Err(Error::CommitUnknown { .. })), "{unknown:?}");

    let mut anchor =
        Anchor::load(&world.anchor_path(), realm.keys()).expect("sound").expect("there");
    let snapshot = realm.load(None).await.expect("loaded");
    realm.reconcile(&mut anchor, &snapshot).await.expect("our own");
    assert_eq!(anchor.generation(), Generation(2));
}

#[tokio::test]
async fn a_vault_that_rewinds_forks_or_loses_its_middle_is_noticed() {
    let world = World::new();
    let (_, credentials, mut own) = world.registered().await;
    let around = world.around();
    let mut snapshot = own.snapshot.clone();
    let mut past = Vec::new();
    for number in 0..6 {
        past.push(Arc::new(world.memory.copy()));
        snapshot = own
            .realm
            .append(&snapshot, draft(&snapshot, number), &mut own.anchor, &around)
            .await
            .expect("committed");
    }

    for (generation, store) in (1..).zip(&past) {
        let rewound = world.through(store.clone(), &credentials, &own).await;
        let shown = rewound.load(None).await.expect("what is there can be restored");
        let error = rewound
            .append(&shown, draft(&shown, 9), &mut own.anchor.clone(), &around)
            .await
            .expect_err("refused");
        assert!(
            matches!(error, Error::Rewound { found, anchored } if found == Generation(generation) && anchored == Generation(7)),
            "{error}"
        );
    }

    let forked = world.through(past[5].clone(), &credentials, &own).await;
    let shown = forked.load(None).await.expect("loaded");
    let path = world.directory.path().join("fork");
    let mut unaware = Anchor::begin(&path, own.key.vault, forked.id(), own.key.instance, &shown);
    let fork = forked
        .append(&shown, draft(&shown, 9), &mut unaware, &around)
        .await
        .expect("another history");
    let error = forked
        .append(&fork, draft(&fork, 10), &mut own.anchor.clone(), &around)
        .await
        .expect_err("refused");
    assert!(matches!(error, Error::Forked { generation: Generation(7) }), "{error}");

    for generation in 1..7 {
        let holed = Arc::new(world.memory.copy());
        let name = ObjectName::commit(own.realm.id(), Generation(generation));
        assert!(holed.lose(name.as_str()));
        let realm = world.through(holed, &credentials, &own).await;
        let error = realm.load(None).await.expect_err("noticed");
        assert!(matches!(error, Error::ChainBroken { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_commit_cannot_be_moved_replayed_or_changed() {
    let world = World::new();
    let (_, _, mut own) = world.registered().await;
    let around = world.around();
    let one = own
        .realm
        .append(&own.snapshot, draft(&own.snapshot, 1), &mut own.anchor, &around)
        .await
        .expect("committed");
    own.realm.append(&one, draft(&one, 2), &mut own.anchor, &around).await.expect("committed");
    let name = |generation| ObjectName::commit(own.realm.id(), Generation(generation)).to_string();
    let genuine = |generation| world.memory.peek(&name(generation)).expect("there");
    let (second, third) = (genuine(2), genuine(3));

    for (place, object) in
        [(4, second.clone()), (4, third.clone()), (3, second.clone()), (2, third.clone())]
    {
        let before = world.memory.peek(&name(place));
        world.memory.tamper(&name(place), object);
        let error = own.realm.load(None).await.expect_err("noticed");
        assert!(matches!(error, Error::ChainBroken { .. }), "{error}");
        world.memory.lose(&name(place));
        if let Some(before) = before {
            world.memory.tamper(&name(place), before);
        }
    }
    for position in [0, 20, 40, 70, 104, 130, 200, second.len() - 1] {
        let mut bad = second.to_vec();
        bad[position] ^= 1;
        world.memory.tamper(&name(2), bad);
        assert!(own.realm.load(None).await.expect_err("noticed").is_damage());
        world.memory.tamper(&name(2), second.clone());
    }
    assert_eq!(own.realm.load(None).await.expect("whole again").generation(), Generation(3));
}

#[tokio::test]
async fn a_draft_that_breaks_a_rule_is_refused_before_anything_is_sent() {
    let world = World::new();
    let (_, _, mut own) = world.registered().await;
    let around = world.around();
    let one = own
        .realm
        .append(&own.snapshot, draft(&own.snapshot, 1), &mut own.anchor, &around)
        .await
        .expect("committed");
    world.memory.take_requests();
    let condemn = Changes { objects_condemned: [0].into_iter().collect(), ..Changes::default() };
    let bad = Draft { kind: CommitKind::Forget, changes: condemn, witnesses: Vec::new() };

    let refused = own.realm.append(&one, bad, &mut own.anchor, &around).await;

    assert!(
        matches!(
            refused,
            Err(Error::ChainBroken { reason: "it condemns an object that a point needs", .. })
        ),
        "{refused:?}"
    );
    assert_eq!(world.memory.take_requests().total(), 0);
}

#[tokio::test]
async fn a_manifest_survives_the_trip() {
    let world = World::new();
    let (_, _, own) = world.registered().await;
    let keys = own.realm.keys();
    let sealed = container::seal_body(keys, Content::Object(ObjectKind::Manifest), b"KWPOINT1...")
        .expect("sealed");

    let opened = container::open(keys, ObjectKind::Manifest, &sealed.object).expect("opened");

    assert_eq!(
        container::body(ObjectKind::Manifest, &opened.plaintext),
        Ok(b"KWPOINT1...".as_slice())
    );
}

// A commit as only a holder of the keys can make it, which a sound agent never would.
struct Forgery {
    kind: CommitKind,
    instance: InstanceId,
    epoch: u32,
    claim: Option<(VaultId, Label)>,
    spoil: fn(&mut StateDigest),
}

#[tokio::test]
async fn even_with_the_keys_a_commit_must_keep_the_rules() {
    let world = World::new();
    let (_, _, own) = world.registered().await;
    let sound = || Forgery {
        kind: CommitKind::Sync,
        instance: own.key.instance,
        epoch: 1,
        claim: None,
        spoil: |_| {},
    };
    let claim = (own.key.vault, world.label.clone());
    let stranger = InstanceId([9; 16]);
    let cases = [
        (None, sound()),
        (Some("it was not made by the owner"), Forgery { instance: stranger, ..sound() }),
        (Some("it has the wrong epoch"), Forgery { epoch: 2, ..sound() }),
        (Some("it has the wrong epoch"), Forgery { epoch: 0, ..sound() }),
        (Some("it has the wrong epoch"), Forgery { kind: CommitKind::Claim, ..sound() }),
        (
            Some("a claim names no vault and label"),
            Forgery { kind: CommitKind::Claim, epoch: 2, ..sound() },
        ),
        (
            Some("a claim names another vault than the first one"),
            Forgery {
                kind: CommitKind::Claim,
                epoch: 2,
                claim: Some((VaultId([9; 16]), claim.1.clone())),
                ..sound()
            },
        ),
        (
            None,
            Forgery {
                kind: CommitKind::Claim,
                epoch: 2,
                instance: stranger,
                claim: Some(claim.clone()),
                ..sound()
            },
        ),
        (Some("only a claim names vault and label"), Forgery { claim: Some(claim), ..sound() }),
        (
            Some("it counts other points or objects than there are"),
            Forgery { spoil: |state| state.points += 1, ..sound() },
        ),
        (
            Some("it counts other points or objects than there are"),
            Forgery { spoil: |state| state.objects += 1, ..sound() },
        ),
        (
            Some("it knows other points or objects than there are"),
            Forgery { spoil: |state| state.points_digest[0] ^= 1, ..sound() },
        ),
        (
            Some("it knows other points or objects than there are"),
            Forgery { spoil: |state| state.objects_digest[0] ^= 1, ..sound() },
        ),
    ];
    for (expected, forgery) in cases {
        let mut state = own.snapshot.digest();
        (forgery.spoil)(&mut state);
        let commit = Commit {
            kind: forgery.kind,
            instance: forgery.instance,
            nonce: [0; 16],
            agent_time: Timestamp(0),
            vault_time: None,
            program: String::new(),
            witnesses: Vec::new(),
            claim: forgery.claim,
            changes: Changes::default(),
            state,
        };
        let link =
            Link { generation: Generation(2), epoch: forgery.epoch, previous: own.snapshot.head() };
        let keys = own.realm.keys();
        let sealed =
            container::seal_body(keys, Content::Commit(link), &commit.encode()).expect("sealed");
        let store = Arc::new(world.memory.copy());
        let name = ObjectName::commit(own.realm.id(), Generation(2));
        store.tamper(name.as_str(), sealed.object);
        let realm = Realm::new(store, own.key.vault, own.key.keys.clone());

        let found = match realm.load(None).await {
            Ok(_) => None,
            Err(Error::ChainBroken { reason, .. }) => Some(reason),
            Err(error) => panic!("{error}"),
        };

        assert_eq!(found, expected);
    }
}
