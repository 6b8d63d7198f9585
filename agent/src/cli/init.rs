//! `keepwell init`: a configuration file and an empty pool.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use storepool::Error as PoolError;
use storepool::pool::{Pool, World};

use crate::assembly::Assembly;
use crate::config::{self, Config, new_file};
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::examination::{NewDisk, before_pool};

/// Make a configuration and an empty pool
///
/// Writes a commented configuration file and makes the pool that it names. If the file is there already, the pool is made as it says; if the pool
/// is there already (the file was lost), it is taken as it is. A new disk is examined first, shortly: one that does not keep what a pool rests on is
/// refused, of a weak one it is warned ("keepwell selftest storage" tells more).
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell init                                 the usual places
  keepwell init --pool /mnt/a --pool /mnt/b     a pool on two disks
  keepwell --home ~/trial init                  everything below one folder")]
pub(super) struct Init {
    /// A directory of the pool, one for each disk; empty or not there yet
    #[arg(long, value_name = "DIR")]
    pool: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    configuration: PathBuf,
    configuration_created: bool,
    pool: String,
    pool_created: bool,
    paths: Vec<PathBuf>,
    // What was seen of directories that were new.
    storage: Vec<NewDisk>,
}

impl Init {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let file = &assembly.place.configuration;
        let attempt = || "make a pool".to_string();
        let exists = file.try_exists().map_err(io("look for", file)).attempt(attempt)?;
        let (config, text) = if exists {
            if !self.pool.is_empty() {
                return Err(Error::usage(format!(
                    "{} says where the pool is: change it there, not with --pool",
                    file.display()
                )));
            }
            (Config::load(file)?, None)
        } else {
            let text = new_file(&self.paths(assembly).attempt(attempt)?);
            (Config::parse(file, &text).attempt(attempt)?, Some(text))
        };
        let storage = before_pool(&assembly.console, &config.pool.paths).attempt(attempt)?;
        let options = config.pool.options(assembly.holder());
        let made = Pool::create(&config.pool.paths, options, World::system());
        let (pool, created) = match made {
            Ok(pool) => (pool, true),
            Err(PoolError::PoolExists { .. }) if text.is_none() => {
                let cause = Cause::AlreadyMade { path: file.clone() };
                return Err(Error { attempt: attempt(), cause });
            }
            Err(PoolError::PoolExists { .. }) => {
                let options = config.pool.options(assembly.holder());
                let pool = Pool::open(&config.pool.paths, options, World::system());
                (pool.attempt(attempt)?, false)
            }
            Err(error) => return Err(error).attempt(attempt),
        };
        // Last: a file that names a pool which is not there would only lead astray.
        if let Some(text) = &text {
            config::write(file, text).attempt(|| "write the configuration".to_string())?;
        }
        let report = Report {
            configuration: file.clone(),
            configuration_created: text.is_some(),
            pool: pool.id().to_string(),
            pool_created: created,
            paths: config.pool.paths.clone(),
            storage,
        };
        tell(assembly, &report);
        Ok(Outcome::Done)
    }

    // As the file is to say them: below `--home` relative, so that the whole home can be moved; otherwise absolute.
    fn paths(&self, assembly: &Assembly) -> Result<Vec<PathBuf>, Cause> {
        let place = &assembly.place;
        if self.pool.is_empty() {
            let inside = place.home.as_deref().and_then(|home| {
                let beside = place.configuration.parent() == Some(home);
                place.pool.strip_prefix(home).ok().filter(|_| beside)
            });
            if let Some(relative) = inside {
                return Ok(vec![relative.to_path_buf()]);
            }
        }
        let chosen =
            if self.pool.is_empty() { vec![place.pool.clone()] } else { self.pool.clone() };
        chosen
            .iter()
            .map(|path| {
                let path = std::path::absolute(path).map_err(io("find", path))?;
                match path.to_str() {
                    Some(_) => Ok(path),
                    None => Err(Cause::Usage(format!(
                        "the path of a pool must be UTF-8 text: {}",
                        path.display()
                    ))),
                }
            })
            .collect()
    }
}

fn tell(assembly: &Assembly, report: &Report) {
    let console = &assembly.console;
    console.document(report);
    if report.configuration_created {
        console.note(format!("wrote {}", report.configuration.display()));
    }
    let paths: Vec<_> = report.paths.iter().map(|path| path.display().to_string()).collect();
    let paths = paths.join(", ");
    if report.pool_created {
        console.note(format!("made pool {} in {paths}", &report.pool[..8]));
        console.note("next: keepwell backup --files FOLDER");
    } else {
        console.note(format!("took the pool {} that was there in {paths}", &report.pool[..8]));
        console.note("next: keepwell points");
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Cause {
    let path = path.to_path_buf();
    move |cause| Cause::Io { action, path, cause }
}
