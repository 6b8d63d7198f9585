//! Alerts reach people: a command, a web server, a mail server with TLS. And silence reaches them too.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

use crate::daemon::{Daemon, configure};
use crate::harness::{Keepwell, wait_until, write_files};
use crate::moved_clock::MovedClock;

const TOKEN: &str = "s3cret-t0ken";
const PATIENCE: Duration = Duration::from_secs(60);

/// A web server that keeps what it is sent.
struct WebServer {
    port: u16,
    requests: Receiver<(String, String)>,
}

impl WebServer {
    fn start(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (sender, requests) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
                let (mut head, mut length) = (String::new(), 0);
                loop {
                    let mut line = String::new();
                    if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                        break;
                    }
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().expect("a number");
                    }
                    head.push_str(&line);
                }
                let mut body = vec![0; length];
                if reader.read_exact(&mut body).is_err() {
                    continue;
                }
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
                if sender.send((head, String::from_utf8(body).expect("text"))).is_err() {
                    return;
                }
            }
        });
        Self { port, requests }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook/{TOKEN}", self.port)
    }

    fn next(&self) -> (String, String) {
        self.requests.recv_timeout(PATIENCE).expect("a request arrives")
    }
}

fn failing(settings: &str) -> Keepwell {
    let keepwell = Keepwell::new();
    configure(
        &keepwell,
        &format!(
            "[group.web]\nsources = [{{ files = [\"../nowhere\"] }}]\nschedule = \"24h\"\n[alerts]\n{settings}\n"
        ),
    );
    keepwell
}

#[test]
fn a_failure_is_told_to_a_command_and_a_web_server_and_its_end_too() {
    let server = WebServer::start("200 OK");
    let keepwell = Keepwell::new();
    let said = keepwell.path("said");
    configure(
        &keepwell,
        &format!(
            "[group.web]\nsources = [{{ files = [\"../srv\"] }}]\nschedule = \"24h\"\n\
         [alerts]\nwebhook = \"{}\"\ncommand = \"echo $KEEPWELL_HOOK_LEVEL $KEEPWELL_HOOK_SUBJECT >> {}; cat > /dev/null\"\n",
            server.url(),
            said.display(),
        ),
    );

    let _daemon = Daemon::start(&keepwell);
    let (head, body) = server.next();
    write_files(&keepwell.path("srv"), &[("one", b"1")]);
    keepwell.ok(["backup", "web"]);
    let (_, end) = server.next();
    wait_until("the command was told twice", || {
        fs::read_to_string(&said).is_ok_and(|text| text.lines().count() == 2)
    });

    assert!(head.starts_with(&format!("POST /hook/{TOKEN} ")), "{head}");
    let notice: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((&notice["version"], &notice["level"]), (&1.into(), &"warning".into()), "{notice}");
    assert_eq!(notice["alerts"][0]["key"], "failed backup web", "{notice}");
    let end: Value = serde_json::from_str(&end).expect("JSON");
    assert_eq!(end["alerts"][0]["active"], false, "{end}");
    let said = fs::read_to_string(&said).expect("said");
    assert!(
        said.starts_with("warning [keepwell ") && said.contains("information [keepwell "),
        "{said}"
    );
}

#[test]
fn what_could_not_be_delivered_is_told_without_the_token_and_delivered_later() {
    let broken = WebServer::start("500 Broken");
    let keepwell = failing(&format!("webhook = \"{}\"", broken.url()));
    keepwell.run(["backup", "web"]);
    let insert = "INSERT INTO alert (key, level, message, first_seen, last_seen, count) \
                  VALUES ('x', 'critical', 'something is wrong', 1, 1, 1)";
    let journal = keepwell.home().join("state/agent.db");
    assert!(Command::new("sqlite3").arg(&journal).arg(insert).status().expect("sqlite3").success());

    let failed = keepwell.run(["alerts", "send"]);
    let good = WebServer::start("204 No Content");
    let path = keepwell.home().join("keepwell.toml");
    let text = fs::read_to_string(&path).expect("read").replace(&broken.url(), &good.url());
    fs::write(&path, text).expect("written");
    keepwell.ok(["alerts", "send"]);
    let (_, body) = good.next();
    keepwell.ok(["alerts", "send"]);

    assert_eq!(failed.code, Some(3), "{failed:?}");
    assert!(failed.stderr.contains("500") && !failed.stderr.contains(TOKEN), "{failed:?}");
    assert!(body.contains("something is wrong"), "{body}");
    assert!(good.requests.try_recv().is_err(), "nothing is told twice");
    let shown = keepwell.ok(["config", "show", "--effective"]).stdout;
    assert!(!shown.contains(TOKEN) && shown.contains("(hidden)"), "{shown}");
}

#[test]
fn what_is_not_critical_waits_for_the_digest_and_comes_as_one() {
    let server = WebServer::start("200 OK");
    let keepwell = Keepwell::new();
    let group = |name: &str| {
        format!("[group.{name}]\nsources = [{{ files = [\"../nowhere\"] }}]\nschedule = \"24h\"\n")
    };
    let settings = format!("[alerts]\ndigest = \"1h\"\nwebhook = \"{}\"\n", server.url());
    configure(&keepwell, &format!("{}{}{settings}", group("one"), group("two")));
    let begin: jiff::Timestamp = "2026-02-03T10:00:00Z".parse().expect("a moment");
    let clock = MovedClock::new(&keepwell.path(""), begin);
    let command = |word: &str| {
        let mut command = keepwell.command(word.split(' '));
        clock.give(&mut command);
        command
    };
    let send = || assert!(command("alerts send").status().expect("started").success());

    let daemon = Daemon::start_command(command("daemon"));
    wait_until("both groups failed", || {
        keepwell.document(["alerts"])["alerts"].as_array().is_some_and(|all| all.len() == 2)
    });
    // From here on alone: two that tell at the same moment tell twice.
    daemon.stop();
    send();
    clock.set(begin + jiff::SignedDuration::from_mins(50));
    send();
    let early = server.requests.try_recv();
    clock.set(begin + jiff::SignedDuration::from_mins(70));
    send();
    let (_, body) = server.next();
    send();

    assert!(early.is_err(), "nothing is told before its time: {early:?}");
    let notice: Value = serde_json::from_str(&body).expect("JSON");
    let told = notice["alerts"].as_array().expect("alerts");
    assert_eq!(told.len(), 2, "{notice}");
    for key in ["failed backup one", "failed backup two"] {
        assert!(told.iter().any(|alert| alert["key"] == key), "{key}: {notice}");
    }
    assert!(server.requests.try_recv().is_err(), "and nothing twice");
}

struct MailServer {
    child: Child,
    port: u16,
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn mail_server(keepwell: &Keepwell, mode: &str) -> MailServer {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/e2e/mail_server.py");
    let mut child = Command::new("/usr/bin/python3")
        .arg(script)
        .arg(keepwell.path(""))
        .args([keepwell.path("cert.pem"), keepwell.path("key.pem")])
        .arg(mode)
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is installed");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("its words")).read_line(&mut line).expect("its port");
    MailServer {
        child,
        port: line.trim().parse().expect("a port (is python3-aiosmtpd installed?)"),
    }
}

// An authority (`ca.pem`) and a certificate of it for this machine (`cert.pem`).
fn certificate(keepwell: &Keepwell) {
    let openssl = |words: &str| {
        let made = Command::new("openssl")
            .args(words.split(' '))
            .current_dir(keepwell.path(""))
            .stderr(Stdio::null())
            .status();
        assert!(made.expect("openssl is installed").success(), "{words}");
    };
    fs::write(keepwell.path("names"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
        .expect("written");
    openssl(
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem",
    );
    openssl("req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out request.pem");
    openssl(
        "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert.pem",
    );
}

#[test]
fn mail_goes_over_tls_with_a_password_that_nobody_sees() {
    let keepwell = Keepwell::new();
    certificate(&keepwell);
    fs::write(keepwell.path("password"), "the password\n").expect("written");
    let base = fs::read_to_string(keepwell.home().join("keepwell.toml")).expect("read");
    for (number, mode) in ["starttls", "tls"].iter().enumerate() {
        let server = mail_server(&keepwell, mode);
        let settings = format!(
            "{base}\n[alerts.mail]\nhost = \"localhost\"\nport = {}\nsecurity = \"{mode}\"\nca_file = \"{}\"\n\
             user = \"keepwell\"\npassword_file = \"{}\"\nfrom = \"keepwell@example.org\"\nto = [\"admin@example.org\", \"b@example.org\"]\n",
            server.port,
            keepwell.path("ca.pem").display(),
            keepwell.path("password").display(),
        );
        fs::write(keepwell.home().join("keepwell.toml"), &settings).expect("written");

        keepwell.ok(["alerts", "test"]);

        let mail = fs::read_to_string(keepwell.path("message-1")).expect("a message was kept");
        assert!(
            mail.starts_with(
                "X-Envelope: keepwell@example.org admin@example.org,b@example.org tls=True"
            ),
            "{number}: {mail}"
        );
        assert!(mail.contains("Subject: ") && mail.contains("this is only a test"), "{mail}");
        fs::remove_file(keepwell.path("message-1")).expect("removed");
        // A certificate that nobody vouches for, and a wrong password.
        let strange = settings.replace("ca_file", "# ca_file");
        fs::write(keepwell.home().join("keepwell.toml"), strange).expect("written");
        let refused = keepwell.run(["alerts", "test"]);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.to_lowercase().contains("certificate"), "{refused:?}");
        fs::write(keepwell.path("password"), "wrong word\n").expect("written");
        fs::write(keepwell.home().join("keepwell.toml"), &settings).expect("written");
        let refused = keepwell.run(["alerts", "test"]);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        let said = refused.stderr.matches("Authentication credentials invalid").count();
        assert_eq!(said, 1, "the server's own answer, once: {refused:?}");
        assert!(!refused.stderr.contains("wrong word"), "{refused:?}");
        fs::write(keepwell.path("password"), "the password\n").expect("written");
        assert!(!keepwell.path("message-1").exists());
    }
}

#[test]
fn a_heartbeat_and_a_textfile_are_there_as_long_as_all_is_well() {
    let server = WebServer::start("200 OK");
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("one", b"1")]);
    let textfile = keepwell.path("keepwell.prom");
    configure(
        &keepwell,
        &format!(
            "[group.web]\nsources = [{{ files = [\"../srv\"] }}]\n[alerts]\nheartbeat = \"{}\"\ntextfile = \"{}\"\n",
            server.url(),
            textfile.display(),
        ),
    );

    keepwell.ok(["alerts", "send"]);
    let unprotected = fs::read_to_string(&textfile).expect("written");
    let silent = server.requests.try_recv().is_err();
    keepwell.ok(["backup", "web"]);
    keepwell.ok(["alerts", "send"]);
    let (head, _) = server.next();

    assert!(unprotected.contains("keepwell_well 0\n"), "{unprotected}");
    assert!(silent, "no sign of life while a source has no point");
    assert!(head.starts_with("GET /hook/"), "{head}");
    let well = fs::read_to_string(&textfile).expect("written");
    assert!(well.contains("keepwell_well 1\n"), "{well}");
}

#[test]
fn status_is_good_only_when_everything_is_protected_and_says_what_mends_the_rest() {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("one", b"1")]);

    let no_group = keepwell.run(["status"]);
    configure(&keepwell, "[group.web]\nsources = [{ files = [\"../srv\"] }]\nschedule = \"24h\"\n");
    let no_point = keepwell.run(["status"]);
    keepwell.ok(["backup", "web"]);
    let no_daemon = keepwell.run(["status", "--explain"]);
    let daemon = Daemon::start(&keepwell);
    let well = keepwell.ok(["status"]);
    let document = keepwell.document(["status"]);
    drop(daemon);

    for (ran, told) in [
        (&no_group, "keepwell group add"),
        (&no_point, "keepwell backup web"),
        (&no_daemon, "keepwell service install"),
    ] {
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stdout.contains("NOT all is well") && ran.stdout.contains(told), "{ran:?}");
    }
    assert!(no_daemon.stdout.contains("group \"web\": 24h, next run"), "{no_daemon:?}");
    assert!(well.stdout.starts_with("all is well"), "{well:?}");
    assert_eq!(document["groups"][0]["sources"][0]["points"], 1, "{document}");
    assert!(well.stdout.lines().count() <= 24, "one screen");
}

#[test]
fn the_doctor_names_what_is_missing_and_what_mends_it() {
    let keepwell = Keepwell::new();
    configure(
        &keepwell,
        "[group.web]\nsources = [{ files = [\"../nowhere\"] }]\nhooks = { before = \"/nowhere/hook\", user = \"nobody of this name\" }\n",
    );

    let ill = keepwell.run(["--json", "doctor"]);
    let document: Value = serde_json::from_str(&ill.stdout).expect("JSON");
    let bad: Vec<_> = document["checks"]
        .as_array()
        .expect("checks")
        .iter()
        .filter(|check| check["state"] == "bad")
        .map(|check| check["id"].as_str().expect("an id").to_string())
        .collect();

    assert_eq!(ill.code, Some(1), "{ill:?}");
    assert_eq!(bad.len(), 3, "{bad:?}");
    assert!(
        bad[0].starts_with("source ") && bad.contains(&"hook web before".to_string()),
        "{bad:?}"
    );
    assert!(
        document["checks"]
            .as_array()
            .expect("checks")
            .iter()
            .all(|check| check["state"] == "good" || check["fix"].is_string())
    );
}
