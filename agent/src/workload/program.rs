//! Programs as sources and as targets: what one says is read as a stream that ends soundly only if the program does; and what a point holds is fed to one.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use storepool::clock::{Clock, SystemClock};
use storepool::monitor::Monitor;

use super::WorkloadError;
use super::running::{Running, ending};
use super::streams::OpenStream;
use crate::accounts;
use crate::error::Cause;
use crate::last_words::LastWords;

/// Only the end of what a program complains about is kept.
const COMPLAINT_KEPT: usize = 4096;
/// What a program may answer to a question, such as its version.
const ANSWER_MOST: u64 = 64 << 10;
/// Where programs are looked for, whatever the agent's own environment says.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How soon the end of a program is seen.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A program, ready to be started.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// It and its arguments.
    pub(crate) command: Vec<String>,
    /// Who runs it; `None`: this user.
    pub(crate) user: Option<String>,
    /// Its variables, besides PATH and the locale; nothing else of the agent's environment, which may hold secrets.
    pub(crate) variables: Vec<(String, String)>,
}

impl Program {
    /// Returns its name for people.
    pub(crate) fn name(&self) -> String {
        match self.command.as_slice() {
            [shell, flag, text] if shell == "/bin/sh" && flag == "-c" => text.clone(),
            words => words.join(" "),
        }
    }

    /// Starts it; what it says is the stream. The stream's last reading fails if the program does. Dropped early, the program is ended with all it
    /// started.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn stream(&self) -> Result<ProgramStream, WorkloadError> {
        let mut child = self.start(Stdio::null(), Stdio::piped())?;
        let output = child.stdout.take();
        let complaint = LastWords::of(child.stderr.take(), COMPLAINT_KEPT);
        let last_words = None;
        Ok(ProgramStream {
            name: self.name(),
            child: Arc::new(Running::of(child)),
            output,
            complaint,
            last_words,
        })
    }

    /// Runs it to its end and returns what it says, without spaces around it. It is ended when `monitor` asks to stop.
    ///
    /// # Errors
    /// It cannot be started, fails, is ended, or says more than an answer.
    pub(crate) fn answer(&self, monitor: &dyn Monitor) -> Result<String, WorkloadError> {
        let mut stream = self.stream()?;
        let child = stream.child.clone();
        let failed = |cause: io::Error| {
            WorkloadError::failed(format!("\"{}\" gave no answer", self.name())).because(cause)
        };
        let mut answer = Vec::new();
        let read = || (&mut stream).take(ANSWER_MOST + 1).read_to_end(&mut answer);
        child.unless_stopped(monitor, read).map_err(failed)?;
        if answer.len() as u64 > ANSWER_MOST {
            return Err(failed(io::Error::other("what it says is too long for an answer")));
        }
        Ok(String::from_utf8_lossy(&answer).trim().to_string())
    }

    /// Runs it to its end and returns whether it said yes (exit code 0) or no (1). It is ended when `monitor` asks to stop.
    ///
    /// # Errors
    /// It cannot be started, or ended in another way.
    pub(crate) fn decides(&self, monitor: &dyn Monitor) -> Result<bool, WorkloadError> {
        let mut child = self.start(Stdio::null(), Stdio::null())?;
        let complaint = LastWords::of(child.stderr.take(), COMPLAINT_KEPT);
        let child = Running::of(child);
        let failed = |text: String| {
            WorkloadError::failed(format!(
                "\"{}\" answered neither yes (0) nor no (1)",
                self.name()
            ))
            .because(text)
        };
        let status = child.unless_stopped(monitor, || child.wait());
        let status = status.map_err(|cause| failed(cause.to_string()))?;
        match status.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => Err(failed(ending(status, &complaint.text()))),
        }
    }

    /// Runs it to its end and returns its exit code with the end of what it said, on either stream. It is ended when `monitor` asks to stop.
    ///
    /// # Errors
    /// It cannot be started, or a signal ended it.
    pub(crate) fn verdict(&self, monitor: &dyn Monitor) -> Result<(i32, String), WorkloadError> {
        let mut child = self.start(Stdio::null(), Stdio::piped())?;
        let complaint = LastWords::of(child.stderr.take(), COMPLAINT_KEPT);
        let said = LastWords::of(child.stdout.take(), ANSWER_MOST as usize);
        let child = Running::of(child);
        let failed = |text: String| {
            WorkloadError::failed(format!("\"{}\" did not end by itself", self.name()))
                .because(text)
        };
        let status = child.unless_stopped(monitor, || child.wait());
        let status = status.map_err(|cause| failed(cause.to_string()))?;
        let text = format!("{}\n{}", said.text().trim(), complaint.text().trim());
        match status.code() {
            Some(code) => Ok((code, text.trim().to_string())),
            None => Err(failed(ending(status, &text))),
        }
    }

    /// Starts it as a server, which runs until it is stopped or dropped.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn serve(&self) -> Result<Server, WorkloadError> {
        let mut child = self.start(Stdio::null(), Stdio::null())?;
        let complaint = LastWords::of(child.stderr.take(), COMPLAINT_KEPT);
        Ok(Server { child: Running::of(child), complaint })
    }

    /// Starts it and has `feed` write to its standard input, then waits for its end. It is ended when `monitor` asks to stop.
    ///
    /// # Errors
    /// It cannot be started, or fails; `feed`'s own error, after the program was ended, if that was not the program's fault; that it was interrupted.
    pub(crate) fn feed(
        &self,
        monitor: &dyn Monitor,
        feed: impl FnOnce(&mut dyn Write) -> Result<(), Cause>,
    ) -> Result<(), Cause> {
        let mut child = self.start(Stdio::piped(), Stdio::null())?;
        let complaint = LastWords::of(child.stderr.take(), COMPLAINT_KEPT);
        let failed = |text: String| {
            WorkloadError::failed(format!("\"{}\" did not take all it was given", self.name()))
                .because(text)
        };
        let mut input = child.stdin.take();
        let child = Running::of(child);
        let mut refused = false;
        let fed = || -> Result<(), Cause> {
            let fed = match &mut input {
                Some(input) => feed(&mut Noting { input, refused: &mut refused }),
                None => Ok(()),
            };
            if let Err(error) = fed
                && !refused
            {
                // Ended before its input closes: half of a stream must not look like a whole one.
                child.end();
                return Err(error);
            }
            drop(input);
            let status = child.wait().map_err(|cause| failed(cause.to_string()))?;
            match (status.success(), refused) {
                (true, false) => Ok(()),
                (true, true) => Err(failed("it ended before it had read everything".into()).into()),
                (false, _) => Err(failed(ending(status, &complaint.text())).into()),
            }
        };
        match child.unless_stopped(monitor, fed) {
            Err(_) if monitor.cancelled() => Err(storepool::Error::Interrupted.into()),
            result => result,
        }
    }

    fn start(&self, input: Stdio, output: Stdio) -> Result<Child, WorkloadError> {
        let name = self.command.first().cloned().unwrap_or_default();
        let mut command = Command::new(&name);
        command
            .args(self.command.iter().skip(1))
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C.UTF-8")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(input)
            .stdout(output)
            .stderr(Stdio::piped())
            .current_dir("/")
            // Of its own, so that everything it starts can be ended with it.
            .process_group(0);
        if let Some(user) = &self.user {
            let account = accounts::user(user)
                .ok_or_else(|| WorkloadError::failed(format!("there is no user \"{user}\"")))?;
            command.uid(account.uid).gid(account.gid);
            command.env("HOME", account.home).env("USER", account.name);
        }
        let failed =
            |cause| WorkloadError::failed(format!("cannot start \"{name}\"")).because(cause);
        command.spawn().map_err(failed)
    }
}

/// A server that runs for as long as it is wanted.
pub(crate) struct Server {
    child: Running,
    complaint: LastWords,
}

impl Server {
    /// Returns how it ended, if it did so by itself.
    pub(crate) fn ended(&mut self) -> Option<String> {
        let status = self.child.ended()?;
        Some(ending(status, &self.complaint.text()))
    }

    /// Asks it to stop with `signal` and waits for its end; what takes longer than `patience` is ended.
    pub(crate) fn stop(self, signal: Signal, patience: Duration) {
        self.child.send(signal);
        let clock = SystemClock::new();
        let begin = clock.monotonic();
        let elapsed = || clock.monotonic().saturating_sub(begin);
        while elapsed() < patience && self.child.ended().is_none() {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// A program's output, as a stream.
pub(crate) struct ProgramStream {
    name: String,
    child: Arc<Running>,
    output: Option<ChildStdout>,
    complaint: LastWords,
    last_words: Option<&'static str>,
}

impl ProgramStream {
    /// Makes the stream end soundly only if the last line of the program's complaints holds `words` too: for programs whose exit code alone does not
    /// tell.
    pub(crate) fn saying(self, words: &'static str) -> Self {
        Self { last_words: Some(words), ..self }
    }

    /// Waits for its sound end, whatever it says. The program is ended when `monitor` asks to stop.
    ///
    /// # Errors
    /// The stream did not end soundly.
    pub(crate) fn exhaust(mut self, monitor: &dyn Monitor) -> io::Result<()> {
        let child = self.child.clone();
        child.unless_stopped(monitor, || io::copy(&mut self, &mut io::sink())).map(drop)
    }
}

impl Read for ProgramStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(output) = &mut self.output else { return Ok(0) };
        match output.read(buffer)? {
            0 if !buffer.is_empty() => {
                // Kept open until the verdict, so that reading again after a failure is no sound end.
                let status = self.child.wait()?;
                let complaint = self.complaint.text();
                let last = complaint.trim().lines().last().unwrap_or_default();
                let is_well = self.last_words.is_none_or(|words| last.contains(words));
                if !status.success() || !is_well {
                    let why = ending(status, &complaint);
                    return Err(io::Error::other(format!("\"{}\" failed: {why}", self.name)));
                }
                self.output = None;
                Ok(0)
            }
            length => Ok(length),
        }
    }
}

impl From<ProgramStream> for OpenStream {
    fn from(stream: ProgramStream) -> Self {
        let child = Arc::downgrade(&stream.child);
        let end = move || child.upgrade().iter().for_each(|child| child.end());
        Self::of(stream).ended_by(end)
    }
}

// Notes that it was the program that closed its input.
struct Noting<'a> {
    input: &'a mut dyn Write,
    refused: &'a mut bool,
}

impl Write for Noting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.input.write(bytes).inspect_err(|_| *self.refused = true)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.input.flush()
    }
}

#[cfg(test)]
mod tests {
    use storepool::monitor::{Event, SilentMonitor};

    use super::*;

    fn shell(text: &str) -> Program {
        let command = vec!["/bin/sh".into(), "-c".into(), text.into()];
        Program { command, user: None, variables: vec![("KEEPWELL_X".into(), "y z".into())] }
    }

    #[test]
    fn the_stream_of_a_program_that_fails_never_ends_well() {
        let mut stream = shell("echo half; echo no disk >&2; exit 3").stream().unwrap();
        let mut read = Vec::new();

        let error = stream.read_to_end(&mut read).unwrap_err();

        assert_eq!(read, b"half\n");
        assert!(error.to_string().ends_with("exit code 3: no disk"), "{error}");
        assert!(stream.read(&mut [0; 8]).is_err(), "it stays a failure");
    }

    #[test]
    fn last_words_are_asked_for_beside_the_exit_code() {
        let ends_well = |script: &str| {
            let mut stream = shell(script).stream().unwrap().saying("completed OK!");
            stream.read_to_end(&mut Vec::new()).is_ok()
        };

        assert!(ends_well("echo all; echo completed OK! >&2"));
        assert!(!ends_well("echo all"));
        assert!(!ends_well("echo completed OK! >&2; echo failed >&2"));
        assert!(!ends_well("echo completed OK! >&2; exit 1"));
    }

    #[test]
    fn a_program_answers_and_decides() {
        let silent = &SilentMonitor;

        assert_eq!(shell("echo \" $KEEPWELL_X \"").answer(silent).unwrap(), "y z");
        assert!(shell("true").decides(silent).unwrap());
        assert!(!shell("false").decides(silent).unwrap());
        assert!(shell("exit 2").decides(silent).is_err());
        assert!(shell("echo 5; exit 1").answer(silent).is_err());
    }

    struct Stopping;

    impl Monitor for Stopping {
        fn event(&self, _event: Event) {}

        fn cancelled(&self) -> bool {
            true
        }
    }

    /// A server that stood still held its client, and with it whoever had pressed Ctrl-C.
    #[test]
    fn whatever_waits_for_a_program_ends_it_with_all_it_started_when_the_run_is_to_stop() {
        // The shell has ended; who is left holds its output open.
        let leaves = shell("sleep 600 & exit 0");
        let hangs = shell("sleep 600; true");

        assert!(leaves.answer(&Stopping).is_err());
        assert!(hangs.answer(&Stopping).is_err());
        assert!(hangs.decides(&Stopping).is_err());
        assert!(hangs.verdict(&Stopping).is_err());
        assert!(hangs.stream().unwrap().exhaust(&Stopping).is_err());
        // More than a pipe holds.
        let fed = hangs.feed(&Stopping, |input| write(input, &vec![0; 1 << 20]));
        assert!(matches!(fed, Err(Cause::Pool(storepool::Error::Interrupted))), "{fed:?}");
    }

    fn write(input: &mut dyn Write, bytes: &[u8]) -> Result<(), Cause> {
        input.write_all(bytes).map_err(|_| WorkloadError::failed("write").into())
    }

    #[test]
    fn a_program_that_is_fed_half_is_ended_and_one_that_stops_reading_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("fed");
        let eats = shell(&format!("cat > {0}; echo complete >> {0}", file.display()));

        let whole = eats.feed(&SilentMonitor, |input| write(input, b"all of it\n"));
        assert!(whole.is_ok());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "all of it\ncomplete\n");

        std::fs::remove_file(&file).unwrap();
        let half = eats.feed(&SilentMonitor, |input| {
            write(input, b"half")?;
            Err(WorkloadError::failed("the pool is damaged").into())
        });
        assert_eq!(half.unwrap_err().chain(), "the pool is damaged");
        // It may have been ended before it opened the file.
        let fed = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(!fed.contains("complete"), "{fed}");

        let full = shell("echo no room >&2; exit 1");
        let full = full.feed(&SilentMonitor, |input| write(input, &vec![0; 1 << 20]));
        let error = full.unwrap_err().chain();
        assert!(error.contains("no room"), "{error}");
    }
}
