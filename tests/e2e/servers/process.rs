//! A server process that never outlives its test.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process};

/// Longest start of a server on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running server; killed with all its children when dropped, and by the kernel when the test dies first.
pub(super) struct ServerProcess {
    child: Child,
    name: String,
    log: PathBuf,
}

impl ServerProcess {
    /// Starts a program in `folder`; what it says goes to a file there.
    pub(super) fn start(
        program: &Path,
        arguments: &[&str],
        folder: &Path,
        variables: &[(&str, &str)],
    ) -> Self {
        Self::start_as(None, program, arguments, folder, variables)
    }

    /// Does the same as another user and group.
    pub(super) fn start_as(
        account: Option<(u32, u32)>,
        program: &Path,
        arguments: &[&str],
        folder: &Path,
        variables: &[(&str, &str)],
    ) -> Self {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log).expect("a log file");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some((user, group)) = account {
            command.args(["--reuid", &user.to_string(), "--regid", &group.to_string()]);
            command.arg("--clear-groups");
        }
        let child = command
            .arg(program)
            .args(arguments)
            .env_clear()
            .env("PATH", crate::home::SEARCH_PATH)
            .env("HOME", folder)
            .env("LC_ALL", "C.UTF-8")
            .envs(variables.iter().copied())
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { child, name, log }
    }

    /// Waits until something is so; fails with the log if the server ends before, or takes too long.
    pub(super) fn wait_until(&mut self, what: &str, mut holds: impl FnMut() -> bool) {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                panic!("{} ended with {status} before {what}: {}", self.name, self.said());
            }
            if holds() {
                return;
            }
            let waited = begin.elapsed();
            assert!(waited < PATIENCE, "{} in vain: {what}: {}", self.name, self.said());
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until it accepts connections.
    pub(super) fn wait_for_port(&mut self, host: &str, port: u16) {
        self.wait_until("it listens", || TcpStream::connect((host, port)).is_ok());
    }

    /// Ends it at once with everything it started, as when the machine loses its power but for what the system had taken already.
    pub(super) fn kill(mut self) {
        let mut family = vec![self.child.id()];
        let mut next = 0;
        while let Some(process) = family.get(next) {
            let path = format!("/proc/{process}/task/{process}/children");
            let children = fs::read_to_string(path).unwrap_or_default();
            family.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
            next += 1;
        }
        let ids = family.iter().filter_map(|id| Pid::from_raw(i32::try_from(*id).ok()?));
        let ids: Vec<Pid> = ids.collect();
        for id in &ids {
            // It may have ended by itself.
            let _ = kill_process(*id, Signal::KILL);
        }
        self.child.wait().expect("it is our child");
        // Whoever lives on still holds the server's memory and files.
        let begin = Instant::now();
        while ids.iter().any(|id| test_kill_process(*id).is_ok()) {
            assert!(begin.elapsed() < PATIENCE, "{} does not die", self.name);
            thread::sleep(LOOK_EVERY);
        }
    }

    fn said(&self) -> String {
        let said = fs::read(&self.log).unwrap_or_default();
        let tail = &said[said.len().saturating_sub(4000)..];
        String::from_utf8_lossy(tail).into_owned()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = group {
            // It may have ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// Returns ports that nobody listens on.
pub(super) fn free_ports<const N: usize>() -> [u16; N] {
    // All are held until all are found, so that they differ.
    let held: Vec<_> =
        (0..N).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    std::array::from_fn(|number| held[number].local_addr().expect("it is bound").port())
}
