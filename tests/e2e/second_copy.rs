//! The second copy: read like the first, proved, healed in both directions, and enough to become the server again on a blank machine.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::home::{Finished, Home, number_of, text_of};
use crate::tree::{Observed, Random, plant, write};

const PLANTED_NAME: &str = "planted-name-of-a-file";
const PLANTED_CONTENT: &str = "planted content that nobody but the owner may read";

/// A server that is registered with a vault in its home.
pub(crate) struct Protected {
    pub(crate) server: Home,
    pub(crate) source: PathBuf,
    pub(crate) credentials: PathBuf,
    pub(crate) passphrase: PathBuf,
}

impl Protected {
    pub(crate) fn new() -> Self {
        let server = Home::in_memory();
        let source = server.directory("source");
        plant(&source, 60, 2, &mut Random::new(5));
        write(&source.join(PLANTED_NAME), PLANTED_CONTENT.as_bytes());
        let credentials = server.path().join("main.vault");
        let passphrase = server.beside("passphrase");
        let vault = server.path().join("vault");
        server
            .run(["vault", "create", text(&vault), "--credentials", text(&credentials)])
            .expect_code(0);
        server
            .run([
                "vault",
                "register",
                "--credentials",
                text(&credentials),
                "--generate-passphrase",
                text(&passphrase),
                "--label",
                "web1",
            ])
            .expect_code(0);
        Self { server, source, credentials, passphrase }
    }

    pub(crate) fn backup(&self) -> String {
        self.server.backup(&self.source, &[])
    }

    pub(crate) fn recover(&self, machine: &Home, rest: &[&str]) -> Finished {
        machine.run(self.recover_arguments(rest))
    }

    pub(crate) fn recover_arguments(&self, rest: &[&str]) -> Vec<OsString> {
        let words = [
            "recover",
            "--credentials",
            text(&self.credentials),
            "--passphrase-file",
            text(&self.passphrase),
        ];
        words.iter().chain(rest).map(OsString::from).collect()
    }

    fn vault_files(&self, folder: &str) -> Vec<PathBuf> {
        let marker = format!("/{folder}/");
        let mut files = files_below(&self.server.path().join("vault"));
        files.retain(|file| text(file).contains(&marker));
        files.sort();
        files
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

fn files_below(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found
}

fn rot(file: &Path) {
    let mut bytes = fs::read(file).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(file, bytes).expect("written");
}

#[test]
fn a_blank_machine_becomes_the_server_again_and_the_old_one_is_fenced_off() {
    let old = Protected::new();
    let file = old.server.path().join("keepwell.toml");
    let mut configuration = fs::read_to_string(&file).expect("a configuration");
    configuration.push_str("\n# what only the administrator knows\n");
    fs::write(&file, &configuration).expect("written");
    let point = old.backup();
    let first = old.server.run(["sync", "--json"]).expect_code(0).summary();

    // A machine that has nothing but the credentials file and the passphrase.
    let new = Home::empty_in_memory();
    let adopted = old.recover(&new, &["--adopt", "--json"]).expect_code(0).json();

    assert_eq!(text_of(&adopted, "label"), "web1");
    assert_eq!(number_of(&adopted, "points"), 1);
    assert_eq!(adopted["configuration_known"], true);
    let restored = fs::read_to_string(new.path().join("keepwell.toml")).expect("a configuration");
    assert_eq!(restored, configuration);
    let target = new.beside("source");
    new.run(["restore", "latest", "--from", "vault", "--to", text(&target)]).expect_code(0);
    Observed::of(&old.source).expect(&Observed::of(&target), "what the new machine got back");
    assert!(new.points().is_empty(), "the pool was made anew");

    // The next backup and sync upload only what changed.
    write(&target.join("new"), b"one more file");
    let next = new.backup(&target, &[]);
    let second = new.run(["sync", "--json"]).expect_code(0).summary();
    assert_eq!(second["points_copied"][0], next.as_str());
    let (before, after) =
        (number_of(&first, "bytes_uploaded"), number_of(&second, "bytes_uploaded"));
    assert!(after * 10 < before, "{after} of {before} bytes uploaded again");
    new.run(["check", "--vault", "--read-data"]).expect_code(0);

    // The old machine still lives: its backups go on, but it can no longer write in the vault, and is told so.
    old.backup();
    let fenced = old.server.run(["sync"]).expect_code(6);
    assert!(fenced.stderr().contains("took over"), "{fenced}");
    old.server.restore(&point, "back");

    // Adopting twice changes nothing more.
    let again = old.recover(&new, &["--adopt", "--json"]).expect_code(0).json();
    assert_eq!(again["pool_created"], false);
    new.run(["sync"]).expect_code(0);
}

#[test]
fn two_machines_with_one_identity_are_told_apart_at_the_first_commit() {
    let one = Protected::new();
    one.backup();
    one.server.run(["sync"]).expect_code(0);
    // A clone: everything is copied but the vault, which both reach.
    let two = Home::empty_in_memory();
    let copy = one.server.copy_of();
    let status = std::process::Command::new("cp").arg("-a").arg(&copy).arg(two.path()).status();
    assert!(status.expect("cp runs").success());
    fs::copy(&one.credentials, two.path().join("main.vault")).expect("copied");

    write(&one.source.join("one"), b"1");
    one.backup();
    one.server.run(["sync"]).expect_code(0);
    let source = two.directory("source");
    write(&source.join("two"), b"2");
    two.backup(&source, &[]);
    let twin = two.run(["sync"]).expect_code(6);

    assert!(twin.stderr().contains("copy of this installation"), "{twin}");
    one.server.run(["sync"]).expect_code(0);
    one.server.run(["check", "--vault", "--read-data"]).expect_code(0);

    // The copy becomes the right one, as the hint says. (It used to say that it had, and went on being refused.)
    one.recover(&two, &["--adopt"]).expect_code(0);
    two.run(["sync"]).expect_code(0);
    let fenced = one.server.run(["sync"]).expect_code(6);
    assert!(fenced.stderr().contains("took over"), "{fenced}");
    two.run(["check", "--vault", "--read-data"]).expect_code(0);
}

#[test]
fn an_adoption_never_writes_over_another_configuration() {
    let old = Protected::new();
    old.backup();
    old.server.run(["sync"]).expect_code(0);
    let other = Home::in_memory();
    let before = fs::read_to_string(other.path().join("keepwell.toml")).expect("there");

    let refused = old.recover(&other, &["--adopt"]).expect_code(1);

    assert!(refused.stderr().contains("is there already"), "{refused}");
    assert_eq!(fs::read_to_string(other.path().join("keepwell.toml")).expect("there"), before);
    // The server is still itself.
    old.backup();
    old.server.run(["sync"]).expect_code(0);
}

#[test]
fn the_second_copy_is_read_like_the_first() {
    let one = Protected::new();
    let before = one.backup();
    write(&one.source.join("changed"), b"something else");
    let after = one.backup();
    one.server.run(["sync"]).expect_code(0);
    let planted = format!("{after}:{PLANTED_NAME}");
    let commands: [&[&str]; 5] = [
        &["ls", "-l", &after],
        &["ls", "-R", &format!("{after}:large")],
        &["dump", &planted],
        &["find", PLANTED_NAME, "--point", &after],
        &["diff", &before, &after],
    ];

    for command in commands {
        let pool = one.server.run(command).expect_code(0).stdout();
        let vault = one.server.run(command.iter().chain(&["--from", "vault"])).expect_code(0);
        assert_eq!(vault.stdout(), pool, "{command:?}");
        assert!(!pool.is_empty(), "{command:?}");
    }
    let absolute = one.server.vacant("absolute");
    let selection = format!("latest:{}", one.source.join(PLANTED_NAME).display());
    let words = ["restore", &selection, "--from", "vault", "--to", text(&absolute)];
    one.server.run(words).expect_code(0);
    assert_eq!(fs::read_to_string(absolute.join(PLANTED_NAME)).expect("there"), PLANTED_CONTENT);
    let unknown = one.server.run(["ls", "77777777", "--from", "vault"]).expect_code(1);
    assert!(unknown.stderr().contains("no recovery point in the vault"), "{unknown}");
}

#[test]
fn pool_and_vault_heal_each_other() {
    let one = Protected::new();
    let point = one.backup();
    one.server.run(["sync"]).expect_code(0);
    let observed = Observed::of(&one.source);
    let packs = files_below(&one.server.pool().join("packs"));
    packs.iter().for_each(|pack| rot(pack));
    one.server.run(["check", "--read-data"]).expect_code(5);

    // Before the repair: the second copy helps at once, and the first one says so.
    let target = one.server.vacant("damaged");
    let damaged = one.server.run(["restore", &point, "--to", text(&target)]);
    assert!(matches!(damaged.code(), Some(3 | 5)), "{damaged}");
    assert!(damaged.stderr().contains("--from vault"), "{damaged}");
    let target = one.server.vacant("from vault");
    one.server.run(["restore", &point, "--from", "vault", "--to", text(&target)]).expect_code(0);
    observed.expect(&Observed::of(&target), "the point from the vault");

    let repair = one.server.run(["repair", "--json"]).expect_code(0).summary();
    assert!(number_of(&repair, "chunks_healed") > 0, "{repair}");
    one.server.expect_sound("after the repair");
    observed.expect(&Observed::of(&one.server.restore(&point, "back")), "the point of the pool");

    // And now the vault.
    let packs = one.vault_files("p");
    rot(&packs[0]);
    fs::remove_file(&one.vault_files("t")[0]).expect("removed");
    rot(&one.vault_files("m")[0]);
    let structure = one.server.run(["check", "--vault", "--json"]).expect_code(5).summary();
    assert_eq!(number_of(&structure, "damage_count"), 1, "{structure}");
    assert_eq!(number_of(&structure, "packs_read"), 0);
    let all = one.server.run(["check", "--vault", "--read-data", "--json"]).expect_code(5);
    let all = all.summary();
    assert_eq!(number_of(&all, "damage_count"), 3, "{all}");
    assert_eq!(all["affected_points"][0], point.as_str());
    let repaired = one.server.run(["repair", "--vault", "--read-data", "--json"]).expect_code(0);
    assert_eq!(repaired.summary()["objects"].as_array().map(Vec::len), Some(3), "{repaired}");
    let proved = one.server.run(["check", "--vault", "--read-data"]).expect_code(0);
    assert!(proved.stdout().contains("read and verified"), "{proved}");
    let machine = Home::empty_in_memory();
    let target = machine.beside("recovered");
    one.recover(&machine, &["latest", "--to", text(&target)]).expect_code(0);
    observed.expect(&Observed::of(&target), "the point after the repair of the vault");
}

#[test]
fn what_is_damaged_in_the_pool_is_never_copied() {
    let one = Protected::new();
    let first = one.backup();
    let packs = files_below(&one.server.pool().join("packs"));
    packs.iter().for_each(|pack| rot(pack));

    let synced = one.server.run(["sync", "--json"]).expect_code(3).summary();

    assert_eq!(synced["points_copied"].as_array().map(Vec::len), Some(0), "{synced}");
    assert_eq!(synced["points_skipped"].as_array().map(Vec::len), Some(1), "{synced}");
    one.server.run(["check", "--vault", "--read-data"]).expect_code(0);
    // What is still at the source is stored again, which heals the first point too, and then there is something to copy.
    one.server.run(["repair"]).expect_code(5);
    let point = one.server.backup(&one.source, &["--force"]);
    let synced = one.server.run(["sync", "--json"]).expect_code(0);
    let copied = synced.summary()["points_copied"].clone();
    assert_eq!(copied, serde_json::json!([first, point]), "{synced}");
    let machine = Home::empty_in_memory();
    for (number, copied) in [&first, &point].into_iter().enumerate() {
        let target = machine.beside(&format!("recovered-{number}"));
        one.recover(&machine, &[copied, "--to", text(&target)]).expect_code(0);
        Observed::of(&one.source).expect(&Observed::of(&target), "a point that was copied");
    }
}

#[test]
fn one_vault_that_fails_keeps_no_other_from_its_copy() {
    let one = Protected::new();
    let second = one.server.beside("second.vault");
    let place = one.server.beside("second");
    let words = ["vault", "create", text(&place), "--credentials", text(&second), "--name", "away"];
    one.server.run(words).expect_code(0);
    let words = [
        "vault",
        "register",
        "--credentials",
        text(&second),
        "--passphrase-file",
        text(&one.passphrase),
        "--label",
        "web1",
    ];
    one.server.run(words).expect_code(0);
    one.backup();
    fs::rename(&place, one.server.beside("unplugged")).expect("moved");

    let synced = one.server.run(["sync", "--json"]);

    assert_eq!(synced.code(), Some(1), "{synced}");
    assert!(synced.stderr().contains("away"), "{synced}");
    assert_eq!(text_of(&synced.summary(), "vault"), "main");
    one.server.run(["check", "--vault=main"]).expect_code(0);
    fs::rename(one.server.beside("unplugged"), &place).expect("moved back");
    one.server.run(["sync"]).expect_code(0);
    one.server.run(["check", "--vault=away", "--read-data"]).expect_code(0);
}

#[test]
fn each_reason_why_nothing_can_be_recovered_is_told_in_its_own_words() {
    let one = Protected::new();
    one.backup();
    one.server.run(["sync"]).expect_code(0);
    let other = Protected::new();
    let machine = Home::empty_in_memory();
    let recover = |credentials: &Path, passphrase: &Path| {
        machine.run([
            "recover",
            "--credentials",
            text(credentials),
            "--passphrase-file",
            text(passphrase),
            "--list",
        ])
    };
    let told = |finished: Finished, code: i32, words: &str| {
        let finished = finished.expect_code(code);
        assert!(finished.stderr().contains(words), "no \"{words}\": {finished}");
        assert!(finished.stderr().contains("hint:"), "no hint: {finished}");
    };

    told(recover(&one.credentials, &other.passphrase), 12, "wrong passphrase");
    // The address of one vault with the identity of another.
    let mixed = machine.beside("mixed.vault");
    let credentials = fs::read_to_string(&one.credentials).expect("text");
    let (here, there) =
        (text(one.server.path()).to_string(), text(other.server.path()).to_string());
    fs::create_dir_all(machine.beside("")).expect("a folder");
    fs::write(&mixed, credentials.replace(&here, &there)).expect("written");
    told(recover(&mixed, &one.passphrase), 1, "but at");
    let nowhere = machine.beside("nowhere.vault");
    fs::write(&nowhere, credentials.replace(&here, "/nowhere/at/all")).expect("written");
    let missing = recover(&nowhere, &one.passphrase);
    assert_ne!(missing.code(), Some(0), "{missing}");
    assert!(missing.stderr().contains("hint:"), "{missing}");
    let half = machine.beside("half.vault");
    fs::write(&half, &credentials[..credentials.len() / 2]).expect("written");
    told(recover(&half, &one.passphrase), 2, "damaged");
    let slot = &one.vault_files("k")[0];
    let sound = fs::read(slot).expect("read");
    rot(slot);
    told(recover(&one.credentials, &one.passphrase), 5, "damaged");
    fs::write(slot, sound).expect("written");
    let listed = recover(&one.credentials, &one.passphrase).expect_code(0);
    assert!(listed.stdout().contains("witness"), "{listed}");
}

#[test]
fn what_was_planted_is_found_in_no_byte_of_vault_state_and_log() {
    let one = Protected::new();
    let mut logs = Vec::new();
    let mut run = |words: &[&str]| {
        let finished = one.server.run(["-vv"].iter().chain(words)).expect_code(0);
        logs.push((words.join(" "), finished.stdout() + &finished.stderr()));
    };
    run(&["backup", "--files", text(&one.source)]);
    run(&["sync"]);
    run(&["check", "--vault", "--read-data"]);
    run(&["repair", "--vault"]);
    run(&["sync"]);
    let machine = Home::empty_in_memory();
    let target = machine.beside("out");
    let recovered = one.recover(&machine, &["-vv", "latest", "--to", text(&target)]);
    let recovered = recovered.expect_code(0);
    logs.push(("recover".to_string(), recovered.stdout() + &recovered.stderr()));
    let passphrase = fs::read_to_string(&one.passphrase).expect("a passphrase");
    let planted = [PLANTED_NAME, PLANTED_CONTENT, passphrase.trim_end()];

    for (what, log) in &logs {
        for secret in planted {
            assert!(!log.contains(secret), "\"{secret}\" is told by {what}");
        }
    }
    let folders = [one.server.path().join("vault"), one.server.path().join("state")];
    for file in folders.iter().flat_map(|folder| files_below(folder)) {
        let bytes = fs::read(&file).expect("read");
        for secret in planted {
            let needle = secret.as_bytes();
            let found = bytes.windows(needle.len()).any(|window| window == needle);
            assert!(!found, "\"{secret}\" in {}", file.display());
            assert!(!text(&file).contains(secret), "{}", file.display());
        }
    }
}
