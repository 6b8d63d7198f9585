//! `keepwell doctor`: every prerequisite, with its state, the reason and what mends it. Nothing is left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clap::Args;
use cloudsync::vault::credentials::Credentials;
use serde::Serialize;
use storepool::clock::{Clock, SystemClock};
use storepool::disk::{Disk, SystemDisk};
use storepool::pool::{Pool, World};
use storepool::selftest::{Depth, Examination, Grade};

use crate::accounts;
use crate::assembly::Assembly;
use crate::config::{Config, HookCommand};
use crate::console::failure;
use crate::console::units::size;
use crate::control::client::Client;
use crate::error::{Attempt, Error, Outcome};
use crate::examination::{examine_disk, examine_vault};
use crate::record::open_journal;
use crate::vaults::{Engine, KeyKeeping, VaultFiles};
use crate::workload;

/// Check every prerequisite, and say what mends what is missing
///
/// Configuration, pool, disks, sources, hooks, vaults, clock, service. Disks and the places of vaults are examined shortly, as
/// "keepwell selftest storage --quick" does.
/// Leaves nothing behind and can be repeated. Exit code 0 if nothing is bad.
#[derive(Args, Debug)]
pub(super) struct Doctor {}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Good,
    Doubtful,
    Bad,
}

/// One check.
#[derive(Debug, Serialize)]
struct Check {
    id: String,
    state: State,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

#[derive(Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn good(&mut self, id: impl Into<String>, reason: impl Into<String>) {
        self.0.push(Check { id: id.into(), state: State::Good, reason: reason.into(), fix: None });
    }

    fn doubtful(&mut self, id: impl Into<String>, reason: impl Into<String>, fix: &str) {
        let (id, reason, fix) = (id.into(), reason.into(), Some(fix.to_string()));
        self.0.push(Check { id, state: State::Doubtful, reason, fix });
    }

    fn bad(&mut self, id: impl Into<String>, reason: impl Into<String>, fix: &str) {
        let (id, reason, fix) = (id.into(), reason.into(), Some(fix.to_string()));
        self.0.push(Check { id, state: State::Bad, reason, fix });
    }
}

impl Doctor {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let mut checks = Checks::default();
        clock(&mut checks);
        match assembly.config() {
            Ok(config) => {
                checks.good("configuration", config.path.display().to_string());
                private("configuration-mode", &config.path, &mut checks);
                pool(&config, &mut checks);
                journal(assembly, &mut checks);
                sources(&config, &mut checks);
                hooks(&config, &mut checks);
                vaults(assembly, &config, &mut checks);
                service(assembly, &config, &mut checks);
            }
            Err(error) => {
                let failure = failure::explain(&error);
                let fix = failure.hint.unwrap_or_else(|| "mend the file".to_string());
                checks.bad("configuration", failure.message, &fix);
            }
        }
        tell(assembly, &checks.0);
        let bad = checks.0.iter().any(|check| check.state == State::Bad);
        Ok(if bad { Outcome::NotWell } else { Outcome::Done })
    }
}

fn tell(assembly: &Assembly, checks: &[Check]) {
    let console = &assembly.console;
    console.document(&serde_json::json!({ "checks": checks }));
    for check in checks {
        let word = match check.state {
            State::Good => "good    ",
            State::Doubtful => "doubtful",
            State::Bad => "BAD     ",
        };
        console.say(format!("{word}  {}: {}", check.id, check.reason));
        if let Some(fix) = &check.fix {
            console.say(format!("            {fix}"));
        }
    }
}

fn clock(checks: &mut Checks) {
    /// 2026-01-01: this program did not exist before.
    const LEAST: i64 = 1_767_225_600;
    let now = SystemClock::new().now();
    match now.seconds() >= LEAST {
        true => checks.good("clock", crate::console::units::local(now)),
        false => {
            let reason = format!("it says {}", crate::console::units::local(now));
            checks.bad("clock", reason, "set the clock; a time service keeps it right");
        }
    }
}

// Secrets and paths of everything are in there.
fn private(id: &str, path: &Path, checks: &mut Checks) {
    let Ok(metadata) = fs::metadata(path) else { return };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return checks.good(id, format!("{mode:04o}"));
    }
    let fix = format!("chmod 600 {}", path.display());
    checks.doubtful(id, format!("others can use {} ({mode:04o})", path.display()), &fix);
}

fn pool(config: &Config, checks: &mut Checks) {
    let options = config.pool.options("keepwell doctor".to_string());
    match Pool::open(&config.pool.paths, options, World::system()) {
        Ok(pool) => {
            for path in pool.missing_paths() {
                let reason = format!("{} is missing", path.display());
                checks.bad("pool", reason, "mount the disk, or run \"keepwell pool drain --lost\"");
            }
            if pool.missing_paths().is_empty() {
                checks.good("pool", format!("{}", pool.id()));
            }
        }
        Err(error) => {
            let error = Error { attempt: String::new(), cause: error.into() };
            let failure = failure::explain(&error);
            let fix = failure.hint.unwrap_or_else(|| "see the message".to_string());
            checks.bad("pool", failure.message, &fix);
        }
    }
    for path in &config.pool.paths {
        let disk: &dyn Disk = &SystemDisk;
        let id = format!("room {}", path.display());
        match config.pool.reserve.room(disk, path) {
            Ok(0) => checks.bad(
                id,
                "only the reserve is left",
                "keep fewer points and run \"keepwell prune\", or \"keepwell pool add DIR\"",
            ),
            Ok(room) => checks.good(id, size(room)),
            Err(error) => {
                let reason = crate::error::Cause::from(error).chain();
                checks.bad(id, reason, "mount the disk");
                continue;
            }
        }
        let id = format!("disk {}", path.display());
        match examine_disk(path, Depth::Quick) {
            Ok(found) => examined(&id, &found, checks),
            Err(error) => {
                let reason = crate::error::Cause::from(error).chain();
                checks.bad(id, reason, "see that the directory can be written");
            }
        }
    }
}

// What is worth knowing is in the full examination; here is what matters.
fn examined(id: &str, found: &Examination, checks: &mut Checks) {
    for finding in found.complaints() {
        let reason = format!("{}: {}", finding.check, finding.seen);
        let fix = finding.advice.as_deref().unwrap_or("run \"keepwell selftest storage\"");
        match finding.grade {
            Grade::Unfit => checks.bad(id, reason, fix),
            Grade::Good | Grade::Note | Grade::Weak => checks.doubtful(id, reason, fix),
        }
    }
    if found.complaints().next().is_none() {
        checks.good(id, "it keeps what was tried; \"keepwell selftest storage\" tries more");
    }
}

fn journal(assembly: &Assembly, checks: &mut Checks) {
    match open_journal(assembly) {
        Ok(_) => checks.good("journal", assembly.place.state().display().to_string()),
        Err(error) => checks.bad("journal", error.chain(), "see that the folder can be written"),
    }
}

fn sources(config: &Config, checks: &mut Checks) {
    if config.groups.is_empty() {
        let fix = "keepwell group add NAME --files PATH --schedule 'daily 02:00'";
        checks.bad("groups", "no group is configured", fix);
    }
    for group in config.groups.values() {
        let id = format!("group {}", group.name);
        match (&group.schedule, &group.retention) {
            (None, _) => {
                checks.doubtful(&id, "it has no schedule", "keepwell group edit --schedule")
            }
            (_, None) => {
                checks.doubtful(&id, "its points stay for ever", "keepwell group edit --keep-daily")
            }
            (Some(schedule), Some(_)) => checks.good(&id, schedule.to_string()),
        }
        for source in &group.sources {
            for finding in workload::of(source).check() {
                match finding.state {
                    Ok(reason) => checks.good(finding.what, reason),
                    Err((reason, fix)) => checks.bad(finding.what, reason, &fix),
                }
            }
        }
    }
}

fn hooks(config: &Config, checks: &mut Checks) {
    for group in config.groups.values() {
        let hooks = &group.hooks;
        if let Some(user) = hooks.user.as_ref().filter(|user| accounts::user(user).is_none()) {
            let id = format!("hooks {}", group.name);
            checks.bad(id, format!("there is no user \"{user}\""), "correct hooks.user");
        }
        let all =
            [("before", &hooks.before), ("after", &hooks.after), ("on_error", &hooks.on_error)];
        for (phase, hook) in all {
            let Some(hook) = hook else { continue };
            let program = match hook {
                HookCommand::Program(words) => words[0].as_str(),
                HookCommand::Shell(text) => text.split_whitespace().next().unwrap_or_default(),
            };
            let id = format!("hook {} {phase}", group.name);
            // Words of the shell, and names that it looks up, are its own business.
            if !program.starts_with('/') {
                checks.good(id, "for the shell");
                continue;
            }
            let runnable = fs::metadata(program).is_ok_and(|metadata| {
                metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
            });
            match runnable {
                true => checks.good(id, program),
                false => checks.bad(
                    id,
                    format!("{program} cannot be run"),
                    "correct the path, or chmod +x",
                ),
            }
        }
    }
}

fn vaults(assembly: &Assembly, config: &Config, checks: &mut Checks) {
    if config.vaults.is_empty() {
        let fix = "keepwell vault register --credentials FILE";
        checks.doubtful("vault", "there is none: a disaster here loses everything", fix);
    }
    for (name, vault) in &config.vaults {
        let id = format!("vault {name}");
        let credentials = match Credentials::load(&vault.credentials) {
            Ok(credentials) => credentials,
            Err(error) => {
                let cause = error.into();
                let failure = failure::explain(&Error { attempt: String::new(), cause });
                checks.bad(&id, failure.message, "copy the credentials file back to its place");
                continue;
            }
        };
        let files = VaultFiles::of(&assembly.place, name);
        private(&format!("{id} credentials-mode"), &vault.credentials, checks);
        match files.key_keeping() {
            KeyKeeping::Nowhere => {
                checks.bad(&id, "not registered", "keepwell vault register --credentials FILE");
            }
            kept => {
                checks.good(&id, format!("registered, its key in: {kept}"));
                place_of_vault(name, &credentials, checks);
                if let KeyKeeping::File(key) = &kept {
                    private(&format!("{id} key-mode"), key, checks);
                }
            }
        }
    }
}

fn place_of_vault(name: &str, credentials: &Credentials, checks: &mut Checks) {
    let id = format!("vault {name} place");
    let found = Engine::start().and_then(|engine| {
        examine_vault(&engine, credentials, Depth::Quick).attempt(|| "examine it".to_string())
    });
    match found {
        Ok(found) => examined(&id, &found, checks),
        Err(error) => {
            let failure = failure::explain(&error);
            let fix = "run \"keepwell vault ping\" to see where the way there ends";
            checks.bad(&id, failure.message, failure.hint.as_deref().unwrap_or(fix));
        }
    }
}

fn service(assembly: &Assembly, config: &Config, checks: &mut Checks) {
    let running = Client::connect(&assembly.place).is_some();
    let scheduled = config.groups.values().any(|group| group.schedule.is_some() && !group.paused);
    match (running, scheduled) {
        (true, _) => checks.good("daemon", "it runs"),
        (false, false) => checks.good("daemon", "not needed: no group has a schedule"),
        (false, true) => {
            let fix = "keepwell service install, or keepwell watch without systemd";
            checks.bad("daemon", "it does not run: nothing happens by itself", fix);
        }
    }
    match accounts::group("keepwell") {
        Some(_) => checks.good("control-group", "members of \"keepwell\" may control the daemon"),
        None => checks.good("control-group", "only root and the daemon's user control it"),
    }
}
