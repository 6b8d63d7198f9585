//! The service manager hears that all is well only while it is: not while the journal or a disk of the pool hangs.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::daemon::configure;
use crate::harness::{Keepwell, wait_until, write_files};
use crate::home::is_root;

/// What the service manager allows between two life signs.
const WATCHDOG: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon, and the ear of its service manager.
struct Watched {
    daemon: Child,
    manager: UnixDatagram,
}

impl Watched {
    fn start(keepwell: &Keepwell) -> Self {
        write_files(&keepwell.path("srv"), &[("one", b"1")]);
        configure(keepwell, "[group.web]\nsources = [{ files = [\"../srv\"] }]\n");
        let socket = keepwell.path("notify");
        let manager = UnixDatagram::bind(&socket).expect("a socket");
        let daemon = keepwell
            .command(["daemon"])
            .env("NOTIFY_SOCKET", &socket)
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        let watched = Self { daemon, manager };
        while watched.hear(PATIENCE).expect("it lives") != "WATCHDOG=1" {}
        watched
    }

    fn hear(&self, patience: Duration) -> Option<String> {
        self.manager.set_read_timeout(Some(patience)).expect("a patience");
        let mut buffer = [0; 512];
        let length = self.manager.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    // Whether there is a pause of four times what a service manager waits before it restarts the service.
    fn falls_silent(&self) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if self.hear(WATCHDOG * 4).is_none() {
                return true;
            }
        }
        false
    }

    fn stop(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.daemon), Signal::TERM).expect("it lives");
        self.daemon.wait().expect("it ends").code()
    }
}

#[test]
fn the_watchdog_is_not_fed_while_the_journal_hangs_and_is_fed_again_afterwards() {
    let keepwell = Keepwell::new();
    let watched = Watched::start(&keepwell);

    // Somebody holds the journal: what is asked for can be neither entered nor begun.
    let mut holder = Command::new("sqlite3")
        .arg(keepwell.home().join("state/agent.db"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sqlite3 is installed");
    let mut words = holder.stdin.take().expect("a way in");
    let mut told = BufReader::new(holder.stdout.take().expect("a way out"));
    words.write_all(b"BEGIN IMMEDIATE;\nSELECT 'held';\n").expect("asked");
    let mut line = String::new();
    told.read_line(&mut line).expect("answered");
    assert_eq!(line.trim(), "held");
    let waiting = keepwell.start(["backup", "web"]);
    let fell_silent = watched.falls_silent();
    words.write_all(b"COMMIT;\n").expect("asked");
    drop(words);
    let fed_again = watched.hear(PATIENCE);
    let made = waiting.wait_with_output().expect("it ends");

    assert!(fell_silent, "a desk that can do nothing says that all is well");
    assert_eq!(fed_again.as_deref(), Some("WATCHDOG=1"));
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    assert_eq!(watched.stop(), Some(0));
    holder.wait().expect("it ends");
}

/// A disk whose driver can be stopped: every access hangs until it goes on.
struct HangingDisk {
    driver: Child,
    path: std::path::PathBuf,
}

impl HangingDisk {
    // What is at `path` is behind the disk from now on.
    fn over(path: &Path) -> Self {
        let behind = path.with_extension("behind");
        fs::rename(path, &behind).expect("moved");
        fs::create_dir(path).expect("a mount point");
        let driver = Command::new("bindfs")
            .args(["-f", "-o", "attr_timeout=0,entry_timeout=0"])
            .args([&behind, path])
            .spawn()
            .expect("bindfs is installed (see \"packages\" in tests/run)");
        let disk = Self { driver, path: path.to_path_buf() };
        wait_until("the disk is mounted", || {
            fs::read_dir(path).is_ok_and(|entries| entries.count() > 0)
        });
        disk
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.driver), signal).expect("it lives");
    }
}

impl Drop for HangingDisk {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

#[test]
fn the_watchdog_is_not_fed_while_a_disk_of_the_pool_hangs_and_is_fed_again_afterwards() {
    if !is_root("a disk that hangs") {
        return;
    }
    let keepwell = Keepwell::new();
    let disk = HangingDisk::over(&keepwell.pool());
    let watched = Watched::start(&keepwell);

    disk.signal(Signal::STOP);
    let fell_silent = watched.falls_silent();
    disk.signal(Signal::CONT);
    let fed_again = watched.hear(PATIENCE);

    assert!(fell_silent, "a disk hangs, and the daemon says that all is well");
    assert_eq!(fed_again.as_deref(), Some("WATCHDOG=1"));
    keepwell.ok(["backup", "web"]);
    assert_eq!(watched.stop(), Some(0));
}
