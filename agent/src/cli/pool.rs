//! `keepwell pool`: the disks of the pool.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use storepool::Error as PoolError;
use storepool::members::{
    DirectoryReport, add_directory, directory_report, drain_directory, remove_lost_directories,
};
use storepool::pool::World;

use super::arguments;
use crate::assembly::Assembly;
use crate::config::{self, Config};
use crate::console::Console;
use crate::console::table::{Align, Table};
use crate::console::units::{count, counted, size};
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::examination::before_pool;

/// Manage the disks of the pool
#[derive(Args, Debug)]
#[command(arg_required_else_help = true)]
pub(super) struct Pool {
    #[command(subcommand)]
    command: PoolCommand,
}

#[derive(Debug, Subcommand)]
enum PoolCommand {
    Add(Add),
    Drain(Drain),
    List(List),
}

/// Add a directory, usually on another disk
///
/// The configuration file is changed too; its comments survive.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell pool add /mnt/second/keepwell")]
struct Add {
    /// An empty directory, or one that is not there yet
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// If the pool is in use, wait this long
    #[arg(long, value_name = "DURATION", value_parser = arguments::duration)]
    wait: Option<Duration>,
}

/// Move everything out of a directory and take it out of the pool
///
/// What is still needed goes to the other directories; the configuration file is changed at the end. Interrupted, it goes on when run again.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell pool drain /mnt/old/keepwell
  keepwell pool drain --lost            give up disks that are gone for good")]
struct Drain {
    /// Which directory
    #[arg(value_name = "DIR", required_unless_present = "lost")]
    directory: Option<PathBuf>,
    /// Give up the directories that are not there: what only they held is lost
    #[arg(long, conflicts_with = "directory")]
    lost: bool,
    /// If the pool is in use, wait this long
    #[arg(long, value_name = "DURATION", value_parser = arguments::duration)]
    wait: Option<Duration>,
}

/// List the directories with their space
#[derive(Args, Debug)]
struct List {}

#[derive(Serialize)]
struct ListDocument {
    pool: String,
    directories: Vec<DirectoryDocument>,
}

#[derive(Serialize)]
struct DirectoryDocument {
    id: String,
    path: Option<PathBuf>,
    present: bool,
    packs: u64,
    bytes: u64,
    free_bytes: u64,
    total_bytes: u64,
    reserve_bytes: u64,
}

#[derive(Serialize)]
struct AddDocument {
    id: String,
    path: PathBuf,
}

#[derive(Serialize)]
struct DrainSummary {
    path: PathBuf,
    packs_moved: u64,
    bytes_moved: u64,
    packs_removed: u64,
}

#[derive(Serialize)]
struct LostDocument {
    lost: Vec<String>,
}

impl Pool {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        match self.command {
            PoolCommand::Add(add) => add.run(assembly),
            PoolCommand::Drain(drain) => drain.run(assembly),
            PoolCommand::List(list) => list.run(assembly),
        }
    }
}

impl Add {
    fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let config = assembly.config()?;
        let path = absolute(&self.directory)?;
        let attempt = || format!("add {} to the pool", path.display());
        before_pool(&assembly.console, std::slice::from_ref(&path)).attempt(attempt)?;
        let id = assembly.wait_while_busy(self.wait, || {
            let options = config.pool.options(assembly.holder());
            add_directory(&config.pool.paths, &path, options, World::system()).attempt(attempt)
        })?;
        edit_paths(&config, &path, true)?;
        assembly.console.document(&AddDocument { id: id.to_string(), path: path.clone() });
        assembly
            .console
            .note(format!("added {}; new chunks go where most room is", path.display()));
        Ok(Outcome::Done)
    }
}

impl Drain {
    fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        match &self.directory {
            Some(directory) => self.drain(assembly, &absolute(directory)?),
            None => self.give_up(assembly),
        }
    }

    fn drain(&self, assembly: &Assembly, path: &Path) -> Result<Outcome, Error> {
        let config = assembly.config()?;
        let configured = configured(&config, path)?;
        let attempt = || format!("drain {}", path.display());
        let drained = assembly.wait_while_busy(self.wait, || {
            let options = config.pool.options(assembly.holder());
            let progress = assembly.console.progress("packs");
            drain_directory(&config.pool.paths, &configured, options, World::system(), &progress)
                .attempt(attempt)
        });
        let report = match drained {
            // An earlier run took it out of the pool, but did not get as far as the configuration file.
            Err(Error { cause: Cause::Pool(PoolError::NoPool { .. }), .. })
                if config.pool.paths.contains(&configured)
                    && assembly.open_configured(&config)?.is_whole() =>
            {
                Default::default()
            }
            drained => drained?,
        };
        edit_paths(&config, &configured, false)?;
        assembly.console.message(
            "summary",
            &DrainSummary {
                path: path.to_path_buf(),
                packs_moved: report.packs_moved,
                bytes_moved: report.bytes_moved,
                packs_removed: report.packs_removed,
            },
        );
        assembly.console.note(format!(
            "moved {} ({}); {} is no part of the pool any more",
            counted(report.packs_moved, "pack"),
            size(report.bytes_moved),
            path.display()
        ));
        Ok(Outcome::Done)
    }

    fn give_up(&self, assembly: &Assembly) -> Result<Outcome, Error> {
        let config = assembly.config()?;
        let missing: Vec<PathBuf> = assembly.open_configured(&config)?.missing_paths().to_vec();
        let lost = assembly.wait_while_busy(self.wait, || {
            let options = config.pool.options(assembly.holder());
            remove_lost_directories(&config.pool.paths, options, World::system())
                .attempt(|| "give up lost directories".to_string())
        })?;
        let console = &assembly.console;
        let lost: Vec<_> = lost.iter().map(ToString::to_string).collect();
        for path in &missing {
            edit_paths(&assembly.config()?, path, false)?;
            console.note(format!("{} is no part of the pool any more", path.display()));
        }
        if lost.is_empty() && missing.is_empty() {
            console.note("no directory is missing");
        } else {
            console.note("run \"keepwell check\" to see which points are affected");
        }
        console.document(&LostDocument { lost });
        Ok(Outcome::Done)
    }
}

impl List {
    fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let pool = assembly.open_pool()?;
        let reports = directory_report(&pool).attempt(|| "list the directories".to_string())?;
        let document = |report: &DirectoryReport| DirectoryDocument {
            id: report.id.to_string(),
            path: report.path.clone(),
            present: report.path.is_some(),
            packs: report.packs,
            bytes: report.bytes,
            free_bytes: report.free,
            total_bytes: report.total,
            reserve_bytes: report.reserve,
        };
        assembly.console.document(&ListDocument {
            pool: pool.id().to_string(),
            directories: reports.iter().map(document).collect(),
        });
        tell_list(&assembly.console, &reports);
        Ok(Outcome::Done)
    }
}

fn tell_list(console: &Console, reports: &[DirectoryReport]) {
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("Directory", Align::Left),
        ("Packs", Align::Right),
        ("Size", Align::Right),
        ("Free", Align::Right),
        ("Disk", Align::Right),
        ("Reserve", Align::Right),
    ]);
    for report in reports {
        let present = report.path.is_some();
        let of_disk = |bytes| if present { size(bytes) } else { String::new() };
        let path = report.path.as_ref().map(|path| path.display().to_string());
        table.row(vec![
            report.id.short(),
            path.unwrap_or_else(|| "(missing)".to_string()),
            count(report.packs),
            size(report.bytes),
            of_disk(report.free),
            of_disk(report.total),
            of_disk(report.reserve),
        ]);
    }
    table.lines().iter().for_each(|line| console.say(line));
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path)
        .map_err(|cause| Cause::Io { action: "find", path: path.to_path_buf(), cause })
        .attempt(String::new)
}

/// Returns the path of the configuration that means the same directory, or the path itself.
fn configured(config: &Config, path: &Path) -> Result<PathBuf, Error> {
    for known in &config.pool.paths {
        if absolute(known)? == path {
            return Ok(known.clone());
        }
    }
    Ok(path.to_path_buf())
}

fn edit_paths(config: &Config, path: &Path, add: bool) -> Result<(), Error> {
    let attempt = || format!("change the pool's paths in {}", config.path.display());
    let text = std::fs::read_to_string(&config.path)
        .map_err(|cause| Cause::Io { action: "read", path: config.path.clone(), cause })
        .attempt(attempt)?;
    let folder = config.path.parent().unwrap_or(Path::new(""));
    let folder = if add { absolute(folder)? } else { folder.to_path_buf() };
    let edited = config::with_pool_path(&text, &folder, path, add);
    let edited = edited.ok_or_else(|| Cause::Unwritable { path: path.to_path_buf() });
    config::write(&config.path, &edited.attempt(attempt)?).attempt(attempt)
}
