//! Files and folders, read as they are. What moves while it is read is read again; the backup engine sees to that.

use storepool::filetree::{FileTree, FileTreeOptions};
use storepool::source::DataSource;

use super::{Prepared, Surroundings, Workload};
use crate::config::{FilesConfig, SourceConfig};
use crate::error::Cause;

/// A source of files and folders.
pub(super) struct Files {
    config: FilesConfig,
}

impl Files {
    pub(super) fn new(config: FilesConfig) -> Self {
        Self { config }
    }
}

impl Workload for Files {
    fn name(&self) -> String {
        SourceConfig::Files(self.config.clone()).name()
    }

    fn prepare(&self, surroundings: &Surroundings) -> Result<Box<dyn Prepared>, Cause> {
        let config = &self.config;
        let options = FileTreeOptions {
            exclude: config.exclude.clone(),
            exclude_case_insensitive: config.iexclude.clone(),
            exclude_caches: config.exclude_caches,
            exclude_if_present: config.exclude_if_present.clone(),
            exclude_larger_than: config.exclude_larger_than,
            one_file_system: config.one_file_system,
            never: surroundings.never.clone(),
        };
        Ok(Box::new(Opened(FileTree::open(&config.paths, options)?)))
    }
}

struct Opened(FileTree);

impl Prepared for Opened {
    fn source(&self) -> &dyn DataSource {
        &self.0
    }

    fn release(self: Box<Self>) -> Result<(), Cause> {
        Ok(())
    }
}
