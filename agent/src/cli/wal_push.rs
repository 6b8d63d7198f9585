//! `keepwell wal-push FILE`: what PostgreSQL runs for each file of WAL, as its `archive_command`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{arguments, workshop};
use crate::assembly::Assembly;
use crate::config::{Config, GroupConfig, PostgresConfig, SourceConfig};
use crate::console::units::size;
use crate::error::{Attempt, Error, Outcome};
use crate::job;
use crate::job::wal::{Pushed, push};
use crate::record::open_journal;
use crate::subscription::{Work, allow_local};

/// Put a file of PostgreSQL's WAL into the pool; its archive_command
///
/// Exit code 0 means that the file is durable in the pool. With any other PostgreSQL keeps it and tries again.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  archive_command = 'keepwell wal-push %p'                  in postgresql.conf
  archive_command = 'keepwell wal-push --group db %p'       where several clusters are protected")]
pub(super) struct WalPush {
    /// The file, as PostgreSQL's %p names it
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The group whose source the cluster is, if there are several
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// If the pool is busy, wait for it this long
    #[arg(long, value_name = "TIME", value_parser = arguments::duration, default_value = "60s")]
    wait: Duration,
}

#[derive(Serialize)]
struct Summary {
    file: String,
    stored: bool,
    point: Option<String>,
    bytes_stored: u64,
    lost: u64,
}

impl WalPush {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let config = assembly.config()?;
        allow_local(assembly, &config, Work::DiskBackup)?;
        let (group, cluster) = choose(&config, self.group.as_deref())?;
        let attempt = || format!("push {}", self.file.display());
        let pushed = assembly.wait_while_busy(Some(self.wait), || {
            let pool = assembly.open_configured(&config)?;
            let journal = open_journal(assembly).attempt(attempt)?;
            let workshop = workshop(assembly, &config, &pool, &journal);
            let progress = assembly.console.progress("files");
            let pushed = push(&workshop, group, cluster, &self.file, &progress);
            progress.finish();
            pushed.attempt(attempt)
        })?;
        tell(assembly, &self.file.display().to_string(), &pushed);
        Ok(Outcome::Done)
    }
}

fn tell(assembly: &Assembly, file: &str, pushed: &Pushed) {
    let console = &assembly.console;
    let mut summary =
        Summary { file: file.to_string(), stored: false, point: None, bytes_stored: 0, lost: 0 };
    match pushed {
        Pushed::Known => console.note(format!("{file} was in the pool already")),
        Pushed::Stored { point, bytes_stored, lost } => {
            console.note(format!("{file} is in the pool, {} added", size(*bytes_stored)));
            summary.stored = true;
            summary.point = Some(point.to_string());
            summary.bytes_stored = *bytes_stored;
            summary.lost = *lost;
            if *lost > 0 {
                console.warn(format!(
                    "at least {lost} files of WAL that were pushed before are damaged in the pool; the point that had them is kept"
                ));
                console
                    .hint("run \"keepwell check\", then \"keepwell repair\"; make a new base soon");
            }
        }
    }
    console.message("summary", &summary);
}

// The cluster whose WAL comes: the only one that is configured so, or the one of the group that was named.
fn choose<'a>(
    config: &'a Config,
    group: Option<&str>,
) -> Result<(&'a GroupConfig, &'a PostgresConfig), Error> {
    let groups: Vec<&GroupConfig> = match group {
        Some(name) => vec![job::group(config, name)?],
        None => config.groups.values().collect(),
    };
    let of_group = |group: &'a GroupConfig| {
        group.sources.iter().filter_map(move |source| match source {
            SourceConfig::Postgres(cluster) if cluster.wal => Some((group, cluster)),
            _ => None,
        })
    };
    let found: Vec<_> = groups.into_iter().flat_map(of_group).collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(Error::usage(
            "no group takes WAL: give one a source such as { postgres = { socket = \"/run/postgresql\", wal = true } } in the configuration",
        )),
        several => {
            let names: Vec<&str> = several.iter().map(|(group, _)| group.name.as_str()).collect();
            Err(Error::usage(format!(
                "several clusters send WAL ({}): name one with --group, and keep clusters in groups of their own",
                names.join(", ")
            )))
        }
    }
}
