//! Giving tables back, to the same account or another, under the same names or others; entities go in groups of one partition.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use storepool::entry::EntryPath;
use storepool::monitor::{Monitor, SilentMonitor};
use tokio::task::JoinSet;

use super::client::{Change, Continuation, TableClient};
use super::entity::Entity;
use super::{AzureTable, FORMAT, SUFFIX, TablesDetail, connect};
use crate::config::{AzureTableConfig, is_endpoint, is_table};
use crate::error::Cause;
use crate::workload::streams::source_error;
use crate::workload::{
    PointContents, RestoreOrder, RestoredService, Restorer, ServiceConflict, WorkloadError,
};

/// Most entities of a group transaction, and about the most bytes: limits of the service, with room to spare.
const GROUP_ENTITIES: usize = 100;
const GROUP_BYTES: usize = 3 << 20;
/// Groups on their way at the same time.
const GROUPS_AT_ONCE: usize = 4;
/// What may be typed.
const PARAMETERS: [&str; 5] = ["account", "endpoint", "key_file", "table", "prefix"];

/// Restores points of tables; the configured source lends account and key if nothing else is typed.
pub(crate) struct AzureTableRestore {
    configured: Option<AzureTableConfig>,
}

struct Plan {
    client: TableClient,
    config: AzureTableConfig,
    // The file of the point, and the table it goes to.
    tables: Vec<(EntryPath, String)>,
    // Those that have something in them.
    occupied: Vec<String>,
}

impl AzureTableRestore {
    pub(in crate::workload) fn new(configured: Option<AzureTableConfig>) -> Self {
        Self { configured }
    }

    fn target(&self, order: &RestoreOrder<'_>, faults: &mut Vec<String>) -> AzureTableConfig {
        for name in order.parameters.keys().filter(|name| !PARAMETERS.contains(&name.as_str())) {
            let known = PARAMETERS.join(", ");
            faults.push(format!("there is no parameter \"{name}\": known are {known}"));
        }
        let typed = |name: &str| order.parameters.get(name).cloned();
        let mut config = self.configured.clone().unwrap_or(AzureTableConfig {
            account: String::new(),
            endpoint: None,
            key_file: PathBuf::new(),
            tables: Vec::new(),
            parallel: 1,
        });
        if let Some(account) = typed("account") {
            // The key of one account is none of another's, and neither is the place.
            if account != config.account {
                config.endpoint = None;
                config.key_file = PathBuf::new();
            }
            config.account = account;
        }
        if let Some(endpoint) = typed("endpoint") {
            if !is_endpoint(&endpoint) {
                faults.push("the parameter \"endpoint\" is no address".to_string());
            }
            config.endpoint = Some(endpoint);
        }
        if let Some(file) = typed("key_file") {
            config.key_file = PathBuf::from(file);
        }
        if config.account.is_empty() {
            faults.push("no account is named: add -p account=NAME".to_string());
        }
        if config.key_file.as_os_str().is_empty() {
            faults.push("no key is named: add -p key_file=FILE".to_string());
        }
        config
    }

    // Everything that can be known is checked, and all faults are told together.
    fn plan(&self, point: &PointContents<'_>, order: &RestoreOrder<'_>) -> Result<Plan, Cause> {
        let detail: TablesDetail = point.detail()?;
        if detail.format != FORMAT {
            return Err(point.of_newer_version().into());
        }
        let mut faults = Vec::new();
        let mut config = self.target(order, &mut faults);
        let renamed = order.parameters.get("table");
        let prefix = order.parameters.get("prefix").map(String::as_str).unwrap_or_default();
        if renamed.is_some() && (detail.tables.len() != 1 || !prefix.is_empty()) {
            faults.push(
                "\"table\" is for a point of one table, and not together with \"prefix\"".into(),
            );
        }
        let mut tables = Vec::new();
        for table in &detail.tables {
            let target = renamed.cloned().unwrap_or_else(|| format!("{prefix}{table}"));
            if !is_table(&target) {
                faults.push(format!("\"{target}\" cannot be the name of a table"));
            }
            match EntryPath::parse(format!("{table}{SUFFIX}").as_bytes()) {
                Some(file) => tables.push((file, target)),
                None => faults.push(format!("the point names a table \"{table}\"")),
            }
        }
        let mut occupied = Vec::new();
        let mut client = None;
        if faults.is_empty() {
            match connect(&config).and_then(|client| Ok((occupied_of(&client, &tables)?, client))) {
                Ok((found, connected)) => {
                    occupied = found;
                    client = Some(connected);
                }
                Err(error) => faults.push(source_error(&error).message),
            }
        }
        if order.conflict == ServiceConflict::Fail && !order.replace {
            for table in &occupied {
                faults.push(format!(
                    "the table {table} has entities (--conflict merge keeps them, --conflict replace removes them)"
                ));
            }
        }
        config.tables = occupied.clone();
        match client.filter(|_| faults.is_empty()) {
            Some(client) => Ok(Plan { client, config, tables, occupied }),
            None => {
                let target = match config.account.as_str() {
                    "" => "an account".to_string(),
                    account => format!("account {account}"),
                };
                Err(point.kept_from(&target, &faults, "").into())
            }
        }
    }
}

impl Restorer for AzureTableRestore {
    fn restore(
        &self,
        point: &PointContents<'_>,
        order: &RestoreOrder<'_>,
    ) -> Result<RestoredService, Cause> {
        let plan = self.plan(point, order)?;
        let names: Vec<&str> = plan.tables.iter().map(|(_, table)| table.as_str()).collect();
        let mut done = RestoredService {
            target: format!("account {}: {}", plan.config.account, names.join(", ")),
            ..RestoredService::default()
        };
        if order.dry_run {
            done.items = plan.tables.len() as u64;
            return Ok(done);
        }
        let replaces = order.replace || order.conflict == ServiceConflict::Replace;
        if replaces && !plan.occupied.is_empty() {
            done.safety_point = Some((order.safety_point)(&AzureTable::new(plan.config.clone()))?);
            for table in &plan.occupied {
                empty(&plan.client, table, point.monitor)?;
            }
        }
        for (file, table) in &plan.tables {
            plan.client.create_table(table)?;
            let mut writer = TableWriter::new(&plan.client, table);
            let written = point.copy(file, &mut writer);
            // What the writer refused says more than that the copying stopped.
            let outcome = match (writer.failure.take(), written) {
                (Some(failure), _) => Err(failure.into()),
                (None, Ok(bytes)) => {
                    writer.finish().map(|entities| (entities, bytes)).map_err(Cause::from)
                }
                (None, Err(cause)) => Err(cause),
            };
            let (entities, bytes) = outcome.map_err(|cause: Cause| {
                let message =
                    format!("the table {table} has not all of point {}", point.id.short());
                let hint =
                    "run it again with --conflict merge: what is there already is written again";
                WorkloadError::failed(message).hint(hint).because(cause.chain())
            })?;
            done.items += entities;
            done.bytes += bytes;
        }
        Ok(done)
    }
}

// Those of the tables that are there and have something in them.
fn occupied_of(
    client: &TableClient,
    tables: &[(EntryPath, String)],
) -> Result<Vec<String>, WorkloadError> {
    let there = client.tables(&SilentMonitor)?;
    let mut occupied = Vec::new();
    for (_, table) in tables {
        let exists = there.iter().any(|other| other.eq_ignore_ascii_case(table));
        if exists && !client.page(table, &Continuation::default())?.0.is_empty() {
            occupied.push(table.clone());
        }
    }
    Ok(occupied)
}

fn empty(client: &TableClient, table: &str, monitor: &dyn Monitor) -> Result<(), Cause> {
    loop {
        // Always the first page: what it had is gone then.
        let (entities, next) = client.page(table, &Continuation::default())?;
        if entities.is_empty() && next.is_none() {
            return Ok(());
        }
        let mut groups: BTreeMap<String, Vec<Change>> = BTreeMap::new();
        for entity in entities {
            let key = Entity { properties: BTreeMap::new(), ..entity };
            groups.entry(key.partition.clone()).or_default().push(Change::Delete(key));
        }
        for changes in groups.values().flat_map(|changes| changes.chunks(GROUP_ENTITIES)) {
            if monitor.cancelled() {
                return Err(storepool::Error::Interrupted.into());
            }
            client.runtime.block_on(client.requests.transact(table, changes))?;
        }
    }
}

/// Takes the lines of a table and writes their entities.
struct TableWriter<'a> {
    client: &'a TableClient,
    table: &'a str,
    // The beginning of a line.
    line: Vec<u8>,
    group: Vec<Change>,
    partition: String,
    group_bytes: usize,
    under_way: JoinSet<Result<(), WorkloadError>>,
    entities: u64,
    failure: Option<WorkloadError>,
}

impl<'a> TableWriter<'a> {
    fn new(client: &'a TableClient, table: &'a str) -> Self {
        Self {
            client,
            table,
            line: Vec::new(),
            group: Vec::new(),
            partition: String::new(),
            group_bytes: 0,
            under_way: JoinSet::new(),
            entities: 0,
            failure: None,
        }
    }

    fn take(&mut self, line: &[u8]) -> Result<(), WorkloadError> {
        let entity: Entity = serde_json::from_slice(line).map_err(|cause| {
            WorkloadError::failed(format!("a line of {} is no entity", self.table)).because(cause)
        })?;
        let weight = entity.weight();
        let full = self.group.len() >= GROUP_ENTITIES || self.group_bytes + weight > GROUP_BYTES;
        if full || entity.partition != self.partition {
            self.send()?;
        }
        self.partition.clone_from(&entity.partition);
        self.group_bytes += weight;
        self.group.push(Change::Put(entity));
        self.entities += 1;
        Ok(())
    }

    fn send(&mut self) -> Result<(), WorkloadError> {
        if self.group.is_empty() {
            return Ok(());
        }
        while self.under_way.len() >= GROUPS_AT_ONCE {
            self.wait_for_one()?;
        }
        let changes = std::mem::take(&mut self.group);
        self.group_bytes = 0;
        let (requests, table) = (self.client.requests.clone(), self.table.to_string());
        let task = async move { requests.transact(&table, &changes).await };
        self.under_way.spawn_on(task, self.client.runtime.handle());
        Ok(())
    }

    fn wait_for_one(&mut self) -> Result<(), WorkloadError> {
        match self.client.runtime.block_on(self.under_way.join_next()) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(cause)) => {
                Err(WorkloadError::failed("a group was not written").because(cause))
            }
        }
    }

    fn finish(mut self) -> Result<u64, WorkloadError> {
        if !self.line.is_empty() {
            return Err(WorkloadError::failed(format!("the last line of {} is torn", self.table)));
        }
        self.send()?;
        while !self.under_way.is_empty() {
            self.wait_for_one()?;
        }
        Ok(self.entities)
    }
}

impl Write for TableWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.line.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            let line = std::mem::take(&mut self.line);
            if let Err(error) = self.take(&line) {
                let told = io::Error::other(error.to_string());
                self.failure = Some(error);
                return Err(told);
            }
        }
        self.line.extend_from_slice(rest);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
