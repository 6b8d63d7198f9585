//! Tables of an Azure Storage account, through the service's own interface.
//!
//! Each table becomes a file of lines, one entity each, in the service's order of keys and in one form only ([`entity`]), so that an unchanged stretch of a
//! table is the same chunks again. The service has no snapshots: a table is read while others write to it.

mod client;
mod entity;
mod read;
mod restore;
pub(crate) mod trial;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use storepool::clock::{Clock, SystemClock};
use storepool::monitor::{Monitor, SilentMonitor};
use storepool::source::DataSource;
use zeroize::Zeroizing;

use client::TableClient;
use read::TableStream;
pub(crate) use restore::AzureTableRestore;

use super::streams::{LastStream, OpenStream, StreamTree, source_error};
use super::{Finding, Prepared, Surroundings, Workload, WorkloadError};
use crate::config::AzureTableConfig;
use crate::error::Cause;

/// Version of [`TablesDetail`].
const FORMAT: u32 = 1;
/// Ends the name of a table's file.
const SUFFIX: &str = ".jsonl";
/// Longest file with a key.
const KEY_MOST: u64 = 4096;

/// What a point of this kind keeps beside the tables; described in docs/format.md. Never anything secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TablesDetail {
    format: u32,
    account: String,
    tables: Vec<String>,
}

/// The kind of these points.
pub(crate) const WORKLOAD: &str = "azure-table";

/// A source of tables.
pub(crate) struct AzureTable {
    config: AzureTableConfig,
}

impl AzureTable {
    pub(super) fn new(config: AzureTableConfig) -> Self {
        Self { config }
    }

    // All tables, or those that are configured; one of those that is not there is a fault.
    fn tables(
        &self,
        client: &TableClient,
        monitor: &dyn Monitor,
    ) -> Result<Vec<String>, WorkloadError> {
        let there = client.tables(monitor)?;
        if self.config.tables.is_empty() {
            return Ok(there);
        }
        // The service does not tell upper from lower case in names of tables.
        let missing = |name: &&String| !there.iter().any(|other| other.eq_ignore_ascii_case(name));
        match self.config.tables.iter().find(missing) {
            None => Ok(self.config.tables.clone()),
            Some(name) => Err(WorkloadError::failed(format!(
                "there is no table \"{name}\" in account {}",
                self.config.account
            ))),
        }
    }
}

impl Workload for AzureTable {
    fn name(&self) -> String {
        self.config.name()
    }

    fn check(&self) -> Vec<Finding> {
        let id = format!("source {}", self.name());
        let found = connect(&self.config).and_then(|client| self.tables(&client, &SilentMonitor));
        vec![match found {
            Ok(tables) => Finding::good(id, format!("{} tables", tables.len())),
            Err(error) => {
                let fix = "see that account, key and endpoint belong together";
                Finding::bad(id, source_error(&error).message, error.hint.unwrap_or(fix.into()))
            }
        }]
    }

    fn not_contained(&self) -> Vec<String> {
        vec![
            "Timestamp and ETag of entities, which the service sets anew".to_string(),
            "access policies of tables".to_string(),
        ]
    }

    fn prepare<'a>(
        &'a self,
        surroundings: &'a Surroundings<'a>,
    ) -> Result<Box<dyn Prepared + 'a>, Cause> {
        let client = connect(&self.config)?;
        let tables = self.tables(&client, surroundings.monitor);
        if surroundings.monitor.cancelled() {
            return Err(storepool::Error::Interrupted.into());
        }
        let tables = tables?;
        let detail = TablesDetail {
            format: FORMAT,
            account: self.config.account.clone(),
            tables: tables.clone(),
        };
        let text = serde_json::to_string(&detail).map_err(|cause| {
            WorkloadError::failed("the point cannot be described").because(cause)
        })?;
        let client = Arc::new(client);
        let parallel = self.config.parallel;
        let tree = StreamTree {
            workload: WORKLOAD,
            label: self.name(),
            names: tables.iter().map(|table| format!("{table}{SUFFIX}")).collect(),
            looks: BTreeMap::new(),
            time: SystemClock::new().now(),
            opener: Arc::new(move |file| {
                let table = file.strip_suffix(SUFFIX).unwrap_or(file);
                Ok(OpenStream::of(TableStream::start(&client, table, parallel)))
            }),
            finisher: Box::new(move || Ok(text.clone())),
            last: LastStream::default(),
        };
        Ok(Box::new(Tables(tree)))
    }
}

struct Tables(StreamTree);

impl Prepared for Tables {
    fn source(&self) -> &dyn DataSource {
        &self.0
    }

    fn release(self: Box<Self>) -> Result<(), Cause> {
        Ok(())
    }
}

fn connect(config: &AzureTableConfig) -> Result<TableClient, WorkloadError> {
    let key = read_key(&config.key_file)?;
    TableClient::new(&config.account, config.endpoint.as_deref(), &key)
}

fn read_key(path: &Path) -> Result<Zeroizing<String>, WorkloadError> {
    let mut text = Zeroizing::new(String::new());
    std::fs::File::open(path)
        .and_then(|file| file.take(KEY_MOST).read_to_string(&mut text))
        .map_err(|cause| {
            WorkloadError::failed(format!("cannot read the key in {}", path.display()))
                .because(cause)
        })?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().trim().to_string()))
}
