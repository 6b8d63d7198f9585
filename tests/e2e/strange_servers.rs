//! Servers that are confused, overloaded or hostile: each answer has its meaning, none is believed further than it can be checked.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use cloudsync::error::{StoreError, StoreFault};
use cloudsync::layout::ObjectName;

use crate::servers::Place;

const OBJECT_LIMIT: u64 = 1000;

/// A server that gives every request the same answer and then closes.
fn answering(answer: Vec<u8>) -> Place {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // Whoever breaks off has heard enough.
            drop(answer_one(client, &answer));
        }
    });
    Place::s3("s3://bucket/prefix".to_string(), endpoint, "id", "planted-secret")
}

fn answer_one(mut client: TcpStream, answer: &[u8]) -> std::io::Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: u64 = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
    std::io::copy(&mut (&client).take(length), &mut std::io::sink())?;
    client.write_all(answer)
}

fn response(status: &str, headers: &[&str], body: &str) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status}\r\nconnection: close\r\n");
    for header in headers {
        text.push_str(&format!("{header}\r\n"));
    }
    if !headers.iter().any(|header| header.starts_with("transfer-encoding")) {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    format!("{text}\r\n{body}").into_bytes()
}

fn error(status: &str, code: &str) -> Vec<u8> {
    response(status, &[], &format!("<Error><Code>{code}</Code><Message>Told.</Message></Error>"))
}

fn name() -> ObjectName {
    "a/b".parse().expect("a name")
}

fn run<T>(call: impl Future<Output = Result<T, StoreError>>) -> Option<StoreFault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let error = runtime.expect("a runtime").block_on(call).err()?;
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("planted"), "{shown}");
    Some(error.fault)
}

fn put(answer: Vec<u8>) -> Option<StoreFault> {
    run(answering(answer).open().put_new(&name(), vec![1; 100_000].into()))
}

fn get(answer: Vec<u8>) -> Option<StoreFault> {
    run(answering(answer).open().get(&name(), OBJECT_LIMIT))
}

#[test]
fn refusals_are_told_apart() {
    let busy = |seconds: Option<u64>| {
        Some(StoreFault::Busy { retry_after: seconds.map(Duration::from_secs) })
    };
    let later = response("503 Slow Down", &["retry-after: 7"], "<Code>SlowDown</Code>");
    for (answer, fault) in [
        (later, busy(Some(7))),
        (error("503 Slow Down", "SlowDown"), busy(None)),
        (error("500 Oops", "InternalError"), busy(None)),
        (error("409 Conflict", "ConditionalRequestConflict"), busy(None)),
        (error("412 Precondition Failed", "PreconditionFailed"), Some(StoreFault::AlreadyExists)),
        (error("403 Forbidden", "RequestTimeTooSkewed"), Some(StoreFault::WrongClock)),
        (error("403 Forbidden", "AccessDenied"), Some(StoreFault::PermissionDenied)),
        (error("403 Forbidden", "SignatureDoesNotMatch"), Some(StoreFault::Unauthenticated)),
        (error("404 Not Found", "NoSuchBucket"), Some(StoreFault::NoPlace)),
        (error("507 Insufficient Storage", "Full"), Some(StoreFault::NoSpace)),
        (error("301 Moved Permanently", "PermanentRedirect"), Some(StoreFault::Other)),
        (
            response("302 Found", &["location: http://169.254.169.254/"], ""),
            Some(StoreFault::Other),
        ),
    ] {
        let shown = String::from_utf8_lossy(&answer).into_owned();
        assert_eq!(put(answer), fault, "{shown}");
    }
    let yesterday = "date: Mon, 02 Feb 2026 02:40:00 GMT";
    assert_eq!(put(response("403 Forbidden", &[yesterday], "")), Some(StoreFault::WrongClock));
}

#[test]
fn answers_that_make_no_sense_are_not_believed() {
    const MODIFIED: &str = "last-modified: Mon, 02 Feb 2026 02:40:00 GMT";
    let sound = ["etag: \"e\"", MODIFIED];
    assert_eq!(get(response("200 OK", &sound, "body")), None, "the answer to compare with");

    // Longer than such an object can be: nothing of it is read.
    let long = response("200 OK", &sound, &"x".repeat(OBJECT_LIMIT as usize + 1));
    assert_eq!(get(long), Some(StoreFault::Corrupt));
    // Announced and not sent.
    let cut = |body: &str| {
        let head =
            format!("HTTP/1.1 200 OK\r\netag: \"e\"\r\n{MODIFIED}\r\ncontent-length: 500\r\n\r\n");
        (head + body).into_bytes()
    };
    assert_eq!(get(cut("")), Some(StoreFault::Unreachable));
    assert_eq!(get(cut("half")), Some(StoreFault::Unreachable));
    // Without a length, and without an end.
    let endless = format!("{:x}\r\n{}\r\n", 5000, "x".repeat(5000)).repeat(40);
    let headers = [sound[0], sound[1], "transfer-encoding: chunked"];
    let fault = get(response("200 OK", &headers, &endless));
    assert!(matches!(fault, Some(StoreFault::Corrupt)), "{fault:?}");
    // No HTTP at all.
    assert_eq!(get(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), Some(StoreFault::Unreachable));
    assert_eq!(get(Vec::new()), Some(StoreFault::Unreachable));

    let list = |body: &str| run(answering(response("200 OK", &[], body)).open().list("a/"));
    assert_eq!(list("<html>not a list</html>"), Some(StoreFault::Corrupt));
    assert_eq!(list(""), Some(StoreFault::Corrupt));
}
