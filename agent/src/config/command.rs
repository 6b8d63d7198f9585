//! `{ command = { ... } }`: programs whose output is backed up, and those that stop, resume and restore the service behind them.

use std::collections::BTreeMap;
use std::time::Duration;

use toml_edit::Value;

use super::ConfigError;
use super::group::HookCommand;
use super::reader::Section;

/// How long a command that changes the state of a service may run if nothing else is said.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a suspended service may take to finish what it has begun.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(300);

/// `{ command = { ... } }`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CommandConfig {
    /// Name of the source.
    pub(crate) name: String,
    /// Programs by the name of the file that their output becomes; at least one.
    pub(crate) exports: BTreeMap<String, HookCommand>,
    /// Programs that take such a file on their standard input.
    pub(crate) restores: BTreeMap<String, HookCommand>,
    /// Who runs everything; `None`: the agent's user.
    pub(crate) user: Option<String>,
    /// Longest time of each command but exports and restores.
    pub(crate) timeout: Duration,
    /// Stops the service from taking more work.
    pub(crate) suspend: Option<HookCommand>,
    /// Says with exit code 0 that a suspended service has finished what it had begun, with 1 that it has not yet.
    pub(crate) drained: Option<HookCommand>,
    /// Longest wait for that.
    pub(crate) drain_timeout: Duration,
    /// Ends what `suspend` began; harmless if there is nothing to end.
    pub(crate) resume: Option<HookCommand>,
    /// Prints how many things wait that the exports do not contain.
    pub(crate) pending: Option<HookCommand>,
    /// So many of them may be missing in a point.
    pub(crate) accept_pending: u64,
    /// What belongs to the service and is not exported.
    pub(crate) not_contained: Vec<String>,
    /// Prints the version of the service.
    pub(crate) version: Option<HookCommand>,
    /// A point may be restored into another version.
    pub(crate) allow_other_version: bool,
    /// Prints the edition of the service.
    pub(crate) edition: Option<HookCommand>,
    /// All editions, the lowest first.
    pub(crate) editions: Vec<String>,
    /// Says with exit code 0 that the target is there already, with 1 that its name is free.
    pub(crate) exists: Option<HookCommand>,
    /// Values that all commands are given, and that a point keeps.
    pub(crate) parameters: BTreeMap<String, String>,
}

impl CommandConfig {
    /// Reads the source.
    pub(super) fn read(source: &Section<'_>) -> Result<Self, ConfigError> {
        source.only_known(&["command"])?;
        let example = "command = { name = \"shop\", export = { \"shop.sql\" = \"shop-dump\" } }";
        let Some(section) = source.section("command", example)? else {
            return Err(source.complaint(format!("expected {example}")));
        };
        section.only_known(&[
            "name",
            "export",
            "restore",
            "user",
            "timeout",
            "suspend",
            "drained",
            "drain_timeout",
            "resume",
            "pending",
            "accept_pending",
            "not_contained",
            "version",
            "allow_other_version",
            "edition",
            "editions",
            "exists",
            "parameters",
        ])?;
        let command = |key| section.value(key, HookCommand::read);
        let day = Duration::from_secs(1)..=Duration::from_secs(86_400);
        let config = Self {
            name: section.text("name", "the name of the service")?.unwrap_or_default().to_string(),
            exports: commands(&section, "export")?,
            restores: commands(&section, "restore")?,
            user: section.text("user", "the name of a user")?.map(str::to_string),
            timeout: section.duration("timeout", day.clone())?.unwrap_or(STEP_TIMEOUT),
            suspend: command("suspend")?,
            drained: command("drained")?,
            drain_timeout: section.duration("drain_timeout", day)?.unwrap_or(DRAIN_TIMEOUT),
            resume: command("resume")?,
            pending: command("pending")?,
            accept_pending: section
                .number("accept_pending", 0..=i64::MAX)?
                .unwrap_or_default()
                .unsigned_abs(),
            not_contained: section.texts("not_contained", "a list of texts")?.unwrap_or_default(),
            version: command("version")?,
            allow_other_version: section.flag("allow_other_version")?,
            edition: command("edition")?,
            editions: section
                .texts("editions", "the editions in their order, the lowest first")?
                .unwrap_or_default(),
            exists: command("exists")?,
            parameters: parameters(&section)?,
        };
        config.agrees(&section)?;
        Ok(config)
    }

    fn agrees(&self, section: &Section<'_>) -> Result<(), ConfigError> {
        let name = section.name();
        if self.name.is_empty() {
            return Err(section.complaint(format!("{name} has no name")));
        }
        if self.exports.is_empty() {
            let example = "export = { \"shop.sql\" = \"shop-dump\" }";
            return Err(section.complaint(format!("{name} exports nothing: {example}")));
        }
        if let Some(stranger) = self.restores.keys().find(|file| !self.exports.contains_key(*file))
        {
            let message = format!("there is no export \"{stranger}\"");
            let known = self.exports.keys().map(String::as_str);
            return Err(section.unknown_word("restore", message, stranger, known));
        }
        // A service that is stopped and never started again is worse than one without a backup.
        for (key, command) in [("suspend", &self.suspend), ("drained", &self.drained)] {
            let (needed, there) = match key {
                "suspend" => ("resume", self.resume.is_some()),
                _ => ("suspend", self.suspend.is_some()),
            };
            if command.is_some() && !there {
                return Err(section.wrong(key, format!("it needs {needed}")));
            }
        }
        if self.edition.is_some() && self.editions.is_empty() {
            return Err(section.wrong("edition", "it needs editions = [...], the lowest first"));
        }
        Ok(())
    }

    /// Returns the configuration as it is in force.
    pub(super) fn shown(&self) -> Value {
        let mut table = toml_edit::InlineTable::new();
        let commands = |commands: &BTreeMap<String, HookCommand>| {
            let mut table = toml_edit::InlineTable::new();
            for (file, command) in commands {
                table.insert(file, command.shown());
            }
            Value::InlineTable(table)
        };
        table.insert("name", self.name.as_str().into());
        table.insert("export", commands(&self.exports));
        table.insert("restore", commands(&self.restores));
        if let Some(user) = &self.user {
            table.insert("user", user.as_str().into());
        }
        table.insert("timeout", crate::duration::text(self.timeout).into());
        table.insert("drain_timeout", crate::duration::text(self.drain_timeout).into());
        for (key, command) in [
            ("suspend", &self.suspend),
            ("drained", &self.drained),
            ("resume", &self.resume),
            ("pending", &self.pending),
            ("version", &self.version),
            ("edition", &self.edition),
            ("exists", &self.exists),
        ] {
            if let Some(command) = command {
                table.insert(key, command.shown());
            }
        }
        table.insert("accept_pending", (self.accept_pending as i64).into());
        table.insert("allow_other_version", self.allow_other_version.into());
        table.insert("not_contained", self.not_contained.iter().collect());
        table.insert("editions", self.editions.iter().collect());
        let mut parameters = toml_edit::InlineTable::new();
        for (name, value) in &self.parameters {
            parameters.insert(name, value.as_str().into());
        }
        table.insert("parameters", Value::InlineTable(parameters));
        let mut source = toml_edit::InlineTable::new();
        source.insert("command", Value::InlineTable(table));
        Value::InlineTable(source)
    }
}

fn commands(
    section: &Section<'_>,
    key: &str,
) -> Result<BTreeMap<String, HookCommand>, ConfigError> {
    let example = format!("{key} = {{ \"shop.sql\" = \"a command\" }}");
    let Some(table) = section.section(key, &example)? else { return Ok(BTreeMap::new()) };
    let mut commands = BTreeMap::new();
    for file in table.keys() {
        // It becomes a file of the point.
        let usable = (1..=255).contains(&file.len())
            && !file.contains(['/', '\0'])
            && !matches!(file.as_str(), "." | "..");
        if !usable {
            return Err(table.wrong(&file, "expected the name of a file, without folders"));
        }
        if let Some(command) = table.value(&file, HookCommand::read)? {
            commands.insert(file, command);
        }
    }
    Ok(commands)
}

fn parameters(section: &Section<'_>) -> Result<BTreeMap<String, String>, ConfigError> {
    let Some(table) = section.section("parameters", "parameters = { database = \"shop\" }")? else {
        return Ok(BTreeMap::new());
    };
    let mut parameters = BTreeMap::new();
    for name in table.keys() {
        if !is_parameter(&name) {
            return Err(table.wrong(&name, "a parameter has 1 to 63 of a-z, 0-9 and _"));
        }
        if let Some(value) = table.text(&name, "a text")? {
            parameters.insert(name, value.to_string());
        }
    }
    Ok(parameters)
}

/// Returns whether a parameter may have this name: it becomes one of a variable.
pub(crate) fn is_parameter(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=63).contains(&name.len()) && name.bytes().all(allowed)
}
