//! The life of points and passphrases in a vault, and what its owner allows: as an administrator meets it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::home::{Finished, Home, number_of, setting, text_of};
use crate::tree::{Observed, Random};

/// A server with a pool, registered with a vault beside it.
struct Server {
    home: Home,
    source: PathBuf,
}

impl Server {
    fn new(vault_section: &str) -> Self {
        let home = Home::in_memory();
        let source = home.directory("source");
        fs::write(source.join("file"), Random::new(1).bytes(90_000)).expect("a file");
        let server = Self { home, source };
        let (vault, credentials) = (server.path("vault"), server.path("main.vault"));
        server.ok(["vault", "create", &vault, "--credentials", &credentials]);
        let passphrase = server.path("passphrase");
        server.ok([
            "vault",
            "register",
            "--credentials",
            &credentials,
            "--generate-passphrase",
            &passphrase,
            "--label",
            "web1",
        ]);
        server.configure(vault_section);
        server
    }

    fn path(&self, name: &str) -> String {
        self.home.beside(name).to_str().expect("a path").to_string()
    }

    fn configure(&self, vault_section: &str) {
        let file = self.home.path().join("keepwell.toml");
        let text = fs::read_to_string(&file).expect("a configuration");
        let text = text.split("# of the story").next().expect("its beginning");
        fs::write(&file, format!("{}\n# of the story\n{vault_section}\n", text.trim_end()))
            .expect("written");
    }

    fn run<const N: usize>(&self, words: [&str; N]) -> Finished {
        self.home.run(words)
    }

    fn ok<const N: usize>(&self, words: [&str; N]) -> Finished {
        self.run(words).expect_code(0)
    }

    fn backup(&self, change: u64, options: &[&str]) -> String {
        fs::write(self.source.join("file"), Random::new(change).bytes(40_000)).expect("written");
        self.home.backup(&self.source, options)
    }

    fn set_state(&self, state: &str) {
        let (credentials, owner) = (self.path("main.vault"), self.path("main.owner"));
        self.ok([
            "vault",
            "set-state",
            state,
            "--credentials",
            &credentials,
            "--owner-key",
            &owner,
            "--note",
            "because",
        ]);
        // The next contact is to ask anew.
        let contact = self.home.path().join("state/vault-main/contact");
        let _ = fs::remove_file(contact);
    }

    fn recover(&self, passphrase: &str, words: &[&str]) -> Finished {
        let machine = self.home.beside("machine");
        let mut all = vec!["recover".to_string(), "--credentials".into(), self.path("main.vault")];
        all.extend(["--passphrase-file".into(), self.path(passphrase)]);
        all.extend(words.iter().map(ToString::to_string));
        let mut command = self.home.command(&all);
        command.env("HOME", machine);
        Finished::of(command)
    }

    fn vault_points(&self, forgotten: bool) -> Vec<String> {
        let listed = match forgotten {
            false => self.ok(["points", "--vault", "--json"]),
            true => self.ok(["points", "--vault", "--forgotten", "--json"]),
        };
        let points = listed.json()["points"].as_array().cloned().unwrap_or_default();
        points.iter().map(|point| text_of(point, "id")).collect()
    }
}

#[test]
fn points_of_a_vault_are_forgotten_with_reasons_and_come_back() {
    let server =
        Server::new("retention = { last = 1, daily = 7, weekly = 4, monthly = 3, yearly = 1 }");
    let points: Vec<_> = (1..=4).map(|number| server.backup(number, &[])).collect();
    // The vault's retention would drop those between the oldest and the newest at once, so they are not copied.
    let copied = server.ok(["sync", "--json"]).summary();
    let copied = copied["points_copied"].as_array().cloned().unwrap_or_default();
    assert_eq!(copied, [points[0].as_str(), points[3].as_str()]);
    server.configure("retention = { last = 4, daily = 7, weekly = 4, monthly = 3, yearly = 1 }");
    server.ok(["sync"]);
    assert_eq!(server.vault_points(false).len(), 4);

    server.configure("retention = { last = 2, daily = 7, weekly = 4, monthly = 3, yearly = 1 }");
    let dry = server.ok(["forget", "--vault", "-n", "--json"]).json();
    assert_eq!((number_of(&dry, "removed"), number_of(&dry, "kept")), (1, 3));
    let decisions = dry["sources"][0]["points"].as_array().expect("decisions");
    assert_eq!(
        (&decisions[1]["action"], &decisions[1]["id"]),
        (&"remove".into(), &points[1].as_str().into())
    );
    assert!(decisions[3]["reasons"].as_array().expect("reasons").len() >= 3, "{dry}");
    assert_eq!(server.vault_points(false).len(), 4);
    let done = server.ok(["forget", "--vault"]).stdout();
    assert!(done.contains("newest") && done.contains("undelete"), "{done}");
    assert_eq!(server.vault_points(false).len(), 3);

    let forgotten = server.ok(["points", "--vault", "main", "--forgotten"]).stdout();
    assert!(forgotten.contains(&points[1][..8]) && forgotten.contains("Can be restored until"));
    // It is not copied again, its space is not freed, and it comes back.
    server.ok(["sync"]);
    server.ok(["prune", "--vault", "--json"]);
    assert_eq!(server.vault_points(true), std::slice::from_ref(&points[1]));
    server.ok(["undelete", &points[1][..12]]);
    assert_eq!(server.vault_points(false).len(), 4);
    let out = server.path("out");
    server.recover("passphrase", &[&points[1], "--to", &out]).expect_code(0);
    let content = fs::read(server.home.beside("out/file")).expect("recovered");
    assert_eq!(content, Random::new(2).bytes(40_000));

    // By name: not the last one of its source.
    server.ok(["forget", "--vault", "main", &points[0], &points[1], &points[2]]);
    let last = server.run(["forget", "--vault", "main", &points[3]]).expect_code(6);
    assert!(last.stderr().contains("the last one"), "{last}");
    server.run(["undelete", &points[3]]).expect_code(1);
    server.ok(["undelete", "--all"]);
    assert!(server.vault_points(true).is_empty());
}

#[test]
fn a_retention_below_the_floors_or_above_the_limit_is_refused_with_one_that_fits() {
    let server = Server::new("retention = { daily = 3 }");
    server.backup(1, &[]);
    server.ok(["sync"]);

    let short = server.run(["forget", "--vault"]).expect_code(6);
    assert!(short.stderr().contains("daily 3 instead of 7"), "{short}");
    assert!(short.stderr().contains("daily = 7, weekly = 4, monthly = 3, yearly = 1"), "{short}");
    server.run(["forget", "--vault", "--keep-last", "1"]).expect_code(6);
    server.configure("retention = { daily = 3 }\n[security]\nenabled = false");
    server.ok(["forget", "--vault", "-n"]);
    server.configure(
        "retention = { hourly = 9000, daily = 1000, weekly = 4, monthly = 3, yearly = 1 }",
    );
    let long = server.run(["forget", "--vault"]).expect_code(6);
    assert!(long.stderr().contains("hourly = 8991, daily = 1000"), "{long}");
    server.configure("retention = { dayly = 3 }");
    let misspelt = server.run(["forget", "--vault"]).expect_code(2);
    assert!(misspelt.stderr().contains("did you mean \"daily\""), "{misspelt}");
}

#[test]
fn points_with_a_date_of_their_own_and_pinned_ones_stay_in_the_vault() {
    let server = Server::new("retention = { last = 1 }\n[security]\nenabled = false");
    let dated = server.backup(1, &["--keep-until", "30d"]);
    let pinned = server.backup(2, &[]);
    server.ok(["pin", &pinned, "--reason", "law"]);
    let plain = server.backup(3, &[]);
    let newest = server.backup(4, &[]);
    server.ok(["sync"]);
    server.configure("");
    server.ok(["sync"]);
    server.configure("retention = { last = 1 }\n[security]\nenabled = false");

    let report = server.ok(["forget", "--vault", "--json"]).json();

    let mut points = server.vault_points(false);
    let mut expected = vec![dated.clone(), pinned.clone(), newest];
    points.sort();
    expected.sort();
    assert_eq!(points, expected, "{report}");
    assert_eq!(server.vault_points(true), [plain]);
    let refused = server.run(["forget", "--vault", "main", &dated]).expect_code(6);
    assert!(refused.stderr().contains("on demand until"), "{refused}");
    // A pin that is taken away in the pool is over in the vault, too.
    server.ok(["pin", "--remove", &pinned]);
    server.ok(["forget", "--vault"]);
    assert!(!server.vault_points(false).contains(&pinned));
}

#[test]
fn passphrases_are_changed_in_seconds_and_a_sheet_is_enough_to_recover() {
    let server = Server::new("");
    let point = server.backup(1, &[]);
    server.ok(["sync"]);
    fs::write(server.home.beside("short"), "too short\n").expect("written");
    let weak = "aaaaaaaaaaaaaaaaaaaa";
    fs::write(server.home.beside("weak"), weak).expect("written");
    let short = server.path("short");

    let refused = server.run(["key", "add", "x", "--passphrase-file", &short]).expect_code(2);
    assert!(refused.stderr().contains("at least 16"), "{refused}");
    let nobody = server.run(["key", "add", "x"]).expect_code(2);
    assert!(nobody.stderr().contains("--passphrase-file"), "{nobody}");
    let command = format!("cat {}", server.path("weak"));
    let added = server.ok(["key", "add", "deputy", "--passphrase-command", &command]);
    assert!(added.stderr().contains("weak"), "{added}");
    assert!(!format!("{added}").contains(weak));
    let listed = server.ok(["key", "list", "--json"]).json();
    let names: Vec<_> =
        listed["keys"].as_array().expect("keys").iter().map(|key| text_of(key, "name")).collect();
    assert_eq!(names, ["first", "deputy"]);
    server.recover("weak", &["--list"]).expect_code(0);

    let begun = Instant::now();
    let fresh = server.path("fresh");
    let changed = server.ok(["key", "passwd", "first", "--generate-passphrase", &fresh]);
    assert!(changed.stdout().contains("bits: strong"), "{changed}");
    server.ok(["key", "remove", "deputy"]);
    assert!(begun.elapsed() < Duration::from_secs(60));
    for (passphrase, code) in [("passphrase", 12), ("fresh", 0)] {
        server.recover(passphrase, &["--list"]).expect_code(code);
    }
    let last = server.run(["key", "remove", "first"]).expect_code(6);
    assert!(last.stderr().contains("last passphrase"), "{last}");

    // The sheet: without the passphrase unless it is asked for, and never with one that does not open.
    let (sheet, with) = (server.path("sheet"), server.path("with"));
    server.ok(["key", "export", "--to", &sheet]);
    let text = fs::read_to_string(&sheet).expect("a sheet");
    let secret = fs::read_to_string(&fresh).expect("a passphrase");
    assert!(!text.contains(secret.trim()) && text.contains("web1") && text.contains("recover"));
    assert_eq!(fs::metadata(&sheet).expect("there").permissions().mode() & 0o777, 0o600);
    let old = server.path("passphrase");
    let arguments = ["key", "export", "--to", &with, "--with-passphrase", "--passphrase-file"];
    let words = |file: &str| arguments.iter().map(ToString::to_string).chain([file.to_string()]);
    server.home.run(words(&old)).expect_code(12);
    server.home.run(words(&fresh)).expect_code(0);
    let text = fs::read_to_string(&with).expect("a sheet");
    assert!(text.contains(secret.trim()));
    let (_, below) = text.split_once("- main.vault -").expect("a line");
    let credentials = below.trim_start_matches('-').trim().trim_end_matches('-');
    fs::write(server.home.beside("main.vault"), credentials).expect("written");
    let out = server.path("out");
    server.recover("fresh", &[&point, "--to", &out]).expect_code(0);
    Observed::of(&server.source)
        .expect(&Observed::of(&server.home.beside("out")), "from the sheet");
    // The key for unattended work can be a credential of systemd instead of a file.
    let folder = server.home.directory("credentials");
    let key = server.home.path().join("state/vault-main/key");
    let status = server.ok(["vault", "status"]).stdout();
    assert!(status.contains("readable by its owner alone"), "{status}");
    fs::rename(&key, folder.join("keepwell-vault-main")).expect("moved");
    server.run(["sync"]).expect_code(10);
    let mut command = server.home.command(["vault", "status"]);
    command.env("CREDENTIALS_DIRECTORY", &folder);
    let status = Finished::of(command).expect_code(0).stdout();
    assert!(status.contains("systemd credential"), "{status}");
    fs::set_permissions(folder.join("keepwell-vault-main"), fs::Permissions::from_mode(0o604))
        .expect("a mode");
    let mut command = server.home.command(["vault", "status"]);
    command.env("CREDENTIALS_DIRECTORY", &folder);
    Finished::of(command).expect_code(6);
    fs::set_permissions(folder.join("keepwell-vault-main"), fs::Permissions::from_mode(0o600))
        .expect("a mode");
    fs::rename(folder.join("keepwell-vault-main"), &key).expect("moved back");
    // Work without the passphrase goes on, whatever became of it.
    server.backup(2, &[]);
    server.ok(["sync"]);
}

#[test]
fn what_the_owner_sets_stops_what_the_table_says_and_nothing_local_by_default() {
    let server = Server::new("");
    let point = server.backup(1, &[]);
    server.ok(["sync"]);
    let restore = |from: &str, target: &str| {
        let out = server.path(target);
        server.run(["restore", &point, "--from", from, "--to", &out])
    };

    server.set_state("expired");
    server.backup(2, &[]);
    let stopped = server.run(["sync"]).expect_code(6);
    assert!(stopped.stderr().contains("its owner set it expired"), "{stopped}");
    assert!(stopped.stderr().contains("must set it active again"), "{stopped}");
    restore("vault", "a").expect_code(0);
    let status = server.ok(["vault", "status", "--json"]).json();
    assert_eq!(
        (text_of(&status, "subscription"), text_of(&status, "subscription_note")),
        ("expired".into(), "because".into())
    );
    assert_eq!(
        (text_of(&status, "backup_to_vault"), text_of(&status, "backup_to_disk")),
        ("stopped".into(), "allowed".into())
    );

    server.set_state("deprovisioned");
    server.backup(3, &[]);
    restore("pool", "b").expect_code(0);
    restore("vault", "c").expect_code(6);
    let out = server.path("d");
    server.recover("passphrase", &[&point, "--to", &out]).expect_code(6);
    server.run(["sync"]).expect_code(6);
    assert_eq!(server.vault_points(false).len(), 1, "nothing is deleted");

    server.configure("policy = \"strict\"");
    let files = server.source.to_str().expect("a path");
    let strict = server.run(["backup", "--files", files]).expect_code(6);
    assert!(strict.stderr().contains("deprovisioned"), "{strict}");
    restore("pool", "e").expect_code(6);
    server.run(["sync"]).expect_code(6);
    assert_eq!(server.vault_points(false).len(), 0);
    assert_eq!(server.vault_points(true), std::slice::from_ref(&point), "and it can be undone");

    server.set_state("active");
    server.ok(["backup", "--files", files]);
    server.ok(["undelete", "--all"]);
    restore("vault", "f").expect_code(0);
    server.ok(["sync"]);
    assert_eq!(server.vault_points(false).len(), 4);

    // Whoever can only write there changes nothing.
    let forged = server.home.beside("vault/state/9.json");
    let genuine = fs::read_to_string(server.home.beside("vault/state/1.json")).expect("a state");
    fs::write(forged, genuine.replace("expired", "deprovisioned")).expect("written");
    let _ = fs::remove_file(server.home.path().join("state/vault-main/contact"));
    server.ok(["sync"]);
    server.ok(["backup", "--files", files]);
}

#[test]
fn a_vault_that_is_out_of_reach_is_remembered_and_stops_strict_servers_after_fifteen_days() {
    let server = Server::new("");
    server.backup(1, &[]);
    server.ok(["sync"]);
    let vault = server.home.beside("vault");
    let away = server.home.beside("away");
    fs::rename(&vault, &away).expect("moved");
    server.run(["sync"]).expect_code(1);
    let contact = server.home.path().join("state/vault-main/contact");
    let lost_for = |days: i64| {
        let text = fs::read_to_string(&contact).expect("remembered");
        let mut known: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let now = jiff::Timestamp::now();
        let then = now - jiff::SignedDuration::from_hours(24 * days);
        known["proved"] = then.to_string().into();
        fs::write(&contact, known.to_string()).expect("written");
    };

    for (days, warned) in [(0, false), (1, true), (13, true)] {
        lost_for(days);
        let run = server.run(["vault", "status"]).expect_code(1);
        assert_eq!(run.stderr().contains("out of reach for"), warned, "{run}");
        assert!(run.stdout().contains("restore from vault waits"), "{run}");
        server.backup(2, &[]);
    }
    lost_for(16);
    server.backup(3, &[]);
    server.configure("policy = \"strict\"");
    let files = server.source.to_str().expect("a path");
    let stopped = server.run(["backup", "--files", files]).expect_code(6);
    assert!(stopped.stderr().contains("out of reach for 16 days"), "{stopped}");
    // The vault is back: the backup asks before it refuses.
    fs::rename(&away, &vault).expect("moved back");
    server.ok(["backup", "--files", files]);
    server.ok(["sync"]);
}

#[test]
fn a_prune_of_the_vault_killed_at_random_loses_nothing() {
    let server = Server::new("");
    // Many small packs, which a prune gathers.
    let mut expected = Vec::new();
    for number in 0..26 {
        let point = server.backup(number, &[]);
        server.ok(["sync"]);
        expected.push((point, Random::new(number).bytes(40_000)));
    }
    let pristine = server.home.beside("pristine-vault");
    let vault = server.home.beside("vault");
    let state = server.home.path().join("state");
    let kept_state = server.home.beside("pristine-state");
    let copy = |from: &PathBuf, to: &PathBuf| {
        let _ = fs::remove_dir_all(to);
        crate::mount::run(std::process::Command::new("cp").arg("-a").arg(from).arg(to));
    };
    copy(&vault, &pristine);
    copy(&state, &kept_state);
    let begun = Instant::now();
    let report = server.ok(["prune", "--vault", "--json"]).summary();
    let unhurried = begun.elapsed();
    assert!(number_of(&report, "packs_repacked") >= 24, "{report}");
    let mut random = Random::new(7);

    for round in 0..setting("KEEPWELL_E2E_KILLS", 25).min(12) {
        copy(&pristine, &vault);
        copy(&kept_state, &state);
        let mut command = server.home.command(["prune", "--vault"].map(OsString::from));
        let delay = Duration::from_micros(random.below(unhurried.as_micros() as u64 + 1000));
        let mut child = command.spawn().expect("it starts");
        std::thread::sleep(delay);
        let _ = child.kill();
        child.wait().expect("it ended");

        let when = format!("round {round}, killed after {delay:?}");
        let (point, content) = &expected[random.below(26) as usize];
        let target = server.home.vacant("back");
        let out = target.to_str().expect("a path");
        let back = server.run(["restore", point, "--from", "vault", "--to", out]);
        assert_eq!(back.code(), Some(0), "{when}: {back}");
        assert_eq!(fs::read(target.join("file")).expect("restored"), *content, "{when}");
        if round % 4 == 0 {
            server.ok(["prune", "--vault"]);
            server.ok(["check", "--vault"]);
        }
    }
    server.ok(["prune", "--vault"]);
    server.backup(99, &[]);
    server.ok(["sync"]);
    assert_eq!(server.vault_points(false).len(), 27);
}
