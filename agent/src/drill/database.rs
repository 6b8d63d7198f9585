//! The drill of a database server: its data directory made in the sandbox, started there by its own programs, and checked by them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use storepool::catalog::Point;
use storepool::clock::{Clock, SystemClock, Timestamp};
use storepool::manifest::Manifest;
use storepool::monitor::SilentMonitor;

use super::record::{DrillRecord, Grade, Verdict};
use super::sandbox::Sandbox;
use super::source::SourceDrill;
use crate::accounts::{self, User};
use crate::config::SourceConfig;
use crate::console::units::seconds;
use crate::error::Cause;
use crate::origin::Origin;
use crate::workload::PointContents;
use crate::workload::mariadb::{self, MariadbDetail};
use crate::workload::postgres::base::BaseDetail;
use crate::workload::postgres::recovery::{ClusterOrder, WalPoint};
use crate::workload::postgres::route::Target;
use crate::workload::postgres::{self, PostgresDetail};
use crate::workload::trial::{Stage, Trial};

/// A recovery and the preparation of a copy write more than was stored: a quarter of it is allowed for.
const GROWTH_SHARE: u64 = 4;
/// Logs, temporary tables, shared files of a server that runs.
const SERVER_ROOM: u64 = 512 << 20;
/// What Debian and most others call the first role.
const USUAL_ROLE: &str = "postgres";

/// Said of points that have more than the copy of the whole server.
const NO_DUMPS: &str = "the dumps of single databases in the point were not restored";

/// What came of an attempt.
pub(super) enum Attempt {
    /// The drill is made.
    Made(Box<DrillRecord>),
    /// It cannot be started here, and why; `None`: it is nothing that could be started.
    NotHere(Option<String>),
}

impl SourceDrill<'_> {
    /// Drills a point of a database server by starting it.
    ///
    /// # Errors
    /// The drill could not be made.
    pub(super) fn start(
        &self,
        origin: &Origin,
        point: &Point,
        manifest: &Manifest,
        now: Timestamp,
    ) -> Result<Attempt, Cause> {
        match point.workload.as_str() {
            postgres::WORKLOAD => self.postgres(origin, point, manifest, now),
            mariadb::WORKLOAD => self.mariadb(origin, point, manifest, now),
            _ => Ok(Attempt::NotHere(None)),
        }
    }

    fn postgres(
        &self,
        origin: &Origin,
        point: &Point,
        manifest: &Manifest,
        now: Timestamp,
    ) -> Result<Attempt, Cause> {
        let detail: Option<PostgresDetail> = serde_json::from_str(&manifest.detail).ok();
        let dumps = detail.as_ref().map_or(0, |detail| detail.dumps.len());
        let Some(base) = detail.and_then(|detail| detail.base) else {
            return Ok(Attempt::NotHere(Some("the point has dumps only".to_string())));
        };
        let tenant = match tenant("postgres") {
            Ok(tenant) => tenant,
            Err(why) => return Ok(Attempt::NotHere(Some(why))),
        };
        if let Err(why) = postgres::trial::programs(base.server_version) {
            return Ok(Attempt::NotHere(Some(why)));
        }
        let clock = SystemClock::new();
        let begin = clock.monotonic();
        let wal = origin.wal_of(point)?;
        let bytes = point.bytes + wal.iter().map(|(_, one)| one.totals.bytes).sum::<u64>();
        let sandbox = self.server_sandbox(bytes, tenant.as_ref())?;
        let data = sandbox.folder("data", tenant.as_ref())?;
        let room = sandbox.folder("run", tenant.as_ref())?;
        let tablespaces = tablespaces(&base, &sandbox, tenant.as_ref())?;
        let progress = self.assembly.console.progress("files");
        let chunks = origin.chunks(wal.iter().map(|(id, _)| *id).chain([point.id]))?;
        let contents =
            |id, manifest| PointContents { id, manifest, chunks: &*chunks, monitor: &progress };
        let logs = wal.iter().map(|(id, manifest)| WalPoint::open(contents(*id, manifest)));
        let logs = logs.collect::<Result<Vec<_>, Cause>>()?;
        let order = ClusterOrder {
            directory: &data,
            tablespaces: &tablespaces,
            target: if logs.is_empty() { Target::Base } else { Target::Latest },
            timeline: None,
            dry_run: false,
        };
        let restored =
            postgres::recovery::restore(&contents(point.id, manifest), &logs, &base, &order)?;
        let recovery = clock.monotonic().saturating_sub(begin);
        let stage = Stage { data: &data, room: &room, tenant: tenant.as_ref(), monitor: &progress };
        let (trial, ready) = postgres::trial::try_out(&stage, base.server_version, &self.roles())?;
        progress.finish();
        sandbox.close()?;
        let record = self.tried(point, now, (restored.files, restored.bytes), dumps, trial);
        Ok(with_time(record, recovery + ready))
    }

    fn mariadb(
        &self,
        origin: &Origin,
        point: &Point,
        manifest: &Manifest,
        now: Timestamp,
    ) -> Result<Attempt, Cause> {
        let detail: Option<MariadbDetail> = serde_json::from_str(&manifest.detail).ok();
        let Some(detail) = detail.filter(|detail| detail.physical) else {
            return Ok(Attempt::NotHere(Some("the point has dumps only".to_string())));
        };
        let tenant = match tenant("mysql") {
            Ok(tenant) => tenant,
            Err(why) => return Ok(Attempt::NotHere(Some(why))),
        };
        if let Err(why) = mariadb::trial::server(&detail.version, &SilentMonitor) {
            return Ok(Attempt::NotHere(Some(why)));
        }
        let clock = SystemClock::new();
        let begin = clock.monotonic();
        let sandbox = self.server_sandbox(point.bytes, tenant.as_ref())?;
        let data = sandbox.folder("data", tenant.as_ref())?;
        let room = sandbox.folder("run", tenant.as_ref())?;
        let progress = self.assembly.console.progress("files");
        let chunks = origin.chunks([point.id])?;
        let contents =
            PointContents { id: point.id, manifest, chunks: &*chunks, monitor: &progress };
        let target = mariadb::recovery::Target::Base;
        let restored = mariadb::recovery::restore(&contents, &detail, &[], &data, target, false)?;
        let recovery = clock.monotonic().saturating_sub(begin);
        let stage = Stage { data: &data, room: &room, tenant: tenant.as_ref(), monitor: &progress };
        let (trial, ready) = mariadb::trial::try_out(&stage, &detail.version)?;
        progress.finish();
        sandbox.close()?;
        let record = self.tried(point, now, (1, restored.bytes), detail.dumps.len(), trial);
        Ok(with_time(record, recovery + ready))
    }

    // Whoever backs up may be the superuser, if the usual one has another name.
    fn roles(&self) -> Vec<String> {
        let own = self.group.sources.iter().find(|source| source.name() == self.source);
        let own = match own {
            Some(SourceConfig::Postgres(config)) => Some(config.user.clone()),
            _ => None,
        };
        [USUAL_ROLE.to_string()].into_iter().chain(own).collect()
    }

    fn server_sandbox(&self, bytes: u64, tenant: Option<&User>) -> Result<Sandbox, Cause> {
        let sandbox = self.sandbox(tenant)?;
        let needed = bytes.saturating_add(bytes / GROWTH_SHARE).saturating_add(SERVER_ROOM);
        sandbox.require_room(&self.config.pool.reserve, needed)?;
        Ok(sandbox)
    }

    // `None`: it could not be tried after all.
    fn tried(
        &self,
        point: &Point,
        now: Timestamp,
        (files, bytes): (u64, u64),
        dumps: usize,
        trial: Trial,
    ) -> Result<DrillRecord, String> {
        let mut record = self.record(point, now);
        record.whole = dumps == 0;
        if dumps > 0 {
            record.remarks.push(NO_DUMPS.to_string());
        }
        (record.files, record.all_files) = (files, files);
        (record.bytes, record.all_bytes) = (bytes, bytes);
        match trial {
            Trial::NotMade(why) => return Err(why),
            Trial::Passed(check) => {
                record.grade = Grade::Working;
                record.check = Some(check);
            }
            Trial::Failed(why) => {
                record.verdict = Verdict::Damaged;
                record.difference_count = 1;
                record.differences = vec![why];
            }
        }
        Ok(record)
    }
}

fn with_time(record: Result<DrillRecord, String>, elapsed: Duration) -> Attempt {
    match record {
        Ok(record) => {
            Attempt::Made(Box::new(DrillRecord { recovery_seconds: seconds(elapsed), ..record }))
        }
        Err(why) => Attempt::NotHere(Some(why)),
    }
}

// Servers of databases do not run as root.
fn tenant(name: &str) -> Result<Option<User>, String> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let missing = || format!("there is no user \"{name}\" here that could run it");
    accounts::user(name).map(Some).ok_or_else(missing)
}

fn tablespaces(
    base: &BaseDetail,
    sandbox: &Sandbox,
    tenant: Option<&User>,
) -> Result<BTreeMap<PathBuf, PathBuf>, Cause> {
    let spaces = base.archives.iter().filter_map(|archive| archive.tablespace.as_ref());
    let place = |(number, location): (usize, &Path)| {
        let folder = sandbox.folder(&format!("tablespace-{number}"), tenant)?;
        Ok((location.to_path_buf(), folder))
    };
    spaces.map(|space| space.location.as_path()).enumerate().map(place).collect()
}
