//! `keepwell daemon`: the agent as it runs for years.

use std::sync::Arc;

use clap::Args;
use storepool::clock::SystemClock;
use storepool::lock::{LockMode, Locks};

use crate::assembly::Assembly;
use crate::control::{self, Server};
use crate::daemon::{Command, Desk, in_force};
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::notify::Notifier;
use crate::record::open_journal;
use crate::signals::Sign;

/// Run the agent: schedules, jobs, alerts
///
/// Runs in the foreground, as a service manager wants it. SIGHUP reads the configuration again (a bad one is told and not taken), SIGTERM ends: running
/// jobs are stopped safely within ten seconds and run again at the next start. Every job is a process of its own.
#[derive(Args, Debug)]
pub(super) struct Daemon {}

impl Daemon {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let attempt = || "run the daemon".to_string();
        // Before anything is made: without a sound configuration there is nothing to run.
        assembly.config()?;
        let state = assembly.place.state();
        std::fs::create_dir_all(&state)
            .map_err(|cause| Cause::Io { action: "create", path: state.clone(), cause })
            .attempt(attempt)?;
        // Two of them would do everything twice.
        let locks = Locks::new(state, assembly.holder());
        let _lock = locks.take("daemon", LockMode::Exclusive).attempt(attempt)?;
        let config = in_force(&assembly.place)?;
        let journal = open_journal(assembly).attempt(attempt)?;
        let clock = Arc::new(SystemClock::new());
        let notifier = Notifier::of_environment();
        let place = assembly.place.clone();
        let desk = Desk::open(place, config, journal, clock.clone(), notifier).attempt(attempt)?;
        let handle = desk.handle();
        // A journal of its own for those who ask: the desk keeps nobody waiting.
        let journal = open_journal(assembly).attempt(attempt)?;
        let path = control::path(&assembly.place);
        let server = Server::start(&path, assembly.place.clone(), handle.clone(), journal, clock)
            .map_err(|cause| Cause::Io {
                action: "open the control socket",
                path: path.clone(),
                cause,
            })
            .attempt(attempt)?;
        assembly.console.attention().serve(move |sign| {
            match sign {
                Sign::Stop => handle.tell(Command::Stop),
                Sign::Reload => handle.tell(Command::Reload { reply: None }),
                Sign::Status => true,
            };
        });
        tracing::info!("protecting");
        desk.run();
        server.stop();
        // Whoever looks for it finds at once that nobody is there.
        let _ = std::fs::remove_file(&path);
        Ok(Outcome::Done)
    }
}
