//! A restored server on trial: started on a private socket without network and without privileges, every table checked, stopped.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use storepool::clock::{Clock, SystemClock};
use storepool::monitor::Monitor;

use crate::error::Cause;
use crate::workload::program::Program;
use crate::workload::trial::{Stage, Trial, find, last_words, not_started};

/// What `mariadb-backup` leaves in the directory that the server cannot guess.
const SETTINGS_FILE: &str = "backup-my.cnf";
const SETTINGS: [&str; 3] =
    ["innodb_page_size", "innodb_data_file_path", "innodb_undo_tablespaces"];
const SETTINGS_LIMIT: u64 = 64 << 10;

/// Returns the server of this version, or why there is none.
pub(crate) fn server(version: &str, monitor: &dyn Monitor) -> Result<PathBuf, String> {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/libexec"].map(String::from);
    let series = series(version);
    let missing = || format!("MariaDB {series} is not installed here");
    let server = find("mariadbd", &folders).ok_or_else(missing)?;
    let command = vec![server.display().to_string(), "--no-defaults".into(), "--version".into()];
    let program = Program { command, user: None, variables: Vec::new() };
    let told = program.answer(monitor).map_err(|error| Cause::from(error).chain())?;
    let own = told.split("Ver ").nth(1).unwrap_or_default();
    // A newer one would change the files, an older one could not read them.
    if self::series(own) == series { Ok(server) } else { Err(missing()) }
}

// `10.11.6-MariaDB-0+deb12u1` is of the series 10.11.
fn series(version: &str) -> String {
    version.trim().splitn(3, '.').take(2).collect::<Vec<_>>().join(".")
}

/// Starts the server, checks all its tables and stops it.
///
/// # Errors
/// The run was asked to stop.
pub(crate) fn try_out(stage: &Stage<'_>, version: &str) -> Result<(Trial, Duration), Cause> {
    let clock = SystemClock::new();
    let begin = clock.monotonic();
    let elapsed = || clock.monotonic().saturating_sub(begin);
    let not_made = |why: String| Ok((Trial::NotMade(why), elapsed()));
    let found = server(version, stage.monitor).and_then(|it| Ok((it, stage.socket("s")?)));
    let (program, socket) = match found {
        Ok(found) => found,
        Err(why) => return not_made(why),
    };
    let room = stage.room.display();
    let mut command = vec![
        program.display().to_string(),
        "--no-defaults".to_string(),
        format!("--datadir={}", stage.data.display()),
        format!("--socket={}", socket.display()),
        format!("--pid-file={room}/pid"),
        format!("--tmpdir={room}"),
        "--skip-networking".to_string(),
        // Nobody's password is needed; no event of its own begins.
        "--skip-grant-tables".to_string(),
        "--skip-log-bin".to_string(),
        "--skip-slave-start".to_string(),
        "--innodb-buffer-pool-size=64M".to_string(),
        "--innodb-flush-log-at-trx-commit=0".to_string(),
    ];
    command.extend(settings(stage)?);
    let mut server = match stage.start(command, "KILL", Signal::TERM) {
        Ok(server) => server,
        Err(error) => return not_made(Cause::from(error).chain()),
    };
    let ended = server.wait(stage.monitor, || UnixStream::connect(&socket).is_ok())?;
    let ready = elapsed();
    if let Some(how) = ended {
        return Ok((not_started(&how), ready));
    }
    let check = ["mariadb-check", "--no-defaults", "--all-databases", "--check", "--silent"];
    let check = check.map(String::from);
    let place = [format!("--socket={}", socket.display()), "--user=root".to_string()];
    let verdict = stage.program([check.to_vec(), place.to_vec()].concat()).verdict(stage.monitor);
    stage.go_on()?;
    Ok((
        match verdict {
            Ok((0, said)) => judge(version, &said),
            Ok((_, said)) => Trial::Failed(format!("mariadb-check: {}", last_words(&said))),
            Err(error) => Trial::NotMade(Cause::from(error).chain()),
        },
        ready,
    ))
}

// Asked to be silent, it tells only of tables that are not well.
fn judge(version: &str, said: &str) -> Trial {
    let is_fault = |line: &&str| {
        let line = line.to_ascii_lowercase();
        line.starts_with("error") || line.starts_with("warning") || line.contains("corrupt")
    };
    let faults: Vec<&str> = said.lines().map(str::trim).filter(is_fault).collect();
    if !faults.is_empty() {
        return Trial::Failed(format!("mariadb-check: {}", last_words(&faults.join("\n"))));
    }
    let series = series(version);
    Trial::Passed(format!("MariaDB {series} was started on it: mariadb-check found nothing wrong"))
}

fn settings(stage: &Stage<'_>) -> Result<Vec<String>, Cause> {
    let path = stage.data.join(SETTINGS_FILE);
    let text = match fs::metadata(&path) {
        Ok(found) if found.len() <= SETTINGS_LIMIT => fs::read_to_string(&path)
            .map_err(|cause| Cause::Io { action: "read", path: path.clone(), cause })?,
        _ => return Ok(Vec::new()),
    };
    Ok(chosen(&text))
}

// Nothing else of the file is followed: it came with the point.
fn chosen(text: &str) -> Vec<String> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let pairs = pairs.map(|(name, value)| (name.trim(), value.trim()));
    let known = pairs.filter(|(name, _)| SETTINGS.contains(name));
    known.map(|(name, value)| format!("--{}={value}", name.replace('_', "-"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_passes_only_if_every_table_is_well() {
        let well = "shop.t\nnote     : The storage engine for the table doesn't support check\n";
        assert!(
            matches!(judge("10.11.6-MariaDB", well), Trial::Passed(text) if text.contains("10.11 "))
        );
        for wrong in [
            "shop.t\nerror    : Corrupt\n",
            "shop.t OK\nshop.u\nWarning  : Table is marked as crashed\n",
        ] {
            assert!(matches!(judge("10.11.6", wrong), Trial::Failed(_)), "{wrong}");
        }
    }

    #[test]
    fn of_the_settings_of_a_point_only_sizes_and_places_are_followed() {
        let text =
            "[mysqld]\ninnodb_page_size=4096\nplugin_load=evil.so\ninnodb_undo_tablespaces = 3\n";
        assert_eq!(chosen(text), ["--innodb-page-size=4096", "--innodb-undo-tablespaces=3"]);
        assert_eq!(series("10.11.6-MariaDB-0+deb12u1"), "10.11");
        assert_eq!(series(" 11.4.2"), "11.4");
    }
}
