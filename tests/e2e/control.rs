//! The control socket: what other programs can ask of a running daemon, who may, and how the command line leaves work to it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::daemon::{Daemon, configure, jobs, states};
use crate::harness::{Keepwell, wait_until, write_files};
use crate::home::is_root;

fn with_group() -> Keepwell {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("one", b"1")]);
    configure(&keepwell, "[group.web]\nsources = [{ files = [\"../srv\"] }]\n");
    keepwell
}

/// A group whose backup waits until the file `go` is there.
fn with_waiting_group() -> Keepwell {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("one", b"1")]);
    let (go, began) = (keepwell.path("go"), keepwell.path("began"));
    configure(
        &keepwell,
        &format!(
            "[group.web]\nsources = [{{ files = [\"../srv\"] }}]\n\
         hooks = {{ before = \"touch {}; while ! test -e {}; do sleep 0.05; done\" }}\n",
            began.display(),
            go.display(),
        ),
    );
    keepwell
}

fn curl_command(keepwell: &Keepwell, words: &[&str], path: &str) -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}"]);
    command.arg("--unix-socket").arg(keepwell.home().join("state/control.sock"));
    command.args(words).arg(format!("http://keepwell{path}"));
    command
}

fn answer(mut command: Command) -> (u16, String) {
    let output = command.output().expect("curl is installed");
    let text = String::from_utf8(output.stdout).expect("text");
    let (body, code) = text.rsplit_once('\n').expect("a status");
    let code = code
        .parse()
        .unwrap_or_else(|_| panic!("{text} {}", String::from_utf8_lossy(&output.stderr)));
    (code, body.to_string())
}

fn curl(keepwell: &Keepwell, words: &[&str], path: &str) -> (u16, Value) {
    let (code, body) = answer(curl_command(keepwell, words, path));
    (code, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

const POST: [&str; 2] = ["--request", "POST"];

#[test]
fn points_are_made_followed_and_found_again_by_any_program() {
    let keepwell = with_group();
    let daemon = Daemon::start(&keepwell);
    let with_key =
        ["--request", "POST", "--header", "Idempotency-Key: k1", "--header", "X-Request-Id: r-7"];

    let (code, accepted) = curl(&keepwell, &with_key, "/v1/groups/web/points");
    assert_eq!((code, &accepted["new"]), (202, &json!(true)), "{accepted}");
    let url = accepted["url"].as_str().expect("a place").to_string();
    let (_, events) = answer(curl_command(&keepwell, &[], &format!("{url}/events")));
    let (_, job) = curl(&keepwell, &[], &url);
    let again = curl(&keepwell, &with_key, "/v1/groups/web/points");
    let other_body = [&with_key[..], &["--data", "{\"force\": true}"]].concat();
    let reused = curl(&keepwell, &other_body, "/v1/groups/web/points");

    let last: Value = serde_json::from_str(events.lines().last().expect("an end")).expect("JSON");
    assert_eq!(
        (&last["message_type"], &last["job"]["state"]),
        (&json!("end"), &json!("done")),
        "{events}"
    );
    assert!(events.contains("\"message_type\":\"summary\""), "{events}");
    assert_eq!((&job["state"], &job["request"]), (&json!("done"), &json!("r-7")), "{job}");
    assert_eq!((again.0, &again.1["job"], &again.1["new"]), (202, &accepted["job"], &json!(false)));
    assert_eq!(reused.0, 422, "{}", reused.1);
    assert_eq!(states(&keepwell, "backup web"), ["done"]);
    assert_eq!(daemon.stop().0, Some(0));
    assert!(!keepwell.home().join("state/control.sock").exists());
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    let keepwell = with_group();
    let _daemon = Daemon::start(&keepwell);
    let huge = keepwell.path("huge");
    fs::write(&huge, vec![b' '; 2 << 20]).expect("written");
    let huge = format!("@{}", huge.display());
    let data = |body: &'static str| ["--request", "POST", "--data", body];

    for (words, path, expected, told) in [
        (&POST[..], "/v1/groups/wbe/points", 404, "no [group.wbe]"),
        (&data("{\"forse\": true}"), "/v1/groups/web/points", 422, "forse"),
        (&data("not json"), "/v1/groups/web/points", 422, "expected"),
        (&["--request", "POST", "--data-binary", &huge], "/v1/groups/web/points", 413, ""),
        (&data("{\"point\": \"latest\", \"to\": \"relative\"}"), "/v1/restores", 422, "absolute"),
        (&data("{\"point\": \"--help\", \"to\": \"/tmp/x\"}"), "/v1/restores", 422, "name a point"),
        (&POST, "/v1/maintenance/format", 404, "forget, prune or check"),
        (&[], "/v1/jobs/999", 404, "no job 999"),
        (&["--request", "DELETE"], "/v1/jobs/999", 409, "neither waits nor runs"),
        (&[], "/v2/status", 404, "openapi"),
        (&["--request", "PUT", "--data", "x"], "/v1/config", 428, "If-Match"),
        (
            &["--request", "PUT", "--header", "If-Match: \"0\"", "--data", "x"],
            "/v1/config",
            412,
            "meanwhile",
        ),
    ] {
        let (code, body) = answer(curl_command(&keepwell, words, path));
        assert_eq!(code, expected, "{path} {words:?}: {body}");
        assert!(body.contains(told), "{path}: {body}");
    }
    let (code, status) = curl(&keepwell, &[], "/v1/status");
    assert_eq!((code, &status["daemon"]), (200, &json!(true)), "it answers still");
}

#[test]
fn the_configuration_is_replaced_only_by_who_has_seen_it_and_only_by_a_sound_one() {
    let keepwell = with_group();
    let _daemon = Daemon::start(&keepwell);
    let path = keepwell.home().join("keepwell.toml");
    let good = fs::read_to_string(&path).expect("read");
    let put = |etag: &str, text: &str| {
        let file = keepwell.path("new.toml");
        fs::write(&file, text).expect("written");
        let (matching, data) = (format!("If-Match: {etag}"), format!("@{}", file.display()));
        let words = ["--request", "PUT", "--header", &matching, "--data-binary", &data];
        curl(&keepwell, &words, "/v1/config")
    };

    let etag = curl(&keepwell, &[], "/v1/config").1["etag"].as_str().expect("an ETag").to_string();
    let bad = put(&etag, &good.replace("sources", "sorces"));
    let more = "[group.more]\nsources = [{ files = [\"../srv\"] }]\nschedule = \"24h\"\n";
    let replaced = put(&etag, &format!("{good}{more}"));
    let late = put(&etag, &good);

    assert_eq!(bad.0, 422);
    assert!(bad.1["error"]["message"].as_str().expect("why").contains("sorces"), "{}", bad.1);
    assert_eq!(replaced.0, 200, "{}", replaced.1);
    assert_eq!(late.0, 412);
    wait_until("the new group is protected", || states(&keepwell, "backup more") == ["done"]);
}

#[test]
fn a_restore_is_a_job_too() {
    let keepwell = with_group();
    keepwell.ok(["backup", "web"]);
    let _daemon = Daemon::start(&keepwell);
    let body = json!({ "point": "latest:web", "to": keepwell.path("back") }).to_string();

    let (code, accepted) = curl(&keepwell, &["--request", "POST", "--data", &body], "/v1/restores");
    assert_eq!(code, 202, "{accepted}");
    wait_until("it is restored", || states(&keepwell, "restore latest:web") == ["done"]);

    assert_eq!(fs::read(keepwell.path("back/one")).expect("restored"), b"1");
}

#[test]
fn measurements_are_accepted_by_promtool_and_the_description_by_its_readers() {
    let keepwell = with_group();
    keepwell.ok(["backup", "web"]);
    let _daemon = Daemon::start(&keepwell);

    let (_, metrics) = answer(curl_command(&keepwell, &[], "/metrics"));
    let (_, openapi) = curl(&keepwell, &[], "/v1/openapi.json");

    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("promtool is installed");
    promtool.stdin.take().expect("a way in").write_all(metrics.as_bytes()).expect("it reads");
    let output = promtool.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}\n{metrics}");
    assert!(
        metrics.contains("keepwell_last_success_timestamp_seconds{group=\"web\",copy=\"disk\"}"),
        "{metrics}"
    );
    assert_eq!(openapi["openapi"], "3.1.0");
    assert!(openapi["paths"]["/v1/jobs/{id}/events"]["get"].is_object());
}

#[test]
fn strangers_are_refused_and_members_of_the_group_are_not_needed_for_root() {
    if !is_root("whether strangers are refused at the control socket") {
        return;
    }
    let keepwell = with_group();
    let _daemon = Daemon::start(&keepwell);
    let socket = keepwell.home().join("state/control.sock");
    let mode = fs::metadata(&socket).expect("a socket").permissions().mode() & 0o777;
    assert!(mode == 0o600 || mode == 0o660, "{mode:o}");
    // As if somebody had opened all doors by mistake: the peer's credentials decide still.
    let mut folder = socket.as_path();
    while let Some(parent) = folder.parent().filter(|parent| parent.starts_with(keepwell.path("")))
    {
        fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).expect("opened");
        folder = parent;
    }
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).expect("opened");
    let inner = curl_command(&keepwell, &[], "/v1/status");
    let mut stranger = Command::new("setpriv");
    stranger.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]);
    stranger.arg(inner.get_program()).args(inner.get_args());

    let (code, body) = answer(stranger);

    assert_eq!(code, 403, "{body}");
    assert!(body.contains("only root and members"), "{body}");
    assert_eq!(curl(&keepwell, &[], "/v1/status").0, 200);
}

#[test]
fn the_command_line_leaves_work_to_the_daemon_and_ends_as_the_job_ends() {
    let keepwell = with_group();
    let _daemon = Daemon::start(&keepwell);

    let made = keepwell.ok(["--json", "backup", "web"]);
    fs::rename(keepwell.path("srv"), keepwell.path("away")).expect("moved");
    let failed = keepwell.run(["backup", "web"]);

    assert_eq!(made.messages().last().expect("a summary")["groups"][0]["points"][0]["files"], 1);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.stderr.contains("srv"), "{failed:?}");
    let all = jobs(&keepwell);
    assert_eq!(all.iter().map(|job| job["reason"].as_str()).collect::<Vec<_>>(), [Some("hand"); 2]);
    assert!(all.iter().all(|job| job["request"].is_string()), "{all:?}");
}

#[test]
fn a_job_is_left_found_again_and_stopped() {
    let keepwell = with_waiting_group();
    let _daemon = Daemon::start(&keepwell);

    let detached = keepwell.document(["backup", "web", "--detach"]);
    let job = detached["jobs"][0].to_string();
    wait_until("it runs", || keepwell.path("began").exists());
    let attached = keepwell.start(["jobs", "attach", &job]);
    let mut leaving = keepwell.start(["--json", "jobs", "attach", &job]);
    // Only who shows something already listens to signals.
    let mut shown = std::io::BufReader::new(leaving.stdout.take().expect("its words"));
    std::io::BufRead::read_line(&mut shown, &mut String::new()).expect("a status");
    rustix::process::kill_process(rustix::process::Pid::from_child(&leaving), Signal::INT)
        .expect("it lives");
    let left = leaving.wait_with_output().expect("it ends");
    fs::write(keepwell.path("go"), "").expect("written");
    let ended = attached.wait_with_output().expect("it ends");

    assert_eq!(left.status.code(), Some(130), "{left:?}");
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(states(&keepwell, "backup web"), ["done"]);

    fs::remove_file(keepwell.path("go")).expect("removed");
    fs::remove_file(keepwell.path("began")).expect("removed");
    let detached = keepwell.document(["backup", "web", "--detach"]);
    wait_until("it runs", || keepwell.path("began").exists());
    keepwell.ok(["jobs", "cancel", &detached["jobs"][0].to_string()]);
    wait_until("it is stopped", || states(&keepwell, "backup web") == ["cancelled", "done"]);
    let gone = keepwell.run(["jobs", "cancel", "999"]);
    assert_eq!(gone.code, Some(1), "{gone:?}");
}
