//! Modules use only lower floors of their crate; crates only those below them.

use crate::source::files;

/// The floors of `storepool`, lowest first; modules of one floor do not use each other.
const STOREPOOL: &[&[&str]] = &[
    &["id", "entry", "clock", "entropy", "wire", "simulated", "size"],
    &["error"],
    &["monitor", "disk"],
    &["pack", "chunker", "space", "lock", "sqlite"],
    &["tree", "marker"],
    &["manifest", "selftest"],
    &["source", "index"],
    &["filetree", "catalog", "target", "sieve"],
    &["point"],
    &["pool"],
    &["chunks", "writer"],
    &["locator", "marks"],
    &["reach"],
    &["backup", "restore", "prune", "stats"],
    &["check", "members"],
    &["repair"],
];

/// The floors of `cloudsync`, lowest first.
const CLOUDSYNC: &[&[&str]] = &[
    &["layout", "retention", "standing"],
    &["error"],
    &["crypto", "store"],
    &["vault"],
    &["contact", "ledger", "notes"],
    &["sync"],
    &["recovery", "writing"],
    &["check", "forget", "keys", "marks"],
    &["heal", "prune"],
];

/// The floors of `agent`, lowest first.
const AGENT: &[&[&str]] = &[
    &[
        "accounts",
        "duration",
        "last_words",
        "memory",
        "nearest",
        "notify",
        "place",
        "process",
        "scratch",
        "selection",
        "signals",
    ],
    &["error"],
    &["console", "contents", "http", "schedule", "variables"],
    &["comparison", "config"],
    &["hooks", "journal", "worker"],
    &["workload"],
    &["assembly", "documents"],
    &["courier", "record", "vaults", "subscription", "bandwidth"],
    &[
        "adoption",
        "examination",
        "healing",
        "job",
        "origin",
        "passphrases",
        "standing",
        "vault_life",
    ],
    &["drill"],
    &["scheduler"],
    &["daemon"],
    &["status"],
    &["metrics"],
    &["control"],
    &["cli"],
];
/// Rooms of one floor that know each other: how a vault is opened, whether it may be, and how fast.
const HOUSEHOLDS: &[&[&str]] = &[&["vaults", "subscription", "bandwidth"]];

/// Files that name the errors of every floor, because one place must: `error` gathers them, `console/failure.rs` and its neighbour advise on them.
const NAME_ALL_ERRORS: &[&str] =
    &["agent/src/error.rs", "agent/src/console/failure.rs", "agent/src/console/vault_advice.rs"];

fn check_floors(folder: &str, floors: &[&[&str]]) {
    let floor = |room: &str| floors.iter().position(|rooms| rooms.contains(&room));
    let live_together = |room: &str, other: &str| {
        HOUSEHOLDS.iter().any(|rooms| rooms.contains(&room) && rooms.contains(&other))
    };
    let mut findings = Vec::new();
    for file in files(folder).iter().filter(|file| !file.is_test()) {
        let room = file.room();
        let is_bare = ["lib", "main", "simulation"].contains(&room);
        if is_bare || NAME_ALL_ERRORS.contains(&file.path.as_str()) {
            continue;
        }
        let Some(own) = floor(room) else {
            findings
                .push(format!("{}: \"{room}\" has no floor in tests/tidy/layers.rs", file.path));
            continue;
        };
        for (number, line) in file.code() {
            for used in used_rooms(line) {
                let is_lower = floor(&used).is_some_and(|floor| floor < own);
                if used != room && !is_lower && !live_together(room, &used) {
                    findings.push(format!("{}:{number}: {room} uses {used}", file.path));
                }
            }
        }
    }
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

/// Returns the rooms that a line names: `crate::room::…` and `crate::{room, other::…}`.
fn used_rooms(line: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim().chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect()
    };
    let mut used = Vec::new();
    for rest in line.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(list) => used.extend(list.split(',').map(word)),
            None => used.push(word(rest)),
        }
    }
    // "self" and what is no module, such as a re-exported type, names no room.
    used.retain(|room| !room.is_empty() && room != "self");
    used
}

#[test]
fn modules_use_only_lower_floors() {
    check_floors("storepool/src", STOREPOOL);
    check_floors("cloudsync/src", CLOUDSYNC);
    check_floors("agent/src", AGENT);
}

#[test]
fn the_pool_knows_neither_network_nor_terminal() {
    let banned = ["tokio", "reqwest", "object_store", "println!", "eprintln!", "cloudsync::"];
    let mut findings = Vec::new();
    for file in files("storepool/src").iter().filter(|file| !file.is_test()) {
        for (number, line) in file.code() {
            for word in banned {
                if line.contains(word) {
                    findings.push(format!("{}:{number}: {word}", file.path));
                }
            }
        }
    }
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}
