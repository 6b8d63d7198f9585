//! The programs that are called, by whose server it is: a dump that the wrong one makes may not load again.

use std::slice;

use storepool::monitor::SilentMonitor;

use crate::config::MariadbConfig;
use crate::workload::WorkloadError;
use crate::workload::program::{PATH, Program};
use crate::workload::trial::find;

/// What asks a server, by either of its names.
const CLIENT: [&str; 2] = ["mariadb", "mysql"];
const MARIADB_DUMP: [&str; 2] = ["mariadb-dump", "mysqldump"];
const MYSQL_DUMP: [&str; 1] = ["mysqldump"];
/// From here on MySQL's own program says `source` where it said `master`; later ones do not know the old word.
const SAYS_SOURCE: [u32; 3] = [8, 0, 26];
/// From here on it asks for statistics that older servers do not have.
const ASKS_STATISTICS: [u32; 3] = [8, 0, 0];

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// MariaDB.
    Mariadb,
    /// MySQL, or a server built from it.
    Mysql,
}

impl Flavour {
    /// Returns whose server, or program, says this of its version.
    pub(crate) fn of(version: &str) -> Self {
        // MariaDB's own programs tell it in the same way.
        if version.contains("MariaDB") { Self::Mariadb } else { Self::Mysql }
    }

    /// Returns its name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mariadb => "MariaDB",
            Self::Mysql => "MySQL",
        }
    }
}

/// Returns the program that asks the server, told where that is.
pub(super) fn client(config: &MariadbConfig) -> Vec<String> {
    told(config, located(config, &CLIENT))
}

/// Returns the program that copies the server, told where that is.
pub(super) fn copier(config: &MariadbConfig) -> Vec<String> {
    told(config, located(config, &["mariadb-backup"]))
}

/// Returns the program that dumps databases of a server of this version, told where that is and how to dump, but not what.
///
/// # Errors
/// No program is there whose dump of this server would load again.
pub(super) fn dumper(
    config: &MariadbConfig,
    version: &str,
    has_log: bool,
) -> Result<Vec<String>, WorkloadError> {
    let (program, own) = match Flavour::of(version) {
        Flavour::Mariadb => (located(config, &MARIADB_DUMP), None),
        Flavour::Mysql => {
            let (program, own) = mysql_dumper(config, version)?;
            (program, Some(own))
        }
    };
    let mut command = told(config, program);
    let words = ["--single-transaction", "--routines", "--events", "--triggers", "--hex-blob"];
    command.extend(words.map(String::from));
    if has_log {
        // As a comment: where in the binary log the dump stands.
        let says_source = own.is_some_and(|own| own >= SAYS_SOURCE);
        let word = if says_source { "--source-data=2" } else { "--master-data=2" };
        command.push(word.to_string());
    }
    if let Some(own) = own {
        // What another server had done when a dump was made is nothing that the server it is loaded into should claim to have done.
        command.push("--set-gtid-purged=OFF".to_string());
        if own >= ASKS_STATISTICS && numbers(version) < Some(ASKS_STATISTICS) {
            command.push("--column-statistics=0".to_string());
        }
    }
    Ok(command)
}

// MySQL's own program and its version. What MariaDB's makes does not load again if there are generated columns, and newer servers do not answer it.
fn mysql_dumper(
    config: &MariadbConfig,
    version: &str,
) -> Result<(String, [u32; 3]), WorkloadError> {
    let own = located(config, &MYSQL_DUMP);
    let command = vec![own.clone(), "--version".to_string()];
    let asked = Program { command, user: None, variables: Vec::new() };
    // Under this name there may be MariaDB's program, or none.
    if let Ok(told) = asked.answer(&SilentMonitor)
        && Flavour::of(&told) == Flavour::Mysql
        && let Some(numbers) = program_numbers(&told)
    {
        return Ok((own, numbers));
    }
    let message =
        format!("MySQL {version} is dumped by its own mysqldump only, and that is not here");
    let hint = "install MySQL's own client programs, or name the folder that they are in: programs = \"/opt/mysql/bin\". MariaDB's program of the \
                same name does not do";
    Err(WorkloadError::failed(message).hint(hint))
}

// Passwords stand in the option file only.
fn told(config: &MariadbConfig, program: String) -> Vec<String> {
    let mut command = vec![program];
    if let Some(file) = &config.defaults_file {
        // Must come first, or the files of the system are read too.
        command.push(format!("--defaults-file={}", file.display()));
    }
    command.push(format!("--socket={}", config.socket.display()));
    if let Some(user) = &config.user {
        command.push(format!("--user={user}"));
    }
    command
}

// The first that is there; if none is, the first name: that it cannot be started is told when it is needed.
fn located(config: &MariadbConfig, names: &[&str]) -> String {
    let own = config.programs.iter().map(|folder| folder.display().to_string());
    let folders: Vec<String> = own.chain(PATH.split(':').map(String::from)).collect();
    let in_folder =
        |folder: &String| names.iter().find_map(|name| find(name, slice::from_ref(folder)));
    match folders.iter().find_map(in_folder) {
        Some(path) => path.display().to_string(),
        None => names.first().copied().unwrap_or_default().to_string(),
    }
}

// `mysqldump  Ver 8.0.36 for Linux`, or by older ones `mysqldump  Ver 10.13 Distrib 5.6.24, for Linux`.
fn program_numbers(told: &str) -> Option<[u32; 3]> {
    let version = told.split_once("Distrib ").or_else(|| told.split_once("Ver "))?.1;
    numbers(version)
}

// `8.0.36-28` is 8, 0, 36.
fn numbers(version: &str) -> Option<[u32; 3]> {
    let digits = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>();
    let mut parts = version.trim().splitn(3, '.').map(|part| digits(part).parse::<u32>().ok());
    let mut next = || parts.next().flatten();
    Some([next()?, next()?, next()?])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;
    use crate::config::DatabasesConfig;

    // Who has only a program of this name and version here.
    fn config(folder: &Path, name: &str, version: &str) -> MariadbConfig {
        let program = folder.join(name);
        fs::write(&program, format!("#!/bin/sh\necho '{version}'\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        MariadbConfig {
            name: None,
            socket: "/run/s".into(),
            user: None,
            defaults_file: None,
            programs: Some(folder.to_path_buf()),
            physical: false,
            binlog: false,
            dump: DatabasesConfig::All,
        }
    }

    fn dump_of(server: &str, program: &str) -> Result<String, WorkloadError> {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), "mysqldump", program);
        dumper(&config, server, true).map(|words| words.join(" "))
    }

    #[test]
    fn mysql_is_dumped_by_its_own_program_where_that_is_there() {
        let words = dump_of("8.0.36", "mysqldump  Ver 8.0.36 for Linux on x86_64").unwrap();
        assert!(words.contains("/mysqldump --socket=/run/s "), "{words}");
        assert!(words.contains("--source-data=2 --set-gtid-purged=OFF"), "{words}");
        assert!(!words.contains("column-statistics"), "{words}");

        let words = dump_of("5.7.44-log", "mysqldump  Ver 8.0.20 for Linux on x86_64").unwrap();
        assert!(words.contains("--master-data=2"), "{words}");
        assert!(words.ends_with("--column-statistics=0"), "{words}");

        let words = dump_of("5.6.24", "mysqldump  Ver 10.13 Distrib 5.6.24, for Linux").unwrap();
        assert!(words.contains("--master-data=2 --set-gtid-purged=OFF"), "{words}");
    }

    #[test]
    fn mariadbs_program_under_mysqls_name_dumps_no_mysql() {
        let disguised = "mysqldump  Ver 10.19 Distrib 10.11.14-MariaDB, for debian-linux-gnu";

        for server in ["5.6.24-log", "8.0.36-28", "strange"] {
            let error = dump_of(server, disguised).unwrap_err();
            assert!(error.message.contains("its own mysqldump"), "{server}: {error}");
        }
        let words = dump_of("10.11.14-MariaDB-log", disguised).unwrap();
        assert!(words.contains("--master-data=2") && !words.contains("gtid"), "{words}");
    }

    #[test]
    fn a_version_tells_whose_it_is() {
        assert_eq!(Flavour::of("10.11.6-MariaDB-0+deb12u1-log"), Flavour::Mariadb);
        assert_eq!(Flavour::of("5.5.5-10.11.6-MariaDB"), Flavour::Mariadb);
        assert_eq!(Flavour::of("5.6.24-log"), Flavour::Mysql);
        assert_eq!(numbers("8.0.36-28"), Some([8, 0, 36]));
        assert_eq!(numbers("8.0"), None);
        assert_eq!(program_numbers("mysqldump  Ver 10.13 Distrib 5.7.44, for"), Some([5, 7, 44]));
        assert_eq!(program_numbers("hello"), None);
    }
}
