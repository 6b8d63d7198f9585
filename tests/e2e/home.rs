//! The program in a place of its own, for stories that harm it: wrapped, killed, moved, and made to tell all about a failure.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::mount::run;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_keepwell");
/// Where the system's tools are; nothing else of the surroundings reaches the program.
pub(crate) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A temporary place with a home for Keepwell (`home`) and room for sources and targets beside it.
pub(crate) struct Home {
    place: TempDir,
    home: PathBuf,
}

impl Home {
    /// Makes the place; nothing is in it yet.
    pub(crate) fn empty() -> Self {
        Self::empty_in(&std::env::temp_dir())
    }

    /// Makes the place in memory if there is such a file system: for stories of many runs that no power cut is part of.
    pub(crate) fn empty_in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Self::empty_in(memory) } else { Self::empty() }
    }

    fn empty_in(directory: &Path) -> Self {
        let place = tempfile::Builder::new().prefix("keepwell-e2e-").tempdir_in(directory);
        let place = place.expect("a temporary directory can be made");
        let home = place.path().join("home");
        Self { place, home }
    }

    /// Makes the place with a configuration and an empty pool whose packs are small, so that there are several.
    pub(crate) fn with_small_packs() -> Self {
        Self::empty().prepared()
    }

    /// Makes the same in memory.
    pub(crate) fn in_memory() -> Self {
        Self::empty_in_memory().prepared()
    }

    fn prepared(self) -> Self {
        self.configure("paths = [\"pool\"]\npack_size = \"1M\"\n");
        self.run(["init"]).expect_code(0);
        self
    }

    /// Writes the `[pool]` section of the configuration.
    pub(crate) fn configure(&self, pool_section: &str) {
        std::fs::create_dir_all(&self.home).expect("the home can be made");
        std::fs::write(self.home.join("keepwell.toml"), format!("[pool]\n{pool_section}"))
            .expect("the configuration can be written");
    }

    /// Returns what `--home` is given.
    pub(crate) fn path(&self) -> &Path {
        &self.home
    }

    /// Returns the pool's directory.
    pub(crate) fn pool(&self) -> PathBuf {
        self.home.join("pool")
    }

    /// Returns a path beside the home; nothing is made there.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Returns a path beside the home at which a directory was just made.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.beside(name);
        std::fs::create_dir_all(&path).expect("a directory can be made");
        path
    }

    /// Removes what is at this path beside the home and returns it, free.
    pub(crate) fn vacant(&self, name: &str) -> PathBuf {
        let path = self.beside(name);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                panic!("cannot remove {}: {error}", path.display())
            }
            _ => path,
        }
    }

    /// Returns the program with arguments, to be started.
    pub(crate) fn command<I, A>(&self, arguments: I) -> Command
    where
        I: IntoIterator<Item = A>,
        A: AsRef<OsStr>,
    {
        self.command_under(&[], arguments)
    }

    /// Returns the program as `wrapper` starts it, such as `["strace", "-f"]`.
    pub(crate) fn command_under<I, A>(&self, wrapper: &[&str], arguments: I) -> Command
    where
        I: IntoIterator<Item = A>,
        A: AsRef<OsStr>,
    {
        let mut words: Vec<OsString> = wrapper.iter().map(OsString::from).collect();
        words.extend([PROGRAM.into(), "--home".into(), self.home.clone().into()]);
        words.extend(arguments.into_iter().map(|argument| argument.as_ref().to_os_string()));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.env_clear().env("PATH", SEARCH_PATH).env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        command.current_dir(self.place.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run<I, A>(&self, arguments: I) -> Finished
    where
        I: IntoIterator<Item = A>,
        A: AsRef<OsStr>,
    {
        Finished::of(self.command(arguments))
    }

    /// Backs up `source` with further options and returns the point's id.
    pub(crate) fn backup(&self, source: &Path, options: &[&str]) -> String {
        self.run(backup_arguments(source, options)).expect_code(0).point()
    }

    /// Restores a point, or a part of it, into a fresh directory and returns it.
    pub(crate) fn restore(&self, point: &str, target: &str) -> PathBuf {
        let target = self.vacant(target);
        self.run([OsStr::new("restore"), point.as_ref(), "--to".as_ref(), target.as_ref()])
            .expect_code(0);
        target
    }

    /// Returns the ids of all points, oldest first.
    pub(crate) fn points(&self) -> Vec<String> {
        let document = self.run(["points", "--json"]).expect_code(0).json();
        let points = document["points"].as_array().cloned().unwrap_or_default();
        points.iter().map(|point| text_of(point, "id")).collect()
    }

    /// Copies the whole home aside, so that it can be put back.
    pub(crate) fn copy_of(&self) -> PathBuf {
        let copy = self.vacant("pristine");
        // Ballast holds nothing, and takes most of the time to copy.
        let _ = std::fs::remove_file(self.pool().join("reserve"));
        copy_tree(self.path(), &copy);
        copy
    }

    /// Puts a copy back.
    pub(crate) fn put_back(&self, copy: &Path) {
        std::fs::remove_dir_all(self.path()).expect("the home can be removed");
        copy_tree(copy, self.path());
    }

    /// Proves that the pool is sound.
    pub(crate) fn expect_sound(&self, when: &str) {
        let check = self.run(["check", "--read-data"]);
        assert_eq!(check.code(), Some(0), "the pool is not sound {when}: {check}");
    }
}

fn copy_tree(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// Returns the arguments of a backup of one path.
pub(crate) fn backup_arguments(source: &Path, options: &[&str]) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["backup".into(), "--json".into()];
    arguments.extend(options.iter().map(OsString::from));
    arguments.push("--files".into());
    arguments.push(source.into());
    arguments
}

/// A run of the program that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    line: String,
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Finished {
    /// Starts a command and waits for its end.
    pub(crate) fn of(mut command: Command) -> Self {
        let line = format!("{command:?}");
        let output = command.output().unwrap_or_else(|error| panic!("cannot run {line}: {error}"));
        Self::new(line, output)
    }

    /// Takes what a process has left.
    pub(crate) fn new(line: String, output: std::process::Output) -> Self {
        Self { line, status: output.status, stdout: output.stdout, stderr: output.stderr }
    }

    /// Returns the exit code; `None` if a signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Returns whether it was killed with signal 9.
    pub(crate) fn was_killed(&self) -> bool {
        // A wrapper that passes the death of its child on says 137.
        self.status.signal() == Some(9) || self.code() == Some(137)
    }

    /// Fails with everything that was said unless it ended with `code`.
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "expected exit code {code}: {self}");
        self
    }

    /// Returns what it printed.
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Returns what it complained of.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Returns its one JSON document.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not one JSON document ({error}): {self}"))
    }

    /// Returns the message of this type that it printed last.
    pub(crate) fn message(&self, message_type: &str) -> Option<Value> {
        let stdout = self.stdout();
        let mut messages =
            stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        messages.rfind(|message| message["message_type"] == message_type)
    }

    /// Returns its summary.
    pub(crate) fn summary(&self) -> Value {
        self.message("summary").unwrap_or_else(|| panic!("there is no summary: {self}"))
    }

    /// Returns the id of the point that a backup made.
    pub(crate) fn point(&self) -> String {
        text_of(&self.summary(), "point")
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}\nended with {}\nstdout: {}\nstderr: {}",
            self.line,
            self.status,
            excerpt(&self.stdout()),
            excerpt(&self.stderr())
        )
    }
}

fn excerpt(text: &str) -> String {
    const MOST: usize = 4000;
    let text = text.trim_end();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}... ({} bytes in all)", &text[..end], text.len()),
        None => text.to_string(),
    }
}

/// Returns the text of a field that must be there.
pub(crate) fn text_of(value: &Value, field: &str) -> String {
    let text = value[field].as_str();
    text.unwrap_or_else(|| panic!("there is no text \"{field}\" in {value}")).to_string()
}

/// Returns the number of a field that must be there.
pub(crate) fn number_of(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("there is no number \"{field}\" in {value}"))
}

/// Says something that must be seen even where output of passing tests is hidden.
pub(crate) fn announce(text: &str) {
    // Straight to the stream: the test runner catches only what print macros say.
    let _ = writeln!(std::io::stderr(), "\n*** {text} ***");
}

/// Returns whether this process may do what only root may, and says loudly what is left out if not.
pub(crate) fn is_root(left_out: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        announce(&format!("not root: {left_out}"));
    }
    root
}

/// Returns the number in an environment variable of the tests, or `default`.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not \"{text}\""))
}
