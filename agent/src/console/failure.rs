//! Facts into advice: the only place that knows exit codes of failures and what a person can do about them.

use serde::Serialize;

use super::vault_advice::advise_vault;
use crate::control::client::ClientError;
use crate::error::{Cause, Error};
use crate::signals::EXIT_INTERRUPTED;

pub(super) const FAILED: u8 = 1;
pub(super) const USAGE: u8 = 2;
pub(super) const DAMAGE: u8 = 5;
pub(super) const REFUSED: u8 = 6;
pub(super) const NO_SPACE: u8 = 7;
pub(super) const NO_POOL: u8 = 10;
const BUSY: u8 = 11;
pub(super) const WRONG_PASSPHRASE: u8 = 12;
/// What service managers know as an internal error (sysexits.h).
const GAVE_UP: u8 = 70;

/// A failure as it is told.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Failure {
    /// The exit code.
    #[serde(rename = "exit_code")]
    pub(crate) code: u8,
    /// What happened, to which object, and why.
    pub(crate) message: String,
    /// What helps.
    pub(crate) hint: Option<String>,
    /// Whether the state of a vault forbids it: that is no failure of the task, which waits for better times.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) stopped: bool,
}

/// Returns what to tell about an error.
pub(crate) fn explain(error: &Error) -> Failure {
    let reason = error.cause.chain();
    let message = match error.attempt.as_str() {
        "" => reason,
        attempt => format!("cannot {attempt}: {reason}"),
    };
    let (code, hint) = advise(&error.cause);
    Failure { code, message, hint, stopped: matches!(error.cause, Cause::Stopped { .. }) }
}

/// Returns what to tell when stdout could not be written.
pub(crate) fn output_failed(error: &std::io::Error) -> Failure {
    let message = format!("cannot write the output: {error}");
    Failure { code: FAILED, message, hint: None, stopped: false }
}

/// Returns what to tell about a wrong command line; `variable` names the environment variable that the wrong value came from.
pub(crate) fn usage(error: &clap::Error, variable: Option<String>) -> Failure {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
    let message = match variable {
        Some(variable) => format!("{variable}: {text}"),
        None => text.to_string(),
    };
    Failure { code: USAGE, message, hint: None, stopped: false }
}

/// Returns the exit code of a cause.
pub(crate) fn code(cause: &Cause) -> u8 {
    advise(cause).0
}

fn advise(cause: &Cause) -> (u8, Option<String>) {
    match cause {
        Cause::Pool(error) => advise_pool(error),
        Cause::Vault(error) => advise_vault(error),
        Cause::NoVault { .. } => (
            NO_POOL,
            hint("run \"keepwell vault register --credentials FILE\" to register with one"),
        ),
        Cause::NotRegistered { .. } => (
            NO_POOL,
            hint(
                "run \"keepwell vault register --credentials FILE\", or \"keepwell recover\" to get points back",
            ),
        ),
        Cause::NoGroup { nearest, .. } => {
            let near = nearest.as_ref().map(|near| format!("did you mean \"{near}\"?"));
            (USAGE, near.or_else(|| hint("run \"keepwell group list\" to see all groups")))
        }
        Cause::Hook { phase: "before", .. } => (
            FAILED,
            hint(
                "nothing was read and there is no new point; mend the command and run the backup again",
            ),
        ),
        Cause::Hook { .. } => {
            (FAILED, hint("the points are sound; see what the command left undone"))
        }
        Cause::Groups { .. } | Cause::Courier(_) => (FAILED, None),
        Cause::Job { hint, code, .. } => (*code, hint.clone()),
        Cause::Detached { job } => (
            EXIT_INTERRUPTED as u8,
            Some(format!(
                "\"keepwell jobs attach {job}\" shows it again, \"keepwell jobs cancel {job}\" stops it"
            )),
        ),
        Cause::GaveUp { .. } => (GAVE_UP, hint("run \"keepwell doctor\" to see what is wrong")),
        Cause::Daemon(ClientError::Refused { hint, .. }) => (FAILED, hint.clone()),
        Cause::Daemon(ClientError::Broken(_)) => {
            (FAILED, hint("run \"keepwell jobs\" to see what became of the job"))
        }
        Cause::Sources { code, .. } => (*code, None),
        Cause::Drills { code, hint, .. } => (*code, hint.clone()),
        Cause::NoRoomForDrill { .. } => (
            NO_SPACE,
            hint("take a smaller --sample, or name a folder on another disk with --in DIR"),
        ),
        Cause::Workload(error) => {
            (if error.refused { REFUSED } else { FAILED }, error.hint.clone())
        }
        Cause::Configuration(error) => {
            let hint = error.nearest().map(|nearest| format!("did you mean \"{nearest}\"?"));
            (USAGE, hint.or_else(|| error.known()))
        }
        Cause::NoConfiguration { .. } => (
            NO_POOL,
            hint(
                "run \"keepwell init\" to make a configuration and a pool, or name another place with --home or --config",
            ),
        ),
        Cause::ConfigurationInTheWay { .. } => {
            (FAILED, hint("move it away, or choose another place with --home or --config"))
        }
        Cause::Unfit { path, .. } => (
            FAILED,
            Some(format!(
                "choose another disk; \"keepwell selftest storage {}\" tells all that was seen",
                path.display()
            )),
        ),
        Cause::UnfitVault { .. } => (
            FAILED,
            hint(
                "this store cannot keep a vault safely as it is; choose another one, or change what was seen",
            ),
        ),
        Cause::AlreadyMade { .. } => {
            (FAILED, hint("run \"keepwell points\" to see what is in the pool"))
        }
        Cause::Usage(_) => (USAGE, hint("run \"keepwell help\" for all commands and options")),
        Cause::Pinned { .. } => (REFUSED, hint("run \"keepwell pin --remove POINT\" if it may go")),
        Cause::Stopped { way_out, .. } => (REFUSED, hint(way_out)),
        Cause::RetentionRefused { fitting, .. } => {
            (REFUSED, hint(&format!("this would do: {fitting}")))
        }
        Cause::NotAFile { .. } => {
            (FAILED, hint("run \"keepwell restore POINT:PATH --to DIR\" to get a whole directory"))
        }
        Cause::Unwritable { .. } => (FAILED, hint("change the file by hand")),
        Cause::Io { cause, .. } => match cause.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => (NO_SPACE, None),
            _ => (FAILED, None),
        },
    }
}

fn advise_pool(error: &storepool::Error) -> (u8, Option<String>) {
    use storepool::Error as Pool;
    match error {
        Pool::NoPool { .. } => {
            (NO_POOL, hint("is the disk mounted? To make a new pool there, run \"keepwell init\""))
        }
        Pool::Busy { .. } => {
            (BUSY, hint("try again when it has finished; prune and repair wait with --wait 10m"))
        }
        Pool::NoSpace { .. } => (
            NO_SPACE,
            hint(
                "run \"keepwell forget\" with a policy and then \"keepwell prune\" to free space, or \"keepwell pool add DIR\" to add a disk",
            ),
        ),
        Pool::PointNotFound { .. } | Pool::PointAmbiguous { .. } => {
            (FAILED, hint("run \"keepwell points\" to see all points"))
        }
        Pool::PathNotFound { point, .. } => {
            (FAILED, Some(format!("run \"keepwell ls {}\" to see what is in it", point.short())))
        }
        Pool::Interrupted => (
            EXIT_INTERRUPTED as u8,
            hint("the pool is unharmed; run the same command again to go on"),
        ),
        Pool::PoolExists { .. } => (
            FAILED,
            hint("run \"keepwell points\" to see what is in it, or choose another directory"),
        ),
        Pool::DirectoryNotEmpty { .. } => {
            (FAILED, hint("a pool needs a directory of its own; name an empty or a new one"))
        }
        Pool::ForeignDirectory { .. } => (
            USAGE,
            hint(
                "all directories under [pool] paths must belong to one pool; run \"keepwell pool list\"",
            ),
        ),
        Pool::DirectoryMissing { .. } => (
            FAILED,
            hint("is the disk mounted? Run \"keepwell check\" to list the affected points"),
        ),
        Pool::TargetFull { .. } => (
            NO_SPACE,
            hint(
                "make room and run the same command again with --in-place: what is there already is not written again",
            ),
        ),
        Pool::Target { .. } => (
            FAILED,
            hint(
                "choose an empty folder, or say with --conflict skip, overwrite or newer what happens to what is there; recover goes on with --resume",
            ),
        ),
        Pool::NewerFormat { .. } => {
            (FAILED, hint("use the newer version of Keepwell that wrote it"))
        }
        Pool::Index { corrupt: true, .. } => {
            (DAMAGE, hint("run \"keepwell repair\"; the index is made anew from the packs"))
        }
        error if error.is_damage() => (
            DAMAGE,
            hint(
                "run \"keepwell check\" to list the affected points, then \"keepwell repair\"; --from vault reads the second copy",
            ),
        ),
        _ => (FAILED, None),
    }
}

fn hint(text: &str) -> Option<String> {
    Some(text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use storepool::error::Shortage;
    use storepool::id::{ChunkId, PointId};

    #[test]
    fn every_promised_exit_code_has_its_fact() {
        let pool = |error| advise(&Cause::Pool(error)).0;

        assert_eq!(pool(storepool::Error::NoPool { path: "/p".into() }), 10);
        assert_eq!(pool(storepool::Error::Busy { holder: "x".into() }), 11);
        assert_eq!(pool(storepool::Error::NoSpace { path: "/p".into(), shortage: None }), 7);
        assert_eq!(pool(storepool::Error::ChunkMissing { chunk: ChunkId([0; 32]) }), 5);
        assert_eq!(pool(storepool::Error::Interrupted), 130);
        assert_eq!(advise(&Cause::Usage(String::new())).0, 2);
        assert_eq!(advise(&Cause::Pinned { reason: String::new() }).0, 6);
        assert_eq!(advise(&Cause::NoConfiguration { path: "/c".into() }).0, 10);
    }

    #[test]
    fn a_message_tells_what_to_which_object_and_why_once() {
        let cause = std::io::Error::from_raw_os_error(13);
        let error = Error {
            attempt: "back up \"/srv\"".to_string(),
            cause: Cause::Pool(storepool::Error::Io {
                action: "read",
                path: "/p/pool.db".into(),
                cause,
            }),
        };

        let failure = explain(&error);

        assert_eq!(
            failure.message,
            "cannot back up \"/srv\": cannot read /p/pool.db: Permission denied (os error 13)"
        );
        assert_eq!(failure.code, 1);
    }

    /// A full pool was told in bytes, which nobody reads: 24059904 of them.
    #[test]
    fn a_full_pool_is_told_in_units_that_people_know_and_with_what_to_do() {
        let shortage = Shortage { available: 24_059_904, reserve: 2 << 20, needed: 32 << 20 };
        let error = Error {
            attempt: "back up \"/srv\"".to_string(),
            cause: storepool::Error::NoSpace { path: "/p".into(), shortage: Some(shortage) }.into(),
        };

        let failure = explain(&error);

        assert_eq!(
            failure.message,
            "cannot back up \"/srv\": no space left for the pool in /p: 22.9 MiB are free, 32.0 MiB are needed beside a reserve of 2.00 MiB"
        );
        assert!(failure.hint.is_some_and(|hint| hint.contains("keepwell prune")));
        assert_eq!(failure.code, 7);
    }

    #[test]
    fn a_missing_path_names_the_command_that_shows_what_is_there() {
        let point = PointId([0x7f; 32]);
        let error = Error {
            attempt: String::new(),
            cause: storepool::Error::PathNotFound { path: "etc".into(), point }.into(),
        };

        let failure = explain(&error);

        assert_eq!(failure.message, "there is no \"etc\" in point 7f7f7f7f");
        assert_eq!(
            failure.hint.as_deref(),
            Some("run \"keepwell ls 7f7f7f7f\" to see what is in it")
        );
    }
}
