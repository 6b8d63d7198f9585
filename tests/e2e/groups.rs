//! Protection groups: kept in one file with its comments, backed up with their hooks, copied, and thinned out as they say.

use std::fs;
use std::path::Path;

use crate::harness::{Keepwell, wait_until_settled, write_files};

const COMMENT: &str = "# mine, and important";

fn with_source(name: &str) -> Keepwell {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path(name), &[("one", b"1"), ("sub/two", b"22")]);
    keepwell
}

fn configuration(keepwell: &Keepwell) -> String {
    fs::read_to_string(keepwell.home().join("keepwell.toml")).expect("there is a configuration")
}

fn append(keepwell: &Keepwell, text: &str) {
    let text = format!("{}\n{text}\n", configuration(keepwell));
    fs::write(keepwell.home().join("keepwell.toml"), text).expect("written");
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_string).collect()
}

#[test]
fn a_group_is_added_backed_up_changed_paused_and_removed_and_its_points_stay() {
    let keepwell = with_source("srv");
    append(&keepwell, COMMENT);
    let srv = keepwell.path("srv").display().to_string();

    keepwell.ok(["group", "add", "web", "--files", &srv, "--schedule", "15m", "--keep-daily", "7"]);
    wait_until_settled(&keepwell.path("srv"));
    let twice = keepwell.run(["group", "add", "web", "--files", &srv]);
    let made = keepwell.ok(["--json", "backup", "web"]).summary();
    let listed = keepwell.ok(["--json", "group", "list"]).stdout;
    keepwell.ok(["group", "edit", "web", "--keep-weekly", "4", "--schedule", "daily 02:00"]);
    keepwell.ok(["group", "pause", "web"]);
    let paused = configuration(&keepwell);
    let none = keepwell.run(["backup"]);
    keepwell.ok(["group", "resume", "web"]);
    let all = keepwell.ok(["--json", "backup"]).summary();

    assert_eq!(twice.code, Some(2), "{twice:?}");
    assert_eq!(made["groups"][0]["points"][0]["files"], 2, "{made}");
    assert!(listed.contains("\"schedule\": \"15m\"") && listed.contains("next_run"), "{listed}");
    assert!(paused.contains("paused = true") && paused.contains(COMMENT), "{paused}");
    assert!(paused.contains("retention = { daily = 7, weekly = 4 }"), "{paused}");
    assert_eq!(none.code, Some(2), "{none:?}");
    assert_eq!(all["groups"][0]["points"][0]["entries_unchanged"], 2, "{all}");
    assert_eq!(all["groups"][0]["points"][0]["chunks_new"], 0, "{all}");
    let back = keepwell.path("back");
    keepwell.ok(["restore", "latest:web", "--to", back.to_str().expect("text")]);
    assert_eq!(fs::read(back.join("sub/two")).expect("restored"), b"22");

    keepwell.ok(["group", "remove", "web"]);
    assert!(
        !configuration(&keepwell).contains("[group") && configuration(&keepwell).contains(COMMENT)
    );
    let points = keepwell.ok(["--json", "points", "web"]).stdout;
    assert_eq!(points.matches("\"short_id\"").count(), 2, "{points}");
}

#[test]
fn a_mistake_changes_nothing_and_is_told_with_line_and_nearest_word() {
    let keepwell = with_source("srv");
    let srv = keepwell.path("srv").display().to_string();
    keepwell.ok(["group", "add", "web", "--files", &srv]);
    let before = configuration(&keepwell);

    let schedule = keepwell.run(["group", "edit", "web", "--schedule", "every now and then"]);
    let group = keepwell.run(["backup", "wbe"]);
    append(&keepwell, "schedul = \"15m\"");
    let check = keepwell.run(["config", "check"]);

    assert_eq!(schedule.code, Some(2));
    assert!(schedule.stderr.contains("expected a schedule"), "{schedule:?}");
    assert_eq!(group.code, Some(2));
    assert!(group.stderr.contains("did you mean \"web\"?"), "{group:?}");
    assert_eq!(check.code, Some(2));
    assert!(
        check.stderr.contains("keepwell.toml:")
            && check.stderr.contains("did you mean \"schedule\"?")
    );
    assert!(configuration(&keepwell).starts_with(&before));
}

#[test]
fn every_source_of_a_group_is_a_series_and_one_that_is_gone_keeps_none_from_its_point() {
    let keepwell = with_source("srv");
    write_files(&keepwell.path("etc"), &[("conf", b"c")]);
    append(
        &keepwell,
        "[group.all]\nsources = [{ files = [\"../srv\"] }, { files = [\"../etc\"] }]",
    );

    let both = keepwell.ok(["--json", "backup", "all"]).summary();
    fs::remove_dir_all(keepwell.path("srv")).expect("removed");
    let one = keepwell.run(["backup", "all", "--json"]);

    assert_eq!(both["groups"][0]["points"].as_array().map(Vec::len), Some(2));
    assert_eq!(one.code, Some(1), "{one:?}");
    let summary = one.messages().into_iter().find(|message| message["message_type"] == "summary");
    let group = summary.expect("a summary in spite of the failure")["groups"][0].clone();
    assert_eq!(group["points"].as_array().map(Vec::len), Some(1), "{group}");
    assert_eq!(group["failed"].as_array().map(Vec::len), Some(1), "{group}");
    let jobs = keepwell.ok(["jobs", "--json"]).stdout;
    assert!(jobs.contains("\"failed\"") && jobs.contains("\"done\""), "{jobs}");
}

#[test]
fn hooks_run_around_a_backup_with_a_documented_environment() {
    let keepwell = with_source("srv");
    let log = keepwell.path("log");
    let say = |word: &str| {
        format!(
            "echo {word} $KEEPWELL_HOOK_PHASE $KEEPWELL_HOOK_GROUP $KEEPWELL_HOOK_RESULT >> {}",
            log.display()
        )
    };
    append(
        &keepwell,
        &format!(
            "[group.web]\nsources = [{{ files = [\"../srv\"] }}]\n\
         hooks = {{ before = \"{}\", after = \"{}\", on_error = \"{}\" }}",
            say("1"),
            say("2"),
            say("3"),
        ),
    );

    keepwell.ok(["backup", "web"]);
    let good = lines(&log);
    fs::rename(keepwell.path("srv"), keepwell.path("away")).expect("moved");
    fs::remove_file(&log).expect("there was a log");
    let bad = keepwell.run(["backup", "web"]);

    assert_eq!(good, ["1 before web running", "2 after web done"]);
    assert_eq!(bad.code, Some(1));
    assert_eq!(
        lines(&log),
        ["1 before web running", "2 after web failed", "3 on_error web failed"]
    );
}

#[test]
fn a_failing_before_means_no_point_and_after_runs_all_the_same() {
    let keepwell = with_source("srv");
    let log = keepwell.path("log");
    append(
        &keepwell,
        &format!(
            "[group.web]\nsources = [{{ files = [\"../srv\"] }}]\n\
         hooks = {{ before = \"echo no lock >&2; exit 7\", after = \"echo after >> {}\" }}",
            log.display(),
        ),
    );

    let failed = keepwell.run(["backup", "web"]);

    assert_eq!(failed.code, Some(1));
    assert!(
        failed.stderr.contains("hook \"before\"") && failed.stderr.contains("no lock"),
        "{failed:?}"
    );
    assert_eq!(lines(&log), ["after"]);
    assert!(!keepwell.ok(["--json", "points"]).stdout.contains("short_id"));
}

#[test]
fn after_runs_even_if_the_agent_was_killed_and_only_once() {
    let keepwell = with_source("srv");
    let log = keepwell.path("log");
    let killing = keepwell.path("killing");
    fs::write(&killing, "").expect("written");
    append(
        &keepwell,
        &format!(
            "[group.web]\nsources = [{{ files = [\"../srv\"] }}]\n\
         hooks = {{ before = \"echo before >> {log}; test -e {killing} && kill -9 $PPID; true\", after = \"echo after $KEEPWELL_HOOK_RESULT >> {log}\" }}",
            log = log.display(),
            killing = killing.display(),
        ),
    );

    let killed = keepwell.run(["backup", "web"]);
    let owed = lines(&log);
    fs::remove_file(&killing).expect("removed");
    keepwell.ok(["backup", "web"]);

    assert_eq!(killed.code, None, "{killed:?}");
    assert_eq!(owed, ["before"]);
    assert_eq!(lines(&log), ["before", "after interrupted", "before", "after done"]);
    let jobs = keepwell.ok(["jobs", "--json"]).stdout;
    assert!(jobs.contains("\"interrupted\""), "{jobs}");
}

#[test]
fn only_one_run_of_a_group_at_a_time() {
    let keepwell = with_source("srv");
    let inner = format!(
        "{} --home {} backup web 2> {}",
        env!("CARGO_BIN_EXE_keepwell"),
        keepwell.home().display(),
        keepwell.path("inner").display(),
    );
    append(
        &keepwell,
        &format!(
            "[group.web]\nsources = [{{ files = [\"../srv\"] }}]\nhooks = {{ before = \"{inner}; test $? = 11\" }}"
        ),
    );

    keepwell.ok(["backup", "web"]);

    let told = fs::read_to_string(keepwell.path("inner")).expect("it said why");
    assert!(told.contains("keepwell backup (process"), "{told}");
}

#[test]
fn what_no_retention_keeps_is_forgotten_and_groups_without_one_keep_everything() {
    let keepwell = with_source("srv");
    append(
        &keepwell,
        "[group.few]\nsources = [{ files = [\"../srv\"] }]\nretention = { last = 1 }\n\
                       [group.all]\nsources = [{ files = [\"../srv\"] }]",
    );
    keepwell.ok(["backup"]);
    keepwell.ok(["backup"]);
    let count = |group: &str| {
        keepwell.ok(["--json", "points", group]).stdout.matches("\"short_id\"").count()
    };

    let plan = keepwell.ok(["forget", "-n"]).stdout;
    assert_eq!((count("few"), count("all")), (2, 2));
    keepwell.ok(["forget"]);

    assert!(plan.contains("1 stay, 1 go") && plan.contains("newest"), "{plan}");
    assert_eq!((count("few"), count("all")), (1, 2));
}

#[test]
fn a_backup_is_good_though_the_vault_is_away_and_is_copied_later() {
    let keepwell = with_source("srv");
    let srv = keepwell.path("srv").display().to_string();
    keepwell.ok(["quickstart", &srv]);
    let vault = keepwell.home().join("vault");
    keepwell.ok(["group", "add", "web", "--files", &srv]);
    fs::rename(&vault, keepwell.path("away")).expect("moved");

    let behind = keepwell.run(["backup", "web"]);
    fs::rename(keepwell.path("away"), &vault).expect("moved back");
    let copied = keepwell.ok(["--json", "backup", "web"]).summary();

    assert_eq!(behind.code, Some(4), "{behind:?}");
    assert!(behind.stderr.contains("keepwell sync web"), "{behind:?}");
    assert_eq!(copied["groups"][0]["vault"]["points_copied"], 2, "{copied}");
}
