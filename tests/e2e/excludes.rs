//! What is left out of a backup, and only that.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use crate::home::{Home, backup_arguments, is_root, number_of};
use crate::mount::Mount;
use crate::tree::{Observed, write};

const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55\n# a cache\n";

#[test]
fn patterns_leave_out_what_git_would_ignore() {
    let cases: &[(&[&str], &[&str])] = &[
        (&[], &ALL),
        (&["-e", "*.tmp"], &without(&["a.tmp", "docs/a.tmp", "docs/keep.tmp", "src/deep/b.tmp"])),
        (&["-e", "*.tmp", "-e", "!keep.tmp"], &without(&["a.tmp", "docs/a.tmp", "src/deep/b.tmp"])),
        (&["-e", "/build/"], &without(&["build", "build/out"])),
        (&["-e", "build/"], &without(&["build", "build/out", "src/build", "src/build/out"])),
        (&["-e", "/a.tmp"], &without(&["a.tmp"])),
        (&["-e", "docs/*", "-e", "!docs/keep.tmp"], &without(&["docs/a.tmp", "docs/Guide.TXT"])),
        // As with git, nothing below a directory that is left out can be had back.
        (
            &["-e", "docs/", "-e", "!docs/keep.tmp"],
            &without(&["docs", "docs/a.tmp", "docs/keep.tmp", "docs/Guide.TXT"]),
        ),
        (&["-e", "src/**/out"], &without(&["src/build/out"])),
        (&["-e", "**/deep"], &without(&["src/deep", "src/deep/b.tmp"])),
        (&["-e", "[ab].tmp"], &without(&["a.tmp", "docs/a.tmp", "src/deep/b.tmp"])),
        (&["-e", "guide.txt"], &ALL),
        (&["--iexclude", "guide.txt"], &without(&["docs/Guide.TXT"])),
        (&["-e", r"\#odd"], &without(&["#odd"])),
        (
            &["--exclude-file", "patterns"],
            &without(&["a.tmp", "docs/a.tmp", "src/deep/b.tmp", "build", "build/out", "#odd"]),
        ),
    ];
    let home = Home::in_memory();
    let source = home.directory("source");
    for name in ALL.iter().filter(|name| !DIRECTORIES.contains(name)) {
        write(&source.join(name), name.as_bytes());
    }
    write(
        &home.beside("patterns"),
        b"# comments and empty lines say nothing\n\n*.tmp\n!keep.tmp\n/build\n\\#odd\n",
    );

    for (options, expected) in cases {
        let point = home.backup(&source, options);
        let mut found = Observed::of(&home.restore(&point, "target")).names();
        found.sort();
        assert_eq!(found, *expected, "{options:?}");
    }
}

const ALL: [&str; 14] = [
    "#odd",
    "a.tmp",
    "build",
    "build/out",
    "docs",
    "docs/Guide.TXT",
    "docs/a.tmp",
    "docs/keep.tmp",
    "src",
    "src/build",
    "src/build/out",
    "src/deep",
    "src/deep/b.tmp",
    "src/main.rs",
];
const DIRECTORIES: [&str; 5] = ["build", "docs", "src", "src/build", "src/deep"];

fn without(names: &[&str]) -> Vec<&'static str> {
    ALL.into_iter().filter(|name| !names.contains(name)).collect()
}

#[test]
fn a_pattern_says_nothing_about_names_that_are_not_text() {
    let home = Home::in_memory();
    let source = home.directory("source");
    write(&source.join(OsStr::from_bytes(b"\xff.tmp")), b"x");
    write(&source.join(OsStr::from_bytes(b"\xff.txt")), b"x");
    write(&source.join(OsStr::from_bytes(b"folder \xfe/file.tmp")), b"x");

    let point = home.backup(&source, &["-e", "*.tmp"]);

    let target = home.restore(&point, "target");
    assert!(target.join(OsStr::from_bytes(b"\xff.txt")).exists());
    assert!(target.join(OsStr::from_bytes(b"folder \xfe")).is_dir());
    assert_eq!(Observed::of(&target).len(), 3);
}

#[test]
fn a_malformed_pattern_makes_no_point() {
    let home = Home::in_memory();
    let source = home.directory("source");
    write(&source.join("file"), b"x");

    let refused = home.run(backup_arguments(&source, &["-e", "{a,b"]));

    assert!(!matches!(refused.code(), Some(0 | 3)), "{refused}");
    assert!(refused.stderr().contains("{a,b"), "{refused}");
    assert_eq!(home.points().len(), 0);
}

#[test]
fn marked_directories_keep_their_mark_and_lose_their_content() {
    let home = Home::in_memory();
    let source = home.directory("source");
    write(&source.join("cache/CACHEDIR.TAG"), CACHE_SIGNATURE);
    write(&source.join("cache/content/file"), b"x");
    write(&source.join("no cache/CACHEDIR.TAG"), b"Signature: something else");
    write(&source.join("no cache/file"), b"x");
    write(&source.join("marked/.nobackup"), b"");
    write(&source.join("marked/file"), b"x");
    write(&source.join("headed/.mark"), b"skip: yes\n");
    write(&source.join("headed/file"), b"x");
    write(&source.join("otherwise headed/.mark"), b"skip: no\n");
    write(&source.join("otherwise headed/file"), b"x");
    let files = |options: &[&str]| {
        let point = home.backup(&source, options);
        let target = home.restore(&point, "target");
        let names = Observed::of(&target).names();
        names.into_iter().filter(|name| target.join(name).is_file()).collect::<Vec<_>>()
    };

    let all = files(&[]);
    assert_eq!(all.len(), 10);
    for (options, gone) in [
        (vec!["--exclude-caches"], vec!["cache/content/file"]),
        (vec!["--exclude-if-present", ".nobackup"], vec!["marked/file"]),
        (vec!["--exclude-if-present", ".mark:skip: yes"], vec!["headed/file"]),
        (
            vec![
                "--exclude-caches",
                "--exclude-if-present",
                ".nobackup",
                "--exclude-if-present",
                ".mark",
            ],
            vec!["cache/content/file", "headed/file", "marked/file", "otherwise headed/file"],
        ),
    ] {
        let expected: Vec<_> =
            all.iter().filter(|name| !gone.contains(&name.as_str())).cloned().collect();
        assert_eq!(files(&options), expected, "{options:?}");
    }
    for name in ["cache", "marked", "headed"] {
        assert!(home.beside("target").join(name).is_dir(), "{name} itself stays");
    }
}

#[test]
fn only_files_larger_than_asked_are_left_out() {
    let home = Home::in_memory();
    let source = home.directory("source");
    write(&source.join("exactly"), &[1; 4096]);
    write(&source.join("larger"), &[1; 4097]);
    fs::File::create(source.join("sparse")).unwrap().set_len(1 << 20).unwrap();

    let point = home.backup(&source, &["--exclude-larger-than", "4K"]);

    assert_eq!(Observed::of(&home.restore(&point, "target")).names(), ["exactly"]);
}

#[test]
fn other_file_systems_are_entered_only_without_x() {
    if !is_root("a second file system cannot be mounted: NOT TESTED") {
        return;
    }
    let home = Home::in_memory();
    let source = home.directory("source");
    write(&source.join("here/file"), b"here");
    let mount = Mount::tmpfs(&source.join("elsewhere"), 1 << 20);
    write(&mount.path().join("folder/file"), b"elsewhere");

    let with = home.backup(&source, &[]);
    let without = home.backup(&source, &["-x"]);
    let named = home.run(
        backup_arguments(&source, &["-x"])
            .into_iter()
            .chain([mount.path().as_os_str().to_os_string()]),
    );

    let names = |point: &str| Observed::of(&home.restore(point, "target")).names();
    assert!(names(&with).contains(&"elsewhere/folder/file".to_string()));
    assert_eq!(names(&without), ["elsewhere", "here", "here/file"], "the mount point stays, empty");
    assert_eq!(
        number_of(&named.expect_code(0).summary(), "files"),
        1,
        "it lies inside the other path"
    );
}

#[test]
fn the_pool_is_never_backed_up_into_itself() {
    let home = Home::in_memory();
    let outside = tempfile::tempdir().expect("a temporary directory");
    let target = outside.path().join("target");
    let source = home.path().parent().expect("the home lies somewhere").to_path_buf();
    write(&source.join("data/file"), b"x");

    let first = home.backup(&source, &[]);
    let second = home.run(backup_arguments(&source, &[])).expect_code(0).summary();

    assert_eq!(number_of(&second, "chunks_new"), 0, "the pool grows from itself: {second}");
    home.run(["restore".as_ref(), first.as_ref(), "--to".as_ref(), target.as_os_str()])
        .expect_code(0);
    let names = Observed::of(&target).names();
    for name in ["data/file", "home/keepwell.toml"] {
        assert!(names.iter().any(|found| found == name), "{name} is missing: {names:?}");
    }
    assert!(!names.iter().any(|name| name.starts_with("home/pool/")), "{names:?}");
}
