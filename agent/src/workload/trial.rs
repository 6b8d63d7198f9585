//! Trials: a restored database is started where nobody else can reach it, has to pass its own check, and is stopped again.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use storepool::clock::{Clock, SystemClock};
use storepool::monitor::Monitor;

use super::WorkloadError;
use super::program::{Program, Server};
use crate::accounts::User;
use crate::error::Cause;

/// The longest path of a Unix socket, its end included.
const SOCKET_PATH_MOST: usize = 107;
/// Between two looks at a server that begins.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A recovery that replays much takes long; one that takes longer than this proves the opposite.
const BEGIN_WITHIN: Duration = Duration::from_secs(6 * 3600);
/// A server that was asked to stop is given so long.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// What came of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trial {
    /// It works; what was checked.
    Passed(String),
    /// It does not; why.
    Failed(String),
    /// It could not be tried here; why.
    NotMade(String),
}

/// Where a trial is made.
pub(crate) struct Stage<'a> {
    /// The restored data directory.
    pub(crate) data: &'a Path,
    /// An empty folder beside it, for socket and files of the moment.
    pub(crate) room: &'a Path,
    /// Who runs the server; `None`: this user.
    pub(crate) tenant: Option<&'a User>,
    /// May ask to stop.
    pub(crate) monitor: &'a dyn Monitor,
}

/// A server on trial, and how it is asked to stop.
pub(super) struct OnTrial {
    server: Option<Server>,
    signal: Signal,
}

impl Stage<'_> {
    /// Returns a path in the room, if it can be that of a socket.
    pub(super) fn socket(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.room.join(name);
        match path.as_os_str().as_bytes().len() <= SOCKET_PATH_MOST {
            true => Ok(path),
            false => Err(format!(
                "the path of its socket would be too long below {}: name another folder with --in",
                self.room.display()
            )),
        }
    }

    /// Goes on, unless the run was asked to stop: what was ended then says nothing about the data.
    ///
    /// # Errors
    /// The run was asked to stop.
    pub(super) fn go_on(&self) -> Result<(), Cause> {
        match self.monitor.cancelled() {
            true => Err(storepool::Error::Interrupted.into()),
            false => Ok(()),
        }
    }

    /// Returns a program as the tenant runs it.
    pub(super) fn program(&self, command: Vec<String>) -> Program {
        let user = self.tenant.map(|tenant| tenant.name.clone());
        Program { command, user, variables: Vec::new() }
    }

    /// Starts a server, which ends when this process does, however that is; `death` is what it is sent then, `stop` what asks it to stop.
    pub(super) fn start(
        &self,
        command: Vec<String>,
        death: &str,
        stop: Signal,
    ) -> Result<OnTrial, WorkloadError> {
        let leash = ["setpriv", "--pdeathsig", death, "--"].map(String::from);
        let server = self.program([leash.to_vec(), command].concat()).serve()?;
        Ok(OnTrial { server: Some(server), signal: stop })
    }
}

impl OnTrial {
    /// Waits until `answers` says so. `Ok` with the reason if it never will.
    ///
    /// # Errors
    /// The run was asked to stop.
    pub(super) fn wait(
        &mut self,
        monitor: &dyn Monitor,
        mut answers: impl FnMut() -> bool,
    ) -> Result<Option<String>, Cause> {
        let clock = SystemClock::new();
        let begin = clock.monotonic();
        loop {
            if monitor.cancelled() {
                return Err(storepool::Error::Interrupted.into());
            }
            if let Some(how) = self.server.as_mut().and_then(Server::ended) {
                return Ok(Some(how));
            }
            if answers() {
                return Ok(None);
            }
            if clock.monotonic().saturating_sub(begin) > BEGIN_WITHIN {
                return Ok(Some("it took no connection for too long".to_string()));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for OnTrial {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop(self.signal, STOP_WITHIN);
        }
    }
}

/// Returns the result of a server that did not start: what this machine refuses it says nothing about the data.
pub(super) fn not_started(how: &str) -> Trial {
    let refused = ["Permission denied", "No space left", "Cannot allocate memory", "shared memory"];
    match refused.iter().any(|words| how.contains(words)) {
        true => Trial::NotMade(format!("this machine does not let it start: {how}")),
        false => Trial::Failed(format!("it does not start: {how}")),
    }
}

/// Returns the first of these programs that is there.
pub(super) fn find(name: &str, folders: &[String]) -> Option<PathBuf> {
    folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}

/// Returns the end of what a program said, in one line.
pub(super) fn last_words(text: &str) -> String {
    const LINES: usize = 3;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].join("; ")
}
