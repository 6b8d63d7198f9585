//! MariaDB with its own data directory, started as the user of Debian's package when the tests run as root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::process::ServerProcess;

/// A running server, or room for one.
pub(crate) struct Mariadb {
    // Dropped first: the server ends before its files go.
    process: Option<ServerProcess>,
    folder: TempDir,
    data: PathBuf,
}

/// Returns the user and group that the server runs as; `None`: as whoever runs the tests.
pub(crate) fn account() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("there are users");
    let line = users.lines().find(|line| line.starts_with("mysql:"));
    let line = line.expect("mariadb-server is installed: run tests/e2e/servers/install");
    let mut numbers = line.split(':').skip(2).map(|field| field.parse().expect("a number"));
    Some((numbers.next().expect("a user"), numbers.next().expect("a group")))
}

fn program(name: &str) -> PathBuf {
    let places = ["/usr/bin", "/usr/sbin"].map(|folder| Path::new(folder).join(name));
    let found = places.into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not installed: run tests/e2e/servers/install"))
}

impl Mariadb {
    /// Makes a server with a binary log and starts it.
    pub(crate) fn start() -> Self {
        let server = Self::room();
        let mut command = Command::new(program("mariadb-install-db"));
        command.args([
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ]);
        command.arg(format!("--datadir={}", server.data.display()));
        server.run_as_owner(command);
        server.started()
    }

    /// Makes room for a server, with nothing in it yet.
    pub(crate) fn room() -> Self {
        let folder =
            tempfile::Builder::new().prefix("kw-my-").tempdir_in("/tmp").expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
        if let Some((user, group)) = account() {
            chown(folder.path(), Some(user), Some(group)).expect("root may give files away");
        }
        let data = folder.path().join("data");
        let server = Self { process: None, folder, data };
        let options = format!("[client]\nuser=root\nsocket={}\n", server.socket().display());
        fs::write(server.options(), options).expect("written");
        server
    }

    /// Starts it on what is in [`Mariadb::data`].
    pub(crate) fn started(mut self) -> Self {
        self.start_server();
        self
    }

    /// Kills it in the middle of whatever it does.
    pub(crate) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it again after a kill: it recovers by itself.
    pub(crate) fn start_server(&mut self) {
        let data = format!("--datadir={}", self.data.display());
        let socket = format!("--socket={}", self.socket().display());
        let pid = format!("--pid-file={}", self.folder.path().join("pid").display());
        let log = format!("--log-bin={}", self.data.join("bin").display());
        let temporary = format!("--tmpdir={}", self.folder.path().display());
        let arguments = [
            "--no-defaults",
            &data,
            &socket,
            &pid,
            &log,
            // Two servers with one folder for temporary tables take each other's away.
            &temporary,
            "--skip-networking",
            "--server-id=1",
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=8M",
        ];
        let folder = self.folder.path();
        let mut process =
            ServerProcess::start_as(account(), &program("mariadbd"), &arguments, folder, &[]);
        process.wait_until("it answers", || self.door().answer("select 1").is_some());
        self.process = Some(process);
    }

    /// Returns the way to it for somebody who goes on asking while it is killed.
    pub(crate) fn door(&self) -> Door {
        Door::by(self.options())
    }

    /// Runs SQL and returns the answer.
    pub(crate) fn sql(&self, text: &str) -> String {
        self.door().sql(text)
    }

    /// Returns the data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Returns its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Returns the source of a configuration, with whatever else it needs.
    pub(crate) fn source(&self, rest: &str) -> String {
        let (socket, options) = (self.socket(), self.options());
        let (socket, options) = (socket.display(), options.display());
        format!("{{ mariadb = {{ socket = \"{socket}\", defaults_file = \"{options}\"{rest} }} }}")
    }

    fn options(&self) -> PathBuf {
        self.folder.path().join("client.cnf")
    }

    fn run_as_owner(&self, mut command: Command) {
        use std::os::unix::process::CommandExt;
        if let Some((user, group)) = account() {
            command.uid(user).gid(group);
        }
        command.env_clear().env("PATH", crate::home::SEARCH_PATH).env("LC_ALL", "C.UTF-8");
        command.env("TMPDIR", self.folder.path());
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        expect_well("mariadb-install-db", command.output().expect("it can be started"));
    }
}

/// The way to a server, which may be there or not.
pub(crate) struct Door {
    options: PathBuf,
}

impl Door {
    /// Returns the way that an option file tells.
    pub(super) fn by(options: PathBuf) -> Self {
        Self { options }
    }

    /// Runs SQL and returns the answer; fails if there is none.
    pub(crate) fn sql(&self, text: &str) -> String {
        expect_well(text, self.client(text))
    }

    /// Returns the answer to SQL, or `None` if the server gives none.
    pub(crate) fn answer(&self, text: &str) -> Option<String> {
        let output = self.client(text);
        let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
        output.status.success().then_some(text)
    }

    fn client(&self, text: &str) -> Output {
        let mut command = Command::new(program("mariadb"));
        command.arg(format!("--defaults-file={}", self.options.display())).args(["-NBe", text]);
        command.env_clear().env("PATH", crate::home::SEARCH_PATH).stdin(Stdio::null());
        command.output().expect("mariadb can be started")
    }
}

fn expect_well(what: &str, output: Output) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {complaint}");
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}
