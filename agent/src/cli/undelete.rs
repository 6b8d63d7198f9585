//! `keepwell undelete`: points of a vault that were forgotten, back.

use std::collections::BTreeSet;

use clap::Args;
use cloudsync::vault::snapshot::Snapshot;
use serde::Serialize;
use storepool::catalog::choose;
use storepool::id::PointId;

use crate::assembly::Assembly;
use crate::console::units::counted;
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::origin::as_point;
use crate::vaults::{self, Engine, OwnVault};

/// Bring forgotten points of a vault back
///
/// For some days (14 unless the configuration says otherwise) a point that was forgotten in a vault can be restored as if nothing had happened; "keepwell
/// points --vault --forgotten" lists them with the day on which they go for good. Nothing is uploaded for it.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell points --vault --forgotten
  keepwell undelete 7f3a9c12
  keepwell undelete --all --vault main")]
pub(super) struct Undelete {
    /// Which forgotten points
    #[arg(value_name = "POINT", required_unless_present = "all", conflicts_with = "all")]
    points: Vec<String>,
    /// All that can be restored
    #[arg(long)]
    all: bool,
    /// Which vault of the configuration
    #[arg(long, value_name = "NAME")]
    vault: Option<Option<String>>,
}

#[derive(Serialize)]
struct Report {
    vault: String,
    restored: Vec<String>,
}

impl Undelete {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let config = assembly.config()?;
        let (name, vault) =
            vaults::choose(&config, self.vault.as_ref().and_then(Option::as_deref))?;
        let attempt = || format!("bring points of the vault \"{name}\" back");
        let engine = Engine::start()?;
        let mut own = OwnVault::open(assembly, &engine, name, vault).attempt(attempt)?;
        let mut snapshot = own.state(&engine).attempt(attempt)?;
        let points = self.chosen(&snapshot).attempt(attempt)?;
        own.undelete(&engine, &mut snapshot, &points).attempt(attempt)?;
        assembly.console.document(&Report {
            vault: name.to_string(),
            restored: points.iter().map(ToString::to_string).collect(),
        });
        assembly.console.note(match points.len() {
            0 => "no forgotten points".to_string(),
            number => format!("brought {} back", counted(number as u64, "point")),
        });
        Ok(Outcome::Done)
    }

    fn chosen(&self, snapshot: &Snapshot) -> Result<BTreeSet<PointId>, Cause> {
        let forgotten = snapshot.forgotten();
        if self.all {
            return Ok(forgotten.keys().copied().collect());
        }
        let points: Vec<_> = forgotten.values().map(|(_, record)| as_point(record)).collect();
        let missing = |name: &String| cloudsync::Error::NoSuchPoint { name: name.clone() };
        let chosen = self.points.iter().map(|name| {
            choose(&points, name).map(|point| point.id).map_err(|_| missing(name).into())
        });
        chosen.collect()
    }
}
