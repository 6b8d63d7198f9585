//! The program with a home of its own, and what a test looks at afterwards.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for something that a process is about to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// Keepwell with a fresh home; everything below one temporary directory that goes with it.
pub(crate) struct Keepwell {
    directory: TempDir,
    user: Option<(u32, u32)>,
}

/// What a finished command left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The exit code; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it printed.
    pub(crate) stdout: String,
    /// What it complained about.
    pub(crate) stderr: String,
}

impl Keepwell {
    /// Creates a home in which nothing is yet.
    pub(crate) fn blank() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory"), user: None }
    }

    /// Creates a home in memory, in which nothing is yet: for stories of very many small writes.
    pub(crate) fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        let directory =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self { directory: directory.expect("a temporary directory"), user: None }
    }

    /// Creates a home with an empty pool.
    pub(crate) fn new() -> Self {
        let keepwell = Self::blank();
        keepwell.ok(["init"]);
        keepwell
    }

    /// Creates a home with an empty pool, of a user that may not read everything. (Tests often run as root.)
    pub(crate) fn unprivileged() -> Self {
        const NOBODY: u32 = 65_534;
        let is_root = rustix::process::geteuid().is_root();
        Self::of(is_root.then_some((NOBODY, NOBODY)))
    }

    /// Creates a home with an empty pool that belongs to a user and a group, as whom everything is run; `None`: to whoever runs the test.
    pub(crate) fn of(user: Option<(u32, u32)>) -> Self {
        let mut keepwell = Self::blank();
        if let Some((user, group)) = user {
            std::os::unix::fs::chown(keepwell.directory.path(), Some(user), Some(group))
                .expect("root may give files away");
        }
        keepwell.user = user;
        keepwell.ok(["init"]);
        keepwell
    }

    /// Gives it a vault in a directory beside the home, which knows its passphrase from now on.
    pub(crate) fn register_vault(&self) {
        let text = |name: &str| self.path(name).into_os_string().into_string().expect("text");
        let (credentials, passphrase) = (text("main.vault"), text("passphrase"));
        self.ok(["vault", "create", &text("vault"), "--credentials", &credentials]);
        let given = ["--credentials", &credentials, "--generate-passphrase", &passphrase];
        self.ok([&["vault", "register"][..], &given].concat());
    }

    /// Returns a path beside the home, for sources and targets.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the home.
    pub(crate) fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// Returns the pool's directory.
    pub(crate) fn pool(&self) -> PathBuf {
        self.home().join("pool")
    }

    /// Returns the command, ready to be run, in the directory of [`Keepwell::path`] and without variables of the tester's own.
    pub(crate) fn command<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keepwell"));
        let own = std::env::vars_os().map(|(name, _)| name);
        for name in own.filter(|name| name.as_bytes().starts_with(b"KEEPWELL_")) {
            command.env_remove(name);
        }
        if let Some((user, group)) = self.user {
            use std::os::unix::process::CommandExt;
            command.uid(user).gid(group);
        }
        command
            .current_dir(self.directory.path())
            .env("TZ", "Europe/Berlin")
            .arg("--home")
            .arg(self.home())
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ran {
        Ran::of(self.command(arguments).output().expect("the program can be started"))
    }

    /// Runs a command that must succeed.
    pub(crate) fn ok<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ran {
        let arguments: Vec<OsString> =
            arguments.into_iter().map(|argument| argument.as_ref().to_os_string()).collect();
        let ran = self.run(&arguments);
        assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}");
        ran
    }

    /// Runs a command that must succeed and print one JSON document.
    pub(crate) fn document<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Value {
        let ran = self.ok(json(arguments));
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
    }

    /// Runs a command that must succeed and print JSON lines; returns its summary.
    pub(crate) fn summary<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Value {
        self.ok(json(arguments)).summary()
    }

    /// Starts a command and leaves it running.
    pub(crate) fn start<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Child {
        self.command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be started")
    }

    /// Waits until a started command works on the pool.
    pub(crate) fn wait_for_session(&self) {
        wait_until("a session begins", || {
            let locks = fs::read_dir(self.pool().join("locks")).into_iter().flatten().flatten();
            locks.into_iter().any(|lock| lock.file_name().as_bytes().starts_with(b"session-"))
        });
    }
}

impl Ran {
    /// Returns what a finished process left.
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("stdout is text"),
            stderr: String::from_utf8(output.stderr).expect("stderr is text"),
        }
    }

    /// Returns the JSON lines of stdout.
    pub(crate) fn messages(&self) -> Vec<Value> {
        let parse = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
        };
        self.stdout.lines().map(parse).collect()
    }

    /// Returns the last JSON line, which must be the summary.
    pub(crate) fn summary(&self) -> Value {
        let last = self.messages().pop().unwrap_or_else(|| panic!("no summary: {self:?}"));
        assert_eq!(last["message_type"], "summary", "{self:?}");
        last
    }
}

fn json<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Vec<OsString> {
    let rest = arguments.into_iter().map(|argument| argument.as_ref().to_os_string());
    std::iter::once("--json".into()).chain(rest).collect()
}

/// Waits until something is so; gives up when it never will be.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// Writes files below `root`, with the folders above them.
pub(crate) fn write_files(root: &Path, files: &[(&str, &[u8])]) {
    for (name, content) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a new folder");
        fs::write(path, content).expect("a new file");
    }
}

/// Returns bytes that no compression makes smaller, different for each seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Returns what `cp -a` would keep of every entry below `root`: kind, mode, time and content.
pub(crate) fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut picture = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder can be listed") {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("an entry has metadata");
            let content = if metadata.is_dir() {
                folders.push(path.clone());
                "folder".to_string()
            } else if metadata.is_symlink() {
                format!("-> {}", fs::read_link(&path).expect("a link").display())
            } else {
                let content = fs::read(&path).expect("a file can be read");
                format!("{} bytes {}", content.len(), fingerprint(&content))
            };
            let line = format!(
                "{:o} {}.{:09} {content}",
                metadata.permissions().mode(),
                metadata.mtime(),
                metadata.mtime_nsec(),
            );
            let name = path.strip_prefix(root).expect("it is below").to_path_buf();
            picture.insert(name, line);
        }
    }
    picture
}

// FNV-1a: enough to tell test data apart.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Waits until everything in a folder is so old that a backup may believe its times: what changes in the same tick of the file system's
/// clock is read again.
pub(crate) fn wait_until_settled(folder: &Path) {
    // More than the longest tick that is allowed for, of file systems that keep whole seconds.
    const SETTLED: Duration = Duration::from_millis(2100);
    let mut newest = Duration::ZERO;
    let mut open = vec![folder.to_path_buf()];
    while let Some(path) = open.pop() {
        let status = path.symlink_metadata().expect("it is there");
        newest = newest.max(Duration::new(status.ctime() as u64, status.ctime_nsec() as u32));
        if status.is_dir() {
            let entries = fs::read_dir(&path).expect("listed");
            open.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
    }
    let begin = Instant::now();
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    while now().saturating_sub(newest) < SETTLED {
        assert!(begin.elapsed() < PATIENCE, "the clock does not go on");
        std::thread::sleep(Duration::from_millis(50));
    }
}
