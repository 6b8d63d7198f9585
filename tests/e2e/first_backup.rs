//! The first days with Keepwell: back up, look, lose something, get it back, tidy up.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::harness::{Keepwell, noise, picture, write_files};

#[test]
fn a_folder_goes_in_and_comes_out_again() {
    let keepwell = Keepwell::blank();
    let source = keepwell.path("srv");
    write_files(
        &source,
        &[
            ("www/index.html", b"<h1>hello</h1>"),
            ("www/image.bin", &noise(1, 3_000_000)),
            ("etc/empty", b""),
            ("etc/passwd", b"root:x:0:0\n"),
        ],
    );
    symlink("../etc/passwd", source.join("www/link")).unwrap();
    fs::set_permissions(source.join("etc/passwd"), fs::Permissions::from_mode(0o640)).unwrap();

    let made = keepwell.ok(["init"]);
    assert!(made.stdout.contains("made pool"), "{made:?}");
    let backup = keepwell.ok(["backup", "--files", "srv", "--tag", "first"]);
    assert!(backup.stdout.contains("5 files: 5 new, 0 changed, 0 unchanged"), "{backup:?}");

    let points = keepwell.ok(["points"]).stdout;
    assert!(points.contains("first") && points.contains("1 point"), "{points}");
    // November to March CET, otherwise CEST; never UTC, since the tester lives in Berlin.
    assert!(points.contains(" CET") || points.contains(" CEST"), "{points}");

    let listed = keepwell.ok(["ls", "latest"]).stdout;
    let expected = "etc\netc/empty\netc/passwd\nwww\nwww/image.bin\nwww/index.html\nwww/link\n";
    assert_eq!(listed, expected);
    assert_eq!(keepwell.ok(["ls", "latest:etc"]).stdout, "etc/empty\netc/passwd\n");
    let long = keepwell.ok(["ls", "-l", "latest:etc/passwd"]).stdout;
    assert!(long.starts_with("-rw-r----- ") && long.ends_with(" etc/passwd\n"), "{long}");
    assert!(keepwell.ok(["find", "pass*"]).stdout.contains("\netc/passwd\n"));
    assert_eq!(keepwell.ok(["dump", "latest:etc/passwd"]).stdout, "root:x:0:0\n");
    assert_eq!(keepwell.ok(["dump", "latest", "www/index.html"]).stdout, "<h1>hello</h1>");

    keepwell.ok(["restore", "latest", "--to", "back"]);
    assert_eq!(picture(&keepwell.path("back")), picture(&source));
    keepwell.ok(["restore", "latest:www/index.html", "--to", "one"]);
    assert_eq!(fs::read(keepwell.path("one/index.html")).unwrap(), b"<h1>hello</h1>");
}

#[test]
fn a_second_backup_of_an_unchanged_tree_stores_no_chunk() {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("a", &noise(2, 500_000)), ("b/c", b"small")]);
    let first = keepwell.summary(["backup", "--files", "srv"]);

    let second = keepwell.summary(["backup", "--files", "srv"]);

    assert!(first["chunks_new"].as_u64() > Some(3), "{first}");
    assert_eq!(second["chunks_new"], 0, "{second}");
    assert_eq!(second["base"], first["point"]);
    assert_eq!(keepwell.document(["diff", "latest", "latest"])["changes"], serde_json::json!([]));
}

#[test]
fn what_changed_is_seen_and_undone_at_its_place() {
    let keepwell = Keepwell::new();
    let source = keepwell.path("srv");
    write_files(&source, &[("same", b"same"), ("edited", b"before"), ("gone/x", b"x")]);
    let point = keepwell.summary(["backup", "--files", "srv"])["point"].clone();
    let before = picture(&source);
    fs::write(source.join("edited"), "after!").unwrap();
    fs::remove_dir_all(source.join("gone")).unwrap();
    fs::write(source.join("new"), "new").unwrap();
    keepwell.ok(["backup", "--files", "srv"]);

    let diff = keepwell.ok(["diff", point.as_str().unwrap(), "latest"]).stdout;
    assert!(diff.starts_with("M edited\n- gone/\n- gone/x\n+ new\n"), "{diff}");

    let first = &point.as_str().unwrap()[..8];
    let plan = keepwell.summary(["restore", first, "--in-place", "--delete", "-n"]);
    assert_eq!(plan["deleted"], 1, "{plan}");
    assert!(source.join("new").exists(), "a dry run changes nothing");
    keepwell.ok(["restore", first, "--in-place", "--delete"]);
    assert_eq!(picture(&source), before);
}

#[test]
fn several_paths_keep_their_places_and_go_back_to_them() {
    let keepwell = Keepwell::new();
    write_files(
        &keepwell.path("data"),
        &[("one/a", b"a"), ("two/b", b"b"), ("three/c", b"not backed up"), ("file", b"f")],
    );
    keepwell.ok(["backup", "--files", "data/one", "data/two", "data/file"]);
    for name in ["one", "two"] {
        fs::remove_dir_all(keepwell.path("data").join(name)).unwrap();
    }
    fs::remove_file(keepwell.path("data/file")).unwrap();

    keepwell.ok(["restore", "latest", "--in-place", "--delete"]);

    assert_eq!(fs::read(keepwell.path("data/one/a")).unwrap(), b"a");
    assert_eq!(fs::read(keepwell.path("data/two/b")).unwrap(), b"b");
    assert_eq!(fs::read(keepwell.path("data/file")).unwrap(), b"f");
    let beside = fs::read(keepwell.path("data/three/c")).unwrap();
    assert_eq!(beside, b"not backed up", "what lies beside is never touched");
}

#[test]
fn old_points_go_and_their_space_comes_back() {
    let keepwell = Keepwell::new();
    let source = keepwell.path("srv");
    for seed in 0..3 {
        write_files(&source, &[("data", &noise(seed, 2_000_000))]);
        keepwell.ok(["backup", "--files", "srv"]);
    }
    let used = |keepwell: &Keepwell| {
        keepwell.document(["stats"])["stored_bytes"].as_u64().expect("a number")
    };
    let before = used(&keepwell);

    let plan = keepwell.document(["forget", "--keep-last", "1", "-n"]);
    assert_eq!((&plan["removed"], &plan["kept"]), (&2.into(), &1.into()), "{plan}");
    let reasons = &plan["series"][0]["points"][2]["reasons"];
    assert_eq!(reasons, &serde_json::json!(["newest", "last 1"]));
    assert_eq!(keepwell.document(["points"])["points"].as_array().unwrap().len(), 3);

    keepwell.ok(["forget", "--keep-last", "1"]);
    let pruned = keepwell.summary(["prune"]);

    assert!(pruned["bytes_freed"].as_i64() > Some(3_900_000), "{pruned}");
    assert!(used(&keepwell) < before / 2);
    keepwell.ok(["check", "--read-data"]);
    keepwell.ok(["restore", "latest", "--to", "back"]);
    assert_eq!(picture(&keepwell.path("back")), picture(&source));
}

#[test]
fn exclusions_leave_out_what_they_say() {
    let keepwell = Keepwell::new();
    write_files(
        &keepwell.path("srv"),
        &[
            ("keep.txt", b"1"),
            ("drop.tmp", b"2"),
            ("Drop.BAK", b"3"),
            ("cache/CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55\n"),
            ("cache/big", b"4"),
            ("marked/.nobackup", b""),
            ("marked/secret", b"5"),
            ("large", &noise(3, 5000)),
            ("logs/old.log", b"6"),
        ],
    );
    fs::write(keepwell.path("patterns"), "# logs\nlogs/\n\n").unwrap();

    keepwell.ok([
        "backup",
        "--files",
        "srv",
        "-e",
        "*.tmp",
        "--iexclude",
        "*.bak",
        "--exclude-caches",
        "--exclude-if-present",
        ".nobackup",
        "--exclude-larger-than",
        "4K",
        "--exclude-file",
        "patterns",
    ]);

    let listed = keepwell.ok(["ls", "latest"]).stdout;
    assert!(listed.contains("keep.txt\n"), "{listed}");
    for name in ["drop.tmp", "Drop.BAK", "cache/big", "marked/secret", "large", "old.log"] {
        assert!(!listed.contains(name), "{name} in {listed}");
    }
}

#[test]
fn tags_and_pins_stay_with_their_point() {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("a", b"a")]);
    for _ in 0..2 {
        keepwell.ok(["backup", "--files", "srv"]);
    }
    let points = keepwell.document(["points"]);
    let first = points["points"][0]["id"].as_str().unwrap();

    keepwell.ok(["tag", first, "--add", "audit,2026"]);
    keepwell.ok(["pin", first, "--reason", "before the upgrade"]);

    assert_eq!(keepwell.run(["forget", first]).code, Some(6));
    keepwell.ok(["forget", "--keep-last", "1"]);
    let points = keepwell.document(["points", "--tag", "audit"]);
    assert_eq!(points["points"][0]["tags"], serde_json::json!(["2026", "audit"]));
    assert_eq!(points["points"][0]["pins"][0]["reason"], "before the upgrade");
    keepwell.ok(["pin", first, "--remove"]);
    keepwell.ok(["forget", first]);
    assert_eq!(keepwell.document(["points"])["points"].as_array().unwrap().len(), 1);
}

#[test]
fn a_pool_grows_and_shrinks_by_whole_directories() {
    let keepwell = Keepwell::new();
    let source = keepwell.path("srv");
    write_files(&source, &[("a", &noise(4, 1_000_000))]);
    keepwell.ok(["backup", "--files", "srv"]);

    keepwell.ok(["pool", "add", "second"]);
    keepwell.ok(["pool", "drain", "home/pool"]);

    let configuration = fs::read_to_string(keepwell.home().join("keepwell.toml")).unwrap();
    assert!(configuration.contains("# One directory per disk"), "comments survive");
    let list = keepwell.document(["pool", "list"]);
    let second = fs::canonicalize(keepwell.path("second")).unwrap();
    assert_eq!(list["directories"].as_array().unwrap().len(), 1, "{list}");
    assert_eq!(list["directories"][0]["path"], second.to_str().unwrap());
    keepwell.ok(["check", "--read-data"]);
    keepwell.ok(["restore", "latest", "--to", "back"]);
    assert_eq!(picture(&keepwell.path("back")), picture(&source));
}

#[test]
fn a_moved_home_goes_on_working() {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("a", b"a")]);
    keepwell.ok(["backup", "--files", "srv"]);

    fs::rename(keepwell.home(), keepwell.path("elsewhere")).unwrap();

    let moved = keepwell.path("elsewhere");
    let home = moved.to_str().unwrap();
    // A later --home wins over the harness's own.
    let points =
        keepwell.command(["points", "--json"]).env("KEEPWELL_HOME", home).output().unwrap();
    assert_eq!(points.status.code(), Some(10), "the command line wins over the variable");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_keepwell"));
    let points = command.args(["--home", home, "points"]).output().unwrap();
    assert!(String::from_utf8_lossy(&points.stdout).contains("1 point"), "{points:?}");
}
