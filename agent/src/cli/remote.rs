//! Commands that a running daemon carries out: asked for at the control socket, shown while they run, left and found again.

use serde_json::{Value, json};

use crate::assembly::Assembly;
use crate::console::RemoteProgress;
use crate::console::units::{counted, size};
use crate::control::client::{Client, ClientError};
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::job::Task;
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

/// Has the daemon look after the pool or a vault.
pub(super) fn upkeep(
    assembly: &Assembly,
    client: &Client,
    task: &Task,
    options: &Value,
    detach: bool,
) -> Result<Outcome, Error> {
    let path = match task {
        Task::Vault(upkeep, vault) => format!("/v1/vaults/{vault}/maintenance/{}", upkeep.word()),
        other => format!("/v1/maintenance/{other}"),
    };
    let answer = client.ask("POST", &path, Some(options));
    let answer = answer.attempt(|| format!("have the daemon run \"{task}\""))?;
    follow(assembly, client, &answer, &task.to_string(), detach)
}

/// Has the daemon drill groups, each as its document says.
pub(super) fn drill(
    assembly: &Assembly,
    client: &Client,
    groups: &[(&str, Value)],
    detach: bool,
) -> Result<Outcome, Error> {
    let mut jobs = Vec::new();
    for (name, wanted) in groups {
        let answer = client.ask("POST", &format!("/v1/groups/{name}/drills"), Some(wanted));
        let answer = answer.attempt(|| format!("have the daemon drill group \"{name}\""))?;
        jobs.push(answer["job"].as_i64().unwrap_or_default());
    }
    if detach {
        assembly.console.document(&json!({ "jobs": jobs }));
        for ((name, _), job) in groups.iter().zip(&jobs) {
            assembly.console.note(format!("job {job} drills \"{name}\""));
        }
        return Ok(Outcome::Done);
    }
    follow_all(assembly, client, &jobs)
}

/// Has the daemon restore; `None` if it may not write there, and the command has to do it itself.
pub(super) fn restore(
    assembly: &Assembly,
    client: &Client,
    wanted: &Value,
    detach: bool,
) -> Result<Option<Outcome>, Error> {
    const CONFLICT: u16 = 409;
    match client.ask("POST", "/v1/restores", Some(wanted)) {
        Err(ClientError::Refused { status: CONFLICT, .. }) if !detach => Ok(None),
        answer => {
            let answer = answer.attempt(|| "have the daemon restore".to_string())?;
            follow(assembly, client, &answer, "the restore", detach).map(Some)
        }
    }
}

fn follow(
    assembly: &Assembly,
    client: &Client,
    answer: &Value,
    what: &str,
    detach: bool,
) -> Result<Outcome, Error> {
    let job = answer["job"].as_i64().unwrap_or_default();
    if detach {
        assembly.console.document(&json!({ "jobs": [job] }));
        assembly.console.note(format!("job {job} does \"{what}\""));
        return Ok(Outcome::Done);
    }
    attach(assembly, client, job)
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
            const DAMAGE: u8 = 5;
            let unexplained = || match code {
                Some(DAMAGE) => "damage was found".to_string(),
                _ => format!(
                    "job {job} {}",
                    if state == "failed" { state.to_string() } else { format!("was {state}") }
                ),
            };
            let message = text("message").unwrap_or_else(unexplained);
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
    let summary = &end["summary"];
    if let Some(line) = outcome_line(end["task"].as_str().unwrap_or_default(), summary) {
        return assembly.console.note(line);
    }
    let groups = summary["groups"].as_array().cloned().unwrap_or_default();
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

// What a job did, from its summary; the words are those of the command that did it.
fn outcome_line(task: &str, summary: &Value) -> Option<String> {
    let number = |name: &str| summary[name].as_u64();
    let command = task.split(' ').next().unwrap_or_default();
    match command {
        "prune" => {
            let freed = summary["bytes_freed"].as_i64()?;
            let freed = match u64::try_from(freed) {
                Ok(bytes) => format!("{} freed", size(bytes)),
                Err(_) => format!("{} more in use", size(freed.unsigned_abs())),
            };
            let deleted = number("packs_deleted").map(|packs| counted(packs, "pack"));
            let deleted = deleted.or(number("objects_deleted").map(|it| counted(it, "object")))?;
            Some(format!("{task}: {deleted} deleted, {freed}"))
        }
        "check" => {
            let points = number("points_checked").or(number("points"))?;
            let found = match summary["sound"].as_bool()? {
                true => "no damage found".to_string(),
                false => counted(number("damage_count")?, "damaged object"),
            };
            Some(format!("{task}: {}, {found}", counted(points, "point")))
        }
        "forget" => {
            let (gone, kept) = (number("removed")?, number("kept")?);
            Some(format!("{task}: {} forgotten, {kept} kept", counted(gone, "point")))
        }
        "drill" => {
            let (proven, damaged) = (number("proven")?, number("damaged")?);
            let others = [(damaged, "not as it should be"), (number("failed")?, "not drilled")];
            let others = others.iter().filter(|(count, _)| *count > 0);
            let others = others.map(|(count, what)| format!(", {count} {what}"));
            let proven = counted(proven, "source");
            Some(format!("{task}: {proven} proven{}", others.collect::<String>()))
        }
        "restore" => {
            let targets: Vec<_> =
                summary["targets"].as_array()?.iter().filter_map(Value::as_str).collect();
            Some(format!(
                "restored {}, {} into {}",
                counted(number("files")?, "file"),
                size(number("bytes")?),
                targets.join(", ")
            ))
        }
        _ => None,
    }
}

/// Stops a job, or takes it from the queue.
pub(super) fn cancel(assembly: &Assembly, client: &Client, job: i64) -> Result<Outcome, Error> {
    client.ask("DELETE", &format!("/v1/jobs/{job}"), None).attempt(|| format!("stop job {job}"))?;
    assembly.console.document(&json!({ "job": job, "cancelled": true }));
    assembly.console.note(format!("job {job} stops"));
    Ok(Outcome::Done)
}
