//! Drills: restores done only to prove that they can be done; their results are sealed, shown, and believed only if they are genuine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jiff::{Timestamp, ToSpan};
use serde_json::Value;

use crate::daemon::{Daemon, configure, states};
use crate::harness::{Keepwell, Ran, noise, wait_until, write_files};
use crate::home::is_root;
use crate::mount::Mount;
use crate::moved_clock::MovedClock;

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

/// A source of all kinds of entries, in a group "web" that has a point.
fn protected(keepwell: &Keepwell) -> PathBuf {
    let source = keepwell.path("srv");
    let files: Vec<(String, Vec<u8>)> =
        (0..20).map(|seed| (format!("sub/{seed}"), noise(seed, 10_000))).collect();
    let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    write_files(&source, &files);
    write_files(&source, &[("closed/inner/file", b"secret"), ("empty", b"")]);
    std::os::unix::fs::symlink("sub/1", source.join("link")).expect("a link");
    fs::hard_link(source.join("sub/1"), source.join("twin")).expect("a hard link");
    let sparse = fs::File::create(source.join("sparse")).expect("a file");
    sparse.set_len(5 << 20).expect("a hole");
    std::os::unix::fs::FileExt::write_all_at(&sparse, &noise(99, 5000), 3 << 20).expect("data");
    for name in ["closed/inner", "closed"] {
        let mode = fs::Permissions::from_mode(0o555);
        fs::set_permissions(source.join(name), mode).expect("a mode");
    }
    keepwell.ok(["group", "add", "web", "--files", text(&source)]);
    keepwell.ok(["backup", "web"]);
    source
}

/// The same, with a second copy in a vault.
fn copied(keepwell: &Keepwell) {
    keepwell.ok([
        "vault",
        "create",
        text(&keepwell.home().join("vault")),
        "--credentials",
        text(&keepwell.home().join("main.vault")),
    ]);
    keepwell.ok([
        "vault",
        "register",
        "--credentials",
        text(&keepwell.home().join("main.vault")),
        "--generate-passphrase",
        text(&keepwell.path("passphrase")),
        "--label",
        "web1",
    ]);
    protected(keepwell);
    keepwell.ok(["sync", "web"]);
}

/// Takes the content of all files away from the pool; its trees stay.
fn damage(keepwell: &Keepwell) {
    let packs = crate::harness::picture(&keepwell.pool());
    let length = |path: &PathBuf| fs::metadata(keepwell.pool().join(path)).expect("there").len();
    let largest =
        packs.keys().filter(|path| text(path).contains("pack")).max_by_key(|it| length(it));
    fs::remove_file(keepwell.pool().join(largest.expect("a pack"))).expect("removed");
}

fn status(keepwell: &Keepwell) -> Value {
    let ran = keepwell.run(["--json", "status"]);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

fn proofs(status: &Value) -> Vec<Value> {
    status["groups"][0]["sources"][0]["proofs"].as_array().expect("a list").clone()
}

fn findings(status: &Value) -> String {
    let findings = status["findings"].as_array().expect("a list").iter();
    findings.map(|one| format!("{}: {}\n", one["level"], one["what"])).collect()
}

/// Runs a drill that ends with `code` and returns its summary.
fn drill(keepwell: &Keepwell, words: &[&str], code: i32) -> (Value, Ran) {
    let ran = keepwell.run(["--json", "drill"].iter().chain(words));
    assert_eq!(ran.code, Some(code), "{ran:?}");
    // What failed is told after it.
    let summary = ran.messages().into_iter().rfind(|it| it["message_type"] == "summary");
    (summary.unwrap_or_else(|| panic!("no summary: {ran:?}")), ran)
}

/// What is in the folder in which drills are made.
fn sandboxes(keepwell: &Keepwell) -> Vec<String> {
    let list = fs::read_dir(keepwell.home().join("state/drills")).into_iter().flatten().flatten();
    list.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_drill_from_each_copy_is_shown_with_its_day_and_leaves_nothing() {
    let keepwell = Keepwell::unprivileged();
    copied(&keepwell);

    let before = keepwell.run(["status"]);
    let (pool, _) = drill(&keepwell, &["web"], 0);
    let (vault, _) = drill(&keepwell, &["--from", "vault"], 0);
    let told = keepwell.ok(["drill", "web"]);

    assert!(!before.stdout.contains("Proven on"), "{before:?}");
    assert_eq!((&pool["proven"], &pool["failed"]), (&1.into(), &0.into()), "{pool}");
    let source = &pool["sources"][0];
    assert_eq!((&source["copy"], &source["grade"]), (&"pool".into(), &"compared".into()));
    // Twenty, the twin, the closed one, the empty one, the sparse one and the link.
    assert_eq!((&source["whole"], &source["files"]), (&true.into(), &25.into()), "{source}");
    // Where root runs the tests the source is root's, which only root can give it back to.
    let remarks = source["remarks"].as_array().expect("a list").iter();
    let others: Vec<_> = remarks.filter(|it| !it.to_string().contains("the owner of")).collect();
    assert!(others.is_empty(), "{source}");
    assert_eq!(vault["sources"][0]["copy"], "vault main", "{vault}");
    assert!(told.stdout.contains("proven: restored and compared"), "{told:?}");
    let status = status(&keepwell);
    let proofs = proofs(&status);
    assert_eq!(proofs.len(), 2, "{proofs:?}");
    for (proof, copy) in proofs.iter().zip(["pool", "vault main"]) {
        assert_eq!((&proof["copy"], &proof["whole"]), (&copy.into(), &true.into()), "{proof}");
        assert!(proof["proven"].is_string() && proof["failed"].is_null(), "{proof}");
    }
    let day = proofs[1]["proven"].as_str().expect("a time")[..10].to_string();
    let shown = keepwell.run(["status"]).stdout;
    assert!(
        shown.contains("Proven on") && shown.contains(&format!("{day} (vault main)")),
        "{shown}"
    );
    assert_eq!(sandboxes(&keepwell), Vec::<String>::new());
    let tasks: Vec<_> =
        ["drill web", "drill web --from=vault"].map(|it| states(&keepwell, it)).into();
    assert_eq!(tasks, [vec!["done", "done"], vec!["done"]]);
}

#[test]
fn damage_is_found_told_and_over_when_it_is_healed() {
    let keepwell = Keepwell::new();
    copied(&keepwell);
    let _daemon = Daemon::start(&keepwell);
    drill(&keepwell, &["web"], 0);
    damage(&keepwell);

    let (_, found) = drill(&keepwell, &["web"], 5);
    let damaged = status(&keepwell);
    let alerts = keepwell.document(["alerts"])["alerts"].clone();
    keepwell.ok(["drill", "web", "--from", "vault"]);
    keepwell.ok(["repair"]);
    keepwell.ok(["drill", "web"]);
    let healed = status(&keepwell);

    assert!(found.stderr.contains("restored from the pool"), "{found:?}");
    assert!(found.stderr.contains("keepwell repair"), "{found:?}");
    assert!(findings(&damaged).contains("could not be proven from the pool"), "{damaged}");
    let proof = &proofs(&damaged)[0];
    assert!(proof["proven"].is_string() && proof["failed"].is_string(), "{proof}");
    assert!(proof["difference"].as_str().is_some_and(|it| it.contains("missing")), "{proof}");
    assert_eq!(
        (&alerts[0]["key"], &alerts[0]["level"]),
        (&"damage drill web".into(), &"critical".into()),
        "{alerts}"
    );
    assert!(proofs(&healed)[0]["failed"].is_null(), "{healed}");
    assert!(!findings(&healed).contains("could not be proven"), "{healed}");
    assert_eq!(keepwell.document(["alerts"])["alerts"], Value::Array(vec![]));
}

#[test]
fn a_damaged_vault_is_not_proven_by_a_sound_pool() {
    let keepwell = Keepwell::new();
    copied(&keepwell);
    drill(&keepwell, &["web", "--from", "vault"], 0);
    let vault = keepwell.home().join("vault");
    let length = |path: &PathBuf| fs::metadata(vault.join(path)).expect("there").len();
    let objects = crate::harness::picture(&vault);
    let largest =
        objects.keys().filter(|path| vault.join(path).is_file()).max_by_key(|it| length(it));
    let largest = vault.join(largest.expect("objects"));
    let mut bytes = fs::read(&largest).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&largest, bytes).expect("written");

    drill(&keepwell, &["web"], 0);
    let (summary, told) = drill(&keepwell, &["web", "--from", "vault"], 5);

    assert_eq!(summary["sources"][0]["verdict"], "damaged", "{summary}");
    assert!(told.stderr.contains("check --vault --read-data"), "{told:?}");
    let proofs = proofs(&status(&keepwell));
    assert!(proofs[0]["failed"].is_null() && proofs[1]["failed"].is_string(), "{proofs:?}");
    let shown = keepwell.run(["status"]).stdout;
    assert!(shown.contains("FAILED (vault main)"), "{shown}");
}

#[test]
fn the_same_seed_chooses_the_same_files_again_and_another_one_others() {
    let keepwell = Keepwell::new();
    protected(&keepwell);
    damage(&keepwell);
    let chosen = |words: &[&str]| {
        let (summary, _) = drill(&keepwell, &[&["web", "--sample", "60K"], words].concat(), 5);
        let source = summary["sources"][0].clone();
        assert!(source["files"].as_u64() < source["all_files"].as_u64(), "{source}");
        assert!(source["bytes"].as_u64() <= Some(60 << 10), "{source}");
        (source["seed"].as_str().expect("a seed").to_string(), source["differences"].clone())
    };

    let (seed, first) = chosen(&[]);
    let (again, second) = chosen(&["--seed", &seed]);
    // One other choice may be the same by chance, five are not.
    let others: Vec<_> = (0..5).map(|_| chosen(&[]).1).collect();

    assert_eq!((&seed, &first), (&again, &second));
    assert!(others.iter().any(|other| *other != first), "{first}");
    let large = Keepwell::new();
    write_files(&large.path("srv"), &[("large", &noise(7, 5000))]);
    large.ok(["group", "add", "web", "--files", text(&large.path("srv"))]);
    large.ok(["backup", "web"]);
    let (none, _) = drill(&large, &["web", "--sample", "1K"], 1);
    assert!(none["sources"][0]["error"].as_str().is_some_and(|it| it.contains("sample")), "{none}");
}

#[test]
fn a_killed_drill_leaves_its_folder_to_the_next_one() {
    let keepwell = Keepwell::new();
    protected(&keepwell);
    let elsewhere = keepwell.path("elsewhere");
    fs::create_dir(&elsewhere).expect("a folder");
    let left = || fs::read_dir(&elsewhere).expect("listed").count();

    let inner = keepwell.command(["drill", "web", "--in", text(&elsewhere)]);
    let mut command = std::process::Command::new("strace");
    // When everything was restored and nothing is compared yet.
    let kill = ["-e", "trace=syncfs", "-e", "inject=syncfs:signal=KILL"];
    command.args(["-f", "-qq", "-o", "/dev/null"]).args(kill);
    command.arg(inner.get_program()).args(inner.get_args()).current_dir(keepwell.path(""));
    let killed = command.output().expect("strace is installed");
    let left_behind = left();
    keepwell.ok(["drill", "web"]);

    assert!(!killed.status.success(), "{killed:?}");
    assert_eq!((left_behind, left()), (1, 0));
    assert_eq!(sandboxes(&keepwell), Vec::<String>::new());
    assert_eq!(states(&keepwell, "drill web"), ["done", "interrupted"]);
}

#[test]
fn a_record_is_believed_only_as_it_was_sealed_and_of_its_own_point() {
    let keepwell = Keepwell::new();
    let source = protected(&keepwell);
    drill(&keepwell, &["web"], 0);
    let notes = || {
        let list = fs::read_dir(keepwell.pool().join("points")).expect("listed").flatten();
        let paths = list.map(|entry| entry.path());
        let mut notes: Vec<_> = paths.filter(|path| text(path).ends_with(".notes")).collect();
        assert_eq!(notes.len(), 1, "{notes:?}");
        notes.remove(0)
    };
    let file = notes();
    let genuine = fs::read_to_string(&file).expect("notes");
    // Neither journal nor index knows of it any more: only the files of the pool.
    let forget_the_rest = || {
        for name in ["state/agent.db", "state/agent.db-wal", "state/agent.db-shm"] {
            let _ = fs::remove_file(keepwell.home().join(name));
        }
        for name in ["pool.db", "pool.db-wal", "pool.db-shm"] {
            let _ = fs::remove_file(keepwell.pool().join(name));
        }
    };

    forget_the_rest();
    let believed = status(&keepwell);
    let edited = genuine.replace("\\\"seed\\\":\\\"", "\\\"seed\\\":\\\"0");
    assert_ne!(edited, genuine);
    fs::write(&file, &edited).expect("written");
    forget_the_rest();
    let forged = status(&keepwell);
    // The genuine record moved to a point that nobody has proven.
    fs::remove_file(&file).expect("removed");
    write_files(&source, &[("more", b"more")]);
    keepwell.ok(["backup", "web"]);
    let old = file.with_extension("point");
    let list = fs::read_dir(keepwell.pool().join("points")).expect("listed").flatten();
    let new =
        list.map(|entry| entry.path()).find(|path| text(path).ends_with(".point") && *path != old);
    fs::write(new.expect("a second point").with_extension("notes"), &genuine).expect("written");
    forget_the_rest();
    let moved = status(&keepwell);

    assert_eq!(proofs(&believed).len(), 1, "{believed}");
    assert!(!findings(&believed).contains("not believed"), "{believed}");
    for refused in [&forged, &moved] {
        assert_eq!(proofs(refused), Vec::<Value>::new(), "{refused}");
        assert!(findings(refused).contains("are not believed"), "{refused}");
    }
}

#[test]
fn the_daemon_drills_at_its_time_and_catches_up() {
    let keepwell = Keepwell::new();
    protected(&keepwell);
    keepwell.ok(["group", "edit", "web", "--drill", "daily 03:00", "--drill-sample", "all"]);
    configure(&keepwell, "");
    let now: Timestamp = "2031-03-03T12:00:00Z".parse().expect("a moment");
    let clock = MovedClock::new(&keepwell.path(""), now);
    let start = || {
        let mut command = keepwell.command(["daemon"]);
        clock.give(&mut command);
        Daemon::start_command(command)
    };
    start().stop();
    assert_eq!(states(&keepwell, "drill web"), Vec::<String>::new());

    clock.set(now + 30.hours());
    let daemon = start();
    wait_until("the drill is done", || states(&keepwell, "drill web") == ["done"]);
    daemon.stop();

    let proof = &proofs(&status(&keepwell))[0];
    assert!(proof["proven"].as_str().is_some_and(|it| it.starts_with("2031-03-04T")), "{proof}");
}

#[test]
fn a_disk_without_room_is_told_before_anything_is_written() {
    if !is_root("a full disk needs a file system of its own: NOT TESTED") {
        return;
    }
    let keepwell = Keepwell::new();
    protected(&keepwell);
    let disk = Mount::tmpfs(&keepwell.path("disk"), 8 << 20);

    let (summary, refused) = drill(&keepwell, &["web", "--in", text(disk.path())], 7);

    assert!(refused.stderr.contains("no room for the drill"), "{refused:?}");
    assert!(refused.stderr.contains("--in DIR"), "{refused:?}");
    assert_eq!(summary["failed"], 1, "{summary}");
    assert_eq!(fs::read_dir(disk.path()).expect("listed").count(), 0);
    assert_eq!(proofs(&status(&keepwell)), Vec::<Value>::new());
}
