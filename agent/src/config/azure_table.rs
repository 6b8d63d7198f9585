//! `{ azure-table = { ... } }`: tables of an Azure Storage account.

use std::path::PathBuf;

use toml_edit::{InlineTable, Value};

use super::ConfigError;
use super::reader::Section;

/// How many ranges of a table are read at once if nothing else is said.
const PARALLEL: i64 = 4;
/// Most of them: an account is shared with those who work with it.
const PARALLEL_MOST: i64 = 16;

/// `{ azure-table = { ... } }`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AzureTableConfig {
    /// Name of the storage account.
    pub(crate) account: String,
    /// Where its tables are; `None`: Azure's own place for them.
    pub(crate) endpoint: Option<String>,
    /// A file with the account's key in its first line.
    pub(crate) key_file: PathBuf,
    /// Names of tables; empty for all.
    pub(crate) tables: Vec<String>,
    /// How many ranges of a table are read at once.
    pub(crate) parallel: usize,
}

impl AzureTableConfig {
    /// Reads the source.
    pub(super) fn read(source: &Section<'_>) -> Result<Self, ConfigError> {
        source.only_known(&["azure-table"])?;
        let example = "azure-table = { account = \"shop\", key_file = \"/etc/keepwell/shop.key\" }";
        let Some(section) = source.section("azure-table", example)? else {
            return Err(source.complaint(format!("expected {example}")));
        };
        section.only_known(&["account", "endpoint", "key_file", "tables", "parallel"])?;
        let missing =
            |key| section.complaint(format!("{} has no {key}: {example}", section.name()));
        let account = section.text("account", "the name of a storage account")?;
        let endpoint = section.value("endpoint", |value| match value.as_str() {
            Some(url) if is_endpoint(url) => Ok(url.trim_end_matches('/').to_string()),
            _ => Err("expected an address such as \"https://shop.table.core.windows.net\"".into()),
        })?;
        let mut tables = section.texts("tables", "a list of names of tables")?.unwrap_or_default();
        tables.sort();
        tables.dedup();
        if let Some(wrong) = tables.iter().find(|name| !is_table(name)) {
            return Err(
                section.wrong("tables", format!("\"{wrong}\" cannot be the name of a table"))
            );
        }
        let parallel = section.number("parallel", 1..=PARALLEL_MOST)?.unwrap_or(PARALLEL);
        Ok(Self {
            account: account.ok_or_else(|| missing("account"))?.to_string(),
            endpoint,
            key_file: section
                .path("key_file", "the path of a file")?
                .ok_or_else(|| missing("key_file"))?,
            tables,
            parallel: usize::try_from(parallel).unwrap_or(1),
        })
    }

    /// Returns the name of the source.
    pub(crate) fn name(&self) -> String {
        match self.tables.as_slice() {
            [] => format!("azure-table {}", self.account),
            tables => format!("azure-table {}: {}", self.account, tables.join(", ")),
        }
    }

    /// Returns the source as it is in force.
    pub(super) fn shown(&self) -> Value {
        let mut table = InlineTable::new();
        table.insert("account", self.account.as_str().into());
        if let Some(endpoint) = &self.endpoint {
            table.insert("endpoint", endpoint.as_str().into());
        }
        table.insert("key_file", self.key_file.display().to_string().into());
        table.insert("tables", self.tables.iter().collect());
        table.insert("parallel", (self.parallel as i64).into());
        let mut source = InlineTable::new();
        source.insert("azure-table", Value::InlineTable(table));
        Value::InlineTable(source)
    }
}

/// Returns whether this is an address without anything secret in it.
pub(crate) fn is_endpoint(url: &str) -> bool {
    (url.starts_with("https://") || url.starts_with("http://")) && !url.contains(['?', '#', '@'])
}

/// Returns whether a table may have this name.
pub(crate) fn is_table(name: &str) -> bool {
    (3..=63).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|letter| letter.is_ascii_alphanumeric())
}
