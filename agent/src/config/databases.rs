//! What the sources of database servers have in common: the whole server, or databases one by one.

use toml_edit::{InlineTable, Value};

use super::ConfigError;
use super::reader::Section;

/// Which databases are dumped one by one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum DatabasesConfig {
    /// None.
    None,
    /// All that there are at the time of the backup.
    All,
    /// These.
    Named(Vec<String>),
}

impl DatabasesConfig {
    /// Reads whether all of the server is copied (`physical`), and which databases are dumped (`dump = true` or a list of names).
    pub(super) fn read(section: &Section<'_>) -> Result<(bool, Self), ConfigError> {
        let physical = match section.get("physical") {
            None => true,
            Some(_) => section.flag("physical")?,
        };
        let dump = match section.get("dump") {
            None => Self::None,
            Some(item) if item.is_bool() && !section.flag("dump")? => Self::None,
            Some(item) if item.is_bool() => Self::All,
            Some(_) => {
                let names = section.texts("dump", "true, or a list of databases")?;
                Self::Named(names.unwrap_or_default())
            }
        };
        if !physical && dump == Self::None {
            return Err(section.wrong("physical", "nothing is left to back up: add dump = true"));
        }
        Ok((physical, dump))
    }

    /// Returns it as it is in force.
    pub(super) fn shown(&self) -> Value {
        match self {
            Self::None => false.into(),
            Self::All => true.into(),
            Self::Named(names) => Value::Array(names.iter().collect()),
        }
    }
}

/// Returns a source of a kind as it is in force.
pub(super) fn shown_source(kind: &str, table: InlineTable) -> Value {
    let mut source = InlineTable::new();
    source.insert(kind, table.into());
    Value::InlineTable(source)
}
