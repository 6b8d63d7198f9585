//! Making a vault, registering with it, and finding everything again with credentials and passphrase.

use super::{LIMITS, World, draft};
use crate::crypto::container::{self, Content};
use crate::crypto::passphrase::Passphrase;
use crate::error::{Error, StoreFault};
use crate::layout::{ObjectKind, ObjectName};
use crate::testing::{Fault, FaultyStore, MemoryStore};
use crate::vault::{REGISTRATION_PERIOD, Vault};
use std::sync::Arc;
use std::time::Duration;

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
