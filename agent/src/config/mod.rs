//! The configuration file: TOML in, validated types out, with file and line in every complaint.
//!
//! Nothing is guessed: an unknown key and a value out of range stop the program before it touches anything. Each section has a room of its own;
//! [`reader`] holds what they share, [`edit`] changes the file and keeps its comments.

mod alerts;
mod azure_table;
mod command;
mod daemon;
mod databases;
mod drill;
mod edit;
mod effective;
mod group;
#[cfg(test)]
mod hostile;
mod maintenance;
mod mariadb;
mod pool;
mod postgres;
mod reader;
mod retention;
mod security;
mod source;
mod sqlite;
#[cfg(test)]
mod tests;
mod upload_limit;
mod vault;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml_edit::Document;

pub(crate) use alerts::{
    AlertLevel, AlertsConfig, MailConfig, MailSecurity, Secret, WebhookConfig,
};
pub(crate) use azure_table::{AzureTableConfig, is_endpoint, is_table};
pub(crate) use command::{CommandConfig, is_parameter};
pub(crate) use daemon::{DaemonConfig, IoClass};
pub(crate) use databases::DatabasesConfig;
pub(crate) use drill::{DrillConfig, DrillCopy, SampleSize};
pub(crate) use edit::{
    GroupChange, new_file, read, with_group, with_pool_path, with_vault, without_group, write,
};
pub(crate) use effective::{effective, retention_text};
pub(crate) use group::{GroupConfig, HookCommand, HooksConfig, SyncWhen};
pub(crate) use maintenance::{MaintenanceConfig, Routine, Upkeep};
pub(crate) use mariadb::MariadbConfig;
pub(crate) use pool::PoolConfig;
pub(crate) use postgres::{PostgresConfig, ReadFrom, SslMode, is_own};
pub(crate) use security::SecurityConfig;
pub(crate) use source::{FilesConfig, SourceConfig};
pub(crate) use sqlite::SqliteConfig;
pub(crate) use vault::{VaultConfig, is_vault_name};

use crate::error::{Attempt, Cause, Error};
use reader::{Reader, Section};

/// What the configuration file says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// The file.
    pub(crate) path: PathBuf,
    /// `[pool]`.
    pub(crate) pool: PoolConfig,
    /// `[vault.NAME]`.
    pub(crate) vaults: BTreeMap<String, VaultConfig>,
    /// `[group.NAME]`.
    pub(crate) groups: BTreeMap<String, GroupConfig>,
    /// `[maintenance]`.
    pub(crate) maintenance: MaintenanceConfig,
    /// `[daemon]`.
    pub(crate) daemon: DaemonConfig,
    /// `[alerts]`.
    pub(crate) alerts: AlertsConfig,
    /// `[security]`.
    pub(crate) security: SecurityConfig,
}

/// Something in the configuration file that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    path: PathBuf,
    line: usize,
    message: String,
    nearest: Option<String>,
    known: Vec<&'static str>,
}

impl ConfigError {
    /// Returns the valid word that was most likely meant.
    pub(crate) fn nearest(&self) -> Option<&str> {
        self.nearest.as_deref()
    }

    /// Returns a sentence with all valid words, if there are any to choose from.
    pub(crate) fn known(&self) -> Option<String> {
        (!self.known.is_empty()).then(|| format!("valid here: {}", self.known.join(", ")))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.message)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Returns the upkeep of pool (`None`) and vaults, as far as there is something to do: a vault without a retention forgets nothing.
    pub(crate) fn upkeep(
        &self,
    ) -> impl Iterator<Item = (Option<&str>, Upkeep, &MaintenanceConfig)> {
        let pool = Upkeep::ALL.into_iter().map(|upkeep| (None, upkeep, &self.maintenance));
        let vaults = self.vaults.iter().flat_map(|(name, vault)| {
            let has_to =
                move |upkeep: &Upkeep| *upkeep != Upkeep::Forget || vault.retention.is_some();
            let upkeep = Upkeep::ALL.into_iter().filter(has_to);
            upkeep.map(move |upkeep| (Some(name.as_str()), upkeep, &vault.maintenance))
        });
        pool.chain(vaults)
    }

    /// Reads the file.
    pub(crate) fn load(path: &Path) -> Result<Self, Error> {
        Self::load_as(path, path)
    }

    /// Reads a copy of the file `named`: paths are meant from the folder of that one, and complaints name it.
    pub(crate) fn load_as(path: &Path, named: &Path) -> Result<Self, Error> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let cause = Cause::NoConfiguration { path: path.to_path_buf() };
                return Err(Error { attempt: String::new(), cause });
            }
            Err(cause) => {
                let cause = Cause::Io { action: "read", path: path.to_path_buf(), cause };
                return Err(Error { attempt: "use the configuration".to_string(), cause });
            }
        };
        Self::parse(named, &text).attempt(|| "use the configuration".to_string())
    }

    /// Reads the text of the file at `path`.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let reader = Reader { path, text };
        let document = Document::parse(text)
            .map_err(|error| reader.error(error.span(), error.message().to_string()))?;
        let root = Section::root(&reader, document.as_table());
        root.only_known(&[
            "pool",
            "vault",
            "group",
            "maintenance",
            "daemon",
            "alerts",
            "security",
        ])?;
        let Some(pool) = root.section("pool", "[pool]")? else {
            return Err(reader.error(None, "there is no [pool]".to_string()));
        };
        let pool = PoolConfig::read(&pool)?;
        let mut vaults = BTreeMap::new();
        for (name, section) in root.named_sections("vault", "[vault.main]")? {
            vaults.insert(name.to_string(), VaultConfig::read(name, &section)?);
        }
        let mut groups = BTreeMap::new();
        for (name, section) in root.named_sections("group", "[group.web]")? {
            groups.insert(name.to_string(), GroupConfig::read(name, &section, &vaults)?);
        }
        Ok(Self {
            path: path.to_path_buf(),
            pool,
            vaults,
            groups,
            maintenance: MaintenanceConfig::read(
                root.section("maintenance", "[maintenance]")?,
                &maintenance::OF_A_POOL,
            )?,
            daemon: DaemonConfig::read(root.section("daemon", "[daemon]")?)?,
            alerts: AlertsConfig::read(root.section("alerts", "[alerts]")?)?,
            security: SecurityConfig::read(root.section("security", "[security]")?)?,
        })
    }
}
