//! `{ sqlite = { ... } }`: databases by name, or wherever they are below a folder.

use std::path::PathBuf;

use storepool::filetree::lexically_clean;
use toml_edit::{InlineTable, Value};

use super::ConfigError;
use super::reader::Section;

/// `{ sqlite = { ... } }`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SqliteConfig {
    /// Databases, absolute.
    pub(crate) files: Vec<PathBuf>,
    /// Folders in which all databases are found anew at each run.
    pub(crate) discover: Vec<PathBuf>,
}

impl SqliteConfig {
    /// Reads the source.
    pub(super) fn read(source: &Section<'_>) -> Result<Self, ConfigError> {
        source.only_known(&["sqlite"])?;
        let example = "sqlite = { discover = \"/srv\" } or sqlite = { files = [\"/srv/app.db\"] }";
        let Some(section) = source.section("sqlite", example)? else {
            return Err(source.complaint(format!("expected {example}")));
        };
        section.only_known(&["files", "discover"])?;
        let config =
            Self { files: paths(&section, "files")?, discover: paths(&section, "discover")? };
        match config.files.is_empty() && config.discover.is_empty() {
            true => Err(section.complaint(format!("{} names nothing: {example}", section.name()))),
            false => Ok(config),
        }
    }

    /// Returns the name of the source.
    pub(crate) fn name(&self) -> String {
        let files = self.files.iter().map(|path| path.display().to_string());
        let folders = self.discover.iter().map(|path| format!("{}/**", path.display()));
        format!("sqlite {}", files.chain(folders).collect::<Vec<_>>().join(", "))
    }

    /// Returns the source as it is in force.
    pub(super) fn shown(&self) -> Value {
        let list = |paths: &[PathBuf]| -> Value {
            Value::Array(paths.iter().map(|path| path.display().to_string()).collect())
        };
        let mut table = InlineTable::new();
        table.insert("files", list(&self.files));
        table.insert("discover", list(&self.discover));
        let mut source = InlineTable::new();
        source.insert("sqlite", Value::InlineTable(table));
        Value::InlineTable(source)
    }
}

// One path, or a list of them.
fn paths(section: &Section<'_>, key: &str) -> Result<Vec<PathBuf>, ConfigError> {
    let expected = "a path, or a list of paths";
    let single = section.get(key).and_then(toml_edit::Item::as_str).filter(|text| !text.is_empty());
    let texts = match single {
        Some(text) => vec![text.to_string()],
        None => section.texts(key, expected)?.unwrap_or_default(),
    };
    let mut paths: Vec<PathBuf> =
        texts.iter().map(|text| lexically_clean(&section.resolve(text))).collect();
    paths.sort();
    paths.dedup();
    Ok(paths)
}
