//! `keepwell forget`: points that nobody needs any more. Their space comes back with prune.

use std::collections::BTreeMap;

use clap::Args;
use cloudsync::retention::{Candidate, Count, RetentionPolicy, Within};
use jiff::tz::TimeZone;
use storepool::catalog::{Point, choose};
use storepool::clock::Timestamp;
use storepool::id::PointId;

use super::decision::{Forgotten, Judged, JudgedSeries, tell};
use super::pin::pinned;
use super::points::Filter;
use super::{arguments, configured_forget, vault_forget};
use crate::assembly::Assembly;
use crate::console::Console;
use crate::console::units::counted;
use crate::error::{Attempt, Cause, Error, Outcome};

/// Remove points by name or by policy
///
/// Without a word, the points of each group are thinned out as its retention in the configuration says.
/// With --keep-* options each series (host, group, source) is thinned out by itself: of each period that a policy names, the newest point stays.
/// The newest point of a series and pinned points always stay. Forgetting is quick; the space comes back with "keepwell prune".
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell forget -n --keep-daily 7 --keep-weekly 4 --keep-monthly 12
  keepwell forget --keep-within 30d --keep-yearly all
  keepwell forget 7f3a9c12
  keepwell forget --vault -n")]
pub(super) struct Forget {
    /// Forget exactly these points
    #[arg(value_name = "POINT", conflicts_with_all = ["Keep", "Filter", "group_by"])]
    points: Vec<String>,
    #[command(flatten)]
    keep: Keep,
    #[command(flatten)]
    filter: Filter,
    /// What makes a series: host, group, source, tags, separated by commas; empty for none
    #[arg(long, value_name = "WHAT", default_value = "host,group,source", value_parser = grouping)]
    group_by: Series,
    /// Forget points of a vault instead: by name, by --keep-*, or as the vault's retention in the configuration says
    #[arg(long, value_name = "NAME", conflicts_with_all = ["Filter", "group_by"])]
    vault: Option<Option<String>>,
    /// Show what would be forgotten, and why the rest stays
    #[arg(long, short = 'n')]
    dry_run: bool,
}

/// What stays.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "What stays (N or all)")]
struct Keep {
    /// The newest N points
    #[arg(long, short = 'l', value_name = "N")]
    keep_last: Option<Count>,
    /// The newest point of the newest N hours that have one
    #[arg(long, value_name = "N")]
    keep_hourly: Option<Count>,
    /// The newest point of the newest N days
    #[arg(long, short = 'd', value_name = "N")]
    keep_daily: Option<Count>,
    /// The newest point of the newest N weeks
    #[arg(long, short = 'w', value_name = "N")]
    keep_weekly: Option<Count>,
    /// The newest point of the newest N months
    #[arg(long, short = 'm', value_name = "N")]
    keep_monthly: Option<Count>,
    /// The newest point of the newest N years
    #[arg(long, short = 'y', value_name = "N")]
    keep_yearly: Option<Count>,
    /// Everything this near to the newest point, such as 14d or 1y6m (m are months)
    #[arg(long, value_name = "LENGTH")]
    keep_within: Option<Within>,
    /// Everything with this tag
    #[arg(long, value_name = "TAG", value_parser = arguments::tag, value_delimiter = ',')]
    keep_tag: Vec<String>,
}

impl Keep {
    fn policy(&self) -> RetentionPolicy {
        let count = |count: Option<Count>| count.unwrap_or_default();
        RetentionPolicy {
            last: count(self.keep_last),
            hourly: count(self.keep_hourly),
            daily: count(self.keep_daily),
            weekly: count(self.keep_weekly),
            monthly: count(self.keep_monthly),
            yearly: count(self.keep_yearly),
            within: self.keep_within,
            tags: self.keep_tag.clone(),
        }
    }
}

/// What makes a series.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Series(Vec<Grouping>);

/// One part of what makes a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grouping {
    Host,
    Group,
    Source,
    Tags,
}

fn grouping(text: &str) -> Result<Series, String> {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    words
        .map(|word| match word {
            "host" | "hosts" => Ok(Grouping::Host),
            "group" | "groups" => Ok(Grouping::Group),
            "source" | "sources" | "path" | "paths" => Ok(Grouping::Source),
            "tag" | "tags" => Ok(Grouping::Tags),
            _ => Err(format!("\"{word}\" is none of host, group, source, tags")),
        })
        .collect::<Result<_, _>>()
        .map(Series)
}

fn series_key(point: &Point, series: &Series) -> Vec<String> {
    let mut tags = point.notes.tags.clone();
    tags.sort();
    let parts = series.0.iter();
    parts
        .map(|part| match part {
            Grouping::Host => point.host.clone(),
            Grouping::Group => point.group.clone(),
            Grouping::Source => point.source.clone(),
            Grouping::Tags => tags.join(","),
        })
        .collect()
}

impl Forget {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        if let Some(vault) = &self.vault {
            let request = vault_forget::Request {
                vault: vault.as_deref(),
                points: &self.points,
                policy: self.keep.policy(),
                dry_run: self.dry_run,
            };
            return vault_forget::run(assembly, &request);
        }
        if self.points.is_empty() && self.keep.policy().is_empty() {
            let config = assembly.config()?;
            if config.groups.values().any(|group| group.retention.is_some()) {
                return configured_forget::run(assembly, self.dry_run);
            }
        }
        let pool = assembly.open_pool()?;
        let all = pool.points().attempt(|| "list the points".to_string())?;
        let now = pool.world().clock.now();
        let (removed, report) = if self.points.is_empty() {
            self.plan_by_policy(&all, now, &assembly.console)?
        } else {
            self.plan_by_name(&all, now)?
        };
        if !self.dry_run && !removed.is_empty() {
            pool.forget(&removed)
                .attempt(|| format!("forget {}", counted(removed.len() as u64, "point")))?;
        }
        assembly.console.document(&report);
        report.tell_end(&assembly.console);
        Ok(Outcome::Done)
    }

    fn plan_by_name(
        &self,
        all: &[Point],
        now: Timestamp,
    ) -> Result<(Vec<PointId>, Forgotten), Error> {
        let mut points: Vec<&Point> = Vec::new();
        for name in &self.points {
            let point = choose(all, name).attempt(|| "forget".to_string())?;
            if let Some(reason) = pinned(&point.notes.pins, now) {
                return Err(Error {
                    attempt: format!("forget point {}", point.id.short()),
                    cause: Cause::Pinned { reason },
                });
            }
            if !points.iter().any(|other| other.id == point.id) {
                points.push(point);
            }
        }
        let report = Forgotten {
            dry_run: self.dry_run,
            removed: points.len(),
            kept: all.len() - points.len(),
            series: vec![JudgedSeries::named(points.iter().copied())],
        };
        Ok((points.iter().map(|point| point.id).collect(), report))
    }

    fn plan_by_policy(
        &self,
        all: &[Point],
        now: Timestamp,
        console: &Console,
    ) -> Result<(Vec<PointId>, Forgotten), Error> {
        let policy = self.keep.policy();
        if policy.is_empty() {
            return Err(Error::usage(
                "forget needs points by name, or a policy such as --keep-daily 7",
            ));
        }
        let mut series: BTreeMap<Vec<String>, Vec<&Point>> = BTreeMap::new();
        for point in all.iter().filter(|point| self.filter.takes(point)) {
            series.entry(series_key(point, &self.group_by)).or_default().push(point);
        }
        let zone = TimeZone::system();
        let mut removed = Vec::new();
        let dry_run = self.dry_run;
        let mut report = Forgotten { dry_run, removed: 0, kept: 0, series: Vec::new() };
        for (key, points) in series {
            let candidates: Vec<_> = points
                .iter()
                .map(|point| Candidate {
                    started: point.started,
                    tags: point.notes.tags.clone(),
                    pinned: pinned(&point.notes.pins, now),
                })
                .collect();
            let plan = policy.plan(&candidates, &zone, now);
            let key: Vec<_> = key.into_iter().filter(|part| !part.is_empty()).collect();
            let name = if key.is_empty() { "all points".to_string() } else { key.join(" ") };
            let listed: Vec<_> = points.iter().map(|point| Judged::of(point)).collect();
            tell(console, &name, &listed, &plan);
            report.kept += plan.kept().count();
            removed.extend(plan.removed().map(|index| points[index].id));
            report.series.push(JudgedSeries::planned(name, points.iter().copied(), &plan));
        }
        report.removed = removed.len();
        Ok((removed, report))
    }
}
