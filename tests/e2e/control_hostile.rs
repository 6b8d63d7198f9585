//! Bytes on the control socket that no client sends: the daemon refuses them, keeps its memory small, and goes on working.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::daemon::configure;
use crate::harness::{Keepwell, noise, wait_until, write_files};

#[path = "../fuzz/mutation.rs"]
mod mutation;

/// How long the daemon is fed.
const TIME: Duration = Duration::from_secs(4);
/// How much its memory may grow by it.
const GROWTH_MOST: u64 = 48 << 20;
/// Requests that change nothing outside of the home, whatever becomes of them: the daemon runs as a user with few rights.
const REQUESTS: [(&str, &str, &str); 11] = [
    ("GET", "/v1/health", ""),
    ("GET", "/v1/status", ""),
    ("GET", "/v1/jobs?limit=5&state=done", ""),
    ("GET", "/v1/jobs/1/events?after=0", ""),
    ("GET", "/v1/config", ""),
    ("GET", "/metrics", ""),
    ("PUT", "/v1/config", "[pool]\npaths = [\"pool\"]\n"),
    ("POST", "/v1/groups/web/points", "{\"force\": true, \"tags\": [\"a\"]}"),
    (
        "POST",
        "/v1/restores",
        "{\"point\": \"latest\", \"to\": \"/proc/nowhere\", \"conflict\": \"skip\"}",
    ),
    ("POST", "/v1/maintenance/check", "{\"read_percent\": 12.5}"),
    ("POST", "/v1/jobs/1/cancel", "{}"),
];

fn corpus() -> Vec<Vec<u8>> {
    let request = |(method, path, body): &(&str, &str, &str)| {
        let length = body.len();
        format!(
            "{method} {path} HTTP/1.1\r\nHost: keepwell\r\nConnection: close\r\nIdempotency-Key: k1\r\nX-Request-Id: r-7\r\n\
             If-Match: \"0\"\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    };
    REQUESTS.iter().map(request).collect()
}

struct Running {
    child: Child,
}

impl Running {
    fn peak_memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path).expect("it lives");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a line");
        let kib = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
        kib.expect("a number") << 10
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// Whether there was an answer. A request without an end gets none, and is given up by its client.
fn send(keepwell: &Keepwell, bytes: &[u8]) -> bool {
    let socket = keepwell.home().join("state/control.sock");
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a patience");
    stream.set_write_timeout(Some(Duration::from_millis(100))).expect("a patience");
    // It may close before it has read all.
    let _ = stream.write_all(bytes);
    let mut answer = [0; 4096];
    matches!(stream.read(&mut answer), Ok(1..))
}

#[test]
fn no_bytes_on_the_control_socket_stop_the_daemon_or_fill_its_memory() {
    let keepwell = Keepwell::unprivileged();
    write_files(&keepwell.path("srv"), &[("one", b"1")]);
    configure(&keepwell, "[group.web]\nsources = [{ files = [\"../srv\"] }]\n");
    let words = keepwell.path("words");
    let child = keepwell
        .command(["daemon"])
        .stdout(Stdio::null())
        .stderr(File::create(&words).expect("a file"))
        .spawn()
        .expect("started");
    let mut daemon = Running { child };
    let health = &corpus()[0];
    wait_until("it answers", || send(&keepwell, health));
    for request in corpus() {
        send(&keepwell, &request);
    }
    let before = daemon.peak_memory();
    let seed = mutation::seed();
    let mut mutator = mutation::Mutator::new(seed);
    let (start, corpus, mut answered) = (Instant::now(), corpus(), 0u64);
    while start.elapsed() < TIME {
        answered += u64::from(send(&keepwell, &mutator.change(&corpus)));
    }
    // And much of something else: more than any request may be.
    send(&keepwell, &noise(seed, 4 << 20));
    let endless = b"GET /v1/health HTTP/1.1\r\n"
        .iter()
        .copied()
        .chain(*b"X: ")
        .chain(std::iter::repeat_n(b'y', 4 << 20));
    send(&keepwell, &endless.collect::<Vec<_>>());

    assert!(answered > 10, "{answered} answers, KEEPWELL_FUZZ_SEED={seed}");
    assert!(
        daemon.child.try_wait().expect("known").is_none(),
        "it ended, KEEPWELL_FUZZ_SEED={seed}"
    );
    wait_until("it answers as before", || send(&keepwell, health));
    let grown = daemon.peak_memory().saturating_sub(before);
    assert!(grown < GROWTH_MOST, "{grown} bytes, KEEPWELL_FUZZ_SEED={seed}");
    let words = fs::read_to_string(&words).expect("text");
    assert!(!words.contains("panicked"), "KEEPWELL_FUZZ_SEED={seed}: {words}");
}
