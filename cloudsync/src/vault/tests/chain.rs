//! Commits: loaded, proved, and never half, whatever fails.

use super::{World, draft};
use crate::error::{Error, StoreFault};
use crate::layout::{Generation, ObjectName};
use crate::store::ObjectStore;
use crate::testing::{Fault, FaultyStore};
use crate::vault::anchor::Anchor;
use crate::vault::chain::{CHECKPOINT_EVERY, Draft, Realm};
use crate::vault::commit::{Changes, CommitKind};
use std::sync::Arc;

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
