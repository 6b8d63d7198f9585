//! Which files of a data directory belong to a base: those that the server itself would send (`src/backend/backup/basebackup.c`).
//!
//! Left out is what a cluster makes anew when it starts, what belongs to the running server, and WAL, of which a base has its own range.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use rustix::fs::FileType;

use super::folder::Found;

/// Folders of the data directory whose content is left out; they themselves must be there.
const EMPTIED: [&str; 8] = [
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
    // Its links are made anew from the map of tablespaces, whose content comes in archives of its own.
    "pg_tblspc",
];
/// Files of the data directory that are left out. The label and the map come from the server when the backup ends; the control file is read last.
const LEFT_OUT: [&str; 7] = [
    "backup_label",
    "backup_manifest",
    "current_logfiles.tmp",
    "postgresql.auto.conf.tmp",
    "postmaster.opts",
    "postmaster.pid",
    "tablespace_map",
];
/// Files of queries that run, wherever they are.
const TEMPORARY: &[u8] = b"pgsql_tmp";
/// Caches that a server makes anew, and which may be wrong in another one.
const CACHE: &[u8] = b"pg_internal.init";

/// What is done with something in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// A file is read.
    Read,
    /// A folder is entered.
    Enter,
    /// A folder is noted, and nothing in it.
    Empty,
    /// It is the folder of WAL.
    Wal,
}

/// Chooses among what lies in the folder `below` the root of an archive, and returns names and choices in the order of names.
pub(super) fn choose(below: &Path, found: Vec<Found>) -> Vec<(OsString, Choice)> {
    let is_top = below.as_os_str().is_empty();
    let is_database = is_database(below);
    let unlogged = if is_database { unlogged(&found) } else { HashSet::new() };
    let choose = |one: Found| {
        let name = one.name.as_bytes();
        // Also where it is a link to another disk.
        if is_top && name == b"pg_wal" {
            return Some((one.name, Choice::Wal));
        }
        if name.starts_with(TEMPORARY) || name.starts_with(CACHE) {
            return None;
        }
        let choice = match one.kind {
            FileType::Directory if is_top && EMPTIED.iter().any(|it| it.as_bytes() == name) => {
                Choice::Empty
            }
            FileType::Directory => Choice::Enter,
            FileType::RegularFile => {
                let is_left_out = is_top && LEFT_OUT.iter().any(|it| it.as_bytes() == name)
                    || below == Path::new("global") && name == b"pg_control"
                    || is_database && (is_temporary(name) || is_unlogged(name, &unlogged));
                if is_left_out {
                    return None;
                }
                Choice::Read
            }
            // Links and pipes are nothing of the server's.
            _ => return None,
        };
        Some((one.name, choice))
    };
    found.into_iter().filter_map(choose).collect()
}

// `base/5` of a data directory, `PG_15_202209061/5` of a tablespace.
fn is_database(below: &Path) -> bool {
    let parts: Vec<&[u8]> = below.iter().map(OsStrExt::as_bytes).collect();
    match parts[..] {
        [upper, number] => (upper == b"base" || upper.starts_with(b"PG_")) && is_number(number),
        _ => false,
    }
}

// Relations that have an initial fork: recovery empties them, so only that fork is needed.
fn unlogged(found: &[Found]) -> HashSet<Vec<u8>> {
    let relation = |one: &Found| one.name.as_bytes().strip_suffix(b"_init").map(<[u8]>::to_vec);
    found.iter().filter_map(relation).filter(|relation| is_number(relation)).collect()
}

fn is_unlogged(name: &[u8], unlogged: &HashSet<Vec<u8>>) -> bool {
    let (relation, fork) = relation_and_fork(name);
    fork != Some(b"init") && unlogged.contains(relation)
}

// Relations of a session: `t3_16400`, with forks and segments like any other.
fn is_temporary(name: &[u8]) -> bool {
    let Some((session, rest)) = name.strip_prefix(b"t").and_then(|rest| split(rest, b'_')) else {
        return false;
    };
    let (relation, fork) = relation_and_fork(rest);
    let is_fork = fork.is_none_or(|fork| [&b"fsm"[..], b"vm", b"init"].contains(&fork));
    is_number(session) && is_number(relation) && is_fork
}

// `16400_fsm.1` is the second segment of the fork `fsm` of 16400.
fn relation_and_fork(name: &[u8]) -> (&[u8], Option<&[u8]>) {
    let whole = split(name, b'.').map_or(name, |(whole, _)| whole);
    match split(whole, b'_') {
        Some((relation, fork)) => (relation, Some(fork)),
        None => (whole, None),
    }
}

fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = text.iter().position(|byte| *byte == at)?;
    Some((&text[..place], &text[place + 1..]))
}

fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

trait OsStrExt {
    fn as_bytes(&self) -> &[u8];
}

impl OsStrExt for OsStr {
    fn as_bytes(&self) -> &[u8] {
        std::os::unix::ffi::OsStrExt::as_bytes(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(below: &str, found: &[(&str, FileType)]) -> Vec<(String, Choice)> {
        let found = found.iter().map(|(name, kind)| Found { name: name.into(), kind: *kind });
        let chosen = choose(Path::new(below), found.collect());
        chosen.into_iter().map(|(name, choice)| (name.into_string().unwrap(), choice)).collect()
    }

    fn names(below: &str, files: &[&str]) -> Vec<String> {
        let files: Vec<_> = files.iter().map(|name| (*name, FileType::RegularFile)).collect();
        chosen(below, &files).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn what_belongs_to_the_running_server_is_left_out_at_the_top() {
        let (file, folder, link) = (FileType::RegularFile, FileType::Directory, FileType::Symlink);
        let chosen = chosen(
            "",
            &[
                ("PG_VERSION", file),
                ("backup_label", file),
                ("backup_label.old", file),
                ("base", folder),
                ("elsewhere", link),
                ("log", folder),
                ("pg_notify", folder),
                ("pg_tblspc", folder),
                ("pg_wal", link),
                ("postmaster.pid", file),
                ("tablespace_map", file),
            ],
        );

        let expected = [
            ("PG_VERSION", Choice::Read),
            ("backup_label.old", Choice::Read),
            ("base", Choice::Enter),
            ("log", Choice::Enter),
            ("pg_notify", Choice::Empty),
            ("pg_tblspc", Choice::Empty),
            ("pg_wal", Choice::Wal),
        ];
        assert_eq!(chosen, expected.map(|(name, choice)| (name.to_string(), choice)));
        assert_eq!(names("log", &["postmaster.pid", "backup_label"]).len(), 2);
    }

    #[test]
    fn of_a_database_temporary_and_unlogged_relations_are_left_out() {
        let all = [
            "16400",
            "16400.1",
            "16400_fsm",
            "16400_init",
            "16400_vm",
            "1640",
            "16401_fsm",
            "PG_VERSION",
            "pg_filenode.map",
            "pg_internal.init.17",
            "pgsql_tmp12.3",
            "t3_16405",
            "t3_16405_vm.1",
            "t_16405",
            "table_16405",
        ];
        let kept = [
            "16400_init",
            "1640",
            "16401_fsm",
            "PG_VERSION",
            "pg_filenode.map",
            "t_16405",
            "table_16405",
        ];

        assert_eq!(names("base/5", &all), kept);
        assert_eq!(names("PG_15_202209061/5", &all), kept);
        assert_eq!(
            names("global", &["pg_control", "pg_internal.init", "1262", "t3_16405"]),
            ["1262", "t3_16405"]
        );
    }
}
