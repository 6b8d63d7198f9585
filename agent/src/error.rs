//! What can go wrong in the program: facts. Advice and exit codes are given in `console/failure.rs` alone.

use std::io;
use std::path::PathBuf;

use storepool::size::Size;

use crate::config::ConfigError;
use crate::control::client::ClientError;
use crate::courier::CourierError;
use crate::hooks::HookError;
use crate::workload::WorkloadError;

/// How a command ended that did what it could.
///
/// The later one is the worse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// Everything was done.
    Done,
    /// It was done, but something was skipped or failed for single items.
    Incomplete,
    /// The pool's copy was made, but the vault is behind.
    VaultBehind,
    /// Damage was found.
    Damage,
    /// Something that was asked about is not well.
    NotWell,
    /// It was done but for what policy or a limit refuses.
    Refused,
}

impl Outcome {
    /// Returns the exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Incomplete => 3,
            Self::VaultBehind => 4,
            Self::Damage => 5,
            Self::NotWell => 1,
            Self::Refused => 6,
        }
    }
}

/// What stopped a command: what was attempted, and why it failed.
#[derive(Debug)]
pub(crate) struct Error {
    /// What could not be done, as it follows "cannot": `restore point 7f3a9c12`. Empty if the cause says it all.
    pub(crate) attempt: String,
    /// Why.
    pub(crate) cause: Cause,
}

/// Why a command stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    /// The pool, or an operation on it.
    #[error(transparent)]
    Pool(#[from] storepool::Error),
    /// A vault, or an operation on it.
    #[error(transparent)]
    Vault(cloudsync::Error),
    /// The configuration names no vault.
    #[error("{} names no vault", path.display())]
    NoVault {
        /// The configuration file.
        path: PathBuf,
    },
    /// The configuration names a vault, but the files of a registration are not there.
    #[error("this installation is not registered with the vault \"{vault}\"")]
    NotRegistered {
        /// Its name in the configuration.
        vault: String,
    },
    /// The configuration has no such group.
    #[error("there is no [group.{group}] in {}", path.display())]
    NoGroup {
        /// The name.
        group: String,
        /// The configuration file.
        path: PathBuf,
        /// The group that was most likely meant.
        nearest: Option<String>,
    },
    /// A hook of a group failed.
    #[error("the hook \"{phase}\" of group \"{group}\" failed")]
    Hook {
        /// `before`, `after` or `on_error`.
        phase: &'static str,
        /// The group.
        group: String,
        /// Why.
        #[source]
        cause: Box<HookError>,
    },
    /// A workload found something wrong.
    #[error(transparent)]
    Workload(Box<WorkloadError>),
    /// Sources of a group have no new point.
    #[error("{failed} of {all} sources have no new point: {first}")]
    Sources {
        /// How many.
        failed: usize,
        /// Of how many.
        all: usize,
        /// The first, and why.
        first: String,
        /// The exit code that tells most about them.
        code: u8,
    },
    /// Sources of a group could not be drilled.
    #[error("{failed} of {all} sources could not be drilled: {first}")]
    Drills {
        /// How many.
        failed: usize,
        /// Of how many.
        all: usize,
        /// The first, and why.
        first: String,
        /// What helps.
        hint: Option<String>,
        /// The exit code that tells most about them.
        code: u8,
    },
    /// The disk of a sandbox has no room for what is restored.
    #[error(
        "there is no room for the drill in {}: {} are needed, {} can be written without touching the reserve",
        path.display(),
        Size(*needed),
        Size(*room)
    )]
    NoRoomForDrill {
        /// The sandbox.
        path: PathBuf,
        /// Bytes.
        needed: u64,
        /// Bytes.
        room: u64,
    },
    /// A way by which alerts are told failed.
    #[error(transparent)]
    Courier(#[from] CourierError),
    /// A job of the daemon failed.
    #[error("{message}")]
    Job {
        /// Why.
        message: String,
        /// What helps.
        hint: Option<String>,
        /// The exit code of its command.
        code: u8,
    },
    /// A job of the daemon goes on without us.
    #[error("job {job} goes on")]
    Detached {
        /// Its number.
        job: i64,
    },
    /// The daemon could not be kept alive.
    #[error("the daemon failed {fails} times in a row: {reason}")]
    GaveUp {
        /// How often.
        fails: u32,
        /// The last reason.
        reason: String,
    },
    /// The daemon did not do what it was asked.
    #[error(transparent)]
    Daemon(#[from] ClientError),
    /// Groups of the configuration failed.
    #[error("{} of {all} groups failed: {names}", names.split(", ").count())]
    Groups {
        /// Their names, with commas.
        names: String,
        /// How many there are.
        all: usize,
    },
    /// The configuration file says something that cannot be meant.
    #[error(transparent)]
    Configuration(Box<ConfigError>),
    /// There is no configuration file.
    #[error("there is no configuration file {}", path.display())]
    NoConfiguration {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file that is to be written is there already and says something else.
    #[error("{} is there already and is of something else", path.display())]
    ConfigurationInTheWay {
        /// The file.
        path: PathBuf,
    },
    /// A pool was to be made on a disk that does not do what a pool rests on.
    #[error("{} is unfit for a pool ({check}): {seen}", path.display())]
    Unfit {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        check: &'static str,
        /// What was seen.
        seen: String,
    },
    /// A place does not do what a vault rests on.
    #[error("{place} is unfit for a vault ({check}): {seen}")]
    UnfitVault {
        /// The address.
        place: String,
        /// What was tried.
        check: &'static str,
        /// What was seen.
        seen: String,
    },
    /// `init` found a configuration and its pool.
    #[error("{} and its pool are there already", path.display())]
    AlreadyMade {
        /// The configuration file.
        path: PathBuf,
    },
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A point is protected by a pin.
    #[error("it is pinned ({reason})")]
    Pinned {
        /// Why it is pinned.
        reason: String,
    },
    /// The state of a vault forbids it.
    #[error("{work} is stopped by the vault \"{vault}\": {why}")]
    Stopped {
        /// What is.
        work: &'static str,
        /// The vault's name in the configuration.
        vault: String,
        /// The row of the table that is in force.
        why: String,
        /// What would let it go on.
        way_out: &'static str,
    },
    /// A vault's retention keeps less than security allows, or more than a vault holds.
    #[error("{reason}")]
    RetentionRefused {
        /// What is wrong with it.
        reason: String,
        /// The policy that would do.
        fitting: String,
    },
    /// A directory where a file is needed.
    #[error("it is {kind}, not a file")]
    NotAFile {
        /// What it is.
        kind: &'static str,
    },
    /// A path that the configuration file cannot hold, or a file in which it cannot be entered.
    #[error("{} cannot be entered under [pool] paths", path.display())]
    Unwritable {
        /// The path.
        path: PathBuf,
    },
    /// A system call of the program itself failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// A verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        cause: io::Error,
    },
}

impl Cause {
    /// Returns what happened and why, each link of the chain once.
    pub(crate) fn chain(&self) -> String {
        // Libraries never put a source's text into their own, so each link is new.
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(&format!(": {error}"));
            source = error.source();
        }
        text
    }
}

impl From<cloudsync::Error> for Cause {
    fn from(error: cloudsync::Error) -> Self {
        match error {
            cloudsync::Error::Pool(error) => Self::Pool(error),
            error => Self::Vault(error),
        }
    }
}

impl From<ConfigError> for Cause {
    fn from(error: ConfigError) -> Self {
        // Boxed, since every result of the program carries room for it.
        Self::Configuration(Box::new(error))
    }
}

impl Error {
    /// Returns a complaint about the command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { attempt: String::new(), cause: Cause::Usage(message.into()) }
    }
}

/// Says what was attempted when something failed.
pub(crate) trait Attempt<T> {
    /// Adds what could not be done, as it follows "cannot".
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<Cause>> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|cause| Error { attempt: what(), cause: cause.into() })
    }
}
