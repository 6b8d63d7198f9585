//! Who may write: one installation at a time, on the history that it has seen.

use super::{World, draft};
use crate::error::{Error, StoreFault};
use crate::layout::{Generation, InstanceId, ObjectName};
use crate::testing::{Fault, FaultyStore};
use crate::vault::anchor::Anchor;
use crate::vault::commit::Changes;
use std::sync::Arc;

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
