//! Passphrases come and go, data stays where it is, and whatever call fails somebody can still recover.

use std::sync::Arc;

use super::{LeftBehind, add, change, remove, slots};
use crate::crypto::passphrase::Passphrase;
use crate::error::{Error, Result, StoreFault};
use crate::store::ObjectStore;
use crate::testing::server::{COSTS, LIMITS, PASSPHRASE, Server, files};
use crate::testing::{Fault, FaultyStore, MemoryStore};
use crate::vault::{Unlocked, Vault};

const SECOND: &str = "another one, of the second key";
const THIRD: &str = "and a third one, just as long!";

fn phrase(text: &str) -> Passphrase {
    Passphrase::new(text).expect("acceptable")
}

async fn unlock(server: &Server, text: &str) -> Result<Unlocked> {
    let vault = Vault::open(server.memory.clone(), &server.credentials).await?;
    let record = vault.servers().await?.found.remove(0);
    vault.unlock(&record, &phrase(text), &LIMITS).await
}

async fn opens(server: &Server, text: &str) -> bool {
    match unlock(server, text).await {
        Ok(unlocked) => !unlocked.is_retired(&server.state().await),
        Err(Error::WrongPassphrase { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

async fn added(
    server: &Server,
    store: Arc<dyn ObjectStore>,
    name: &str,
    text: &str,
) -> Result<LeftBehind> {
    server
        .write(store, async |writing| {
            let mut snapshot = writing.begin().await?;
            add(writing, &mut snapshot, name, &phrase(text), COSTS).await
        })
        .await
}

async fn changed(
    server: &Server,
    store: Arc<dyn ObjectStore>,
    name: &str,
    text: &str,
) -> Result<LeftBehind> {
    server
        .write(store, async |writing| {
            let mut snapshot = writing.begin().await?;
            change(writing, &mut snapshot, name, &phrase(text), COSTS).await
        })
        .await
}

async fn removed(server: &Server, store: Arc<dyn ObjectStore>, name: &str) -> Result<LeftBehind> {
    server
        .write(store, async |writing| {
            let mut snapshot = writing.begin().await?;
            remove(writing, &mut snapshot, name).await
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passphrases_are_added_changed_and_removed_without_touching_data() {
    let server = Server::new().await;
    let memory = || server.memory.clone();
    let tree = files(1, 3, 5000);
    let point = server.back_up("tree", &tree);
    server.sync(memory()).await.expect("synced");
    let packs = |names: Vec<String>| -> Vec<_> {
        names.into_iter().filter(|name| !name.contains("/c/") && !name.contains("/k/")).collect()
    };
    let before = packs(server.memory.names());

    added(&server, memory(), "safe", SECOND).await.expect("added");
    assert!(opens(&server, PASSPHRASE).await && opens(&server, SECOND).await);
    let names: Vec<_> = slots(&server.state().await).into_iter().map(|slot| slot.name).collect();
    assert_eq!(names, ["first", "safe"]);
    let twice = added(&server, memory(), "safe", THIRD).await.expect_err("refused");
    assert!(matches!(twice, Error::SlotExists { .. }), "{twice}");

    let old_slot: Vec<_> =
        server.memory.names().into_iter().filter(|it| it.contains("/k/")).collect();
    let old: Vec<_> = old_slot
        .iter()
        .map(|name| (name.clone(), server.memory.peek(name).expect("there")))
        .collect();
    changed(&server, memory(), "first", THIRD).await.expect("changed");
    assert!(!opens(&server, PASSPHRASE).await && opens(&server, THIRD).await);
    removed(&server, memory(), "safe").await.expect("removed");
    assert!(!opens(&server, SECOND).await && opens(&server, THIRD).await);
    let last = removed(&server, memory(), "first").await.expect_err("refused");
    assert!(matches!(last, Error::LastSlot { .. }), "{last}");
    assert_eq!(packs(server.memory.names()), before);

    // The vault brings old slots back: they open, and that they are retired is told.
    for (name, bytes) in old {
        server.memory.tamper(&name, bytes);
    }
    for text in [PASSPHRASE, SECOND] {
        let unlocked = unlock(&server, text).await.expect("an old copy opens");
        assert!(unlocked.is_retired(&server.state().await), "{text}");
    }
    assert!(opens(&server, THIRD).await);
    assert_eq!(server.restored(point).await, tree);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_call_fails_a_passphrase_opens_and_the_next_change_completes() {
    let server = Server::new().await;
    let (start, memories) = (server.memory.copy(), server.memories());
    // One fault for each call: key derivation takes most of the time.
    let faults = [Fault::LandLate, Fault::LoseReply, Fault::Refuse(StoreFault::Timeout)];
    let mut call = 0;
    loop {
        server.memory.become_like(&start);
        server.remember(&memories);
        let fault = faults[call as usize % faults.len()];
        let faulty = Arc::new(FaultyStore::new(server.memory.clone(), [(call, fault)]));
        let name = format!("{fault:?} at {call}");

        let outcome = changed(&server, faulty.clone(), "first", SECOND).await;

        let new = opens(&server, SECOND).await;
        assert!(new || opens(&server, PASSPHRASE).await, "{name}: {outcome:?}");
        if faulty.calls() <= call {
            assert!(outcome.is_ok() && new, "{name}: {outcome:?}");
            break;
        }
        changed(&server, server.memory.clone(), "first", SECOND).await.expect(&name);
        assert!(opens(&server, SECOND).await, "{name}");
        let slots = server.memory.names().into_iter().filter(|it| it.contains("/k/")).count();
        assert_eq!(slots, 1, "{name}");
        call += 1;
    }
    assert!(call > 8, "only {call} calls");
    assert!(!opens(&server, PASSPHRASE).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_at_most_eight_and_what_cannot_be_deleted_is_told() {
    let server = Server::with_memory(MemoryStore::without_delete()).await;
    let memory = || server.memory.clone();

    let left = changed(&server, memory(), "first", SECOND).await.expect("changed");

    assert_eq!(left.objects.len(), 1);
    assert!(!opens(&server, PASSPHRASE).await, "told as retired");
    for number in 0..6 {
        added(&server, memory(), &format!("key {number}"), THIRD).await.expect("added");
    }
    let full = added(&server, memory(), "one more", THIRD).await.expect_err("refused");
    assert!(matches!(full, Error::TooManySlots { .. }), "{full}");
    let nobody = removed(&server, memory(), "nobody").await.expect_err("refused");
    assert!(matches!(nobody, Error::NoSuchSlot { .. }), "{nobody}");
}
