//! Files and folders, read as they are. What moves while it is read is read again; the backup engine sees to that.

use std::fs;
use std::path::PathBuf;

use storepool::filetree::{FileTree, FileTreeOptions};
use storepool::source::DataSource;

use super::sqlite::aware::AwareTree;
use super::{Finding, Prepared, Surroundings, Workload};
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

    fn check(&self) -> Vec<Finding> {
        let look = |path: &PathBuf| {
            let id = format!("source {}", path.display());
            let readable = match fs::metadata(path) {
                Ok(metadata) if metadata.is_dir() => fs::read_dir(path).map(drop),
                Ok(_) => fs::File::open(path).map(drop),
                Err(error) => Err(error),
            };
            match readable {
                Ok(()) => Finding::good(id, "it can be read"),
                Err(error) => {
                    let fix = "see that it exists and that this user may read it";
                    Finding::bad(id, error.to_string(), fix)
                }
            }
        };
        self.config.paths.iter().map(look).collect()
    }

    fn prepare<'a>(
        &'a self,
        surroundings: &'a Surroundings<'a>,
    ) -> Result<Box<dyn Prepared + 'a>, Cause> {
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
        let tree = FileTree::open(&config.paths, options)?;
        Ok(match config.sqlite_aware {
            true => Box::new(Opened(AwareTree::new(tree, surroundings.state.clone()))),
            false => Box::new(Opened(tree)),
        })
    }
}

struct Opened<S>(S);

impl<S: DataSource> Prepared for Opened<S> {
    fn source(&self) -> &dyn DataSource {
        &self.0
    }

    fn release(self: Box<Self>) -> Result<(), Cause> {
        Ok(())
    }
}
