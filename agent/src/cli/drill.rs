//! `keepwell drill`: the proof that points can be restored, by restoring them.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::json;
use storepool::clock::{Clock, SystemClock, Timestamp};

use super::remote;
use crate::assembly::Assembly;
use crate::config::{Config, DrillCopy, GroupConfig, SampleSize};
use crate::console::failure;
use crate::console::units::{between, counted, duration, rfc3339, seconds, size};
use crate::control::client::Client;
use crate::drill::{self, DrillOrder, DrillRecord, Grade, Seed, SourceResult, Verdict};
use crate::error::{Cause, Error, Outcome};
use crate::job;
use crate::origin::Side;
use crate::record::recorded;

/// Prove that points can be restored, by restoring them
///
/// Restores a sample of each source of a group (or all of it) into a private folder, reads it again from the disk, compares it with what the point says,
/// and removes it. Databases are started and run their own check where their programs are installed. The result is sealed and kept with the point; "keepwell
/// status" shows when each copy was proven. Differences: exit code 5; a drill that could not be made: 1. See docs/drills.md.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell drill
  keepwell drill web --from vault
  keepwell drill web --sample all --in /mnt/spare
  keepwell drill web --seed 5b1c90aa17e2f034     the same files again")]
pub(super) struct Drill {
    /// The groups; all of them if none is named
    #[arg(value_name = "GROUP")]
    groups: Vec<String>,
    /// Which copy is restored, if not the one of the configuration
    #[arg(long, value_enum, value_name = "COPY")]
    from: Option<Side>,
    /// Which vault of the configuration, with --from vault
    #[arg(long, value_name = "NAME")]
    vault: Option<String>,
    /// How much of each source: files of so many bytes together, or all
    #[arg(long, value_name = "SIZE")]
    sample: Option<SampleSize>,
    /// Repeat the choice of a drill that printed this seed
    #[arg(long, value_name = "SEED")]
    seed: Option<Seed>,
    /// Restore into a new folder in DIR, which goes again, instead of beside the state
    #[arg(long = "in", value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Leave the work to the daemon and do not wait for its end
    #[arg(long, conflicts_with = "folder")]
    detach: bool,
}

#[derive(Serialize)]
struct Summary {
    proven: u64,
    damaged: u64,
    failed: u64,
    bytes: u64,
    duration_seconds: f64,
    sources: Vec<Report>,
}

/// What came of a source, for programs.
#[derive(Serialize)]
struct Report {
    group: String,
    source: String,
    #[serde(flatten)]
    found: Option<Found>,
    error: Option<String>,
}

#[derive(Serialize)]
struct Found {
    workload: String,
    copy: String,
    point: String,
    point_time: String,
    point_age_seconds: u64,
    verdict: Verdict,
    grade: Grade,
    whole: bool,
    files: u64,
    bytes: u64,
    all_files: u64,
    all_bytes: u64,
    seed: String,
    recovery_seconds: f64,
    check: Option<String>,
    difference_count: u64,
    differences: Vec<String>,
    remarks: Vec<String>,
}

impl Found {
    fn of(record: &DrillRecord) -> Self {
        let started = Timestamp(record.point_time);
        Self {
            workload: record.workload.clone(),
            copy: record.copy.clone(),
            point: record.point.clone(),
            point_time: rfc3339(started),
            point_age_seconds: between(started, record.time()).as_secs(),
            verdict: record.verdict,
            grade: record.grade,
            whole: record.whole,
            files: record.files,
            bytes: record.bytes,
            all_files: record.all_files,
            all_bytes: record.all_bytes,
            seed: record.seed.clone(),
            recovery_seconds: record.recovery_seconds,
            check: record.check.clone(),
            difference_count: record.difference_count,
            differences: record.differences.clone(),
            remarks: record.remarks.clone(),
        }
    }
}

impl Drill {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let config = assembly.config()?;
        let names: Vec<&str> = match self.groups.is_empty() {
            true => config.groups.keys().map(String::as_str).collect(),
            false => self.groups.iter().map(String::as_str).collect(),
        };
        if names.is_empty() {
            return Err(Error::usage("no group is configured: there is nothing to drill"));
        }
        let mut chosen = Vec::new();
        for name in names {
            let group = job::group(&config, name)?;
            chosen.push((group, self.order(group)?));
        }
        // A folder of one's own is for oneself: a hardened service may not write there.
        if assembly.job.is_none()
            && self.folder.is_none()
            && let Some(client) = Client::connect(&assembly.place)
        {
            let wanted: Vec<_> =
                chosen.iter().map(|(group, order)| (group.name.as_str(), body(order))).collect();
            return remote::drill(assembly, &client, &wanted, self.detach);
        }
        if self.detach {
            return Err(Error::usage("--detach leaves the work to the daemon, and none runs here"));
        }
        here(assembly, &config, &chosen)
    }

    fn order(&self, group: &GroupConfig) -> Result<DrillOrder, Error> {
        let mut order = DrillOrder::of(group);
        match self.from {
            None => {}
            Some(Side::Pool) => order.from = DrillCopy::Pool,
            Some(Side::Vault) => order.from = DrillCopy::Vault,
        }
        if self.vault.is_some() && order.from == DrillCopy::Pool {
            return Err(Error::usage("--vault is for --from vault"));
        }
        order.vault.clone_from(&self.vault);
        order.sample = self.sample.unwrap_or(order.sample);
        order.seed = self.seed;
        order.folder = self.folder.clone().or(order.folder);
        Ok(order)
    }
}

// As the control socket takes it.
fn body(order: &DrillOrder) -> serde_json::Value {
    json!({
        "from": order.from.word(),
        "vault": order.vault,
        "sample": order.sample.to_string(),
        "seed": order.seed.map(|seed| seed.to_string()),
    })
}

fn here(
    assembly: &Assembly,
    config: &Config,
    chosen: &[(&GroupConfig, DrillOrder)],
) -> Result<Outcome, Error> {
    let clock = SystemClock::new();
    let begin = clock.monotonic();
    let mut results: Vec<(&str, SourceResult)> = Vec::new();
    let mut worst = Outcome::Done;
    let mut failure = None;
    for (group, order) in chosen {
        let ended = recorded(assembly, &order.name(group), || {
            let mut found = drill::run(assembly, config, group, order)?;
            let ended = judge(group, &found);
            results.extend(found.drain(..).map(|result| (group.name.as_str(), result)));
            ended
        });
        match ended {
            Ok(outcome) => worst = worst.max(outcome),
            Err(error @ Error { cause: Cause::Pool(storepool::Error::Interrupted), .. }) => {
                return Err(error);
            }
            Err(error) => {
                if let Some(before) = failure.replace(error) {
                    assembly.console.complain(&before);
                }
            }
        }
    }
    tell(assembly, &results, clock.monotonic().saturating_sub(begin));
    match failure {
        // Damage is worse than not knowing.
        Some(error) if worst == Outcome::Damage => {
            assembly.console.complain(&error);
            Ok(worst)
        }
        Some(error) => Err(error),
        None => Ok(worst),
    }
}

fn judge(group: &GroupConfig, results: &[SourceResult]) -> Result<Outcome, Error> {
    let is_damaged = |result: &SourceResult| {
        result.result.as_ref().is_ok_and(|record| record.verdict == Verdict::Damaged)
    };
    if results.iter().any(is_damaged) {
        return Ok(Outcome::Damage);
    }
    let failed: Vec<_> = results.iter().filter_map(|it| it.result.as_ref().err()).collect();
    let Some(first) = failed.first() else { return Ok(Outcome::Done) };
    let told = failure::explain(first);
    let cause = Cause::Drills {
        failed: failed.len(),
        all: results.len(),
        first: told.message,
        hint: told.hint,
        code: told.code,
    };
    Err(Error { attempt: format!("drill group \"{}\"", group.name), cause })
}

fn tell(assembly: &Assembly, results: &[(&str, SourceResult)], elapsed: Duration) {
    let console = &assembly.console;
    let records: Vec<_> = results.iter().filter_map(|(_, it)| it.result.as_ref().ok()).collect();
    let with = |verdict| records.iter().filter(|record| record.verdict == verdict).count() as u64;
    let sources = results.iter().map(|(group, result)| Report {
        group: (*group).to_string(),
        source: result.source.clone(),
        found: result.result.as_ref().ok().map(Found::of),
        error: result.result.as_ref().err().map(|error| failure::explain(error).message),
    });
    let damaged = with(Verdict::Damaged);
    console.message(
        "summary",
        &Summary {
            proven: with(Verdict::Proven),
            damaged,
            failed: (results.len() - records.len()) as u64,
            bytes: records.iter().map(|record| record.bytes).sum(),
            duration_seconds: seconds(elapsed),
            sources: sources.collect(),
        },
    );
    for record in &records {
        tell_record(assembly, record);
    }
    let Some(worst) = records.iter().find(|record| record.verdict == Verdict::Damaged) else {
        return;
    };
    let first = worst.differences.first().map(String::as_str).unwrap_or_default();
    console.warn(format!(
        "{} of {}, restored from the {}: {}",
        counted(worst.difference_count, "difference"),
        worst.source,
        worst.copy,
        first
    ));
    console.hint(match worst.copy.as_str() {
        "pool" => {
            "run \"keepwell check --read-data\" to see what is damaged and \"keepwell repair\" to heal it, then drill again"
        }
        _ => {
            "run \"keepwell check --vault --read-data\" to see what is damaged and \"keepwell repair --vault\" to heal it, then drill again"
        }
    });
}

fn tell_record(assembly: &Assembly, record: &DrillRecord) {
    let console = &assembly.console;
    let age = duration(between(Timestamp(record.point_time), record.time()));
    let seconds = duration(Duration::from_secs_f64(record.recovery_seconds.max(0.0)));
    let amount = match record.whole {
        true => format!("all of it ({}, {})", counted(record.files, "file"), size(record.bytes)),
        false => format!(
            "{} of {}, {} of {}",
            counted(record.files, "file"),
            record.all_files,
            size(record.bytes),
            size(record.all_bytes)
        ),
    };
    let verdict = match (record.verdict, record.grade) {
        (Verdict::Proven, Grade::Compared) => "proven: restored and compared",
        (Verdict::Proven, Grade::Working) => "proven: restored, and it works",
        (Verdict::Damaged, _) => "NOT proven: not as it should be",
    };
    console.note(format!("{} from the {}: {verdict}", record.source, record.copy));
    console.note(format!(
        "    {amount} in {seconds}; point {}, {age} old",
        &record.point[..record.point.len().min(8)]
    ));
    if let Some(check) = &record.check {
        console.note(format!("    {check}"));
    }
    if !record.whole {
        console.note(format!("    --seed {} repeats the choice", record.seed));
    }
    for remark in &record.remarks {
        console.note(format!("    {remark}"));
    }
    for difference in &record.differences {
        console.say(format!("differs: {difference}"));
    }
    let more = record.difference_count.saturating_sub(record.differences.len() as u64);
    if more > 0 {
        console.say(format!("and {more} more"));
    }
}
