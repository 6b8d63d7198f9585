//! The second copy of a group: its points that the vault does not have.

use std::sync::Arc;

use cloudsync::sync::SyncReport;
use storepool::monitor::Monitor;

use super::Workshop;
use crate::assembly::Assembly;
use crate::config::GroupConfig;
use crate::error::Cause;
use crate::vaults::{Engine, OwnVault};

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
    let group = group.name.clone();
    own.sync_points(&engine, workshop.pool, |point| point.group == group, monitor)
}
