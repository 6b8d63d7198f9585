//! PostgreSQL with its own cluster, started as the user of Debian's package when the tests run as root: it does not run as root itself.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use super::process::{ServerProcess, free_ports};

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// The superuser of every cluster here.
const USER: &str = "postgres";

/// A running cluster.
pub(crate) struct Postgres {
    // Dropped first: the server ends before its files go.
    process: Option<ServerProcess>,
    folder: TempDir,
    data: PathBuf,
    port: u16,
}

/// Returns the user and group that servers of PostgreSQL run as; `None`: as whoever runs the tests.
pub(crate) fn account() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("there are users");
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let line = line.expect("postgresql-15 is installed: run tests/e2e/servers/install");
    let mut numbers = line.split(':').skip(2).map(|field| field.parse().expect("a number"));
    Some((numbers.next().expect("a user"), numbers.next().expect("a group")))
}

/// Returns one of PostgreSQL's programs.
pub(crate) fn program(name: &str) -> PathBuf {
    let program = Path::new(PROGRAMS).join(name);
    let missing = program.display();
    assert!(program.exists(), "{missing} is not installed: run tests/e2e/servers/install");
    program
}

impl Postgres {
    /// Makes a cluster with page checksums and starts it with these settings beside the usual ones.
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        let postgres = Self::room();
        let made = postgres
            .as_owner(&program("initdb"))
            .args(["-U", USER, "-A", "trust", "-k", "-N", "-E", "UTF8", "--locale=C.UTF-8", "-D"])
            .arg(&postgres.data)
            .output();
        expect_well("initdb", made.expect("initdb can be started"));
        let file = postgres.data.join("postgresql.conf");
        let lines = settings.iter().map(|(name, value)| format!("{name} = '{value}'\n"));
        let text = fs::read_to_string(&file).expect("initdb writes it");
        fs::write(&file, format!("{text}\n{}", lines.collect::<String>())).expect("written");
        postgres.started(&[])
    }

    /// Starts a cluster that was restored to [`Postgres::data`] of a room; see [`Postgres::room`].
    pub(crate) fn started(mut self, settings: &[(&str, &str)]) -> Self {
        self.start_server(settings);
        self
    }

    fn start_server(&mut self, settings: &[(&str, &str)]) {
        let port = self.port.to_string();
        let sockets = self.sockets().display().to_string();
        let data = self.data.display().to_string();
        let mut words: Vec<String> = vec!["-D".into(), data, "-p".into(), port];
        let own =
            [("listen_addresses", ""), ("unix_socket_directories", &sockets), ("fsync", "off")];
        for (name, value) in own.iter().chain(settings) {
            words.extend(["-c".to_string(), format!("{name}={value}")]);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut process = ServerProcess::start_as(
            account(),
            &program("postgres"),
            &words,
            self.folder.path(),
            &[],
        );
        // A cluster in recovery takes connections before it has reached its target.
        process.wait_until("it is past its recovery", || {
            self.door().answer("select pg_is_in_recovery()") == Some("f".to_string())
        });
        self.process = Some(process);
    }

    /// Makes room for a cluster, with nothing in it yet.
    pub(crate) fn room() -> Self {
        Self::room_in(Path::new("/tmp"))
    }

    /// Makes room in memory: for stories that restore often, each time made durable together with whatever else the disk has to write.
    pub(crate) fn room_in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        Self::room_in(if memory.is_dir() { memory } else { Path::new("/tmp") })
    }

    fn room_in(place: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("kw-pg-").tempdir_in(place);
        let folder = folder.expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
        let [port] = free_ports();
        let data = folder.path().join("data");
        let postgres = Self { process: None, folder, data, port };
        postgres.give(postgres.folder.path());
        postgres.make_folder("sockets");
        postgres
    }

    /// Returns the data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Returns the folder of its socket.
    pub(crate) fn sockets(&self) -> PathBuf {
        self.folder.path().join("sockets")
    }

    /// Makes a folder beside the data directory that belongs to the server.
    pub(crate) fn make_folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir(&path).expect("a new folder");
        self.give(&path);
        path
    }

    /// Returns the source of a configuration, with whatever else it needs.
    pub(crate) fn source(&self, rest: &str) -> String {
        let socket = self.sockets().display().to_string();
        let port = self.port;
        format!("{{ postgres = {{ socket = \"{socket}\", port = {port}{rest} }} }}")
    }

    /// Returns the source of a configuration that goes to it over TCP.
    pub(crate) fn tcp_source(&self, rest: &str) -> String {
        format!("{{ postgres = {{ host = \"127.0.0.1\", port = {}{rest} }} }}", self.port)
    }

    /// Runs SQL and returns the answer, columns apart by `|`.
    pub(crate) fn sql(&self, database: &str, text: &str) -> String {
        let output = self.psql(database, text);
        expect_well(text, output)
    }

    /// Runs SQL and returns what it raises as notices.
    pub(crate) fn notices(&self, database: &str, text: &str) -> Vec<String> {
        let output = self.psql(database, text);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        expect_well(text, output);
        said.lines().filter_map(|line| line.strip_prefix("NOTICE:  ")).map(str::to_string).collect()
    }

    /// Runs one of PostgreSQL's programs against it.
    pub(crate) fn run(&self, name: &str, arguments: &[&str]) -> String {
        let output = self.client(name).args(arguments).output().expect("it can be started");
        expect_well(name, output)
    }

    /// Starts pgbench in the background, until it is ended.
    pub(crate) fn bench(&self) -> Bench {
        let child = self
            .client("pgbench")
            .args(["-n", "-c", "2", "-T", "600", "postgres"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pgbench can be started");
        Bench(child)
    }

    /// Kills it in the middle of whatever it does, and starts it again: it recovers by itself.
    pub(crate) fn kill_and_start(&mut self, settings: &[(&str, &str)]) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
        self.start_server(settings);
    }

    /// Returns the way to it for somebody who goes on asking while it is killed.
    pub(crate) fn door(&self) -> Door {
        Door { sockets: self.sockets(), port: self.port }
    }

    /// Stops it as an administrator would, all data on disk.
    pub(crate) fn stop(&mut self) {
        self.pg_ctl(&["-m", "fast", "-w", "stop"]);
        self.process = None;
    }

    fn pg_ctl(&self, arguments: &[&str]) {
        let mut command = self.as_owner(&program("pg_ctl"));
        let output = command.arg("-D").arg(&self.data).args(arguments).output();
        expect_well("pg_ctl", output.expect("pg_ctl can be started"));
    }

    fn psql(&self, database: &str, text: &str) -> Output {
        self.door().psql(database, text)
    }

    fn client(&self, name: &str) -> Command {
        self.door().client(name)
    }

    fn as_owner(&self, program: &Path) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(program);
        if let Some((user, group)) = account() {
            command.uid(user).gid(group);
        }
        command.env_clear().env("PATH", crate::home::SEARCH_PATH).env("LC_ALL", "C.UTF-8");
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// Gives a file to whom the server runs as.
    pub(crate) fn give(&self, path: &Path) {
        if let Some((user, group)) = account() {
            chown(path, Some(user), Some(group)).expect("root may give files away");
        }
    }
}

/// The way to a server, which may be there or not.
pub(crate) struct Door {
    sockets: PathBuf,
    port: u16,
}

impl Door {
    /// Returns the answer to SQL, or `None` if the server gives none.
    pub(crate) fn answer(&self, text: &str) -> Option<String> {
        let output = self.psql("postgres", text);
        let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
        output.status.success().then_some(text)
    }

    fn psql(&self, database: &str, text: &str) -> Output {
        let mut command = self.client("psql");
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", text]);
        command.output().expect("psql can be started")
    }

    fn client(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        command.env_clear().env("PATH", crate::home::SEARCH_PATH).env("LC_ALL", "C.UTF-8");
        command.env("PGHOST", &self.sockets).env("PGPORT", self.port.to_string());
        command.env("PGUSER", USER).current_dir("/").stdin(Stdio::null());
        command
    }
}

/// pgbench at work; ended when dropped.
pub(crate) struct Bench(Child);

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn expect_well(what: &str, output: Output) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {complaint}");
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}
