//! Commands that a running daemon carries out: asked for at the control socket, shown while they run, left and found again.

use serde_json::{Value, json};

use crate::assembly::Assembly;
use crate::console::RemoteProgress;
use crate::console::units::{counted, size};
use crate::control::client::Client;
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::job::backup::BackupChoices;

/// Returns the way to the daemon.
pub(super) fn daemon(assembly: &Assembly) -> Result<Client, Error> {
    Client::connect(&assembly.place)
        .ok_or_else(|| Error::usage("no daemon runs here, or you may not reach it"))
}

/// Has the daemon make points of groups.
pub(super) fn backup(
    assembly: &Assembly,
    client: &Client,
    names: &[String],
    choices: &BackupChoices,
    detach: bool,
) -> Result<Outcome, Error> {
    let attempt = || "have the daemon make points".to_string();
    let names = match names.is_empty() {
        false => names.to_vec(),
        true => all_groups(client).attempt(attempt)?,
    };
    if names.is_empty() {
        return Err(Error::usage("no group is configured, or all of them are paused"));
    }
    let body = json!({ "force": choices.force, "tags": choices.tags });
    let mut jobs = Vec::new();
    for name in &names {
        let answer = client.ask("POST", &format!("/v1/groups/{name}/points"), Some(&body));
        let answer = answer.attempt(|| format!("have the daemon back up group \"{name}\""))?;
        jobs.push(answer["job"].as_i64().unwrap_or_default());
    }
    if detach {
        assembly.console.document(&json!({ "jobs": jobs }));
        for (name, job) in names.iter().zip(&jobs) {
            assembly.console.note(format!("job {job} makes points of \"{name}\""));
        }
        return Ok(Outcome::Done);
    }
    follow_all(assembly, client, &jobs)
}

/// Has the daemon copy the points of groups.
pub(super) fn sync(
    assembly: &Assembly,
    client: &Client,
    names: &[String],
) -> Result<Outcome, Error> {
    let mut jobs = Vec::new();
    for name in names {
        let answer = client.ask("POST", &format!("/v1/groups/{name}/copies"), None);
        let answer = answer.attempt(|| format!("have the daemon copy group \"{name}\""))?;
        jobs.push(answer["job"].as_i64().unwrap_or_default());
    }
    follow_all(assembly, client, &jobs)
}

fn all_groups(client: &Client) -> Result<Vec<String>, Cause> {
    let status = client.ask("GET", "/v1/status", None)?;
    let groups = status["groups"].as_array().cloned().unwrap_or_default();
    let active = groups.iter().filter(|group| group["paused"] == false);
    Ok(active.filter_map(|group| group["group"].as_str().map(str::to_string)).collect())
}

fn follow_all(assembly: &Assembly, client: &Client, jobs: &[i64]) -> Result<Outcome, Error> {
    let mut worst = Outcome::Done;
    let mut failure = None;
    for job in jobs {
        match attach(assembly, client, *job) {
            Ok(outcome) => worst = worst.max(outcome),
            Err(error @ Error { cause: Cause::Detached { .. }, .. }) => return Err(error),
            Err(error) => {
                if let Some(before) = failure.replace(error) {
                    assembly.console.complain(&before);
                }
            }
        }
    }
    failure.map_or(Ok(worst), Err)
}

/// Shows a job until it ends, and ends as it ends.
pub(super) fn attach(assembly: &Assembly, client: &Client, job: i64) -> Result<Outcome, Error> {
    let mut progress = RemoteProgress::begin(&assembly.console);
    let mut end = None;
    let followed = client.follow(
        job,
        |message| match message["message_type"].as_str() {
            Some("end") => {
                end = Some(message["job"].clone());
                false
            }
            _ => {
                progress.hear(&message);
                true
            }
        },
        || !assembly.console.is_cancelled(),
    );
    progress.finish();
    followed.attempt(|| format!("follow job {job}"))?;
    let Some(end) = end else {
        let cause = match assembly.console.is_cancelled() {
            true => Cause::Detached { job },
            false => Cause::Job {
                message: format!("the daemon ended before job {job} did"),
                hint: Some(
                    "the job is run again when the daemon runs; see \"keepwell jobs\"".into(),
                ),
                code: 1,
            },
        };
        return Err(Error { attempt: String::new(), cause });
    };
    conclude(assembly, job, &end)
}

fn conclude(assembly: &Assembly, job: i64, end: &Value) -> Result<Outcome, Error> {
    let state = end["state"].as_str().unwrap_or_default();
    let code = end["exit_code"].as_u64().and_then(|code| u8::try_from(code).ok());
    tell(assembly, end);
    match (state, code) {
        ("done", _) => Ok(Outcome::Done),
        ("incomplete", Some(4)) => Ok(Outcome::VaultBehind),
        ("incomplete", _) => Ok(Outcome::Incomplete),
        _ => {
            let text = |name: &str| end[name].as_str().map(str::to_string);
            let message = text("message").unwrap_or_else(|| format!("job {job} was {state}"));
            let code = match state {
                "cancelled" | "interrupted" => crate::signals::EXIT_INTERRUPTED as u8,
                _ => code.filter(|code| *code != 0).unwrap_or(1),
            };
            let cause = Cause::Job { message, hint: text("hint"), code };
            Err(Error { attempt: String::new(), cause })
        }
    }
}

fn tell(assembly: &Assembly, end: &Value) {
    let groups = end["summary"]["groups"].as_array().cloned().unwrap_or_default();
    for group in &groups {
        let name = group["group"].as_str().unwrap_or_default();
        for point in group["points"].as_array().into_iter().flatten() {
            let number = |field: &str| point[field].as_u64().unwrap_or(0);
            let id = point["point"].as_str().unwrap_or_default();
            assembly.console.note(format!(
                "point {} of {} in group \"{name}\": {}, {} looked at, {} added to the pool",
                &id[..id.len().min(8)],
                point["source"].as_str().unwrap_or_default(),
                counted(number("files"), "file"),
                size(number("bytes")),
                size(number("bytes_stored")),
            ));
        }
    }
    if !groups.is_empty() {
        return;
    }
    if let (Some(task), Some(state)) = (end["task"].as_str(), end["state"].as_str()) {
        assembly.console.note(format!("{task}: {state}"));
    }
}

/// Stops a job, or takes it from the queue.
pub(super) fn cancel(assembly: &Assembly, client: &Client, job: i64) -> Result<Outcome, Error> {
    client.ask("DELETE", &format!("/v1/jobs/{job}"), None).attempt(|| format!("stop job {job}"))?;
    assembly.console.document(&json!({ "job": job, "cancelled": true }));
    assembly.console.note(format!("job {job} stops"));
    Ok(Outcome::Done)
}
