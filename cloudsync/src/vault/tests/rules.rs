//! Even whoever holds the keys must keep the rules.

use super::World;
use crate::crypto::container::{self, Content, Link};
use crate::error::Error;
use crate::layout::{Generation, InstanceId, Label, ObjectName, VaultId};
use crate::vault::chain::Realm;
use crate::vault::commit::{Changes, Commit, CommitKind, StateDigest};
use std::sync::Arc;
use storepool::clock::Timestamp;

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
