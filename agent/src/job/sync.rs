//! The second copy of a group: its points that the vault does not have.

use std::collections::BTreeSet;
use std::sync::Arc;

use cloudsync::sync::SyncReport;
use storepool::catalog::Point;
use storepool::id::PointId;
use storepool::monitor::Monitor;

use super::Workshop;
use crate::assembly::Assembly;
use crate::config::GroupConfig;
use crate::error::Cause;
use crate::vaults::{Engine, OwnVault};

/// How often the successors of points are copied that were replaced meanwhile; the next sync goes on.
const SUCCESSORS_MOST: usize = 3;

/// Copies the points of `group` to its vault.
///
/// # Errors
/// The group has no vault; whatever opening the vault and copying says.
pub(crate) fn sync(
    workshop: &Workshop<'_>,
    assembly: &Assembly,
    group: &GroupConfig,
    monitor: Arc<dyn Monitor>,
) -> Result<SyncReport, Cause> {
    let no_vault = || Cause::NoVault { path: workshop.config.path.clone() };
    let name = group.vault.as_deref().ok_or_else(no_vault)?;
    let vault = workshop.config.vaults.get(name).ok_or_else(no_vault)?;
    let engine = Engine::start().map_err(|error| error.cause)?;
    let mut own = OwnVault::open(assembly, &engine, name, vault)?;
    let mut copy = || {
        let wanted = |point: &Point| point.group == group.name;
        own.sync_points(&engine, workshop.pool, wanted, monitor.clone())
    };
    let mut report = copy()?;
    for _ in 0..SUCCESSORS_MOST {
        if !drop_replaced(workshop, &mut report)? {
            break;
        }
        let mut earlier = std::mem::replace(&mut report, copy()?);
        earlier.copied.append(&mut report.copied);
        report.copied = earlier.copied;
        report.packs += earlier.packs;
        report.objects += earlier.objects;
        report.bytes += earlier.bytes;
    }
    drop_replaced(workshop, &mut report)?;
    Ok(report)
}

// A log that grows is replaced by each push, also while it is copied: what is not in the pool any more has a successor, and is not missing in the vault.
// Returns whether there was such a point.
fn drop_replaced(workshop: &Workshop<'_>, report: &mut SyncReport) -> Result<bool, Cause> {
    if report.skipped.is_empty() {
        return Ok(false);
    }
    let there: BTreeSet<PointId> =
        workshop.pool.points()?.into_iter().map(|point| point.id).collect();
    let before = report.skipped.len();
    report.skipped.retain(|skipped| there.contains(&skipped.point));
    Ok(report.skipped.len() < before)
}
