//! What can be protected, and how: a workload makes its source consistent, hands it over to be read, and lets it go again.

mod files;

use std::path::PathBuf;

use storepool::source::DataSource;

use crate::config::SourceConfig;
use crate::error::Cause;

/// A kind of data source.
pub(crate) trait Workload: Send + Sync {
    /// Returns the name of the data source, by which its points are a series.
    fn name(&self) -> String;

    /// Makes the source ready to be read: consistent, and as of one moment where the kind allows it.
    ///
    /// # Errors
    /// The source is missing or cannot be made consistent: then there is no point.
    fn prepare(&self, surroundings: &Surroundings) -> Result<Box<dyn Prepared>, Cause>;
}

/// A source that is ready to be read. Dropped without [`Prepared::release`], it must leave nothing behind that harms.
pub(crate) trait Prepared: Send {
    /// Returns what is read.
    fn source(&self) -> &dyn DataSource;

    /// Lets the source go, after it was read or given up.
    ///
    /// # Errors
    /// What it said while it was read shows that the point is not sound: then there is none.
    fn release(self: Box<Self>) -> Result<(), Cause>;
}

/// What a workload needs to know of this installation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    /// Folders of our own that are never backed up: a pool inside itself would grow with each run.
    pub(crate) never: Vec<PathBuf>,
}

/// Returns the workload of a source.
pub(crate) fn of(source: &SourceConfig) -> Box<dyn Workload> {
    match source {
        SourceConfig::Files(config) => Box::new(files::Files::new(config.clone())),
    }
}
