//! `keepwell restore --service`: points back into the services they are of.

use std::time::Duration;

use serde::Serialize;
use storepool::monitor::{Event, Monitor};

use super::workshop;
use crate::assembly::Assembly;
use crate::config::{Config, GroupConfig, SourceConfig};
use crate::console::units::{counted, duration, seconds, size};
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::job::Task;
use crate::job::backup::back_up_before_replacing;
use crate::journal::Reason;
use crate::origin::Origin;
use crate::record::{Record, open_journal};
use crate::workload::{
    self, PointContents, RestoreOrder, RestoredService, ServiceConflict, Workload, WorkloadError,
};

/// What was asked for.
pub(super) struct ServiceOrder<'a> {
    pub(super) parameters: &'a [(String, String)],
    pub(super) replace: bool,
    pub(super) conflict: ServiceConflict,
    pub(super) dry_run: bool,
    pub(super) accept_pending: Option<u64>,
}

#[derive(Serialize)]
struct Summary {
    points: Vec<RestoredPoint>,
    dry_run: bool,
    duration_seconds: f64,
}

/// What was given back.
pub(super) struct Restored {
    pub(super) points: Vec<RestoredPoint>,
    pub(super) elapsed: Duration,
}

/// A point that a service has again.
#[derive(Serialize)]
pub(super) struct RestoredPoint {
    point: String,
    workload: String,
    target: String,
    items: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    safety_point: Option<String>,
    notes: Vec<String>,
}

/// Restores `points` into their services, one after the other. Of several, each is checked before the first is changed.
pub(super) fn run(
    assembly: &Assembly,
    origin: &Origin,
    points: &[String],
    order: &ServiceOrder<'_>,
) -> Result<Outcome, Error> {
    let Restored { points, elapsed } = restored(assembly, origin, points, order)?;
    let duration_seconds = seconds(elapsed);
    let summary = Summary { points, dry_run: order.dry_run, duration_seconds };
    assembly.console.message("summary", &summary);
    Ok(Outcome::Done)
}

/// Restores `points` as [`run`] does and tells people about it; what programs are told is left to the caller.
pub(super) fn restored(
    assembly: &Assembly,
    origin: &Origin,
    points: &[String],
    order: &ServiceOrder<'_>,
) -> Result<Restored, Error> {
    let config = assembly.config()?;
    let mut restored = Vec::new();
    let progress = assembly.console.progress("bytes");
    if points.len() > 1 && !order.dry_run {
        check(assembly, origin, points, order, &progress)?;
    }
    for point in points {
        restored.push(one(assembly, &config, origin, point, order, &progress)?);
    }
    let elapsed = progress.finish();
    tell(assembly, &restored, order.dry_run, elapsed);
    Ok(Restored { points: restored, elapsed })
}

/// Finds what would keep services from having `points`, and changes nothing. `monitor` is not told of it, but may ask to stop.
pub(super) fn check(
    assembly: &Assembly,
    origin: &Origin,
    points: &[String],
    order: &ServiceOrder<'_>,
    monitor: &dyn Monitor,
) -> Result<(), Error> {
    let config = assembly.config()?;
    let check = ServiceOrder { dry_run: true, ..*order };
    for point in points {
        one(assembly, &config, origin, point, &check, &Untold(monitor))?;
    }
    Ok(())
}

// What is only tried is not counted as done.
struct Untold<'a>(&'a dyn Monitor);

impl Monitor for Untold<'_> {
    fn event(&self, _event: Event) {}

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

fn one(
    assembly: &Assembly,
    config: &Config,
    origin: &Origin,
    point: &str,
    order: &ServiceOrder<'_>,
    progress: &dyn Monitor,
) -> Result<RestoredPoint, Error> {
    let (selection, manifest) = origin.select(point).attempt(|| "restore".to_string())?;
    let attempt = || format!("restore {} into its service", selection.name());
    let chunks = origin.chunks([selection.point.id]).attempt(attempt)?;
    let (group, source) = configured(config, &manifest.group, &manifest.source, &manifest.workload);
    let restorer = workload::restorer(&manifest.workload, source).attempt(attempt)?;
    let no_service = || {
        WorkloadError::failed(format!("points of {} go into folders only", manifest.workload))
            .hint("name a folder with --to DIR, or use --in-place")
    };
    let restorer = restorer.ok_or_else(no_service).attempt(attempt)?;
    let contents = PointContents {
        id: selection.point.id,
        manifest: &manifest,
        chunks: &*chunks,
        monitor: progress,
    };
    let safety_point = |workload: &dyn Workload| {
        let Some(group) = group else {
            return Err(WorkloadError::failed(
                "no group is configured for a point of what is there",
            )
            .into());
        };
        make_safety_point(assembly, config, group, workload, progress)
    };
    let made = restorer.restore(
        &contents,
        &RestoreOrder {
            parameters: order.parameters.iter().cloned().collect(),
            replace: order.replace,
            conflict: order.conflict,
            dry_run: order.dry_run,
            accept_pending: order.accept_pending,
            state: assembly.place.state(),
            safety_point: &safety_point,
        },
    );
    let RestoredService { target, items, bytes, safety_point, notes } = made.attempt(attempt)?;
    Ok(RestoredPoint {
        point: selection.point.id.to_string(),
        workload: manifest.workload.clone(),
        target,
        items,
        bytes,
        safety_point: safety_point.map(|point| point.to_string()),
        notes,
    })
}

fn make_safety_point(
    assembly: &Assembly,
    config: &Config,
    group: &GroupConfig,
    workload: &dyn Workload,
    progress: &dyn Monitor,
) -> Result<storepool::id::PointId, Cause> {
    let pool = assembly.open_configured(config).map_err(|error| error.cause)?;
    let journal = open_journal(assembly)?;
    let workshop = workshop(assembly, config, &pool, &journal);
    let task = Task::Backup(group.name.clone()).to_string();
    let record = Record::begin(assembly, &journal, task, Reason::Hand)?;
    let made = back_up_before_replacing(&workshop, group, record.id(), workload, progress);
    match made {
        Ok(point) => {
            record.end(Ok(Outcome::Done), None)?;
            Ok(point)
        }
        Err(cause) => {
            let error = Error { attempt: "make a point of what is there".to_string(), cause };
            record.end(Err(&error), None)?;
            Err(error.cause)
        }
    }
}

// The source that the point is of, if the configuration has it still.
fn configured<'a>(
    config: &'a Config,
    group: &str,
    source: &str,
    kind: &str,
) -> (Option<&'a GroupConfig>, Option<&'a SourceConfig>) {
    let group = config.groups.get(group);
    // A point of what was replaced is of "NAME as TARGET".
    let is_it = |name: &str| {
        source == name || source.strip_prefix(name).is_some_and(|rest| rest.starts_with(" as "))
    };
    let of_kind = |group: &'a GroupConfig| {
        let sources: Vec<_> =
            group.sources.iter().filter(|other| other.workload() == kind).collect();
        let same = sources.iter().find(|other| is_it(&other.name())).copied();
        match sources.as_slice() {
            // What was replaced is named after its tables; a name of a service is no such thing.
            [only] if kind != "command" => Some(*only),
            _ => same,
        }
    };
    let found = group.and_then(of_kind);
    (group, found)
}

fn tell(assembly: &Assembly, restored: &[RestoredPoint], dry_run: bool, elapsed: Duration) {
    let console = &assembly.console;
    let verb = if dry_run { "nothing is in the way: would restore" } else { "restored" };
    for restored in restored {
        console.note(format!(
            "{verb} {}, {} into {} in {}",
            counted(restored.items, "item"),
            size(restored.bytes),
            restored.target,
            duration(elapsed)
        ));
        if let Some(before) = &restored.safety_point {
            console.note(format!("what was there before is point {}", &before[..8]));
        }
        for note in &restored.notes {
            console.warn(note);
        }
    }
}
