//! `keepwell points`: which recovery points there are.

use clap::Args;
use serde::Serialize;
use storepool::catalog::{Pin, Point, choose};
use storepool::manifest::{Manifest, PointSet};

use super::vault_points;
use crate::assembly::Assembly;
use crate::console::Console;
use crate::console::table::{Align, Table};
use crate::console::units::{count, counted, local, rfc3339, size};
use crate::error::{Attempt, Error, Outcome};

/// List recovery points
///
/// The oldest comes first. "Added" is what the point's run added to the pool, compressed.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell points
  keepwell points /srv --latest 3
  keepwell points --problems latest
  keepwell points --json | jq -r '.points[].id'")]
pub(super) struct Points {
    /// Only of this group or source, or the point itself
    #[arg(value_name = "GROUP|SOURCE|POINT")]
    names: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// Only the newest N of each series
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    latest: Option<u32>,
    /// List the points of a vault instead of the pool's
    #[arg(long, value_name = "NAME", conflicts_with_all = ["Filter", "latest", "problems", "sets"])]
    vault: Option<Option<String>>,
    /// With --vault: those that were forgotten, and until when "keepwell undelete" brings them back
    #[arg(long, requires = "vault")]
    forgotten: bool,
    /// List what could not be backed up
    #[arg(long)]
    problems: bool,
    /// Show which points are of one moment: the sets of groups with consistent = true
    #[arg(long, conflicts_with = "problems")]
    sets: bool,
}

/// Chooses points by what is recorded with them.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Filter {
    /// Only of this host
    #[arg(long, short = 'H', value_name = "NAME")]
    host: Vec<String>,
    /// Only with this tag; several, separated by commas, must all be there
    #[arg(long, value_name = "TAG[,TAG...]")]
    tag: Vec<String>,
}

impl Filter {
    pub(super) fn takes(&self, point: &Point) -> bool {
        let has_all = |tags: &String| {
            tags.split(',').all(|tag| point.notes.tags.iter().any(|has| has == tag.trim()))
        };
        (self.host.is_empty() || self.host.contains(&point.host))
            && (self.tag.is_empty() || self.tag.iter().any(has_all))
    }
}

/// A point for programs.
#[derive(Debug, Serialize)]
pub(super) struct PointDocument {
    id: String,
    short_id: String,
    started: String,
    finished: String,
    host: String,
    group: String,
    source: String,
    workload: String,
    paths: Vec<String>,
    tags: Vec<String>,
    pins: Vec<PinDocument>,
    files: u64,
    bytes: u64,
    bytes_stored: u64,
    problem_count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    problems: Option<Vec<ProblemDocument>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<SetDocument>,
}

/// The set that a point belongs to.
#[derive(Debug, Serialize)]
struct SetDocument {
    id: String,
    /// Points that the set was made of.
    count: u32,
}

#[derive(Debug, Serialize)]
struct PinDocument {
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

#[derive(Debug, Serialize)]
struct ProblemDocument {
    path: String,
    kind: &'static str,
    message: String,
}

impl PointDocument {
    pub(super) fn of(point: &Point) -> Self {
        let pin = |pin: &Pin| PinDocument {
            reason: pin.reason.clone(),
            until: pin.until.map(|until| rfc3339(storepool::clock::Timestamp(until))),
        };
        Self {
            id: point.id.to_string(),
            short_id: point.id.short(),
            started: rfc3339(point.started),
            finished: rfc3339(point.finished),
            host: point.host.clone(),
            group: point.group.clone(),
            source: point.source.clone(),
            workload: point.workload.clone(),
            paths: point.paths.clone(),
            tags: point.notes.tags.clone(),
            pins: point.notes.pins.iter().map(pin).collect(),
            files: point.files,
            bytes: point.bytes,
            bytes_stored: point.bytes_stored,
            problem_count: point.problem_count,
            problems: None,
            set: None,
        }
    }

    fn with_set(mut self, manifest: &Manifest) -> Self {
        self.set = manifest.set.map(|set| SetDocument { id: set_id(&set), count: set.count });
        self
    }

    fn with_problems(mut self, manifest: &Manifest) -> Self {
        let problems = manifest.problems.iter().map(|problem| ProblemDocument {
            path: problem.path.to_string(),
            kind: problem.kind.word(),
            message: problem.message.clone(),
        });
        self.problems = Some(problems.collect());
        self
    }
}

impl Points {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        if let Some(vault) = &self.vault {
            return vault_points::run(assembly, vault.as_deref(), self.forgotten, &self.names);
        }
        let pool = assembly.open_pool()?;
        let attempt = || "list the points".to_string();
        let all = pool.points().attempt(attempt)?;
        let mut points = self.chosen(&all)?;
        if let Some(latest) = self.latest {
            points = newest_of_each_series(&points, latest as usize);
        }
        let console = &assembly.console;
        if self.problems {
            points.retain(|point| point.problem_count > 0);
        }
        let mut listing = console.listing("points", &serde_json::json!({}));
        if !self.problems && !self.sets {
            points.iter().for_each(|point| listing.item(&PointDocument::of(point)));
            tell_table(console, &points, None);
            listing.finish(&());
            return Ok(Outcome::Done);
        }
        let mut sets = Vec::new();
        for point in &points {
            let manifest = match pool.manifest(point.id) {
                Ok(manifest) => manifest,
                Err(error) => {
                    let error =
                        Err::<(), _>(error).attempt(|| format!("read point {}", point.id.short()));
                    let error = error.expect_err("it was just made of an error");
                    listing.abort(&error);
                    return Err(error);
                }
            };
            if self.sets {
                listing.item(&PointDocument::of(point).with_set(&manifest));
                sets.push(manifest.set.map(|set| set_cell(&set)).unwrap_or_default());
                continue;
            }
            listing.item(&PointDocument::of(point).with_problems(&manifest));
            tell_problems(console, point, &manifest);
        }
        if self.sets {
            tell_table(console, &points, Some(&sets));
        } else if listing.items() == 0 {
            console.note("no problems");
        }
        listing.finish(&());
        Ok(Outcome::Done)
    }

    fn chosen<'a>(&self, all: &'a [Point]) -> Result<Vec<&'a Point>, Error> {
        let mut chosen: Vec<&Point> = Vec::new();
        for name in &self.names {
            let of_series =
                all.iter().filter(|point| point.group == *name || point.source == *name);
            let before = chosen.len();
            chosen.extend(of_series);
            if chosen.len() == before {
                chosen.push(choose(all, name).attempt(String::new)?);
            }
        }
        if self.names.is_empty() {
            chosen.extend(all);
        }
        chosen.retain(|point| self.filter.takes(point));
        chosen.sort_by_key(|point| (point.started, point.id));
        chosen.dedup_by_key(|point| point.id);
        Ok(chosen)
    }
}

fn newest_of_each_series<'a>(points: &[&'a Point], most: usize) -> Vec<&'a Point> {
    let series = |point: &Point| (point.host.clone(), point.group.clone(), point.source.clone());
    let mut counts = std::collections::HashMap::new();
    let mut kept: Vec<&Point> = Vec::new();
    for point in points.iter().rev() {
        let seen = counts.entry(series(point)).or_insert(0);
        *seen += 1;
        if *seen <= most {
            kept.push(point);
        }
    }
    kept.reverse();
    kept
}

/// Returns a point's tags for a table, with a word for pins.
pub(super) fn tags_cell(point: &Point) -> String {
    let mut words = point.notes.tags.clone();
    if !point.notes.pins.is_empty() {
        words.push("(pinned)".to_string());
    }
    words.join(", ")
}

fn set_id(set: &PointSet) -> String {
    set.id.iter().map(|byte| format!("{byte:02x}")).collect()
}

// Enough of it to see which points go together, and how many they must be.
fn set_cell(set: &PointSet) -> String {
    format!("{} of {}", &set_id(set)[..8], set.count)
}

// `sets` has a cell for each point, if sets are shown.
fn tell_table(console: &Console, points: &[&Point], sets: Option<&[String]>) {
    let mut columns = vec![
        ("ID", Align::Left),
        ("Time", Align::Left),
        ("Host", Align::Left),
        ("Group", Align::Left),
        ("Source", Align::Left),
        ("Tags", Align::Left),
        ("Files", Align::Right),
        ("Size", Align::Right),
        ("Added", Align::Right),
        ("Problems", Align::Right),
    ];
    if sets.is_some() {
        columns.push(("Set", Align::Left));
    }
    let mut table = Table::new(&columns);
    for (number, point) in points.iter().enumerate() {
        let mut row = vec![
            point.id.short(),
            local(point.started),
            point.host.clone(),
            point.group.clone(),
            point.source.clone(),
            tags_cell(point),
            count(point.files),
            size(point.bytes),
            size(point.bytes_stored),
            if point.problem_count > 0 { count(point.problem_count) } else { String::new() },
        ];
        row.extend(sets.and_then(|sets| sets.get(number)).cloned());
        table.row(row);
    }
    if !points.is_empty() {
        table.lines().iter().for_each(|line| console.say(line));
    }
    let added = points.iter().map(|point| point.bytes_stored).sum();
    console.say(match points.len() {
        0 => "no points".to_string(),
        number => format!("{}, {} added", counted(number as u64, "point"), size(added)),
    });
}

fn tell_problems(console: &Console, point: &Point, manifest: &Manifest) {
    let problems = counted(manifest.problem_count, "problem");
    console.say(format!(
        "point {} of {}, {}: {problems}",
        point.id.short(),
        point.source,
        local(point.started)
    ));
    for problem in &manifest.problems {
        console.say(format!("  {} ({}): {}", problem.path, problem.kind.word(), problem.message));
    }
    let more = manifest.problem_count.saturating_sub(manifest.problems.len() as u64);
    if more > 0 {
        console.say(format!("  and {} more that are not recorded", count(more)));
    }
}
