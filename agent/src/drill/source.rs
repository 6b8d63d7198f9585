//! The drill of one source: restored into a sandbox, read again, compared.

use std::collections::BTreeMap;

use storepool::catalog::Point;
use storepool::clock::{Clock, SystemClock, Timestamp};
use storepool::entry::EntryPath;
use storepool::manifest::Manifest;
use storepool::restore::{RestoreOptions, RestoreProblem, restore};

use super::DrillOrder;
use super::database::Attempt as Start;
use super::opened;
use super::record::{DrillRecord, Grade, Verdict};
use super::sample::{Sample, Seed};
use super::sandbox::Sandbox;
use crate::accounts::User;
use crate::assembly::Assembly;
use crate::comparison::{Findings, PointComparison};
use crate::config::{Config, GroupConfig};
use crate::console::units::seconds;
use crate::error::{Attempt, Cause, Error};
use crate::origin::Origin;
use crate::workload::WorkloadError;

/// What a file system needs for an entry beside its content.
const ENTRY_ROOM: u64 = 4096;
/// Left free for whoever else writes there meanwhile.
const ROOM_LEFT: u64 = 16 << 20;
/// Remarks of a restore that are kept.
const REMARKS_MOST: usize = 5;

/// What is drilled, and how.
pub(super) struct SourceDrill<'a> {
    pub(super) assembly: &'a Assembly,
    pub(super) config: &'a Config,
    pub(super) group: &'a GroupConfig,
    /// Its name.
    pub(super) source: &'a str,
    pub(super) order: &'a DrillOrder,
    pub(super) seed: Seed,
    /// The copy as records name it.
    pub(super) copy: &'a str,
}

impl SourceDrill<'_> {
    /// Returns the newest point of the source.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn newest<'o>(&self, origin: &'o Origin) -> Result<&'o Point, Cause> {
        let own = |point: &&Point| {
            point.group == self.group.name && point.source == self.source && !point.is_log()
        };
        origin.points().iter().filter(own).max_by_key(|point| point.started).ok_or_else(|| {
            let message = format!("there is no point of it in the {}", self.copy);
            let hint = match origin.is_vault() {
                true => format!("run \"keepwell sync {}\" first", self.group.name),
                false => format!("run \"keepwell backup {}\" first", self.group.name),
            };
            WorkloadError::failed(message).hint(hint).into()
        })
    }

    /// Drills one point.
    ///
    /// # Errors
    /// The drill could not be made; damage of the copy as a whole. What is found on the disk is in the record.
    pub(super) fn run(
        &self,
        origin: &Origin,
        point: &Point,
        now: Timestamp,
    ) -> Result<DrillRecord, Error> {
        let attempt = || format!("drill {}", self.source);
        let manifest = origin.manifest(point.id).attempt(attempt)?;
        let why = match self.start(origin, point, &manifest, now).attempt(attempt)? {
            Start::Made(record) => return Ok(*record),
            Start::NotHere(why) => why,
        };
        let mut record = self.files(origin, point, &manifest, now).attempt(attempt)?;
        if let Some(why) = why {
            record.check = Some(format!("restored and compared, not started: {why}"));
        }
        Ok(record)
    }

    fn files(
        &self,
        origin: &Origin,
        point: &Point,
        manifest: &Manifest,
        now: Timestamp,
    ) -> Result<DrillRecord, Cause> {
        let clock = SystemClock::new();
        let begin = clock.monotonic();
        let chunks = origin.chunks([point.id])?;
        let reader = chunks.reader()?;
        let sample = Sample::choose(&*reader, manifest, self.order.sample, self.seed)?;
        if sample.files == 0 && sample.all_files > 0 {
            let message = format!(
                "no file of it is as small as the sample ({})",
                self.order.sample.for_people()
            );
            return Err(WorkloadError::failed(message)
                .hint("take a larger --sample, or \"all\"")
                .into());
        }
        let sandbox = self.sandbox(None)?;
        let needed = sample
            .bytes
            .saturating_add((sample.files + sample.directories) * ENTRY_ROOM)
            .saturating_add(ROOM_LEFT);
        sandbox.require_room(&self.config.pool.reserve, needed)?;
        let target = sandbox.path().join("restored");
        let options = RestoreOptions {
            only: sample.only.clone(),
            numeric_owner: true,
            ..RestoreOptions::default()
        };
        let progress = self.assembly.console.progress("files");
        let restored =
            restore(&*chunks, manifest, &EntryPath::root(), &target, &options, &progress);
        progress.finish();
        let restored = restored.map_err(|error| match error {
            // What was measured before was taken by others.
            storepool::Error::TargetFull { path } => {
                Cause::NoRoomForDrill { path, needed, room: 0 }
            }
            error => error.into(),
        })?;
        let recovery = clock.monotonic().saturating_sub(begin);
        settle(&target)?;
        let progress = self.assembly.console.progress("files");
        let comparison = PointComparison {
            fetch: &*reader,
            manifest,
            only: sample.only.as_ref(),
            monitor: &progress,
        };
        let findings = comparison.run(&target);
        progress.finish();
        let findings = explained(findings?, &restored.problems);
        let mut record = self.record(point, now);
        // Only after the comparison: whoever opens a database may write to it.
        let checked = match findings.difference_count {
            0 => opened::check(manifest, &target),
            _ => Ok(None),
        };
        sandbox.close()?;
        record.whole = sample.is_whole();
        record.files = sample.files;
        record.bytes = sample.bytes;
        record.all_files = sample.all_files;
        record.all_bytes = sample.all_bytes;
        record.recovery_seconds = seconds(recovery);
        record.difference_count = findings.difference_count;
        record.differences = findings.differences;
        record.remarks.extend(findings.remarks.into_iter().map(str::to_string));
        match checked {
            Ok(None) => {}
            Ok(Some((grade, check))) => {
                record.grade = grade;
                record.check = Some(check);
            }
            Err(error) => {
                record.difference_count += 1;
                record.differences.push(Cause::from(error).chain());
            }
        }
        if record.difference_count > 0 {
            record.verdict = Verdict::Damaged;
        } else {
            let others = restored.problems.iter().map(|problem| problem.message.clone());
            record.remarks.extend(others.take(REMARKS_MOST));
        }
        Ok(record)
    }

    pub(super) fn sandbox(&self, tenant: Option<&User>) -> Result<Sandbox, Cause> {
        let (state, holder) = (self.assembly.place.state(), self.assembly.holder());
        Sandbox::make(&state, &holder, self.order.folder.as_deref(), tenant)
    }

    /// Returns the record of a drill that could restore nothing, since the copy is damaged.
    pub(super) fn hopeless(&self, point: &Point, now: Timestamp, told: String) -> DrillRecord {
        DrillRecord {
            verdict: Verdict::Damaged,
            difference_count: 1,
            differences: vec![told],
            all_files: point.files,
            all_bytes: point.bytes,
            ..self.record(point, now)
        }
    }

    pub(super) fn record(&self, point: &Point, now: Timestamp) -> DrillRecord {
        DrillRecord {
            format: DrillRecord::format(),
            group: self.group.name.clone(),
            source: self.source.to_string(),
            workload: point.workload.clone(),
            copy: self.copy.to_string(),
            point: point.id.to_string(),
            point_time: point.started.0,
            drilled: now.0,
            verdict: Verdict::Proven,
            grade: Grade::Compared,
            whole: false,
            files: 0,
            bytes: 0,
            all_files: 0,
            all_bytes: 0,
            seed: self.seed.to_string(),
            recovery_seconds: 0.0,
            check: None,
            difference_count: 0,
            differences: Vec::new(),
            remarks: Vec::new(),
        }
    }
}

// A difference with what the restore said about the same entry.
fn explained(mut findings: Findings, problems: &[RestoreProblem]) -> Findings {
    let why: BTreeMap<String, &str> = problems
        .iter()
        .map(|problem| (problem.path.to_string(), problem.message.as_str()))
        .collect();
    for difference in &mut findings.differences {
        let told = why.iter().find(|(path, _)| {
            difference.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with(": "))
        });
        if let Some((_, why)) = told {
            difference.push_str(&format!(" ({why})"));
        }
    }
    findings
}

// Only then it can be read from the disk and not from memory.
fn settle(folder: &std::path::Path) -> Result<(), Cause> {
    let failed = |cause| Cause::Io { action: "make durable", path: folder.to_path_buf(), cause };
    let folder = std::fs::File::open(folder).map_err(failed)?;
    rustix::fs::syncfs(&folder).map_err(|error| failed(error.into()))
}
