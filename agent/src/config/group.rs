//! `[group.NAME]`: data sources that share a schedule, retentions and hooks.

use std::collections::BTreeMap;
use std::time::Duration;

use cloudsync::retention::RetentionPolicy;
use jiff::tz::TimeZone;
use storepool::space::parse_size;
use toml_edit::Value;

use super::drill::DrillConfig;
use super::reader::Section;
use super::source::SourceConfig;
use super::{ConfigError, VaultConfig, is_vault_name, retention};
use crate::schedule::Schedule;

/// How long a hook may run if nothing else is said: long enough to stop a service, short enough to notice that one hangs.
const HOOK_TIMEOUT: Duration = Duration::from_secs(120);

/// `[group.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GroupConfig {
    /// Its name.
    pub(crate) name: String,
    /// What is protected; at least one.
    pub(crate) sources: Vec<SourceConfig>,
    /// When points are made; `None`: only by hand.
    pub(crate) schedule: Option<Schedule>,
    /// The zone of times and days; that of the system if none is named.
    pub(crate) zone: TimeZone,
    /// Runs begin up to this much later than scheduled, so that many servers do not all begin at once.
    pub(crate) jitter: Duration,
    /// Nothing runs by itself.
    pub(crate) paused: bool,
    /// Which points stay in the pool; `None`: all.
    pub(crate) retention: Option<RetentionPolicy>,
    /// Where the second copy goes.
    pub(crate) vault: Option<String>,
    /// When the second copy is made.
    pub(crate) sync: SyncWhen,
    /// All sources are held still together, and their points are a set.
    pub(crate) consistent: bool,
    /// What runs around a backup.
    pub(crate) hooks: HooksConfig,
    /// Without a new point for so long there is an alert; `None`: twice the longest pause of the schedule.
    pub(crate) alert_after: Option<Duration>,
    /// How it is proven that its points can be restored; `None`: only by hand.
    pub(crate) drill: Option<DrillConfig>,
}

/// When the points of a group are copied to the vault.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SyncWhen {
    /// As soon as a point is made.
    AfterBackup,
    /// At these times.
    At(Schedule),
    /// Only by hand.
    Never,
}

/// `hooks = { ... }`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HooksConfig {
    /// Before anything is read; if it fails, there is no point.
    pub(crate) before: Option<HookCommand>,
    /// After everything was read, whatever happened since `before` began.
    pub(crate) after: Option<HookCommand>,
    /// When the run failed.
    pub(crate) on_error: Option<HookCommand>,
    /// Longest time for each.
    pub(crate) timeout: Duration,
    /// The user that runs them; `None`: that of the agent.
    pub(crate) user: Option<String>,
}

/// A command of a hook.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum HookCommand {
    /// For the shell: `"/usr/local/bin/quiesce --all"`.
    Shell(String),
    /// A program and its arguments.
    Program(Vec<String>),
}

impl GroupConfig {
    /// Reads the section.
    pub(super) fn read(
        name: &str,
        section: &Section<'_>,
        vaults: &BTreeMap<String, VaultConfig>,
    ) -> Result<Self, ConfigError> {
        if !is_vault_name(name) {
            let expected = "a name of a group has 1 to 63 of a-z, 0-9, - and _";
            return Err(section.complaint(expected.to_string()));
        }
        section.only_known(&[
            "sources",
            "schedule",
            "timezone",
            "jitter",
            "paused",
            "retention",
            "vault",
            "sync",
            "consistent",
            "hooks",
            "alert_after",
            "drill",
        ])?;
        let schedule = match section.text("schedule", "a schedule such as \"daily 02:00\"")? {
            Some("never") | None => None,
            Some(_) => section.parsed("schedule", "a schedule such as \"daily 02:00\"")?,
        };
        let vault = vault_of(section, vaults)?;
        let minute = Duration::from_secs(60);
        Ok(Self {
            name: name.to_string(),
            sources: sources(name, section)?,
            schedule,
            zone: section.zone("timezone")?.unwrap_or_else(TimeZone::system),
            jitter: section
                .duration("jitter", Duration::ZERO..=Duration::from_secs(12 * 3600))?
                .unwrap_or_default(),
            paused: section.flag("paused")?,
            retention: retention::read(section, "retention")?,
            sync: sync_of(section, vault.is_some())?,
            drill: DrillConfig::read(section, vault.is_some())?,
            vault,
            consistent: section.flag("consistent")?,
            hooks: HooksConfig::read(section)?,
            alert_after: section
                .duration("alert_after", minute..=Duration::from_secs(3650 * 86_400))?,
        })
    }
}

fn vault_of(
    section: &Section<'_>,
    vaults: &BTreeMap<String, VaultConfig>,
) -> Result<Option<String>, ConfigError> {
    match section.text("vault", "the name of a vault")? {
        Some("none") => Ok(None),
        Some(name) if vaults.contains_key(name) => Ok(Some(name.to_string())),
        Some(name) => {
            let message = format!("there is no [vault.{name}]");
            let known = vaults.keys().map(String::as_str);
            Err(section.unknown_word("vault", message, name, known))
        }
        // With one vault there is nothing to choose; with several, guessing would send data to the wrong place.
        None => Ok(vaults.keys().next().filter(|_| vaults.len() == 1).cloned()),
    }
}

fn sync_of(section: &Section<'_>, has_vault: bool) -> Result<SyncWhen, ConfigError> {
    let expected = "\"after backup\", \"never\", or a schedule such as \"daily 02:00\"";
    let when = match section.text("sync", expected)? {
        None => return Ok(SyncWhen::AfterBackup),
        Some("after backup") => SyncWhen::AfterBackup,
        Some("never") => return Ok(SyncWhen::Never),
        Some(text) => SyncWhen::At(
            text.parse().map_err(|_| section.wrong("sync", format!("expected {expected}")))?,
        ),
    };
    if has_vault {
        return Ok(when);
    }
    Err(section.wrong("sync", "the group has no vault: name one with vault = \"...\""))
}

fn sources(name: &str, section: &Section<'_>) -> Result<Vec<SourceConfig>, ConfigError> {
    const EXPECTED: &str = "a list of sources such as [{ files = [\"/srv\"] }]";
    let sections = section.list("sources", EXPECTED)?;
    if sections.is_empty() {
        return Err(section.complaint(format!("[group.{name}] has no sources: {EXPECTED}")));
    }
    let mut sources = Vec::new();
    for (place, section) in sections.iter().enumerate() {
        let source = SourceConfig::read(section)?;
        // Two sources of one name would be one series of points that has nothing in common.
        if sources.iter().any(|other: &SourceConfig| other.name() == source.name()) {
            let message = format!("source {} is the same as one before it", place + 1);
            return Err(section.complaint(format!("{}: {message}", section.name())));
        }
        sources.push(source);
    }
    Ok(sources)
}

/// Reads a size in bytes, or with a unit.
pub(super) fn size(value: &Value) -> Result<u64, String> {
    let size = match value.as_integer() {
        Some(bytes) => u64::try_from(bytes).ok(),
        None => value.as_str().and_then(parse_size),
    };
    size.ok_or_else(|| "expected a size such as \"512M\" or \"2G\"".to_string())
}

impl Default for HooksConfig {
    fn default() -> Self {
        Self { before: None, after: None, on_error: None, timeout: HOOK_TIMEOUT, user: None }
    }
}

impl HooksConfig {
    fn read(group: &Section<'_>) -> Result<Self, ConfigError> {
        let Some(section) = group.section("hooks", "hooks = { before = \"...\" }")? else {
            return Ok(Self::default());
        };
        section.only_known(&["before", "after", "on_error", "timeout", "user"])?;
        let range = Duration::from_secs(1)..=Duration::from_secs(86_400);
        Ok(Self {
            before: section.value("before", HookCommand::read)?,
            after: section.value("after", HookCommand::read)?,
            on_error: section.value("on_error", HookCommand::read)?,
            timeout: section.duration("timeout", range)?.unwrap_or(HOOK_TIMEOUT),
            user: section.text("user", "the name of a user")?.map(str::to_string),
        })
    }
}

impl HookCommand {
    /// Returns the command as it is written.
    pub(super) fn shown(&self) -> Value {
        match self {
            Self::Shell(text) => text.as_str().into(),
            Self::Program(words) => words.iter().collect::<toml_edit::Array>().into(),
        }
    }

    /// Reads a command: a text for the shell, or a list of program and arguments.
    pub(super) fn read(value: &Value) -> Result<Self, String> {
        let wrong = || {
            "expected a command such as \"/usr/local/bin/quiesce\" or a list of program and arguments"
                .to_string()
        };
        if let Some(text) = value.as_str() {
            return match text.trim() {
                "" => Err(wrong()),
                text => Ok(Self::Shell(text.to_string())),
            };
        }
        let words = value.as_array().ok_or_else(wrong)?;
        let words: Option<Vec<String>> =
            words.iter().map(|word| word.as_str().map(str::to_string)).collect();
        match words {
            Some(words) if words.first().is_some_and(|program| !program.is_empty()) => {
                Ok(Self::Program(words))
            }
            _ => Err(wrong()),
        }
    }
}
