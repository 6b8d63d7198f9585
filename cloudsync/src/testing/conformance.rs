//! What every object store must do; run against each of them.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{StoreError, StoreFault};
use crate::layout::ObjectName;
use crate::store::ObjectStore;

const CREATORS: u8 = 8;

fn name(text: &str) -> ObjectName {
    text.parse().expect("a name")
}

fn pattern(length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn fault<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> StoreFault {
    answer.expect_err("the store must refuse this").fault
}

/// Checks a store, which must be empty, and leaves it empty.
///
/// # Panics
/// When the store breaks one of the promises of [`ObjectStore`].
pub async fn check_object_store(store: Arc<dyn ObjectStore>) {
    objects_read_back_whole_and_in_parts(store.as_ref()).await;
    an_existing_object_is_not_replaced(store.as_ref()).await;
    what_is_not_there_is_not_found(store.as_ref()).await;
    lists_show_exactly_what_is_below_a_prefix(store.as_ref()).await;
    a_deleted_object_is_gone_and_can_be_created_again(store.as_ref()).await;
    of_several_creators_one_succeeds(store.clone()).await;
    let left = store.list("").await.expect("listed");
    assert!(left.is_empty(), "everything was deleted: {left:?}");
}

async fn objects_read_back_whole_and_in_parts(store: &dyn ObjectStore) {
    for length in [0, 1, 160, 65_552, 5 << 20] {
        let name = name("size/object");
        let body = pattern(length);
        let size = length as u64;

        let receipt = store.put_new(&name, body.clone()).await.expect("put");
        let whole = store.get(&name, size).await.expect("read");
        let meta = store.head(&name).await.expect("looked at");

        assert_eq!((whole.bytes, whole.object_size), (body.clone(), size));
        assert_eq!((meta.name.clone(), meta.size), (name.clone(), size));
        assert_eq!(meta.modified, whole.modified);
        if let (Some(put), Some(seen)) = (receipt.server_time, meta.modified) {
            assert!((put.0 - seen.0).abs() < 120_000_000_000, "the store's two times agree");
        }
        if length > 0 {
            assert_eq!(fault(store.get(&name, size - 1).await), StoreFault::Corrupt);
            for range in
                [0..1, 0..size, size - 1..size, size / 3..size / 2 + 1, size / 2..size + 100]
            {
                let part = store.get_range(&name, range.clone()).await.expect("read");
                let end = range.end.min(size) as usize;
                assert_eq!(
                    part.bytes,
                    body.slice(range.start as usize..end),
                    "{range:?} of {size}"
                );
                assert_eq!(part.object_size, size);
            }
        }
        assert_eq!(fault(store.get_range(&name, size..size + 1).await), StoreFault::Corrupt);
        store.delete(&name).await.expect("deleted");
    }
}

async fn an_existing_object_is_not_replaced(store: &dyn ObjectStore) {
    let name = name("a/once");
    store.put_new(&name, Bytes::from_static(b"first")).await.expect("put");

    for body in [b"second".as_slice(), b"first", b""] {
        match store.put_new(&name, Bytes::from_static(body)).await {
            Ok(_) => panic!("exactly one creator succeeds, not two one after the other"),
            Err(error) => assert_eq!(error.fault, StoreFault::AlreadyExists),
        }
    }
    assert_eq!(store.get(&name, 100).await.expect("read").bytes, b"first".as_slice());
    store.delete(&name).await.expect("deleted");
}

async fn what_is_not_there_is_not_found(store: &dyn ObjectStore) {
    let (there, not) = (name("a/b/c"), name("a/b"));
    store.put_new(&there, Bytes::from_static(b"x")).await.expect("put");

    for absent in [not, name("a/b/c.0"), name("a/b/c/d"), name("z/z")] {
        assert_eq!(fault(store.get(&absent, 10).await), StoreFault::NotFound, "{absent}");
        assert_eq!(fault(store.get_range(&absent, 0..1).await), StoreFault::NotFound, "{absent}");
        assert_eq!(fault(store.head(&absent).await), StoreFault::NotFound, "{absent}");
        store.delete(&absent).await.expect("deleting nothing is fine");
    }
    store.delete(&there).await.expect("deleted");
}

async fn lists_show_exactly_what_is_below_a_prefix(store: &dyn ObjectStore) {
    let names = ["l/a", "l/b/c", "l/b/d.1", "l/bb", "m", "la"].map(name);
    for (length, name) in names.iter().enumerate() {
        store.put_new(name, pattern(length)).await.expect("put");
    }
    for (prefix, expected) in [
        ("", vec!["l/a", "l/b/c", "l/b/d.1", "l/bb", "la", "m"]),
        ("l/", vec!["l/a", "l/b/c", "l/b/d.1", "l/bb"]),
        ("l/b/", vec!["l/b/c", "l/b/d.1"]),
        ("n/", vec![]),
        ("m/", vec![]),
    ] {
        let mut found = store.list(prefix).await.expect("listed");
        found.sort_by(|left, right| left.name.cmp(&right.name));
        let found_names: Vec<_> = found.iter().map(|meta| meta.name.as_str()).collect();
        assert_eq!(found_names, expected, "below {prefix:?}");
        for meta in &found {
            let length = names.iter().position(|name| *name == meta.name).expect("one of ours");
            assert_eq!(meta.size, length as u64, "{}", meta.name);
        }
    }
    assert_eq!(fault(store.list("l").await), StoreFault::Other, "a prefix ends with a slash");
    for name in &names {
        store.delete(name).await.expect("deleted");
    }
}

async fn a_deleted_object_is_gone_and_can_be_created_again(store: &dyn ObjectStore) {
    let name = name("d/object");
    for body in [b"one".as_slice(), b"two"] {
        store.put_new(&name, Bytes::from_static(body)).await.expect("put");
        assert_eq!(store.get(&name, 10).await.expect("read").bytes, body);
        store.delete(&name).await.expect("deleted");
        store.delete(&name).await.expect("deleted twice");
        assert_eq!(fault(store.head(&name).await), StoreFault::NotFound);
    }
}

async fn of_several_creators_one_succeeds(store: Arc<dyn ObjectStore>) {
    let name = name("race/object");
    let tasks: Vec<_> = (0..CREATORS)
        .map(|number| {
            let (store, name) = (store.clone(), name.clone());
            tokio::spawn(
                async move { store.put_new(&name, Bytes::from(vec![number; 100_000])).await },
            )
        })
        .collect();
    let mut winners = Vec::new();
    for (number, task) in (0..CREATORS).zip(tasks) {
        match task.await.expect("no creator panics") {
            Ok(_) => winners.push(number),
            Err(error) => assert_eq!(error.fault, StoreFault::AlreadyExists),
        }
    }
    assert_eq!(winners.len(), 1, "exactly one creator succeeds");
    let body = store.get(&name, 1 << 20).await.expect("read").bytes;
    assert_eq!(body, vec![winners[0]; 100_000]);
    store.delete(&name).await.expect("deleted");
}
