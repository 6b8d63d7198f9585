//! The composition root: from places and configuration to an open pool.

use std::sync::Arc;
use std::time::Duration;

use storepool::clock::{Clock, SystemClock};
use storepool::pool::{Pool, World};

use crate::config::Config;
use crate::console::Console;
use crate::error::{Attempt, Cause, Error};
use crate::journal::JobId;
use crate::place::Place;
use crate::process::host_name;

/// Between two tries of something that is busy.
const TRY_EVERY: Duration = Duration::from_millis(250);

/// What every command is given.
pub(crate) struct Assembly {
    /// Where things are.
    pub(crate) place: Place,
    /// The voice.
    pub(crate) console: Console,
    /// The command's name, for those who meet its locks.
    pub(crate) command: &'static str,
    /// The job of the daemon that this command is, if it is one.
    pub(crate) job: Option<JobId>,
}

impl Assembly {
    /// Reads the configuration; as a job of the daemon the one that it has in force.
    pub(crate) fn config(&self) -> Result<Config, Error> {
        match self.job {
            Some(_) => Config::load_as(&self.place.in_force(), &self.place.configuration),
            None => Config::load(&self.place.configuration),
        }
    }

    /// Opens the pool that the configuration names. Tells if directories are missing or the index had to be made anew.
    pub(crate) fn open_pool(&self) -> Result<Arc<Pool>, Error> {
        self.open_configured(&self.config()?)
    }

    /// Opens the pool that `config` names.
    pub(crate) fn open_configured(&self, config: &Config) -> Result<Arc<Pool>, Error> {
        let options = config.pool.options(self.holder());
        let pool = Pool::open(&config.pool.paths, options, World::system())
            .attempt(|| "open the pool".to_string())?;
        for path in pool.missing_paths() {
            self.console.warn(format!(
                "pool directory {} is missing: what lies only there cannot be read",
                path.display()
            ));
        }
        if pool.index_was_rebuilt() {
            self.console.warn("the index was missing or damaged and was made anew from the packs");
        }
        Ok(Arc::new(pool))
    }

    /// Runs something again and again for as long as the pool is busy, at most `limit` long.
    pub(crate) fn wait_while_busy<T>(
        &self,
        limit: Option<Duration>,
        mut run: impl FnMut() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let clock = SystemClock::new();
        let mut told = false;
        loop {
            match run() {
                Err(Error { cause: Cause::Pool(storepool::Error::Busy { holder }), .. })
                    if limit.is_some_and(|limit| clock.monotonic() < limit) =>
                {
                    if !std::mem::replace(&mut told, true) && !self.console.is_quiet() {
                        self.console.warn(format!("waiting for {holder}"));
                    }
                    std::thread::sleep(TRY_EVERY);
                }
                outcome => return outcome,
            }
        }
    }

    /// Returns what others see when they meet this process's locks.
    pub(crate) fn holder(&self) -> String {
        format!("keepwell {} (process {} on {})", self.command, std::process::id(), host_name())
    }
}
