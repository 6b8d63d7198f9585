//! Modules use only lower floors of their crate; crates only those below them.

use crate::source::files;

/// The floors of `storepool`, lowest first; modules of one floor do not use each other.
const STOREPOOL: &[&[&str]] = &[
    &["id", "entry", "clock", "entropy", "wire"],
    &["error"],
    &["monitor", "disk"],
    &["pack", "chunker", "space", "lock", "sqlite"],
    &["tree", "marker"],
    &["manifest"],
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

#[test]
fn modules_of_the_pool_use_only_lower_floors() {
    let floor = |room: &str| STOREPOOL.iter().position(|rooms| rooms.contains(&room));
    let mut findings = Vec::new();
    for file in files("storepool/src").iter().filter(|file| !file.is_test()) {
        let room = file.room();
        if room == "lib" {
            continue;
        }
        let Some(own) = floor(room) else {
            findings
                .push(format!("{}: \"{room}\" has no floor in tests/tidy/layers.rs", file.path));
            continue;
        };
        for (number, line) in file.code() {
            for used in line.split("crate::").skip(1) {
                let used: String =
                    used.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                if used.is_empty() || used == room {
                    continue;
                }
                if floor(&used).is_none_or(|floor| floor >= own) {
                    findings.push(format!("{}:{number}: {room} uses {used}", file.path));
                }
            }
        }
    }
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
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
