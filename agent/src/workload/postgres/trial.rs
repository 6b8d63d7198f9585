//! A restored cluster on trial: recovered and started on a private socket by the server of its own major version, then every database checked by
//! `pg_amcheck`. Nothing of its configuration that could reach out is in force: no archiving, no libraries, no commands at the end of its recovery.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use storepool::clock::{Clock, SystemClock};

use super::connection::{Address, Connection, Purpose, Way};
use super::error::PostgresError;
use crate::config::SslMode;
use crate::error::Cause;
use crate::workload::trial::{Stage, Trial, find, last_words, not_started};

const PORT: u16 = 5432;
/// The role that every cluster is made with has this number, whatever its name.
const FIRST_ROLE: &str = "SELECT rolname FROM pg_catalog.pg_roles WHERE oid = 10";
const DATABASES: &str = "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn ORDER BY 1";
/// Everything is read through once, where `pg_amcheck` is not installed.
const READ_ALL: &str =
    "SELECT coalesce(sum(pg_catalog.pg_relation_size(oid)), 0) FROM pg_catalog.pg_class";

/// Where the programs of a major version are, or why there are none.
pub(crate) fn programs(server_version: u32) -> Result<PathBuf, String> {
    let major = server_version / 10_000;
    let folders = [format!("/usr/lib/postgresql/{major}/bin"), format!("/usr/pgsql-{major}/bin")];
    let found = find("postgres", &folders);
    let folder = found.as_deref().and_then(Path::parent).map(Path::to_path_buf);
    folder.ok_or_else(|| format!("PostgreSQL {major} is not installed here"))
}

/// Starts the cluster, checks it and stops it. `roles` are names that may be its superuser.
///
/// # Errors
/// Files of the moment cannot be written; the run was asked to stop.
pub(crate) fn try_out(
    stage: &Stage<'_>,
    server_version: u32,
    roles: &[String],
) -> Result<(Trial, Duration), Cause> {
    let clock = SystemClock::new();
    let begin = clock.monotonic();
    let elapsed = || clock.monotonic().saturating_sub(begin);
    let not_made = |why: String| Ok((Trial::NotMade(why), elapsed()));
    let programs = match programs(server_version) {
        Ok(programs) => programs,
        Err(why) => return not_made(why),
    };
    if let Err(why) = stage.socket(&format!(".s.PGSQL.{PORT}.lock")) {
        return not_made(why);
    }
    write(stage, "hba.conf", "local all all trust\n")?;
    write(stage, "ident.conf", "")?;
    write(stage, "postgresql.conf", "")?;
    let command = command(stage, &programs);
    let mut server = match stage.start(command, "QUIT", Signal::INT) {
        Ok(server) => server,
        Err(error) => return not_made(Cause::from(error).chain()),
    };
    let mut first = None;
    let ended = server.wait(stage.monitor, || {
        first = roles.iter().find_map(|role| {
            let mut connection =
                Connection::open(&address(stage, role), Purpose::Database("postgres")).ok()?;
            connection.ask_one(FIRST_ROLE).ok()
        });
        first.is_some()
    })?;
    let ready = elapsed();
    let role = match (ended, first) {
        (Some(how), _) => return Ok((not_started(&how), ready)),
        (None, None) => return not_made("none of its roles is known".to_string()),
        (None, Some(role)) => role,
    };
    let databases = match databases(&address(stage, &role)) {
        Ok(databases) => databases,
        Err(error) => return Ok((Trial::Failed(format!("it does not answer: {error}")), ready)),
    };
    let major = server_version / 10_000;
    let count = databases.len();
    let done = |how: &str| {
        let databases =
            if count == 1 { "1 database".to_string() } else { format!("{count} databases") };
        Ok((
            Trial::Passed(format!("PostgreSQL {major} was started on it: {databases}, {how}")),
            ready,
        ))
    };
    let check = programs.join("pg_amcheck");
    if !check.is_file() {
        return match read_all(stage, &role, &databases) {
            Ok(()) => done("all answered; pg_amcheck is not installed here"),
            Err(error) => Ok((Trial::Failed(format!("it does not answer: {error}")), ready)),
        };
    }
    let words = ["--all", "--install-missing", "-h"].map(String::from);
    let rest = [stage.room.display().to_string(), "-p".into(), PORT.to_string(), "-U".into(), role];
    let command = [vec![check.display().to_string()], words.to_vec(), rest.to_vec()].concat();
    let verdict = stage.program(command).verdict(stage.monitor);
    stage.go_on()?;
    match verdict {
        Ok((0, _)) => done("pg_amcheck found nothing wrong"),
        Ok((_, said)) => Ok((Trial::Failed(format!("pg_amcheck: {}", last_words(&said))), ready)),
        Err(error) => Ok((Trial::Failed(Cause::from(error).chain()), ready)),
    }
}

fn address(stage: &Stage<'_>, role: &str) -> Address {
    let way = Way::Socket(stage.room.to_path_buf());
    Address {
        way,
        port: PORT,
        user: role.to_string(),
        password: None,
        sslmode: SslMode::Disable,
        sslrootcert: None,
    }
}

fn databases(address: &Address) -> Result<Vec<String>, PostgresError> {
    let mut connection = Connection::open(address, Purpose::Database("postgres"))?;
    let rows = connection.ask(DATABASES)?;
    Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
}

fn read_all(stage: &Stage<'_>, role: &str, databases: &[String]) -> Result<(), PostgresError> {
    for database in databases {
        Connection::open(&address(stage, role), Purpose::Database(database))?.ask_one(READ_ALL)?;
    }
    Ok(())
}

// Options of the command line stand above all files, also above what came with the data directory.
fn command(stage: &Stage<'_>, programs: &Path) -> Vec<String> {
    let room = |name: &str| stage.room.join(name).display().to_string();
    let settings = [
        ("config_file", room("postgresql.conf")),
        ("hba_file", room("hba.conf")),
        ("ident_file", room("ident.conf")),
        ("external_pid_file", String::new()),
        ("listen_addresses", String::new()),
        ("unix_socket_directories", stage.room.display().to_string()),
        ("unix_socket_group", String::new()),
        ("ssl", "off".into()),
        ("archive_mode", "off".into()),
        ("archive_command", String::new()),
        ("archive_cleanup_command", String::new()),
        ("recovery_end_command", String::new()),
        ("primary_conninfo", String::new()),
        ("shared_preload_libraries", String::new()),
        ("session_preload_libraries", String::new()),
        ("local_preload_libraries", String::new()),
        // Connections come after the recovery: then nothing has to be as large as it was on the server.
        ("hot_standby", "off".into()),
        ("shared_buffers", "64MB".into()),
        ("huge_pages", "off".into()),
        ("max_connections", "20".into()),
        ("max_prepared_transactions", "1000".into()),
        ("max_locks_per_transaction", "256".into()),
        ("autovacuum", "off".into()),
        // It goes anyway.
        ("fsync", "off".into()),
        ("full_page_writes", "off".into()),
        ("logging_collector", "off".into()),
        ("log_destination", "stderr".into()),
        ("port", PORT.to_string()),
    ];
    let mut words = vec![
        programs.join("postgres").display().to_string(),
        "-D".into(),
        stage.data.display().to_string(),
    ];
    for (name, value) in settings {
        words.extend(["-c".to_string(), format!("{name}={value}")]);
    }
    words
}

fn write(stage: &Stage<'_>, name: &str, text: &str) -> Result<(), Cause> {
    let path = stage.room.join(name);
    let written = fs::write(&path, text).and_then(|()| match stage.tenant {
        Some(tenant) => chown(&path, Some(tenant.uid), Some(tenant.gid)),
        None => Ok(()),
    });
    written.map_err(|cause| Cause::Io { action: "write", path, cause })
}
