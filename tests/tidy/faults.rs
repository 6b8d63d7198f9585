//! The fault matrix names a test for every fault, and only tests that exist.

use std::collections::BTreeSet;
use std::fs;

use crate::source::{files, root};

/// Rows of `docs/fault-matrix.md`, numbered without a gap.
const ROWS: usize = 103;

// The names of all functions that are tests.
fn tests() -> BTreeSet<String> {
    let folders = ["storepool/src", "cloudsync/src", "agent/src", "tests"];
    let mut names = BTreeSet::new();
    for file in folders.iter().flat_map(|folder| files(folder)) {
        let mut is_test = false;
        for line in file.text.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some((_, after)) = line.split_once("fn ") {
                let name: String =
                    after.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                if std::mem::take(&mut is_test) {
                    names.insert(name);
                }
            }
        }
    }
    names
}

#[test]
fn every_fault_has_its_test() {
    let text = fs::read_to_string(root().join("docs/fault-matrix.md")).expect("the matrix");
    let tests = tests();
    let mut findings = Vec::new();
    let mut numbers = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let Ok(number) = cells[1].parse::<usize>() else { continue };
        numbers.push(number);
        let named: Vec<_> = cells[3].split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            findings.push(format!("row {number} names no test"));
        }
        for name in named.into_iter().filter(|name| !tests.contains(*name)) {
            findings.push(format!("row {number}: there is no test {name}"));
        }
    }
    assert_eq!(numbers, (1..=ROWS).collect::<Vec<_>>(), "rows");
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn only_tests_turn_the_simulations_switches_on() {
    for manifest in
        ["agent/Cargo.toml", "cloudsync/Cargo.toml", "storepool/Cargo.toml", "Cargo.toml"]
    {
        let text = fs::read_to_string(root().join(manifest)).expect("a manifest");
        let shipped = text.split("[dev-dependencies]").next().unwrap_or_default();
        assert!(!shipped.contains("\"simulated\""), "{manifest} ships the switches");
    }
}
