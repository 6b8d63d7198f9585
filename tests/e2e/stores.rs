//! Every kind of store that a vault can be in keeps the same promises, and a store that does not is found out.

use cloudsync::testing::conformance::check_object_store;

use crate::home::Home;
use crate::servers::{Azurite, Ceph, Moto, Place, Rclone};

fn check(place: &Place) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let store = place.open();
    runtime.expect("a runtime").block_on(check_object_store(store));
}

#[test]
fn moto_keeps_the_promises_of_a_store() {
    let moto = Moto::start();

    check(&moto.place("some/prefix"));
    check(&moto.place(""));
}

#[test]
fn azurite_keeps_the_promises_of_a_store() {
    let azurite = Azurite::start();

    check(&azurite.place("some/prefix"));
    check(&azurite.place(""));
}

#[test]
fn ceph_keeps_the_promises_of_a_store() {
    let ceph = Ceph::start();

    check(&ceph.place("some/prefix"));
    check(&ceph.place(""));
}

#[test]
fn a_store_that_overwrites_is_found_out_before_anything_is_entrusted_to_it() {
    let rclone = Rclone::start();
    let place = rclone.place("vault");
    let owner = Home::empty();
    let folder = owner.directory("keys");
    let credentials = owner.beside("main.vault");
    let file = credentials.to_str().expect("a path");

    let mut arguments = vec!["vault", "create", &place.url, "--credentials", file];
    let access = place.arguments(&folder);
    arguments.extend(access.iter().map(String::as_str));
    let refused = owner.run(arguments).expect_code(1);

    assert!(refused.stderr().contains("overwrites an existing object"), "{refused}");
    assert!(refused.stderr().contains("cannot keep a vault safely"), "{refused}");
    assert!(!credentials.exists());
}
