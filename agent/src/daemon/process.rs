//! A job as a process of this same program: started with a leash, listened to line by line, asked to stop, and ended if it does not.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::SyncSender;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;

use super::event::Event;
use crate::config::IoClass;
use crate::journal::JobId;
use crate::place::Place;

/// Longest line that is taken from a job; the rest of it is dropped.
const LINE_MOST: u64 = 1 << 20;
/// The end of what a job complains of is kept.
const COMPLAINTS_KEPT: usize = 16 << 10;
/// Where `ionice` is, if it is there.
const IONICE: &str = "/usr/bin/ionice";

/// A running job's process.
#[derive(Debug)]
pub(super) struct JobProcess {
    // Refers to this very process even after its number was given to another.
    handle: OwnedFd,
    // Closed with us, however we end: then the job ends too.
    _leash: ChildStdin,
}

/// How a job's process ended.
#[derive(Clone, Debug, Default)]
pub(super) struct JobEnd {
    /// Its exit code; `None` if a signal ended it.
    pub(super) code: Option<u8>,
    /// The signal.
    pub(super) signal: Option<i32>,
    /// The end of what it complained of.
    pub(super) complaints: String,
}

/// Starts the command `words` as job `id`; what it says and how it ends arrives at `desk`.
pub(super) fn start(
    place: &Place,
    io: IoClass,
    id: JobId,
    words: &[String],
    desk: &SyncSender<Event>,
) -> std::io::Result<JobProcess> {
    let mut child = command(place, io, id, words).spawn()?;
    let (handle, leash) = match attach(&mut child) {
        Ok(attached) => attached,
        Err(error) => {
            // Nobody would ever end it.
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
    };
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let desk = desk.clone();
    let complaints = std::thread::Builder::new()
        .name(format!("job {id} stderr"))
        .spawn(move || stderr.map(keep_end).unwrap_or_default())?;
    std::thread::Builder::new().name(format!("job {id}")).spawn(move || {
        if let Some(stdout) = stdout {
            pass_lines(stdout, id, &desk);
        }
        let status = child.wait();
        let complaints = complaints.join().unwrap_or_default();
        let end = match status {
            Ok(status) => JobEnd {
                code: status.code().and_then(|code| u8::try_from(code).ok()),
                signal: status.signal(),
                complaints,
            },
            Err(error) => JobEnd { complaints: error.to_string(), ..JobEnd::default() },
        };
        // The desk is gone: so is whoever would care.
        let _ = desk.send(Event::Ended { id, end });
    })?;
    Ok(JobProcess { handle, _leash: leash })
}

fn attach(child: &mut Child) -> std::io::Result<(OwnedFd, ChildStdin)> {
    let handle = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let leash = child.stdin.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
    Ok((handle, leash))
}

fn command(place: &Place, io: IoClass, id: JobId, words: &[String]) -> Command {
    // This very program, even if its file was replaced or removed since.
    let program = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    let ionice: &[&str] = match io {
        _ if !Path::new(IONICE).exists() => &[],
        IoClass::Normal => &[],
        IoClass::Low => &["-c", "2", "-n", "7"],
        IoClass::Idle => &["-c", "3"],
    };
    let mut command = match ionice {
        [] => Command::new(program),
        options => {
            let mut command = Command::new(IONICE);
            command.args(options).arg(program);
            command
        }
    };
    if let Some(home) = &place.home {
        command.arg("--home").arg(home);
    }
    command.arg("--config").arg(&place.configuration);
    command.arg("--json").arg("--job").arg(id.to_string()).args(words);
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        // What was meant for the daemon is not meant for its jobs.
        let ours = name_text.starts_with("KEEPWELL_") && !name_text.starts_with("KEEPWELL_TEST_");
        if ours || name_text == "NOTIFY_SOCKET" || name_text.starts_with("WATCHDOG_") {
            command.env_remove(name);
        }
    }
    // A group of its own: Ctrl-C at a terminal is for the daemon, which then stops its jobs in order.
    command.process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl JobProcess {
    /// Asks the job to stop safely.
    pub(super) fn ask_to_stop(&self) {
        // It has ended already, if it fails.
        let _ = pidfd_send_signal(&self.handle, Signal::TERM);
    }

    /// Ends the job; the pool survives that at any moment.
    pub(super) fn end(&self) {
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
    }
}

fn pass_lines(stdout: impl Read, id: JobId, desk: &SyncSender<Event>) {
    let mut reader = BufReader::new(stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(LINE_MOST).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        // A document over several lines, or the rest of a line that was too long, is no message.
        let Ok(message) = serde_json::from_slice::<Value>(&line) else { continue };
        if message.is_object() && desk.send(Event::Line { id, message }).is_err() {
            return;
        }
    }
}

fn keep_end(mut stderr: impl Read) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stderr.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..length]);
        let excess = kept.len().saturating_sub(COMPLAINTS_KEPT);
        kept.drain(..excess);
    }
    String::from_utf8_lossy(&kept).into_owned()
}
