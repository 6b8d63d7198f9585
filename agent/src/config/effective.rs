//! The configuration as it is in force: every key with its value, whether it was written or is the default. Secrets are only hinted at.

use std::time::Duration;

use cloudsync::retention::{Count, RetentionPolicy};
use storepool::space::Reserve;
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, Value, value};

use super::{
    AlertsConfig, Config, GroupConfig, HookCommand, HooksConfig, MailConfig, MailSecurity, Routine,
    Secret, SourceConfig, SyncWhen, WebhookConfig,
};
use crate::schedule::Schedule;

/// Returns the configuration as TOML.
pub(crate) fn effective(config: &Config) -> String {
    let mut document = DocumentMut::new();
    document.insert("pool", Item::Table(pool(config)));
    let mut vaults = parent();
    for (name, vault) in &config.vaults {
        let mut table = Table::new();
        table.insert("credentials", value(vault.credentials.display().to_string()));
        vaults.insert(name, Item::Table(table));
    }
    document.insert("vault", Item::Table(vaults));
    let mut groups = parent();
    for (name, config) in &config.groups {
        groups.insert(name, Item::Table(group(config)));
    }
    document.insert("group", Item::Table(groups));
    document.insert("maintenance", Item::Table(maintenance(config)));
    document.insert("daemon", Item::Table(daemon(config)));
    document.insert("alerts", Item::Table(alerts(&config.alerts)));
    document.to_string()
}

fn parent() -> Table {
    let mut table = Table::new();
    table.set_implicit(true);
    table
}

fn duration(duration: Duration) -> Item {
    value(crate::duration::text(duration))
}

fn schedule(schedule: Option<&Schedule>) -> Item {
    value(schedule.map_or("never".to_string(), ToString::to_string))
}

fn texts(texts: &[String]) -> Item {
    value(texts.iter().collect::<Array>())
}

fn zone(zone: &jiff::tz::TimeZone) -> Item {
    value(zone.iana_name().unwrap_or("UTC"))
}

fn pool(config: &Config) -> Table {
    let mut table = Table::new();
    let paths: Vec<String> =
        config.pool.paths.iter().map(|path| path.display().to_string()).collect();
    table.insert("paths", texts(&paths));
    let reserve = match config.pool.reserve {
        Reserve::Percent(percent) => value(format!("{percent}%")),
        Reserve::Bytes(bytes) => value(bytes as i64),
    };
    table.insert("reserve", reserve);
    table.insert("compression", value(i64::from(config.pool.compression)));
    table.insert("pack_size", value(config.pool.pack_size as i64));
    table
}

fn group(config: &GroupConfig) -> Table {
    let mut table = Table::new();
    let sources: Array = config.sources.iter().map(SourceConfig::shown).collect();
    table.insert("sources", value(sources));
    table.insert("schedule", schedule(config.schedule.as_ref()));
    table.insert("timezone", zone(&config.zone));
    table.insert("jitter", duration(config.jitter));
    table.insert("paused", value(config.paused));
    if let Some(policy) = &config.retention {
        table.insert("retention", value(retention(policy)));
    }
    table.insert("vault", value(config.vault.as_deref().unwrap_or("none")));
    if config.vault.is_some() {
        let sync = match &config.sync {
            SyncWhen::AfterBackup => "after backup".to_string(),
            SyncWhen::Never => "never".to_string(),
            SyncWhen::At(schedule) => schedule.to_string(),
        };
        table.insert("sync", value(sync));
    }
    table.insert("consistent", value(config.consistent));
    table.insert("hooks", value(hooks(&config.hooks)));
    if let Some(after) = config.alert_after {
        table.insert("alert_after", duration(after));
    }
    table
}

/// Returns a retention in one line, for people: `last 10, daily 5`.
pub(crate) fn retention_text(policy: &RetentionPolicy) -> String {
    let table = retention(policy);
    let text = |value: &Value| match value.as_str() {
        Some(text) => text.to_string(),
        None => value.to_string().trim().to_string(),
    };
    let parts = table.iter().map(|(key, value)| format!("{key} {}", text(value)));
    parts.collect::<Vec<_>>().join(", ")
}

/// Returns a retention as it is written.
fn retention(policy: &RetentionPolicy) -> InlineTable {
    let mut table = InlineTable::new();
    for (key, count) in [
        ("last", policy.last),
        ("hourly", policy.hourly),
        ("daily", policy.daily),
        ("weekly", policy.weekly),
        ("monthly", policy.monthly),
        ("yearly", policy.yearly),
    ] {
        match count {
            Count::None => {}
            Count::Limited(count) => drop(table.insert(key, i64::from(count).into())),
            Count::Unlimited => drop(table.insert(key, "all".into())),
        }
    }
    if let Some(within) = policy.within {
        table.insert("within", within.to_string().into());
    }
    if !policy.tags.is_empty() {
        table.insert("tags", policy.tags.iter().collect());
    }
    table
}

fn command(command: &HookCommand) -> Value {
    match command {
        HookCommand::Shell(text) => text.as_str().into(),
        HookCommand::Program(words) => Value::Array(words.iter().collect()),
    }
}

fn hooks(hooks: &HooksConfig) -> InlineTable {
    let mut table = InlineTable::new();
    for (key, hook) in
        [("before", &hooks.before), ("after", &hooks.after), ("on_error", &hooks.on_error)]
    {
        if let Some(hook) = hook {
            table.insert(key, command(hook));
        }
    }
    table.insert("timeout", crate::duration::text(hooks.timeout).into());
    if let Some(user) = &hooks.user {
        table.insert("user", user.as_str().into());
    }
    table
}

fn maintenance(config: &Config) -> Table {
    let config = &config.maintenance;
    let mut table = Table::new();
    let mut routine = |key: &str, routine: &Routine| {
        table.insert(key, schedule(routine.schedule.as_ref()));
        table.insert(&format!("{key}_alert_after"), duration(routine.alert_after));
    };
    routine("forget", &config.forget);
    routine("prune", &config.prune);
    routine("check", &config.check);
    table.insert("check_read", value(format!("{}%", config.check_read_percent)));
    table.insert("timezone", zone(&config.zone));
    table
}

fn daemon(config: &Config) -> Table {
    let config = &config.daemon;
    let mut table = Table::new();
    table.insert("slots", value(config.slots as i64));
    table.insert("nice", value(i64::from(config.nice)));
    table.insert("io", value(config.io.word()));
    if let Some(bytes) = config.memory {
        table.insert("memory", value(bytes as i64));
    }
    table.insert("retries", value(i64::from(config.retries)));
    table.insert("history", value(i64::from(config.history)));
    table
}

fn secret(secret: &Secret) -> Value {
    match secret {
        // A token may be anywhere in an address.
        Secret::Here(_) => "(hidden)".into(),
        Secret::File(path) => path.display().to_string().into(),
    }
}

fn webhook(config: &WebhookConfig) -> InlineTable {
    let mut table = InlineTable::new();
    let key = if matches!(config.url, Secret::Here(_)) { "url" } else { "url_file" };
    table.insert(key, secret(&config.url));
    table
}

fn mail(config: &MailConfig) -> InlineTable {
    let mut table = InlineTable::new();
    table.insert("host", config.host.as_str().into());
    table.insert("port", i64::from(config.port).into());
    let security = match config.security {
        MailSecurity::Tls => "tls",
        MailSecurity::StartTls => "starttls",
        MailSecurity::None => "none",
    };
    table.insert("security", security.into());
    if let Some(path) = &config.ca_file {
        table.insert("ca_file", path.display().to_string().into());
    }
    if let Some(user) = &config.user {
        table.insert("user", user.as_str().into());
    }
    if let Some(password) = &config.password {
        table.insert("password_file", secret(password));
    }
    table.insert("from", config.from.as_str().into());
    table.insert("to", config.to.iter().collect());
    table
}

fn alerts(config: &AlertsConfig) -> Table {
    let mut table = Table::new();
    table.insert("level", value(config.level.word()));
    table.insert("digest", duration(config.digest));
    table.insert("repeat", duration(config.repeat));
    if let Some(hook) = &config.command {
        table.insert("command", Item::Value(command(hook)));
    }
    if let Some(config) = &config.webhook {
        table.insert("webhook", value(webhook(config)));
    }
    if let Some(config) = &config.mail {
        table.insert("mail", value(mail(config)));
    }
    if let Some(config) = &config.heartbeat {
        table.insert("heartbeat", value(webhook(config)));
    }
    table.insert("heartbeat_every", duration(config.heartbeat_every));
    if let Some(path) = &config.textfile {
        table.insert("textfile", value(path.display().to_string()));
    }
    table
}
