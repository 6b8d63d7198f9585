//! The log of a source, which comes to the pool between points: how far it leads on from them, and what is missing in it.

use std::sync::Arc;

use storepool::catalog::Point;
use storepool::chunks::PoolChunks;
use storepool::clock::Timestamp;
use storepool::monitor::SilentMonitor;
use storepool::pool::Pool;

use crate::config::SourceConfig;
use crate::error::Cause;
use crate::workload::PointContents;
use crate::workload::postgres::PostgresDetail;
use crate::workload::postgres::base::BaseDetail;
use crate::workload::postgres::recovery::{WalPoint, log_end};
use crate::workload::postgres::route::LogEnd;

/// Returns the series of the log of a source whose log comes between points.
pub(super) fn log_of(source: &SourceConfig) -> Option<String> {
    match source {
        SourceConfig::Postgres(postgres) if postgres.wal => Some(postgres.wal_name()),
        _ => None,
    }
}

/// How far the log leads.
pub(super) struct LogReach {
    /// From the newest point on.
    pub(super) newest: LogEnd,
    /// A segment that is missing between older points, and the moment up to which the log before it leads.
    pub(super) between: Option<(String, Option<Timestamp>)>,
}

/// Looks how far `log` leads on from the points of a source, oldest first. `None`: there is no base among them.
///
/// # Errors
/// The pool cannot be read.
pub(super) fn reach(
    pool: &Arc<Pool>,
    points: &[&Point],
    log: &Point,
) -> Result<Option<LogReach>, Cause> {
    let session = pool.begin_session()?;
    let chunks = PoolChunks::new(&session);
    let manifest = pool.manifest(log.id)?;
    let contents =
        PointContents { id: log.id, manifest: &manifest, chunks: &chunks, monitor: &SilentMonitor };
    let wal = [WalPoint::open(contents)?];
    let mut points = points.iter();
    let Some(newest) = points.next_back().map(|point| base_of(pool, point)).transpose()?.flatten()
    else {
        return Ok(None);
    };
    let newest = log_end(&wal, &newest)?;
    let oldest = points.next().map(|point| base_of(pool, point)).transpose()?.flatten();
    let between = match oldest {
        Some(base) if newest.missing.is_none() => log_end(&wal, &base)?,
        _ => LogEnd { newest: None, missing: None },
    };
    let between = between.missing.map(|segment| (segment, between.newest));
    Ok(Some(LogReach { newest, between }))
}

fn base_of(pool: &Arc<Pool>, point: &Point) -> Result<Option<BaseDetail>, Cause> {
    let manifest = pool.manifest(point.id)?;
    let detail: Option<PostgresDetail> = serde_json::from_str(&manifest.detail).ok();
    Ok(detail.and_then(|detail| detail.base))
}
