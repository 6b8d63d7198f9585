//! One vault, several servers: each has its own passphrase, keys and objects, and none can read or harm another's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::home::Home;
use crate::protected::{Kept, register, text};
use crate::tree::{Observed, Random, plant};

struct Member {
    machine: Home,
    kept: Kept,
}

impl Member {
    // Another machine with the same files, and a passphrase of its own.
    fn new(credentials: &Path, label: &str) -> Self {
        let machine = Home::in_memory();
        let passphrase = machine.directory("kept").join("passphrase");
        let kept = Kept { credentials: credentials.to_path_buf(), passphrase };
        register(&machine, &kept, label).expect_code(0);
        plant(&machine.directory("source"), 20, 1, &mut Random::new(3));
        Self { machine, kept }
    }

    fn copy(&self, change: &str) -> String {
        let source = self.machine.beside("source");
        fs::write(source.join("changed"), change).expect("written");
        let point = self.machine.backup(&source, &[]);
        self.machine.run(["sync"]).expect_code(0);
        point
    }
}

// All files below a folder, with their content.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).expect("listed") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => open.push(path),
                false => drop(found.insert(path.clone(), fs::read(&path).expect("read"))),
            }
        }
    }
    found
}

#[test]
fn servers_of_one_vault_can_neither_read_nor_harm_each_other() {
    let owner = Home::empty_in_memory();
    let vault = owner.directory("owner").join("vault");
    let credentials = owner.beside("main.vault");
    owner
        .run(["vault", "create", text(&vault), "--credentials", text(&credentials)])
        .expect_code(0);
    let (one, two) = (Member::new(&credentials, "web1"), Member::new(&credentials, "web2"));
    let point = one.copy("same");
    let first_realm = realms(&vault);
    let before = content(&vault);
    let other = two.copy("same");

    // The same files, and not one object that would tell.
    let objects = |realm: &PathBuf| -> BTreeSet<_> {
        content(realm).into_keys().filter_map(|path| Some(path.file_name()?.to_owned())).collect()
    };
    let (mine, theirs) = (&first_realm[0], &first_realm[1]);
    let hashes = |realm| -> BTreeSet<_> {
        let all: BTreeSet<std::ffi::OsString> = objects(realm);
        all.into_iter().filter(|name| name.len() > 60).collect()
    };
    assert!(hashes(mine).len() > 2 && hashes(theirs).len() > 2);
    assert!(hashes(mine).is_disjoint(&hashes(theirs)));
    let sealed: BTreeSet<_> = content(mine).into_values().collect();
    assert!(content(theirs).into_values().all(|bytes| !sealed.contains(&bytes)));

    // Whoever has one passphrase has nothing of the other server.
    let blank = Home::empty_in_memory();
    let listed = two.kept.recover(&blank, &["--servers", "--json"]).expect_code(0).stdout();
    assert!(listed.contains("web1") && listed.contains("web2"), "{listed}");
    two.kept.recover(&blank, &["--server", "web1", "--list"]).expect_code(12);
    let unnamed = two.kept.recover(&blank, &["--list"]).expect_code(2);
    assert!(unnamed.stderr().contains("web1, web2"), "{unnamed}");
    two.kept.recover(&blank, &["--server", "web2", "--list"]).expect_code(0);
    let label = Home::in_memory();
    let passphrase = label.directory("kept").join("passphrase");
    let late = Kept { credentials: credentials.clone(), passphrase };
    let taken = register(&label, &late, "web1");
    assert_ne!(taken.code(), Some(0), "{taken}");
    assert!(taken.stderr().contains("is taken by another server"), "{taken}");

    // All that one can do there leaves the other's objects as they were.
    two.copy("more");
    two.machine.run(["forget", "--vault=main", &other]).expect_code(0);
    two.machine.run(["prune", "--vault", "--max-unused", "0"]).expect_code(0);
    two.machine.run(["repair", "--vault"]).expect_code(0);
    let after = content(mine);
    assert_eq!(
        before.into_iter().filter(|(path, _)| path.starts_with(mine)).collect::<BTreeMap<_, _>>(),
        after
    );
    let target = blank.beside("back");
    let words = ["--server", "web1", &point, "--to", text(&target)];
    one.kept.recover(&blank, &words).expect_code(0);
    Observed::of(&one.machine.beside("source")).expect(&Observed::of(&target), "of the first one");
}

// The folders of the servers, in the order of their labels.
fn realms(vault: &Path) -> Vec<PathBuf> {
    let mut records: Vec<_> = content(&vault.join("servers")).into_iter().collect();
    records.sort();
    let realm = |bytes: &[u8]| {
        let record: serde_json::Value = serde_json::from_slice(bytes).expect("JSON");
        vault.join("r").join(record["realm"].as_str().expect("a realm"))
    };
    records.iter().map(|(_, bytes)| realm(bytes)).collect()
}
