//! `keepwell group`: protection groups in the configuration file, with its comments kept.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use cloudsync::retention::{Count, Within};
use serde::Serialize;
use storepool::clock::{Clock, SystemClock, Timestamp};
use toml_edit::{Array, InlineTable, Value};

use super::arguments;
use crate::assembly::Assembly;
use crate::config::{self, Config, GroupChange, GroupConfig, SyncWhen, with_group, without_group};
use crate::console::table::{Align, Table};
use crate::console::units::{local, rfc3339};
use crate::control::client::Client;
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::job;

/// Add, list, show, change, remove, pause and resume protection groups
///
/// A group is a part of the configuration file: data sources that share a schedule, a retention and a vault. Comments in the file survive.
#[derive(Args, Debug)]
pub(super) struct Group {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Add(Add),
    List(List),
    Show(Show),
    Edit(Edit),
    Remove(Remove),
    Pause(Pause),
    Resume(Resume),
}

/// Add a group
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell group add web --files /srv /etc --schedule 15m --keep-hourly 48 --keep-daily 7
  keepwell group add home --files /home -e '*.iso' --schedule 'daily 02:00' --keep-within 30d")]
struct Add {
    /// Its name: 1 to 63 of a-z, 0-9, - and _
    #[arg(value_name = "NAME")]
    name: String,
    /// What is protected
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    filter: SourceFilter,
    #[command(flatten)]
    settings: Settings,
}

/// Change a group
///
/// Only what is named changes. With --files the sources are replaced.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell group edit web --schedule 'daily 02:00' --keep-daily 14
  keepwell group edit web --unset hooks.before --unset jitter")]
struct Edit {
    /// The group
    #[arg(value_name = "NAME")]
    name: String,
    /// What is protected, instead of what was
    #[arg(long, value_name = "PATH", num_args = 1..)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    filter: SourceFilter,
    #[command(flatten)]
    settings: Settings,
    /// Take a key out, such as schedule or hooks.before
    #[arg(long, value_name = "KEY", value_parser = known_key)]
    unset: Vec<&'static str>,
}

/// Remove a group from the configuration; its points stay
#[derive(Args, Debug)]
struct Remove {
    /// The group
    #[arg(value_name = "NAME")]
    name: String,
}

/// Let a group rest: nothing of it runs by itself, and nothing of it is forgotten
#[derive(Args, Debug)]
struct Pause {
    /// The group
    #[arg(value_name = "NAME")]
    name: String,
}

/// Go on with a paused group
#[derive(Args, Debug)]
struct Resume {
    /// The group
    #[arg(value_name = "NAME")]
    name: String,
}

/// List the groups
#[derive(Args, Debug)]
struct List {}

/// Show a group with everything that is in force, and when it runs next
#[derive(Args, Debug)]
struct Show {
    /// The group
    #[arg(value_name = "NAME")]
    name: String,
}

/// What of the paths is left out.
#[derive(Args, Debug)]
struct SourceFilter {
    /// Leave out what this pattern matches, as in .gitignore
    #[arg(long, short, value_name = "PATTERN", requires = "files")]
    exclude: Vec<String>,
    /// Leave out the content of folders marked as caches (CACHEDIR.TAG)
    #[arg(long, requires = "files")]
    exclude_caches: bool,
    /// Stay on the file system of each path
    #[arg(long, short = 'x', requires = "files")]
    one_file_system: bool,
}

/// Everything else.
#[derive(Args, Debug)]
struct Settings {
    /// When points are made: 15m, "daily 02:00", "weekly Sun 03:00", "monthly last Fri", cron, or never
    #[arg(long, value_name = "SCHEDULE")]
    schedule: Option<String>,
    /// The zone of times and days, such as Europe/Berlin
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// Begin up to so much later than scheduled
    #[arg(long, value_name = "DURATION", value_parser = arguments::duration)]
    jitter: Option<Duration>,
    /// Keep the newest N points in the pool
    #[arg(long, value_name = "N")]
    keep_last: Option<Count>,
    /// Keep the newest point of the newest N hours that have one
    #[arg(long, value_name = "N")]
    keep_hourly: Option<Count>,
    /// Keep the newest point of the newest N days
    #[arg(long, value_name = "N")]
    keep_daily: Option<Count>,
    /// Keep the newest point of the newest N weeks
    #[arg(long, value_name = "N")]
    keep_weekly: Option<Count>,
    /// Keep the newest point of the newest N months
    #[arg(long, value_name = "N")]
    keep_monthly: Option<Count>,
    /// Keep the newest point of the newest N years
    #[arg(long, value_name = "N")]
    keep_yearly: Option<Count>,
    /// Keep everything this near to the newest point
    #[arg(long, value_name = "LENGTH")]
    keep_within: Option<Within>,
    /// The vault of the second copy, or none
    #[arg(long, value_name = "NAME")]
    vault: Option<String>,
    /// When the second copy is made: "after backup", a schedule, or never
    #[arg(long, value_name = "WHEN")]
    sync: Option<String>,
    /// Command before anything is read; if it fails there is no point
    #[arg(long, value_name = "COMMAND")]
    before: Option<String>,
    /// Command after everything was read, whatever happened
    #[arg(long, value_name = "COMMAND")]
    after: Option<String>,
    /// Command when the run failed
    #[arg(long, value_name = "COMMAND")]
    on_error: Option<String>,
    /// Longest time for each command
    #[arg(long, value_name = "DURATION", value_parser = arguments::duration)]
    hook_timeout: Option<Duration>,
    /// The user that runs the commands
    #[arg(long, value_name = "USER")]
    hook_user: Option<String>,
    /// Raise an alert after so long without a new point
    #[arg(long, value_name = "DURATION", value_parser = arguments::duration)]
    alert_after: Option<Duration>,
    /// Prove at these times that points can be restored: "monthly 1st Sun", "weekly Sun 05:00", or never
    #[arg(long, value_name = "SCHEDULE")]
    drill: Option<String>,
    /// Which copy drills restore: pool or vault
    #[arg(long, value_name = "COPY")]
    drill_from: Option<String>,
    /// How much of each source drills restore: a size such as 1GiB, or all
    #[arg(long, value_name = "SIZE")]
    drill_sample: Option<String>,
}

const UNSETTABLE: [&str; 24] = [
    "schedule",
    "timezone",
    "jitter",
    "paused",
    "retention",
    "vault",
    "sync",
    "hooks",
    "hooks.before",
    "hooks.after",
    "hooks.on_error",
    "hooks.timeout",
    "hooks.user",
    "alert_after",
    "retention.hourly",
    "retention.within",
    "retention.last",
    "retention.tags",
    "drill",
    "drill.schedule",
    "drill.from",
    "drill.sample",
    "drill.in",
    "drill.alert_after",
];

fn known_key(text: &str) -> Result<&'static str, String> {
    let found = UNSETTABLE.iter().find(|key| **key == text);
    found.copied().ok_or_else(|| format!("expected one of {}", UNSETTABLE.join(", ")))
}

fn count_value(count: Count) -> Value {
    match count {
        Count::None => 0.into(),
        Count::Limited(count) => i64::from(count).into(),
        Count::Unlimited => "all".into(),
    }
}

impl Settings {
    fn changes(self) -> Vec<GroupChange> {
        let duration = |length: Duration| Value::from(crate::duration::text(length));
        let changes: [(&'static str, Option<Value>); 20] = [
            ("schedule", self.schedule.map(Value::from)),
            ("timezone", self.timezone.map(Value::from)),
            ("jitter", self.jitter.map(duration)),
            ("retention.last", self.keep_last.map(count_value)),
            ("retention.hourly", self.keep_hourly.map(count_value)),
            ("retention.daily", self.keep_daily.map(count_value)),
            ("retention.weekly", self.keep_weekly.map(count_value)),
            ("retention.monthly", self.keep_monthly.map(count_value)),
            ("retention.yearly", self.keep_yearly.map(count_value)),
            ("retention.within", self.keep_within.map(|within| within.to_string().into())),
            ("vault", self.vault.map(Value::from)),
            ("sync", self.sync.map(Value::from)),
            ("hooks.before", self.before.map(Value::from)),
            ("hooks.after", self.after.map(Value::from)),
            ("hooks.on_error", self.on_error.map(Value::from)),
            ("hooks.timeout", self.hook_timeout.map(duration)),
            ("hooks.user", self.hook_user.map(Value::from)),
            ("drill.schedule", self.drill.map(Value::from)),
            ("drill.from", self.drill_from.map(Value::from)),
            ("drill.sample", self.drill_sample.map(Value::from)),
        ];
        let mut changes: Vec<GroupChange> =
            changes.into_iter().filter(|(_, value)| value.is_some()).collect();
        changes.extend(self.alert_after.map(|length| ("alert_after", Some(duration(length)))));
        changes
    }
}

// One source of these paths, written as the file is read: absolute, or relative to its folder.
fn source(files: &[PathBuf], filter: &SourceFilter) -> Result<Value, Cause> {
    let mut paths = Array::new();
    for path in files {
        let absolute = std::path::absolute(path).map_err(|cause| Cause::Io {
            action: "find",
            path: path.clone(),
            cause,
        })?;
        if let Err(cause) = std::fs::symlink_metadata(&absolute) {
            return Err(Cause::Io { action: "find", path: absolute, cause });
        }
        let text = absolute.to_str();
        let text = text.ok_or_else(|| Cause::Unwritable { path: absolute.clone() })?;
        paths.push(text);
    }
    let mut table = InlineTable::new();
    table.insert("files", Value::Array(paths));
    if !filter.exclude.is_empty() {
        table.insert("exclude", filter.exclude.iter().collect());
    }
    if filter.exclude_caches {
        table.insert("exclude_caches", true.into());
    }
    if filter.one_file_system {
        table.insert("one_file_system", true.into());
    }
    Ok(Value::Array(Array::from_iter([Value::InlineTable(table)])))
}

/// Changes the file: the new text is read before it is written, so that a mistake leaves the file as it is.
pub(super) fn change(
    assembly: &Assembly,
    edit: impl FnOnce(&Config, &str) -> Result<Option<String>, Error>,
) -> Result<Config, Error> {
    let attempt = || "change the configuration".to_string();
    let path = &assembly.place.configuration;
    let config = assembly.config()?;
    let text = std::fs::read_to_string(path)
        .map_err(|cause| Cause::Io { action: "read", path: path.clone(), cause })
        .attempt(attempt)?;
    let unwritable = || Cause::Unwritable { path: path.clone() };
    let edited = edit(&config, &text)?.ok_or_else(unwritable).attempt(attempt)?;
    let config = Config::parse(path, &edited).attempt(attempt)?;
    if edited != text {
        config::write(path, &edited).attempt(attempt)?;
        // A running daemon works by it from now on.
        if let Some(client) = Client::connect(&assembly.place) {
            client
                .ask("POST", "/v1/config/reload", None)
                .attempt(|| "have the daemon read the configuration again".to_string())?;
        }
    }
    Ok(config)
}

#[derive(Serialize)]
struct Changed<'a> {
    group: &'a str,
    action: &'static str,
}

/// A group for programs.
#[derive(Serialize)]
struct GroupDocument {
    name: String,
    sources: Vec<SourceDocument>,
    schedule: Option<String>,
    timezone: Option<String>,
    paused: bool,
    retention: Option<String>,
    vault: Option<String>,
    sync: Option<String>,
    next_run: Option<String>,
}

#[derive(Serialize)]
struct SourceDocument {
    workload: &'static str,
    source: String,
}

impl GroupDocument {
    fn of(group: &GroupConfig, now: Timestamp) -> Self {
        let sources = group
            .sources
            .iter()
            .map(|source| SourceDocument { workload: source.workload(), source: source.name() });
        Self {
            name: group.name.clone(),
            sources: sources.collect(),
            schedule: group.schedule.as_ref().map(ToString::to_string),
            timezone: group.zone.iana_name().map(str::to_string),
            paused: group.paused,
            retention: group.retention.as_ref().map(config::retention_text),
            vault: group.vault.clone(),
            sync: group.vault.as_ref().map(|_| sync_text(&group.sync)),
            next_run: next_run(group, now).map(rfc3339),
        }
    }
}

fn sync_text(sync: &SyncWhen) -> String {
    match sync {
        SyncWhen::AfterBackup => "after backup".to_string(),
        SyncWhen::At(schedule) => schedule.to_string(),
        SyncWhen::Never => "never".to_string(),
    }
}

fn next_run(group: &GroupConfig, now: Timestamp) -> Option<Timestamp> {
    let schedule = group.schedule.as_ref().filter(|_| !group.paused)?;
    schedule.next_run(now, &group.zone)
}

impl Group {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        match self.command {
            Command::Add(add) => add.run(assembly),
            Command::List(_) => list(assembly),
            Command::Show(show) => show.run(assembly),
            Command::Edit(edit) => edit.run(assembly),
            Command::Remove(remove) => remove.run(assembly),
            Command::Pause(pause) => set_paused(assembly, &pause.name, true),
            Command::Resume(resume) => set_paused(assembly, &resume.name, false),
        }
    }
}

fn done(assembly: &Assembly, group: &str, action: &'static str) -> Outcome {
    assembly.console.document(&Changed { group, action });
    assembly.console.note(format!("{action} group \"{group}\""));
    Outcome::Done
}

impl Add {
    fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let source =
            source(&self.files, &self.filter).attempt(|| format!("add group \"{}\"", self.name))?;
        let mut changes = vec![("sources", Some(source))];
        changes.extend(self.settings.changes());
        let name = self.name;
        let config = change(assembly, |config, text| {
            if config.groups.contains_key(&name) {
                return Err(Error::usage(format!(
                    "there is a group \"{name}\" already: change it with \"keepwell group edit {name}\""
                )));
            }
            Ok(with_group(text, &name, &changes))
        })?;
        let outcome = done(assembly, &name, "added");
        let group = job::group(&config, &name)?;
        match next_run(group, SystemClock::new().now()) {
            Some(next) => assembly.console.note(format!("it runs next at {}", local(next))),
            None => assembly.console.note(format!("it runs with \"keepwell backup {name}\"")),
        }
        if group.retention.is_none() {
            assembly.console.warn("without a --keep option its points stay for ever");
        }
        Ok(outcome)
    }
}

impl Edit {
    fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let mut changes: Vec<GroupChange> = Vec::new();
        if !self.files.is_empty() {
            let source = source(&self.files, &self.filter)
                .attempt(|| format!("change group \"{}\"", self.name))?;
            changes.push(("sources", Some(source)));
        }
        changes.extend(self.unset.iter().map(|key| (*key, None)));
        changes.extend(self.settings.changes());
        if changes.is_empty() {
            return Err(Error::usage("nothing to change: name an option"));
        }
        change(assembly, |config, text| {
            job::group(config, &self.name)?;
            Ok(with_group(text, &self.name, &changes))
        })?;
        Ok(done(assembly, &self.name, "changed"))
    }
}

impl Remove {
    fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        change(assembly, |config, text| {
            job::group(config, &self.name)?;
            Ok(without_group(text, &self.name))
        })?;
        let outcome = done(assembly, &self.name, "removed");
        assembly.console.note(format!(
            "its points stay: \"keepwell points {}\" lists them, \"keepwell forget POINT\" removes one",
            self.name
        ));
        Ok(outcome)
    }
}

fn set_paused(assembly: &Assembly, name: &str, paused: bool) -> Result<Outcome, Error> {
    change(assembly, |config, text| {
        job::group(config, name)?;
        Ok(with_group(text, name, &[("paused", paused.then(|| true.into()))]))
    })?;
    Ok(done(assembly, name, if paused { "paused" } else { "resumed" }))
}

fn list(assembly: &Assembly) -> Result<Outcome, Error> {
    let config = assembly.config()?;
    let now = SystemClock::new().now();
    let mut table = Table::new(&[
        ("Group", Align::Left),
        ("Sources", Align::Left),
        ("Schedule", Align::Left),
        ("Next run", Align::Left),
        ("Keeps", Align::Left),
        ("Vault", Align::Left),
    ]);
    let documents: Vec<_> =
        config.groups.values().map(|group| GroupDocument::of(group, now)).collect();
    for (group, document) in config.groups.values().zip(&documents) {
        let sources: Vec<_> =
            document.sources.iter().map(|source| source.source.as_str()).collect();
        let next = match next_run(group, now) {
            _ if group.paused => "paused".to_string(),
            Some(next) => local(next),
            None => String::new(),
        };
        table.row(vec![
            document.name.clone(),
            sources.join("; "),
            document.schedule.clone().unwrap_or_else(|| "by hand".to_string()),
            next,
            document.retention.clone().unwrap_or_else(|| "everything".to_string()),
            document.vault.clone().unwrap_or_else(|| "none".to_string()),
        ]);
    }
    assembly.console.document(&serde_json::json!({ "groups": documents }));
    if config.groups.is_empty() {
        assembly.console.note("no group; add one with \"keepwell group add NAME --files PATH\"");
        return Ok(Outcome::Done);
    }
    table.lines().iter().for_each(|line| assembly.console.say(line));
    Ok(Outcome::Done)
}

impl Show {
    fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let config = assembly.config()?;
        let group = job::group(&config, &self.name)?;
        let now = SystemClock::new().now();
        assembly.console.document(&GroupDocument::of(group, now));
        let effective = config::effective(&config);
        let begin = format!("[group.{}]", self.name);
        let lines = effective.lines().skip_while(|line| *line != begin);
        for line in lines.take_while(|line| *line == begin || !line.starts_with('[')) {
            if !line.is_empty() {
                assembly.console.say(line);
            }
        }
        match next_run(group, now) {
            _ if group.paused => assembly.console.say("it is paused"),
            Some(next) => assembly.console.say(format!("next run: {}", local(next))),
            None => assembly.console.say("it runs only by hand"),
        }
        Ok(Outcome::Done)
    }
}
