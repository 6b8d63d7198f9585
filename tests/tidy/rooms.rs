//! What belongs where: SQLite behind its door, time and randomness behind their seams, a doc on every module.

use std::fs;

use crate::source::{files, root};

const CRATES: &[&str] = &["storepool/src", "cloudsync/src", "agent/src"];

fn lines_with(word: &str, allowed: &[&str]) -> Vec<String> {
    let mut findings = Vec::new();
    for file in CRATES.iter().flat_map(|folder| files(folder)).filter(|file| !file.is_test()) {
        if allowed.contains(&file.path.as_str()) {
            continue;
        }
        for (number, line) in file.code() {
            if line.contains(word) {
                findings.push(format!("{}:{number}: {word}", file.path));
            }
        }
    }
    findings
}

#[test]
fn sqlite_is_named_only_behind_its_door() {
    let doors = [
        "storepool/src/sqlite.rs",
        "storepool/src/index.rs",
        "storepool/src/catalog.rs",
        "cloudsync/src/ledger.rs",
        "agent/src/journal.rs",
        "agent/src/journal/alert.rs",
        "agent/src/journal/drill.rs",
        "agent/src/journal/job.rs",
        "agent/src/journal/memory.rs",
        // Foreign databases, which are sources and not ours.
        "agent/src/workload/sqlite/copy.rs",
    ];
    let findings = lines_with("rusqlite", &doors);
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn time_and_randomness_come_through_their_seams() {
    // A directory vault compares its own scraps with the file system's clock; tokio's clock can be paused by tests; the progress line
    // is for the eye alone.
    let clocks = ["storepool/src/clock.rs", "cloudsync/src/store/directory.rs"];
    let mut findings = lines_with("SystemTime::now", &clocks);
    let watches = [
        "storepool/src/clock.rs",
        "cloudsync/src/store/http.rs",
        "cloudsync/src/store/retry.rs",
        "agent/src/console/progress.rs",
        "agent/src/console/remote.rs",
    ];
    findings.extend(lines_with("Instant::now", &watches));
    findings.extend(lines_with("getrandom::", &["storepool/src/entropy.rs"]));
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn nothing_is_left_unfinished() {
    let mut findings = Vec::new();
    // Put together here, so that this file does not find itself.
    for word in ["todo!(", "unimplemented!(", "#[ignore", "FIX"].map(String::from) {
        let word = if word == "FIX" { "FIXME".to_string() } else { word };
        findings.extend(lines_with(&word, &[]));
    }
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn every_module_begins_with_its_doc() {
    let folders = CRATES.iter().chain(&["tests/e2e", "tests/fuzz", "tests/simulate", "tests/tidy"]);
    let findings: Vec<_> = folders
        .flat_map(|folder| files(folder))
        .filter(|file| !file.text.starts_with("//!") && !file.is_test())
        .map(|file| file.path)
        .collect();
    assert!(findings.is_empty(), "without a module doc:\n{}", findings.join("\n"));
}

#[test]
fn rooms_without_a_noun_do_not_exist() {
    let attics = ["utils", "util", "common", "helpers", "helper", "types", "misc"];
    let findings: Vec<_> = CRATES
        .iter()
        .flat_map(|folder| files(folder))
        .filter(|file| {
            let name = file.path.rsplit('/').next().unwrap_or_default();
            attics.contains(&name.trim_end_matches(".rs"))
        })
        .map(|file| file.path)
        .collect();
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn every_decision_has_number_date_and_status() {
    let mut findings = Vec::new();
    let mut numbers = std::collections::BTreeSet::new();
    for entry in fs::read_dir(root().join("docs/decisions")).expect("decisions are written down") {
        let path = entry.expect("a readable folder").path();
        let text = fs::read_to_string(&path).expect("decisions are text");
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let number = &name[..4.min(name.len())];
        if !text.starts_with(&format!("# {number}: "))
            || !text.contains("Date: ")
            || !text.contains("Status: ")
            || !numbers.insert(number.to_string())
        {
            findings.push(name);
        }
    }
    assert!(
        findings.is_empty(),
        "decisions without a number of their own, date or status:\n{}",
        findings.join("\n")
    );
}
