//! Exit codes and complaints: what scripts rely on and what people read at night.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::harness::{Keepwell, noise, write_files};

fn packs(pool: &Path) -> Vec<PathBuf> {
    let mut packs = Vec::new();
    for folder in fs::read_dir(pool.join("packs")).unwrap() {
        let files = fs::read_dir(folder.unwrap().path()).unwrap();
        packs.extend(files.map(|file| file.unwrap().path()));
    }
    packs.sort_by_key(|pack| std::cmp::Reverse(fs::metadata(pack).unwrap().len()));
    packs
}

#[test]
fn wrong_usage_is_2_and_says_what_was_meant() {
    let keepwell = Keepwell::new();

    for (arguments, complaint) in [
        (vec!["bakcup"], "'backup'"),
        (vec!["points", "--latset", "1"], "'--latest'"),
        (vec!["backup"], "--files"),
        (vec!["forget"], "--keep-daily"),
        (vec!["forget", "--keep-daily", "many"], "neither a number nor \"all\""),
        (vec!["find", "a[b"], "a[b"),
        (vec!["check", "--read-data=200%"], "from 0% to 100%"),
    ] {
        let ran = keepwell.run(&arguments);

        assert_eq!(ran.code, Some(2), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.starts_with("keepwell: "), "{ran:?}");
        assert!(ran.stderr.contains(complaint), "{arguments:?}: {ran:?}");
        assert_eq!(ran.stdout, "", "{arguments:?}");
    }
}

#[test]
fn a_wrong_configuration_is_2_with_file_line_and_the_nearest_key() {
    let keepwell = Keepwell::new();
    let file = keepwell.home().join("keepwell.toml");
    fs::write(&file, "[pool]\npaths = [\"pool\"]\nresevre = \"5%\"\n").unwrap();

    let ran = keepwell.run(["points"]);

    assert_eq!(ran.code, Some(2));
    let place = format!("{}:3: unknown key \"resevre\" in [pool]", file.display());
    assert!(ran.stderr.contains(&place), "{ran:?}");
    assert!(ran.stderr.contains("hint: did you mean \"reserve\"?"), "{ran:?}");
}

#[test]
fn a_wrong_variable_is_2_and_named() {
    let keepwell = Keepwell::new();
    let with = |name: &str, value: &str| {
        let output = keepwell.command(["points"]).env(name, value).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };

    let (code, complaint) = with("KEEPWELL_JSNO", "1");
    assert_eq!(code, Some(2));
    assert!(complaint.contains("KEEPWELL_JSNO; did you mean KEEPWELL_JSON?"), "{complaint}");
    let (code, complaint) = with("KEEPWELL_JSON", "perhaps");
    assert_eq!(code, Some(2));
    assert!(complaint.contains("KEEPWELL_JSON: invalid value 'perhaps'"), "{complaint}");
    assert_eq!(with("KEEPWELL_POINTS_LATEST", "1").0, Some(0));
}

#[test]
fn no_pool_is_10_and_says_how_to_make_one() {
    let keepwell = Keepwell::blank();

    let ran = keepwell.run(["points"]);
    assert_eq!(ran.code, Some(10), "{ran:?}");
    assert!(ran.stderr.contains("keepwell init"), "{ran:?}");

    keepwell.ok(["init"]);
    fs::remove_dir_all(keepwell.pool()).unwrap();
    assert_eq!(keepwell.run(["points"]).code, Some(10), "an unmounted disk");
}

#[test]
fn an_unreadable_file_is_3_and_listed_with_the_point() {
    let keepwell = Keepwell::unprivileged();
    let source = keepwell.path("srv");
    write_files(&source, &[("good", b"good"), ("bad", b"bad")]);
    fs::set_permissions(source.join("bad"), fs::Permissions::from_mode(0o000)).unwrap();
    if !rustix::process::geteuid().is_root() {
        assert!(File::open(source.join("bad")).is_err(), "the test needs an unreadable file");
    }

    let ran = keepwell.run(["--json", "backup", "--files", "srv"]);

    assert_eq!(ran.code, Some(3), "{ran:?}");
    let summary = ran.summary();
    assert_eq!(summary["problem_count"], 1);
    let problem = &ran.messages()[0];
    assert_eq!((&problem["message_type"], &problem["path"]), (&"error".into(), &"bad".into()));
    let listed = keepwell.ok(["points", "--problems", "latest"]).stdout;
    assert!(listed.contains("bad (unreadable)"), "{listed}");
    assert_eq!(keepwell.ok(["dump", "latest:good"]).stdout, "good");
}

#[test]
fn a_missing_source_is_1_and_makes_no_point() {
    let keepwell = Keepwell::new();

    let ran = keepwell.run(["backup", "--files", "nowhere"]);

    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("nowhere"), "{ran:?}");
    assert_eq!(keepwell.ok(["points"]).stdout, "no points\n");
}

#[test]
fn damage_is_5_and_names_what_it_affects() {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("hurt", &noise(5, 200_000)), ("fine", b"fine")]);
    keepwell.ok(["backup", "--files", "srv"]);
    let pack = File::options().write(true).open(&packs(&keepwell.pool())[0]).unwrap();
    pack.write_all_at(b"damage", 10_000).unwrap();

    let ran = keepwell.run(["check", "--read-data"]);

    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert!(ran.stdout.contains("\n  hurt\n") && !ran.stdout.contains("fine"), "{ran:?}");
    assert!(ran.stderr.contains("hint: run \"keepwell repair\""), "{ran:?}");
    assert_eq!(keepwell.run(["dump", "latest:hurt"]).code, Some(5));
    assert_eq!(keepwell.run(["restore", "latest", "--to", "back"]).code, Some(3));
    assert_eq!(fs::read(keepwell.path("back/fine")).unwrap(), b"fine");
}

#[test]
fn what_a_repair_cannot_mend_the_next_backup_brings_back() {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("hurt", &noise(6, 200_000)), ("fine", b"fine")]);
    keepwell.ok(["backup", "--files", "srv"]);
    let pack = File::options().write(true).open(&packs(&keepwell.pool())[0]).unwrap();
    pack.write_all_at(b"damage", 10_000).unwrap();

    let plan = keepwell.run(["--json", "repair", "-n"]);
    assert_eq!((plan.code, &plan.summary()["dry_run"]), (Some(5), &true.into()), "{plan:?}");
    let repaired = keepwell.run(["--json", "repair"]);
    assert_eq!(repaired.code, Some(5), "{repaired:?}");
    let summary = repaired.summary();
    assert_eq!(summary["affected_points"][0]["paths"], serde_json::json!(["hurt"]), "{summary}");
    let moved = summary["packs_damaged"][0]["path"].as_str().unwrap();
    assert!(Path::new(moved).exists(), "the damaged pack is moved aside: {summary}");

    keepwell.ok(["backup", "--files", "srv"]);
    keepwell.ok(["check", "--read-data"]);
    keepwell.ok(["repair"]);
}

#[test]
fn a_busy_pool_is_11_and_names_the_holder() {
    let keepwell = Keepwell::new();
    let mut lock = File::create(keepwell.pool().join("locks/prune")).unwrap();
    lock.write_all(b"keepwell prune (process 17 on web1)").unwrap();
    lock.lock().unwrap();

    let ran = keepwell.run(["prune"]);
    assert_eq!(ran.code, Some(11), "{ran:?}");
    assert!(ran.stderr.contains("in use by keepwell prune (process 17 on web1)"), "{ran:?}");

    let mut waiting = keepwell.start(["prune", "--wait", "60s"]);
    assert!(waiting.try_wait().unwrap().is_none());
    lock.unlock().unwrap();
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
}

#[test]
fn a_restore_over_something_is_refused_before_anything_is_written() {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("a", b"new"), ("z", b"new")]);
    keepwell.ok(["backup", "--files", "srv"]);
    write_files(&keepwell.path("there"), &[("z", b"old")]);

    let ran = keepwell.run(["restore", "latest", "--to", "there"]);

    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("--conflict"), "{ran:?}");
    assert!(!keepwell.path("there/a").exists());
    keepwell.ok(["restore", "latest", "--to", "there", "--conflict", "skip"]);
    assert_eq!(fs::read(keepwell.path("there/z")).unwrap(), b"old");
    keepwell.ok(["restore", "latest", "--to", "there", "--conflict", "overwrite"]);
    assert_eq!(fs::read(keepwell.path("there/z")).unwrap(), b"new");
}

#[test]
fn a_second_init_changes_nothing_and_a_lost_configuration_is_written_anew() {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("a", b"a")]);
    keepwell.ok(["backup", "--files", "srv"]);

    let ran = keepwell.run(["init"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    fs::remove_file(keepwell.home().join("keepwell.toml")).unwrap();
    let again = keepwell.ok(["init"]);

    assert!(again.stdout.contains("took the pool"), "{again:?}");
    assert!(keepwell.ok(["points"]).stdout.contains("1 point"));
}

#[test]
fn our_own_files_are_for_their_owner_alone() {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("a", b"a")]);
    keepwell.ok(["backup", "--files", "srv"]);

    let mut open = vec![keepwell.home()];
    while let Some(path) = open.pop() {
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o077, 0, "{}", path.display());
        if metadata.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}
