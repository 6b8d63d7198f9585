//! What a commit may change, and what it may not.

use storepool::clock::Timestamp;
use storepool::id::PointId;
use storepool::wire::WireReader;

use super::Snapshot;
use super::rules::Reason;
use crate::crypto::ring::{KeyRing, RealmKeys};
use crate::layout::{Generation, ObjectHash, ObjectKind, RealmId, SlotId, VaultId};
use crate::testing::SeededEntropy;
use crate::vault::commit::tests::{object, point};
use crate::vault::commit::{
    Changes, Moved, ObjectRecord, PointNotes, ServerConfiguration, SlotLabel, SlotSet,
};
use crate::vault::fields::Ordinals;

const G: Generation = Generation(1);

fn manifest(number: u8) -> ObjectRecord {
    ObjectRecord { kind: ObjectKind::Manifest, ..object(number) }
}

// Objects 0 and 1 are packs, 2 is a manifest; point 1 needs 0 and 2.
fn state() -> Snapshot {
    let mut state = Snapshot::genesis();
    let changes = Changes {
        slots: Some(SlotSet {
            revision: 1,
            slots: vec![(SlotId([1; 16]), 1)],
            labels: vec![SlotLabel {
                slot: SlotId([1; 16]),
                made: Timestamp(9),
                name: "first".into(),
            }],
        }),
        objects_added: vec![object(0), object(1), manifest(2)],
        points_added: vec![point(1, 2, &[0])],
        ..Changes::default()
    };
    state.change(G, &changes).expect("a valid change");
    state
}

fn refused(changes: Changes) -> Reason {
    state().change(Generation(2), &changes).expect_err("refused")
}

fn ordinals(list: &[u64]) -> Ordinals {
    list.iter().copied().collect()
}

#[test]
fn nothing_that_a_point_needs_can_be_condemned() {
    let condemn = |list| Changes { objects_condemned: ordinals(list), ..Changes::default() };

    assert_eq!(refused(condemn(&[0])), "it condemns an object that a point needs");
    assert_eq!(refused(condemn(&[2])), "it condemns an object that a point needs");
    assert_eq!(refused(condemn(&[3])), "it condemns an object that is not there");
    assert_eq!(state().change(G, &condemn(&[1])), Ok(()));
    let forget = Changes { points_forgotten: vec![PointId([1; 32])], ..condemn(&[0, 1, 2]) };
    assert_eq!(state().change(G, &forget), Ok(()));
}

#[test]
fn a_condemned_name_never_returns() {
    let mut state = state();
    let condemn = Changes { objects_condemned: ordinals(&[1]), ..Changes::default() };
    state.change(G, &condemn).expect("condemned");
    let add = |copy| Changes {
        objects_added: vec![ObjectRecord { copy, ..object(1) }],
        ..Changes::default()
    };

    assert_eq!(state.clone().change(G, &condemn), Err("it condemns an object twice"));
    assert_eq!(
        state.clone().change(G, &add(0)),
        Err("it uses the name of a condemned object again")
    );
    assert_eq!(state.next_copy(object(1).hash), 1);
    let gone = Changes { objects_gone: ordinals(&[1]), ..Changes::default() };
    state.change(G, &gone).expect("gone");
    assert_eq!(
        state.clone().change(G, &add(0)),
        Err("it uses the name of a condemned object again")
    );
    state.change(G, &add(1)).expect("a new name");
    assert_eq!(state.live_object(object(1).hash), Some(3));
}

/// Sealing is a function of the content, so a lost manifest can only come back as the same bytes.
#[test]
fn an_object_is_replaced_by_the_same_bytes_only_while_it_is_condemned() {
    let replace = |copy, condemned: &[u64]| Changes {
        objects_added: vec![ObjectRecord { copy, ..manifest(2) }],
        moved: vec![Moved { from: 2, to: vec![3] }],
        objects_condemned: ordinals(condemned),
        ..Changes::default()
    };

    assert_eq!(refused(replace(1, &[])), "it adds an object that is there already");
    assert_eq!(refused(replace(0, &[2])), "it uses the name of a condemned object again");
    assert_eq!(refused(replace(2, &[2])), "it uses the name of a condemned object again");
    let mut state = state();
    state.change(G, &replace(1, &[2])).expect("replaced");

    let hash = manifest(2).hash;
    assert_eq!(state.live_object(hash), Some(3));
    let point = &state.points()[&PointId([1; 32])];
    assert_eq!(point.manifest, 3);
    assert_eq!(point.needs.iter().collect::<Vec<_>>(), [0, 3]);
    assert_eq!(state.digest().objects, 3);
    // And once more.
    let again = Changes {
        objects_added: vec![ObjectRecord { copy: 2, ..manifest(2) }],
        moved: vec![Moved { from: 3, to: vec![4] }],
        objects_condemned: ordinals(&[3]),
        ..Changes::default()
    };
    state.change(G, &again).expect("replaced");
    assert_eq!(state.live_object(hash), Some(4));
}

#[test]
fn a_configuration_stays_until_another_one_is_stored() {
    let keys = RealmKeys::new(
        RealmId([1; 16]),
        KeyRing::generate(&SeededEntropy::new(1), Timestamp(0), ""),
    );
    let configuration =
        |text: &str| ServerConfiguration { vault_name: "main".into(), text: text.into() };
    let store = |text| Changes { configuration: Some(configuration(text)), ..Changes::default() };
    let mut state = state();
    assert_eq!(state.configuration(), None);

    state.change(G, &store("one")).expect("stored");
    state.change(G, &Changes::default()).expect("nothing");
    assert_eq!(state.configuration(), Some(&configuration("one")));
    state.change(G, &store("two")).expect("stored");

    let sealed = state.seal(&keys).expect("sealed");
    let opened = Snapshot::open(&keys, &sealed.object).expect("opened");
    assert_eq!(opened.configuration(), Some(&configuration("two")));
    assert!(!format!("{opened:?}").contains("two"), "it may hold secrets");
}

#[test]
fn points_need_objects_that_are_there() {
    let add = |point| Changes { points_added: vec![point], ..Changes::default() };

    assert_eq!(refused(add(point(1, 2, &[0]))), "it adds a point that is there already");
    assert_eq!(refused(add(point(2, 2, &[7]))), "a point needs an object that is not there");
    assert_eq!(refused(add(point(2, 0, &[1]))), "a point's manifest is not a manifest");
    let mut endless = point(2, 2, &[0]);
    endless.needs =
        Ordinals::read(&mut WireReader::new(&[1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]))
            .expect("runs");
    assert_eq!(refused(add(endless)), "a point needs an object that is not there");
    assert_eq!(
        refused(Changes { objects_gone: ordinals(&[1]), ..Changes::default() }),
        "an object is gone that was not condemned"
    );
    assert_eq!(
        refused(Changes { objects_added: vec![object(0)], ..Changes::default() }),
        "it adds an object that is there already"
    );
    assert_eq!(
        refused(Changes { points_forgotten: vec![PointId([9; 32])], ..Changes::default() }),
        "it forgets a point that is not there"
    );
    assert_eq!(
        refused(Changes { points_restored: vec![PointId([1; 32])], ..Changes::default() }),
        "it restores a point that was not forgotten"
    );
}

#[test]
fn a_forgotten_point_comes_back_only_with_living_objects() {
    let mut state = state();
    let id = PointId([1; 32]);
    let forget = Changes {
        points_forgotten: vec![id],
        objects_condemned: ordinals(&[0, 2]),
        ..Changes::default()
    };
    state.change(Generation(2), &forget).expect("forgotten");
    let restore = Changes { points_restored: vec![id], ..Changes::default() };
    assert_eq!(state.clone().change(G, &restore), Err("a point needs an object that is not there"));

    let undelete = Changes {
        objects_added: vec![
            ObjectRecord { copy: 1, ..object(0) },
            ObjectRecord { copy: 1, ..manifest(2) },
        ],
        moved: vec![Moved { from: 0, to: vec![3] }, Moved { from: 2, to: vec![4] }],
        ..restore
    };
    state.change(Generation(3), &undelete).expect("restored");

    let point = &state.points()[&id];
    assert_eq!((point.manifest, &point.needs), (4, &ordinals(&[3, 4])));
    assert!(state.forgotten().is_empty());
}

#[test]
fn a_repack_moves_what_points_need() {
    let mut state = state();
    let repack = Changes {
        objects_added: vec![object(8), object(9)],
        moved: vec![Moved { from: 0, to: vec![3, 4] }],
        objects_condemned: ordinals(&[0]),
        ..Changes::default()
    };

    state.change(Generation(2), &repack).expect("repacked");

    assert_eq!(state.points()[&PointId([1; 32])].needs, ordinals(&[2, 3, 4]));
    let divide = Changes { moved: vec![Moved { from: 2, to: vec![3, 4] }], ..Changes::default() };
    assert_eq!(state.change(G, &divide), Err("it divides a manifest"));
}

#[test]
fn notes_follow_a_point_wherever_it_is() {
    let mut state = state();
    let id = PointId([1; 32]);
    let note = |keep_until, tags: &[&str]| Changes {
        notes: vec![PointNotes {
            point: id,
            keep_until,
            on_demand: false,
            tags: tags.iter().map(ToString::to_string).collect(),
        }],
        ..Changes::default()
    };

    state.change(G, &note(Some(Timestamp(7)), &["audit"])).expect("annotated");
    assert_eq!(state.points()[&id].keep_until, Some(Timestamp(7)));
    let forget = Changes { points_forgotten: vec![id], ..note(None, &[]) };
    state.change(G, &forget).expect("forgotten");

    let (_, point) = &state.forgotten()[&id];
    assert_eq!((point.keep_until, point.tags.len(), point.files), (None, 0, 3));
    let gone = Changes { points_gone: vec![id], ..Changes::default() };
    state.change(G, &gone).expect("gone");
    assert_eq!(state.change(G, &note(None, &[])), Err("it annotates a point that is not there"));
}

#[test]
fn a_checkpoint_holds_the_whole_state() {
    let keys = RealmKeys::new(
        RealmId([1; 16]),
        KeyRing::generate(&SeededEntropy::new(1), Timestamp(0), "test"),
    );
    let mut state = state();
    state.claim = Some((VaultId([2; 16]), "web1".parse().expect("a label")));
    (state.generation, state.epoch, state.head) = (Generation(300), 2, ObjectHash([9; 32]));
    let changes = Changes {
        objects_added: vec![object(5), manifest(6)],
        points_added: vec![point(2, 4, &[0, 3])],
        points_forgotten: vec![PointId([1; 32])],
        objects_condemned: ordinals(&[1]),
        ..Changes::default()
    };
    state.change(Generation(299), &changes).expect("changed");
    let gone = Changes { objects_gone: ordinals(&[1]), ..Changes::default() };
    state.change(Generation(300), &gone).expect("gone");
    state.set_checkpoint(Generation(300));

    let sealed = state.seal(&keys).expect("sealed");

    assert_eq!(Snapshot::open(&keys, &sealed.object), Ok(state));
}
