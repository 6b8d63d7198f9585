//! `keepwell repair --vault`: what the second copy has lost is put again.

use std::sync::Arc;
use std::time::Duration;

use cloudsync::check::CheckOptions;
use cloudsync::heal::{Fate, HealReport};
use serde::Serialize;

use crate::assembly::Assembly;
use crate::console::Console;
use crate::console::units::{counted, duration, seconds, size};
use crate::error::{Attempt, Error, Outcome};
use crate::vaults::{self, Engine, OwnVault};

#[derive(Serialize)]
struct Summary {
    vault: String,
    whole: bool,
    duration_seconds: f64,
    history_mended: bool,
    objects: Vec<Object>,
    bytes_uploaded: u64,
    affected_points: Vec<String>,
}

#[derive(Serialize)]
struct Object {
    what: &'static str,
    id: String,
    detail: String,
    fate: &'static str,
    chunks: u64,
    chunks_lost: u64,
}

/// Repairs the vault with this name, or the only one if it is empty.
pub(super) fn repair_vault(
    assembly: &Assembly,
    name: &str,
    read_data: Option<f64>,
) -> Result<Outcome, Error> {
    let config = assembly.config()?;
    let (name, vault) = vaults::choose(&config, Some(name).filter(|name| !name.is_empty()))?;
    let attempt = || format!("repair the vault \"{name}\"");
    let pool = assembly.open_configured(&config)?;
    let engine = Engine::start()?;
    let mut own = OwnVault::open(assembly, &engine, name, vault).attempt(attempt)?;
    let options = CheckOptions { read_data };
    let progress = Arc::new(assembly.console.progress("objects"));
    let healed = own.heal(&engine, &pool, &options, progress.clone());
    let elapsed = vaults::finish(progress);
    let (_, report) = healed.attempt(attempt)?;
    tell(&assembly.console, name, &report, elapsed);
    Ok(if report.is_whole() { Outcome::Done } else { Outcome::Damage })
}

fn word(fate: Fate) -> &'static str {
    match fate {
        Fate::Replaced => "replaced",
        Fate::Partly => "replaced in part",
        Fate::Left => "left",
    }
}

fn tell(console: &Console, name: &str, report: &HealReport, elapsed: Duration) {
    let objects = report.objects.iter().map(|object| Object {
        what: object.what,
        id: object.object.clone(),
        detail: object.detail.clone(),
        fate: word(object.fate),
        chunks: object.chunks,
        chunks_lost: object.chunks_lost,
    });
    console.message(
        "summary",
        &Summary {
            vault: name.to_string(),
            whole: report.is_whole(),
            duration_seconds: seconds(elapsed),
            history_mended: report.chain_mended,
            objects: objects.collect(),
            bytes_uploaded: report.bytes_put,
            affected_points: report.affected_points.iter().map(ToString::to_string).collect(),
        },
    );
    if report.chain_mended {
        console.say("history made readable again");
    }
    for object in &report.objects {
        let lost = match object.chunks_lost {
            0 => String::new(),
            lost => format!(", {} lost", counted(lost, "chunk")),
        };
        let (what, id, fate) = (object.what, &object.object, word(object.fate));
        console.say(format!("{what} {id}: {}; {fate}{lost}", object.detail));
    }
    for point in &report.affected_points {
        console.say(format!("affected: point {}", point.short()));
    }
    if report.objects.iter().any(|object| object.what == "passphrase slot") {
        console.hint("\"keepwell key passwd\" writes a new slot for a passphrase");
    }
    if report.is_whole() {
        console.note(format!(
            "the vault \"{name}\" is whole; {} uploaded ({})",
            size(report.bytes_put),
            duration(elapsed)
        ));
        return;
    }
    let points = counted(report.affected_points.len() as u64, "point");
    console
        .warn(format!("not everything could be replaced; {points} cannot be recovered completely"));
    console.hint("a new backup and sync protect again what is still there at the source");
}
