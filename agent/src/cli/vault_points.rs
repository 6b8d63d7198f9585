//! `keepwell points --vault`: the recovery points of a vault, also those that were forgotten and can still be restored.

use cloudsync::forget::ForgottenPoint;
use cloudsync::vault::commit::PointRecord;
use serde::Serialize;

use crate::assembly::Assembly;
use crate::console::Console;
use crate::console::table::{Align, Table};
use crate::console::units::{count, counted, local, rfc3339, size};
use crate::error::{Attempt, Error, Outcome};
use crate::vaults::{self, Engine, OwnVault};

#[derive(Serialize)]
struct PointDocument {
    id: String,
    short_id: String,
    started: String,
    finished: String,
    host: String,
    group: String,
    source: String,
    workload: String,
    tags: Vec<String>,
    on_demand: bool,
    keep_until: Option<String>,
    files: u64,
    bytes: u64,
    bytes_stored: u64,
    problem_count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    forgotten: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gone_after: Option<Option<String>>,
}

impl PointDocument {
    fn of(point: &PointRecord) -> Self {
        Self {
            id: point.id.to_string(),
            short_id: point.id.short(),
            started: rfc3339(point.started),
            finished: rfc3339(point.finished),
            host: point.host.clone(),
            group: point.group.clone(),
            source: point.source.clone(),
            workload: point.workload.clone(),
            tags: point.tags.clone(),
            on_demand: point.on_demand,
            keep_until: point.keep_until.map(rfc3339),
            files: point.files,
            bytes: point.bytes,
            bytes_stored: point.bytes_stored,
            problem_count: point.problems,
            forgotten: None,
            gone_after: None,
        }
    }

    fn of_forgotten(point: &ForgottenPoint) -> Self {
        Self {
            forgotten: Some(point.forgotten.map(rfc3339)),
            gone_after: Some(point.gone_after.map(rfc3339)),
            ..Self::of(&point.record)
        }
    }
}

pub(super) fn run(
    assembly: &Assembly,
    name: Option<&str>,
    forgotten: bool,
    names: &[String],
) -> Result<Outcome, Error> {
    let config = assembly.config()?;
    let (name, vault) = vaults::choose(&config, name)?;
    let attempt = || format!("list the points of the vault \"{name}\"");
    let engine = Engine::start()?;
    let mut own = OwnVault::open(assembly, &engine, name, vault).attempt(attempt)?;
    let snapshot = own.state(&engine).attempt(attempt)?;
    let wanted = |point: &PointRecord| {
        let is = |name: &String| {
            *name == point.group || *name == point.source || point.id.to_string().starts_with(name)
        };
        names.is_empty() || names.iter().any(is)
    };
    let console = &assembly.console;
    let mut listing = console.listing("points", &serde_json::json!({ "vault": name }));
    let mut rows = Vec::new();
    if forgotten {
        let points = own.forgotten(&engine, &snapshot, vault).attempt(attempt)?;
        for point in points.iter().filter(|point| wanted(&point.record)) {
            listing.item(&PointDocument::of_forgotten(point));
            let until = point.gone_after.map_or_else(|| "?".to_string(), local);
            rows.push((point.record.clone(), until));
        }
    } else {
        let mut points: Vec<_> = snapshot.points().values().filter(|it| wanted(it)).collect();
        points.sort_by_key(|point| (point.started, point.id));
        for point in points {
            listing.item(&PointDocument::of(point));
            rows.push((point.clone(), String::new()));
        }
    }
    listing.finish(&());
    tell(console, &rows, forgotten);
    Ok(Outcome::Done)
}

fn tell(console: &Console, rows: &[(PointRecord, String)], forgotten: bool) {
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("Time", Align::Left),
        ("Group", Align::Left),
        ("Source", Align::Left),
        ("Tags", Align::Left),
        ("Files", Align::Right),
        ("Size", Align::Right),
        ("Added", Align::Right),
        ("Can be restored until", Align::Left),
    ]);
    for (point, until) in rows {
        table.row(vec![
            point.id.short(),
            local(point.started),
            point.group.clone(),
            point.source.clone(),
            point.tags.join(", "),
            count(point.files),
            size(point.bytes),
            size(point.bytes_stored),
            until.clone(),
        ]);
    }
    if !rows.is_empty() {
        table.lines().iter().for_each(|line| console.say(line));
    }
    let what = if forgotten { "forgotten point" } else { "point" };
    console.say(match rows.len() {
        0 => format!("no {what}s"),
        number => counted(number as u64, what),
    });
}
