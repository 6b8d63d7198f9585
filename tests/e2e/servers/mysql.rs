//! MySQL with its own data directory, started as the user of Debian's package of MariaDB when the tests run as root.
//!
//! It brings its own libraries and the loader that fits them; its programs are in a folder of their own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::mariadb::{Door, account};
use super::process::ServerProcess;
use super::tool;

/// Where the libraries and their loader are, below `usr`.
const LIBRARIES: &str = "lib/x86_64-linux-gnu";

/// A running server.
pub(crate) struct Mysql {
    // Dropped first: the server ends before its files go.
    process: Option<ServerProcess>,
    folder: TempDir,
}

impl Mysql {
    /// Makes a server with nothing in it but a binary log and starts it.
    pub(crate) fn start() -> Self {
        let folder =
            tempfile::Builder::new().prefix("kw-mysql-").tempdir_in("/tmp").expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
        let mut server = Self { process: None, folder };
        // The user that it runs as may not be allowed into the folder of the tools.
        link_tree(&tool("mysql/usr"), &server.usr());
        copy_tree(&tool("mysql/data"), &server.data());
        own(server.folder.path());
        let options = format!("[client]\nuser=root\nsocket={}\n", server.socket().display());
        fs::write(server.options(), options).expect("written");
        server.start_server();
        server
    }

    /// Kills it in the middle of whatever it does.
    pub(crate) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it again after a kill: it recovers by itself.
    pub(crate) fn start_server(&mut self) {
        let folder = self.folder.path();
        let place = |option: &str, path: &Path| format!("--{option}={}", path.display());
        let (usr, libraries) = (self.usr(), self.usr().join(LIBRARIES));
        let arguments = [
            "--library-path".to_string(),
            libraries.display().to_string(),
            usr.join("sbin/mysqld").display().to_string(),
            "--no-defaults".to_string(),
            place("basedir", &usr),
            place("datadir", &self.data()),
            place("socket", &self.socket()),
            place("pid-file", &folder.join("pid")),
            place("log-bin", &self.data().join("bin")),
            place("tmpdir", folder),
            place("lc-messages-dir", &usr.join("share/mysql")),
            place("character-sets-dir", &usr.join("share/mysql/charsets")),
            place("plugin-dir", &usr.join("lib/mysql/plugin")),
            "--secure-file-priv=NULL".to_string(),
            "--skip-networking".to_string(),
            "--mysqlx=OFF".to_string(),
            "--server-id=1".to_string(),
            "--performance-schema=OFF".to_string(),
            "--innodb-buffer-pool-size=32M".to_string(),
        ];
        let arguments = arguments.each_ref().map(String::as_str);
        let loader = libraries.join("ld-linux-x86-64.so.2");
        let mut process = ServerProcess::start_as(account(), &loader, &arguments, folder, &[]);
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

    /// Returns its socket, under a name by which it is known as a server.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("mysqld.sock")
    }

    /// Returns the source of a configuration, with whatever else it needs.
    pub(crate) fn source(&self, rest: &str) -> String {
        let (socket, options, programs) = (self.socket(), self.options(), Self::programs());
        let (socket, options) = (socket.display(), options.display());
        let place = format!("socket = \"{socket}\", defaults_file = \"{options}\"");
        format!("{{ mariadb = {{ {place}, programs = \"{}\"{rest} }} }}", programs.display())
    }

    /// Returns the folder of its own client programs.
    pub(crate) fn programs() -> PathBuf {
        tool("mysql/programs")
    }

    fn usr(&self) -> PathBuf {
        self.folder.path().join("usr")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn options(&self) -> PathBuf {
        self.folder.path().join("client.cnf")
    }
}

// Without the time and the room of a copy where both are on one disk.
fn link_tree(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder of the tools") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_symlink() {
            symlink(fs::read_link(&path).expect("a link"), &target).expect("a link");
        } else if path.is_dir() {
            link_tree(&path, &target);
        } else if fs::hard_link(&path, &target).is_err() {
            fs::copy(&path, &target).expect("a copy");
        }
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    own(to);
    for entry in fs::read_dir(from).expect("a template") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_tree(&path, &target);
        } else {
            fs::copy(&path, &target).expect("a copy");
            own(&target);
        }
    }
}

fn own(path: &Path) {
    if let Some((user, group)) = account() {
        chown(path, Some(user), Some(group)).expect("root may give files away");
    }
}
