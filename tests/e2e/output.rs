//! What is printed where: JSON and nothing else for programs, silence when asked for, a quiet end when nobody reads.

use std::io::Read;
use std::process::Stdio;

use serde_json::Value;

use crate::harness::{Keepwell, write_files};

const LONG: [&[&str]; 5] = [
    &["backup", "--files", "srv"],
    &["restore", "latest", "--to", "back"],
    &["check"],
    &["prune"],
    &["repair"],
];
const SHORT: [&[&str]; 11] = [
    &["points"],
    &["snapshots"],
    &["points", "--problems"],
    &["ls", "latest"],
    &["find", "a"],
    &["diff", "latest", "latest"],
    &["stats"],
    &["pool", "list"],
    &["tag", "latest", "--add", "x"],
    &["pin", "latest", "--until", "1d"],
    &["forget", "--keep-last", "1"],
];

fn filled() -> Keepwell {
    let keepwell = Keepwell::new();
    let files: Vec<_> = (0..200).map(|number| format!("folder/{number:04}")).collect();
    let files: Vec<_> = files.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
    write_files(&keepwell.path("srv"), &files);
    write_files(&keepwell.path("srv"), &[("a", b"a"), ("new\nline \u{1F600}", b"")]);
    keepwell.ok(["backup", "--files", "srv"]);
    keepwell
}

#[test]
fn with_json_stdout_carries_nothing_else() {
    let keepwell = filled();

    for arguments in LONG {
        let ran = keepwell.ok([&["--json"], arguments].concat());
        let messages = ran.messages();
        for message in &messages {
            let kind = message["message_type"].as_str();
            assert!(matches!(kind, Some("status" | "error" | "summary")), "{message}");
        }
        assert_eq!(messages.last().unwrap()["message_type"], "summary", "{arguments:?}");
        assert_eq!(ran.stderr, "", "{arguments:?}");
    }
    for arguments in SHORT {
        let ran = keepwell.ok([&["--json"], arguments].concat());
        let document: Value = serde_json::from_str(&ran.stdout)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", ran.stdout));
        assert!(document.is_object(), "{arguments:?}");
        assert_eq!(ran.stderr, "", "{arguments:?}");
    }
}

#[test]
fn a_failure_is_json_too_and_tells_people_on_stderr() {
    let keepwell = filled();

    for arguments in [vec!["ls", "nothing"], vec!["backup", "--files", "nowhere"]] {
        let ran = keepwell.run([vec!["--json"], arguments].concat());

        let failure: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(failure["message_type"], "error");
        assert_eq!(failure["exit_code"], 1);
        assert!(ran.stderr.starts_with("keepwell: cannot "), "{ran:?}");
    }
}

#[test]
fn names_of_any_bytes_come_through_json() {
    let keepwell = filled();

    let listed = keepwell.document(["ls", "latest"]);

    let entries = listed["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 203);
    assert!(entries.iter().any(|entry| entry["path"] == "new\nline \u{1F600}"));
    let text = keepwell.ok(["ls", "latest"]).stdout;
    assert_eq!(text.lines().count(), 203, "a name never makes two lines");
}

#[test]
fn quiet_prints_only_what_was_asked_for() {
    let keepwell = filled();

    for arguments in LONG {
        let ran = keepwell.ok([&["-q"], arguments].concat());
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{arguments:?}");
    }
    assert!(keepwell.ok(["-q", "points"]).stdout.contains("ID"));
}

#[test]
fn a_reader_that_has_seen_enough_ends_a_listing_quietly() {
    let keepwell = Keepwell::new();
    let names: Vec<_> = (0..3000).map(|number| format!("{number:0100}")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    write_files(&keepwell.path("srv"), &files);
    keepwell.ok(["backup", "--files", "srv"]);

    for arguments in [["ls", "latest"], ["find", "*"]] {
        let mut child = keepwell.start(arguments);
        let mut some = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut some).unwrap();
        let output = child.wait_with_output().unwrap();

        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
}

#[test]
fn a_full_disk_under_stdout_is_a_failure() {
    let keepwell = filled();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();

    let mut command = keepwell.command(["ls", "latest"]);
    let output = command.stdout(Stdio::from(full)).stderr(Stdio::piped()).output().unwrap();

    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("cannot write the output"), "{complaint}");
}

#[test]
fn help_says_how_with_examples() {
    let keepwell = Keepwell::blank();

    let overview = keepwell.ok(["--help"]).stdout;
    for word in ["backup", "restore", "Examples:", "KEEPWELL_HOME", "Exit codes:"] {
        assert!(overview.contains(word), "{word}");
    }
    for command in ["init", "backup", "points", "ls", "find", "diff", "dump", "restore", "forget"] {
        let help = keepwell.ok([command, "--help"]).stdout;
        assert!(help.contains("Examples:\n  keepwell "), "{command}");
    }
    assert!(keepwell.ok(["--version"]).stdout.starts_with("keepwell "));
}

#[test]
fn shells_take_the_completions_and_man_the_pages() {
    let keepwell = Keepwell::blank();

    for shell in ["bash", "zsh", "fish"] {
        let script = keepwell.ok(["completions", shell]).stdout;
        assert!(script.contains("one-file-system"), "{shell}");
    }
    std::fs::write(keepwell.path("script"), keepwell.ok(["completions", "bash"]).stdout).unwrap();
    let parsed = std::process::Command::new("bash").arg("-n").arg(keepwell.path("script")).status();
    assert!(parsed.unwrap().success());
    assert!(keepwell.ok(["man"]).stdout.contains(".TH keepwell"));
    keepwell.ok(["man", "--to", "man1"]);
    for page in ["keepwell.1", "keepwell-backup.1", "keepwell-pool-add.1"] {
        assert!(keepwell.path("man1").join(page).exists(), "{page}");
    }
}
