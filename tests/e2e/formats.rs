//! Pools and vaults of each version of the format are kept in `tests/fixtures`, and read by every build; what is newer is refused politely.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Keepwell, Ran};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/format-1").join(name)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder of the fixture") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a kind").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("a copy")),
        }
    }
}

// Times are not part of a checkout.
fn expect_content(restored: &Path) {
    for name in ["greeting.txt", "sub/numbers.txt"] {
        let expected = fs::read(fixture("content").join(name)).expect("a file of the fixture");
        assert_eq!(fs::read(restored.join(name)).expect("restored"), expected, "{name}");
    }
    let target = fs::read_link(restored.join("link")).expect("a link");
    assert_eq!(target, Path::new("greeting.txt"));
}

// Changes one text in a file.
fn change(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).expect("text");
    assert!(text.contains(from), "no {from} in {text}");
    fs::write(path, text.replace(from, to)).expect("written");
}

// A machine that has a copy of the pool.
fn with_pool() -> Keepwell {
    let keepwell = Keepwell::blank();
    copy(&fixture("pool"), &keepwell.pool());
    keepwell.ok(["init"]);
    keepwell
}

// A blank machine with a copy of the vault beside it.
fn with_vault() -> Keepwell {
    let keepwell = Keepwell::blank();
    let vault = keepwell.path("vault");
    copy(&fixture("vault"), &vault);
    fs::copy(fixture("credentials"), keepwell.path("credentials")).expect("a copy");
    fs::copy(fixture("passphrase"), keepwell.path("passphrase")).expect("a copy");
    let address = format!("file://{}", vault.display());
    change(&keepwell.path("credentials"), "file:///VAULT", &address);
    keepwell
}

fn recover(keepwell: &Keepwell) -> Ran {
    let path = |name| keepwell.path(name).into_os_string();
    let words = ["recover", "--credentials"].map(Into::into);
    let rest = [path("credentials"), "--passphrase-file".into(), path("passphrase")];
    let end = ["latest".into(), "--to".into(), path("out")];
    keepwell.run(words.into_iter().chain(rest).chain(end))
}

#[test]
fn a_pool_of_format_1_is_sound_and_restored() {
    let keepwell = with_pool();

    let checked = keepwell.summary(["check", "--read-data"]);
    keepwell.ok(["restore", "latest", "--to", "out"]);

    assert_eq!(checked["damage_count"].as_u64().unwrap_or(0), 0, "{checked}");
    expect_content(&keepwell.path("out"));
}

#[test]
fn a_vault_of_format_1_is_recovered_on_a_blank_machine() {
    let keepwell = with_vault();

    let recovered = recover(&keepwell);

    assert_eq!(recovered.code, Some(0), "{recovered:?}");
    expect_content(&keepwell.path("out"));
}

fn expect_polite_refusal(ran: &Ran) {
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("has format 2; this version reads up to 1"), "{ran:?}");
    assert!(ran.stderr.contains("hint: use the newer version of Keepwell"), "{ran:?}");
}

#[test]
fn a_pool_of_a_newer_format_is_refused_politely_and_stays_as_it_is() {
    let keepwell = with_pool();
    let marker = keepwell.pool().join("keepwell-pool.json");
    change(&marker, "\"format\": 1", "\"format\": 2");
    let before = fs::read(&marker).expect("a marker");

    for command in ["points", "check", "prune", "repair"] {
        expect_polite_refusal(&keepwell.run([command]));
    }

    assert_eq!(fs::read(&marker).expect("a marker"), before);
}

/// It was told to be damaged.
#[test]
fn a_vault_of_a_newer_format_is_refused_politely() {
    let keepwell = with_vault();
    let descriptor = keepwell.path("vault/keepwell-vault.json");
    change(&descriptor, "\"version\":1", "\"version\":2");

    expect_polite_refusal(&recover(&keepwell));
}
