//! The configuration as it is in force: every key with its value, whether it was written or is the default. Secrets are only hinted at.

use std::time::Duration;

use cloudsync::retention::{Count, RetentionPolicy};
use cloudsync::store::bandwidth::{Calendar, Rate};
use storepool::space::Reserve;
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, Value, value};

use super::{
    AlertsConfig, Config, GroupConfig, HookCommand, HooksConfig, MailConfig, MailSecurity,
    MaintenanceConfig, Routine, Secret, SourceConfig, SyncWhen, VaultConfig, WebhookConfig,
};
use crate::schedule::Schedule;

/// Returns the configuration as TOML.
pub(crate) fn effective(config: &Config) -> String {
    let mut document = DocumentMut::new();
    document.insert("pool", Item::Table(pool(config)));
    let mut vaults = parent();
    for (name, vault) in &config.vaults {
        vaults.insert(name, Item::Table(self::vault(vault)));
    }
    document.insert("vault", Item::Table(vaults));
    let mut groups = parent();
    for (name, config) in &config.groups {
        groups.insert(name, Item::Table(group(config)));
    }
    document.insert("group", Item::Table(groups));
    document.insert("maintenance", Item::Table(maintenance(&config.maintenance)));
    document.insert("daemon", Item::Table(daemon(config)));
    document.insert("alerts", Item::Table(alerts(&config.alerts)));
    let mut security = Table::new();
    security.insert("enabled", value(config.security.enabled));
    document.insert("security", Item::Table(security));
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

fn vault(config: &VaultConfig) -> Table {
    let mut table = Table::new();
    table.insert("credentials", value(config.credentials.display().to_string()));
    table.insert("upload_limit", upload_limit(&config.upload_limit));
    if let Some(policy) = &config.retention {
        table.insert("retention", value(retention(policy)));
    }
    table.insert("undelete", duration(config.undelete));
    table.insert("policy", value(config.policy.word()));
    table.insert("maintenance", Item::Table(maintenance(&config.maintenance)));
    table
}

fn upload_limit(calendar: &Calendar) -> Item {
    let rate = |rate: Option<Rate>| match rate {
        None => Value::from("off"),
        Some(rate) => (rate.bytes_per_second() as i64).into(),
    };
    let mut table = InlineTable::new();
    table.insert("default", rate(calendar.usual()));
    for (hours, limit) in calendar.hours() {
        table.insert(hours.to_string(), rate(limit));
    }
    match table.len() {
        1 => value(rate(calendar.usual())),
        _ => value(table),
    }
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
    if let Some(drill) = &config.drill {
        table.insert("drill", value(drill.shown()));
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

fn maintenance(config: &MaintenanceConfig) -> Table {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_is_shown_is_a_configuration_that_says_the_same() {
        let text = "[pool]\npaths = [\"/p\"]\nreserve = \"3%\"\n\
                    [vault.plain]\ncredentials = \"/a.vault\"\n\
                    [vault.main]\ncredentials = \"/m.vault\"\npolicy = \"strict\"\nundelete = \"30d\"\n\
                    upload_limit = { default = \"off\", \"Mon-Fri 08:00-18:00\" = \"20M\", \"Sat 22:00-06:00\" = \"1M\", \"Sun 12:00-24:00\" = \"2M\" }\n\
                    retention = { daily = 10, weekly = 4, monthly = 3, yearly = \"all\" }\n\
                    [vault.main.maintenance]\nprune = \"never\"\ncheck_read = \"2%\"\ncheck_alert_after = \"60d\"\n\
                    [group.web]\nsources = [{ files = [\"/srv\"], exclude = [\"*.tmp\"] }]\nschedule = \"daily 02:00\"\n\
                    timezone = \"Europe/Berlin\"\nvault = \"main\"\nsync = \"weekly Sun 03:00\"\n\
                    drill = { schedule = \"monthly 1st Sun 06:00\", from = \"vault\", sample = \"2G\", in = \"/d\", alert_after = \"70d\" }\n\
                    [maintenance]\nforget = \"daily 01:00\"\ntimezone = \"UTC\"\n\
                    [daemon]\nslots = 3\nmemory = \"512M\"\n\
                    [security]\nenabled = false\n";
        let path = Path::new("/keepwell.toml");
        let config = Config::parse(path, text).unwrap();

        let shown = effective(&config);

        let again = Config::parse(path, &shown).unwrap_or_else(|error| panic!("{error}\n{shown}"));
        assert_eq!(again.vaults, config.vaults, "{shown}");
        assert_eq!(again.groups, config.groups, "{shown}");
        assert_eq!(again.maintenance, config.maintenance, "{shown}");
        assert_eq!(again.security, config.security, "{shown}");
        assert_eq!((again.daemon, again.pool), (config.daemon, config.pool), "{shown}");
        assert!(
            shown.contains("[vault.plain.maintenance]") && shown.contains("undelete"),
            "{shown}"
        );
    }
}
