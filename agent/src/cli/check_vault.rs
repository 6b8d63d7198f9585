//! `keepwell check --vault`: the proof that every point can be recovered, as far as it was looked at.

use std::sync::Arc;
use std::time::Duration;

use cloudsync::check::{CheckOptions, CheckReport};
use serde::Serialize;

use crate::assembly::Assembly;
use crate::console::Console;
use crate::console::units::{count, counted, duration, seconds, size};
use crate::error::{Attempt, Error, Outcome};
use crate::vaults::{self, Engine, OwnVault};

#[derive(Serialize)]
struct Summary {
    vault: String,
    sound: bool,
    duration_seconds: f64,
    generation: u64,
    commits_read: u64,
    commits_needless: u64,
    objects: u64,
    packs: u64,
    packs_read: u64,
    indexes_read: u64,
    manifests_read: u64,
    bytes_read: u64,
    points: u64,
    points_walked: u64,
    orphans: u64,
    damage_count: u64,
    affected_points: Vec<String>,
}

#[derive(Serialize)]
struct DamageMessage<'a> {
    what: &'a str,
    id: &'a str,
    message: &'a str,
}

/// Checks the vault with this name, or the only one if it is empty.
pub(super) fn check_vault(
    assembly: &Assembly,
    name: &str,
    read_data: Option<f64>,
) -> Result<Outcome, Error> {
    let config = assembly.config()?;
    let (name, vault) = vaults::choose(&config, Some(name).filter(|name| !name.is_empty()))?;
    let attempt = || format!("check the vault \"{name}\"");
    let engine = Engine::start()?;
    let own = OwnVault::open(assembly, &engine, name, vault).attempt(attempt)?;
    let options = CheckOptions { read_data };
    let progress = Arc::new(assembly.console.progress("objects"));
    let checked = own.check(&engine, &options, progress.clone());
    let elapsed = vaults::finish(progress);
    let report = checked.attempt(attempt)?;
    tell(&assembly.console, name, &report, elapsed);
    Ok(if report.is_sound() { Outcome::Done } else { Outcome::Damage })
}

fn tell(console: &Console, name: &str, report: &CheckReport, elapsed: Duration) {
    tell_damages(console, report);
    console.message(
        "summary",
        &Summary {
            vault: name.to_string(),
            sound: report.is_sound(),
            duration_seconds: seconds(elapsed),
            generation: report.generation.0,
            commits_read: report.commits_read,
            commits_needless: report.commits_needless,
            objects: report.objects,
            packs: report.packs,
            packs_read: report.packs_read,
            indexes_read: report.indexes_read,
            manifests_read: report.manifests_read,
            bytes_read: report.bytes_read,
            points: report.points,
            points_walked: report.points_walked,
            orphans: report.orphans,
            damage_count: report.damage_count,
            affected_points: report.affected_points.iter().map(ToString::to_string).collect(),
        },
    );
    console.note(format!(
        "checked {} and {} of the vault \"{name}\" in {}",
        counted(report.points, "point"),
        counted(report.objects, "object"),
        duration(elapsed)
    ));
    // What was not looked at is not called sound.
    console.note(match report.packs_read {
        0 => "every object is there with the right size; none was read (--read-data does)"
            .to_string(),
        read if read == report.packs => {
            format!("all {} read and verified: {}", counted(read, "pack"), size(report.bytes_read))
        }
        read => format!(
            "{} of {} read and verified: {}",
            count(read),
            counted(report.packs, "pack"),
            size(report.bytes_read)
        ),
    });
    if report.commits_needless > 0 {
        console.note(format!(
            "{} cannot be read any more; what it said is in a later checkpoint",
            counted(report.commits_needless, "old commit")
        ));
    }
    if report.is_sound() {
        console.note("no damage found");
        return;
    }
    let damages = counted(report.damage_count, "damaged object");
    let points = counted(report.affected_points.len() as u64, "point");
    console.warn(format!("{damages}; {points} cannot be recovered completely"));
    console.hint("run \"keepwell repair --vault\" to replace from the pool what can be replaced");
}

/// Prints what is damaged and whom it affects.
pub(super) fn tell_damages(console: &Console, report: &CheckReport) {
    for damage in &report.damages {
        let (what, id, message) = (damage.what, damage.object.as_str(), damage.detail.as_str());
        console.message("error", &DamageMessage { what, id, message });
        console.say(format!("damaged: {what} {id}: {message}"));
    }
    let more = report.damage_count.saturating_sub(report.damages.len() as u64);
    if more > 0 {
        console.say(format!("and {} more", count(more)));
    }
    for point in &report.affected_points {
        console.say(format!("affected: point {}", point.short()));
    }
}
