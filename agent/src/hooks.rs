//! Commands that an administrator has run around a backup, and for alerts: with a time-out, perhaps as another user, and with a documented environment.

use std::io::{PipeReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use crate::accounts;
use crate::config::HookCommand;
use crate::last_words::LastWords;

/// Only the end of what a command says is kept.
const OUTPUT_KEPT: usize = 4096;
/// After the time-out a command is asked to end, with all that it started; after this they are ended.
const GRACE: Duration = Duration::from_secs(3);
/// How soon it is seen that all of them have gone.
const LOOK_FOR_LIFE_EVERY: Duration = Duration::from_millis(20);
/// How soon a command is given up after the run was asked to stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The environment a command gets besides its own variables: nothing of the agent's, which may hold secrets.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command, ready to be run.
#[derive(Clone, Debug)]
pub(crate) struct Hook {
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// Longest time.
    pub(crate) timeout: Duration,
    /// Who runs it; `None`: this user.
    pub(crate) user: Option<String>,
}

/// A command that is owed as soon as another one may have begun what it ends.
#[derive(Clone, Debug)]
pub(crate) struct Debt {
    /// What it does, such as `resume shop`.
    pub(crate) what: String,
    /// The command; harmless if there is nothing left to end.
    pub(crate) hook: Hook,
    /// Its variables.
    pub(crate) variables: Vec<(String, String)>,
}

impl Debt {
    /// Runs the command.
    ///
    /// # Errors
    /// As [`Hook::run`].
    pub(crate) fn pay(&self) -> Result<(), HookError> {
        let variables: Vec<(&str, String)> =
            self.variables.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        self.hook.run(&variables, "", &|| false)
    }
}

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    /// There is no such user.
    #[error("there is no user \"{user}\"")]
    NoUser {
        /// The name.
        user: String,
    },
    /// It could not be started.
    #[error("cannot start \"{program}\"")]
    Start {
        /// The program.
        program: String,
        /// The system's answer.
        #[source]
        cause: std::io::Error,
    },
    /// It ended with an exit code.
    #[error("it ended with exit code {code}{}", said(output))]
    Failed {
        /// The code.
        code: i32,
        /// The end of what it said.
        output: String,
    },
    /// A signal ended it.
    #[error("signal {signal} ended it{}", said(output))]
    Killed {
        /// The signal.
        signal: i32,
        /// The end of what it said.
        output: String,
    },
    /// The run was asked to stop, and it with it.
    #[error("it was given up, since the run was asked to stop")]
    GivenUp,
    /// It took too long and was ended.
    #[error("it did not end within {}{}", crate::duration::text(*limit), said(output))]
    TimedOut {
        /// Its longest time.
        limit: Duration,
        /// The end of what it said.
        output: String,
    },
}

fn said(output: &str) -> String {
    match output.trim() {
        "" => String::new(),
        text => format!(": {}", text.lines().last().unwrap_or_default()),
    }
}

/// Returns program and arguments of a configured command.
pub(crate) fn words(command: &HookCommand) -> Vec<String> {
    match command {
        HookCommand::Shell(text) => vec!["/bin/sh".into(), "-c".into(), text.clone()],
        HookCommand::Program(words) => words.clone(),
    }
}

impl Hook {
    /// Runs the command to its end with these variables and nothing else of this process's, and with `input` on its standard input. It is given up
    /// when `cancelled` says so.
    ///
    /// # Errors
    /// It could not be started, failed, took too long or was given up; in the last two cases its whole process group was ended.
    pub(crate) fn run(
        &self,
        variables: &[(&str, String)],
        input: &str,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), HookError> {
        let (mut child, reader) = self.start(variables)?;
        let said = LastWords::of(Some(reader), OUTPUT_KEPT);
        if let Some(mut stdin) = child.stdin.take() {
            let input = input.to_string();
            // A command that does not read must not keep us.
            std::thread::spawn(move || {
                let _ = stdin.write_all(input.as_bytes());
            });
        }
        let group = Pid::from_child(&child);
        let (done, wait) = channel();
        std::thread::spawn(move || {
            let _ = done.send(child.wait());
        });
        let mut left = self.timeout;
        let mut given_up = false;
        let waited = loop {
            let slice = left.min(LOOK_EVERY);
            let waited = wait.recv_timeout(slice);
            left = left.saturating_sub(slice);
            given_up = given_up || cancelled();
            if !matches!(waited, Err(RecvTimeoutError::Timeout)) || given_up || left.is_zero() {
                break waited;
            }
        };
        if matches!(waited, Err(RecvTimeoutError::Timeout)) {
            end(group);
        }
        let output = said.text();
        match waited {
            Ok(Ok(status)) => verdict(status, output),
            Ok(Err(cause)) => Err(HookError::Start { program: self.program(), cause }),
            Err(_) if given_up => Err(HookError::GivenUp),
            Err(_) => Err(HookError::TimedOut { limit: self.timeout, output }),
        }
    }

    fn program(&self) -> String {
        self.command.first().cloned().unwrap_or_default()
    }

    // Words and complaints come through one pipe, so that they stay in their order.
    fn start(&self, variables: &[(&str, String)]) -> Result<(Child, PipeReader), HookError> {
        let failed = |cause| HookError::Start { program: self.program(), cause };
        let (reader, writer) = std::io::pipe().map_err(failed)?;
        let again = writer.try_clone().map_err(failed)?;
        let mut command = Command::new(self.program());
        command
            .args(self.command.iter().skip(1))
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::piped())
            .stdout(again)
            .stderr(writer)
            .current_dir("/")
            // Of its own, so that everything it starts can be ended with it.
            .process_group(0);
        for (name, value) in variables {
            command.env(name, value);
        }
        if let Some(name) = &self.user {
            let user =
                accounts::user(name).ok_or_else(|| HookError::NoUser { user: name.clone() })?;
            command.uid(user.uid).gid(user.gid);
            command.env("HOME", user.home).env("USER", user.name);
        }
        let child = command.spawn().map_err(failed)?;
        Ok((child, reader))
    }
}

fn verdict(status: ExitStatus, output: String) -> Result<(), HookError> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(HookError::Failed { code, output }),
        (None, signal) => Err(HookError::Killed { signal: signal.unwrap_or_default(), output }),
    }
}

// The command may end when it is asked to, and what it started may not: the group is what counts.
fn end(group: Pid) {
    // Gone already, if it fails.
    let _ = kill_process_group(group, Signal::TERM);
    let mut left = GRACE;
    while test_kill_process_group(group).is_ok() {
        if left.is_zero() {
            let _ = kill_process_group(group, Signal::KILL);
            return;
        }
        std::thread::sleep(LOOK_FOR_LIFE_EVERY);
        left = left.saturating_sub(LOOK_FOR_LIFE_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(text: &str, timeout: Duration) -> Hook {
        let command = words(&HookCommand::Shell(text.to_string()));
        Hook { command, timeout, user: None }
    }

    const PATIENT: Duration = Duration::from_secs(60);

    #[test]
    fn a_command_gets_its_variables_its_input_and_nothing_of_ours() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("seen");
        let hook = shell(&format!("env > {0}; cat >> {0}", file.display()), PATIENT);

        hook.run(&[("KEEPWELL_HOOK_GROUP", "web".to_string())], "the input", &|| false).unwrap();

        let seen = std::fs::read_to_string(&file).unwrap();
        assert!(
            seen.contains("KEEPWELL_HOOK_GROUP=web\n") && seen.ends_with("the input"),
            "{seen}"
        );
        assert!(!seen.contains("CARGO"), "{seen}");
    }

    #[test]
    fn a_failure_tells_code_and_last_words() {
        let error = shell("echo one; echo no room >&2; exit 3", PATIENT)
            .run(&[], "", &|| false)
            .unwrap_err();

        assert_eq!(error.to_string(), "it ended with exit code 3: no room");
        let error = shell("kill -9 $$", PATIENT).run(&[], "", &|| false).unwrap_err();
        assert_eq!(error.to_string(), "signal 9 ended it");
        let hook = Hook { command: vec!["/nowhere/x".into()], timeout: PATIENT, user: None };
        assert_eq!(
            hook.run(&[], "", &|| false).unwrap_err().to_string(),
            "cannot start \"/nowhere/x\""
        );
        let stranger = Hook { user: Some("nobody of this name".into()), ..shell("true", PATIENT) };
        assert!(matches!(stranger.run(&[], "", &|| false), Err(HookError::NoUser { .. })));
    }

    #[test]
    fn a_command_that_hangs_is_ended_with_all_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let text = format!("sleep 600 & echo $! > {}; echo waiting; wait", file.display());

        let error = shell(&text, Duration::from_millis(300)).run(&[], "", &|| false).unwrap_err();

        assert!(matches!(error, HookError::TimedOut { .. }), "{error}");
        assert!(error.to_string().contains("waiting"), "{error}");
        wait_until_gone(pid_in(&file));
    }

    /// Only the command itself was looked after: it ended when it was asked to, and what it had started went on for ever.
    #[test]
    fn what_a_command_started_is_ended_even_if_only_the_command_ends_when_it_is_asked_to() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let deaf =
            format!("trap \"\" TERM; echo $$ > {}; while :; do sleep 1; done", file.display());
        let hook = shell(&format!("sh -c '{deaf}' & wait"), PATIENT);

        let error = hook.run(&[], "", &|| file.exists()).unwrap_err();

        assert!(matches!(error, HookError::GivenUp), "{error}");
        wait_until_gone(pid_in(&file));
    }

    fn pid_in(file: &std::path::Path) -> i32 {
        std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
    }

    fn wait_until_gone(pid: i32) {
        let is_gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        while !is_gone() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_command_is_given_up_when_the_run_is() {
        let error = shell("sleep 600", PATIENT).run(&[], "", &|| true).unwrap_err();

        assert!(matches!(error, HookError::GivenUp), "{error}");
    }

    #[test]
    fn a_command_that_leaves_a_child_behind_is_not_waited_for_longer_than_itself() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let hook = shell(&format!("sleep 600 & echo $! > {}", file.display()), PATIENT);

        hook.run(&[], "", &|| false).unwrap();

        // What a command leaves behind on purpose, such as a service, is none of ours to end; here it would only be in the way.
        let child = Pid::from_raw(pid_in(&file)).unwrap();
        rustix::process::kill_process(child, Signal::KILL).expect("it lives on");
    }

    #[test]
    fn a_long_output_is_cut_to_its_end() {
        let text = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; exit 1";

        let error = shell(text, PATIENT).run(&[], "", &|| false).unwrap_err();

        let HookError::Failed { output, .. } = &error else { panic!("{error}") };
        assert!(output.len() <= OUTPUT_KEPT && output.ends_with("line 2999\n"), "{error}");
    }
}
