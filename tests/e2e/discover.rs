//! What could be protected and is not: databases by their sockets, SQLite files where asked, folders with much in them.

use std::fs;
use std::os::unix::net::UnixListener;

use serde_json::Value;

use crate::harness::{Keepwell, noise, write_files};

fn protection(document: &Value, kind: &str, end: &str) -> Option<String> {
    let found = document["found"].as_array().expect("a list");
    let one = found.iter().find(|one| {
        one["kind"] == kind && one["place"].as_str().is_some_and(|place| place.ends_with(end))
    })?;
    one["protection"].as_str().map(str::to_string)
}

#[test]
fn what_no_group_has_is_shown_and_what_one_has_is_not() {
    let keepwell = Keepwell::new();
    let large = noise(1, 300_000);
    write_files(
        &keepwell.path("data"),
        &[
            ("mine/a", large.as_slice()),
            ("other/b", &large),
            ("small/c", b"c"),
            ("half/in/d", &large),
        ],
    );
    for name in ["mine/app.db", "other/lost.db"] {
        let database =
            rusqlite::Connection::open(keepwell.path("data").join(name)).expect("opened");
        database.execute_batch("CREATE TABLE t (x)").expect("a table");
    }
    fs::write(
        keepwell.home().join("keepwell.toml"),
        "[pool]\npaths = [\"pool\"]\n[group.g]\nsources = [{ files = [\"../data/mine\", \"../data/half/in\"], sqlite_aware = true }, { postgres = { socket = \"..\", port = 5498 } }]\n",
    )
    .expect("written");
    let _known = UnixListener::bind(keepwell.path(".s.PGSQL.5498")).expect("a socket");
    let _other = UnixListener::bind(keepwell.path(".s.PGSQL.5499")).expect("a socket");

    let search = ["discover", "--folder", "data", "--sqlite", "data", "--least", "100K"];
    let lacking = keepwell.document(search);
    let all = keepwell.document(search.into_iter().chain(["--all"]));

    let socket = protection(&lacking, "postgres", "/.s.PGSQL.5499");
    assert_eq!(socket.as_deref(), Some("perhaps"), "{lacking}");
    let socket = protection(&all, "postgres", "/.s.PGSQL.5498");
    assert_eq!(socket.as_deref(), Some("protected"), "{all}");
    assert_eq!(protection(&lacking, "files", "/data/other").as_deref(), Some("none"), "{lacking}");
    assert_eq!(protection(&lacking, "files", "/data/half").as_deref(), Some("partly"), "{lacking}");
    assert_eq!(protection(&lacking, "files", "/data/small"), None, "{lacking}");
    assert_eq!(protection(&lacking, "files", "/data/mine"), None, "{lacking}");
    assert_eq!(protection(&lacking, "sqlite", "/lost.db").as_deref(), Some("none"), "{lacking}");
    assert_eq!(protection(&all, "sqlite", "/app.db").as_deref(), Some("protected"), "{all}");
    assert_eq!(protection(&all, "files", "/data/mine").as_deref(), Some("protected"), "{all}");
}
