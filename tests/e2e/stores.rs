//! Every kind of store that a vault can be in keeps the same promises, and a store that does not is found out.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cloudsync::error::StoreFault;
use cloudsync::layout::ObjectName;
use cloudsync::store::ObjectStore;
use cloudsync::testing::conformance::check_object_store;

use crate::home::Home;
use crate::servers::{Azurite, Ceph, Fault, FaultProxy, Moto, Place, Rclone};

fn run<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().expect("a runtime").block_on(future)
}

fn check(place: &Place) {
    run(check_object_store(place.open()));
}

fn name(text: &str) -> ObjectName {
    text.parse().expect("a name")
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

// One more than a page of a list has.
async fn fill(store: &Arc<dyn ObjectStore>, folder: &str, count: usize) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..count {
        let name = name(&format!("{folder}/{number:04}"));
        names.insert(name.to_string());
        let store = store.clone();
        tasks.spawn(async move { store.put_new(&name, vec![7].into()).await });
        if tasks.len() == 16 {
            tasks.join_next().await.expect("some").expect("no panic").expect("put");
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no panic").expect("put");
    }
    names
}

#[test]
fn a_list_longer_than_a_page_is_complete() {
    let moto = Moto::start();
    let store = moto.place("prefix").open();

    run(async {
        let names = fill(&store, "many", 1001).await;
        let listed = store.list("many/").await.expect("listed");
        let found: BTreeSet<_> = listed.iter().map(|meta| meta.name.to_string()).collect();
        assert_eq!(found, names);
    });
}

#[test]
fn a_silent_server_is_given_up_and_a_slow_one_is_not() {
    const STALL: Duration = Duration::from_secs(3);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let silent = format!("http://{}", listener.local_addr().expect("it is bound"));
    thread::spawn(move || {
        // Takes everything and never says a word.
        for mut client in listener.incoming().flatten() {
            thread::spawn(move || while matches!(client.read(&mut [0; 4096]), Ok(1..)) {});
        }
    });
    let moto = Moto::start();
    let proxy = FaultProxy::before(moto.host());
    // Much faster than what the system's buffers between here and there hold in that time, much slower than the whole.
    proxy.set(Fault::Slow(4 << 20));
    let place = moto.place("prefix");
    let open = |endpoint| place.through(endpoint).open_with(|opening| opening.stall_limit = STALL);
    let body = vec![1; 20 << 20];

    let begin = Instant::now();
    let given_up = run(open(silent).put_new(&name("a/b"), body.clone().into()));
    let patience = begin.elapsed();
    let begin = Instant::now();
    let slow = run(open(proxy.endpoint()).put_new(&name("a/b"), body.into()));

    assert_eq!(given_up.expect_err("nobody answered").fault, StoreFault::Timeout);
    assert!(patience < 4 * STALL, "{patience:?}");
    slow.expect("slow is not silent");
    assert!(begin.elapsed() > STALL, "it was not slow: {:?}", begin.elapsed());
}
