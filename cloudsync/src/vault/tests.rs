//! The life of a vault in memory: creation, registration, commits, faults at every call, twins, rewinds.

mod chain;
mod registration;
mod rules;
mod twins;

use crate::crypto::passphrase::Passphrase;
use crate::crypto::slot::{KdfCosts, KdfLimits};
use crate::layout::{Label, ObjectKind};
use crate::store::ObjectStore;
use crate::testing::{MemoryStore, SeededEntropy};
use crate::vault::chain::{Draft, Realm, Surroundings};
use crate::vault::commit::{Changes, CommitKind, ObjectRecord, PointRecord};
use crate::vault::credentials::Credentials;
use crate::vault::snapshot::Snapshot;
use crate::vault::{NewServer, NewVault, REGISTRATION_PERIOD, Registration, Vault};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use storepool::clock::{Clock, Timestamp};
use storepool::id::PointId;
use tempfile::TempDir;

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
