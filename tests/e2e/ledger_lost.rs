//! What this machine remembers of the vault is lost, old or rubbish: that costs one look, no upload, and nothing in the vault.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::home::{Home, number_of};
use crate::second_copy::{Protected, text};
use crate::tree::{Observed, Random, write};

fn files_below(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).expect("listed") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => open.push(path),
                false => assert!(found.insert(path), "each file once"),
            }
        }
    }
    found
}

#[test]
fn a_ledger_that_is_lost_old_or_rubbish_uploads_nothing_twice_and_deletes_nothing() {
    let one = Protected::new();
    let sync = || one.server.run(["sync", "--json"]).expect_code(0).summary();
    let ledger = one.server.path().join("state/vault-main/ledger.db");
    let vault = one.server.path().join("vault");
    one.backup();
    let first = sync();
    let last_month = fs::read(&ledger).expect("a ledger");
    write(&one.source.join("more"), &Random::new(7).bytes(300 << 10));
    one.backup();
    sync();

    let stale = [None, Some(last_month), Some(b"rubbish".repeat(999))];
    for (number, stale) in stale.into_iter().enumerate() {
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", ledger.display()));
        }
        if let Some(stale) = stale {
            fs::write(&ledger, stale).expect("written");
        }
        let before = files_below(&vault);
        write(&one.source.join("small"), format!("change {number}").as_bytes());
        let point = one.backup();

        let synced = sync();

        assert_eq!(synced["points_copied"], serde_json::json!([point]), "{number}: {synced}");
        let (all, now) =
            (number_of(&first, "bytes_uploaded"), number_of(&synced, "bytes_uploaded"));
        assert!(now * 10 < all, "{number}: {now} of {all} bytes uploaded again");
        let gone: Vec<_> = before.difference(&files_below(&vault)).cloned().collect();
        assert!(gone.is_empty(), "{number}: {gone:?}");
    }
    one.server.run(["check", "--vault", "--read-data"]).expect_code(0);
    let machine = Home::empty_in_memory();
    let target = machine.beside("recovered");
    one.recover(&machine, &["latest", "--to", text(&target)]).expect_code(0);
    Observed::of(&one.source).expect(&Observed::of(&target), "what is in the vault in the end");
}
