//! `keepwell status`: is everything protected, how old are the copies, what is wrong, and which command mends it.

use clap::Args;
use storepool::clock::{Clock, SystemClock};

use crate::assembly::Assembly;
use crate::console::table::{Align, Table};
use crate::console::units::{counted, duration, size};
use crate::control::client::Client;
use crate::error::{Attempt, Error, Outcome};
use crate::record::open_journal;
use crate::status::{self, GroupStatus, ProofStatus, Status as State};

/// Say whether everything is protected: exit code 0 only if all is well
///
/// Looks at the pool, the journal and the configuration; no vault is asked, so it is quick. What is wrong comes with the command that mends it.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell status
  keepwell status --explain
  keepwell status --quiet || mail -s 'backup' root")]
pub(super) struct Status {
    /// Tell more about each group: schedules, last successes, what is in force
    #[arg(long)]
    explain: bool,
}

impl Status {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        // The configuration first: its mistakes are what is wrong then.
        let config = assembly.config()?;
        let journal = open_journal(assembly).attempt(|| "look at the status".to_string())?;
        let now = SystemClock::new().now();
        journal.reap(now).attempt(|| "look at the status".to_string())?;
        let daemon = Client::connect(&assembly.place).is_some();
        let state = status::of(&config, &assembly.place, &journal, now, daemon)?;
        assembly.console.document(&state);
        tell(assembly, &state, self.explain);
        Ok(if state.well { Outcome::Done } else { Outcome::NotWell })
    }
}

fn age(seconds: Option<u64>) -> String {
    match seconds {
        Some(seconds) => format!("{} old", duration(std::time::Duration::from_secs(seconds))),
        None => "none".to_string(),
    }
}

// The day on which each copy was proven the last time.
fn proven(proofs: &[ProofStatus]) -> String {
    let text = |proof: &ProofStatus| {
        let day = proof.proven.as_deref().and_then(|time| time.get(..10));
        let what = match (&proof.failed, day) {
            (Some(_), _) => "FAILED",
            (None, day) => day.unwrap_or("never"),
        };
        format!("{what} ({})", proof.copy)
    };
    match proofs {
        [] => "never".to_string(),
        proofs => proofs.iter().map(text).collect::<Vec<_>>().join(", "),
    }
}

fn tell(assembly: &Assembly, state: &State, explain: bool) {
    let console = &assembly.console;
    console.note(if state.well { "all is well" } else { "NOT all is well" });
    let drills = state.groups.iter().any(|group| {
        group.drill.is_some() || group.sources.iter().any(|source| !source.proofs.is_empty())
    });
    let mut table = Table::new(&[
        ("Group", Align::Left),
        ("Source", Align::Left),
        ("Size", Align::Right),
        ("Points", Align::Right),
        ("On disk", Align::Left),
        ("In the vault", Align::Left),
        ("Proven on", Align::Left),
        ("", Align::Left),
    ]);
    for group in &state.groups {
        for source in &group.sources {
            let vault = match &group.vault {
                None => "no vault".to_string(),
                Some(_) => age(source.vault_age_seconds),
            };
            table.row(vec![
                group.group.clone(),
                source.source.clone(),
                source.bytes.map(size).unwrap_or_default(),
                source.points.to_string(),
                age(source.newest_age_seconds),
                vault,
                if drills { proven(&source.proofs) } else { String::new() },
                if group.paused { "paused".to_string() } else { String::new() },
            ]);
        }
    }
    if !state.groups.is_empty() {
        table.lines().iter().for_each(|line| console.note(line));
    }
    for source in state.groups.iter().flat_map(|group| &group.sources) {
        if let (true, Some(until)) = (source.has_log, &source.recoverable_until) {
            let ago = age(source.rpo_seconds);
            console.note(format!("{} can be brought back up to {until} ({ago})", source.source));
        }
    }
    let pool = &state.pool;
    let full = pool.full_in_days.map(|days| format!(", full in {}", counted(days, "day")));
    console.note(format!(
        "pool: {} in {}, room for {}{}",
        counted(pool.points, "point"),
        size(pool.bytes),
        size(pool.room_bytes),
        full.unwrap_or_default()
    ));
    if explain {
        console.note(format!("daemon: {}", if state.daemon { "runs" } else { "does not run" }));
        state.groups.iter().for_each(|group| tell_group(assembly, group));
        for vault in &state.vaults {
            console.note(format!("vault \"{}\": {}", vault.vault, vault.explanation));
        }
        for task in &state.maintenance {
            let last = task.last_success.as_deref().unwrap_or("never");
            console.note(format!("{}: last success {last}", task.task));
        }
    }
    for finding in &state.findings {
        console.note(format!("{}: {}", finding.level, finding.what));
        console.note(format!("    {}", finding.hint));
    }
}

fn tell_group(assembly: &Assembly, group: &GroupStatus) {
    let console = &assembly.console;
    let schedule = group.schedule.as_deref().unwrap_or("by hand");
    let next = group.next_run.as_deref().unwrap_or("not by itself");
    console.note(format!("group \"{}\": {schedule}, next run {next}", group.group));
    for task in std::iter::once(&group.backup).chain(&group.sync).chain(&group.drill) {
        let last = task.last_success.as_deref().unwrap_or("never");
        let failures = match task.failures {
            0 => String::new(),
            failures => format!(", failed {} since", counted(u64::from(failures), "time")),
        };
        console.note(format!("    {}: last success {last}{failures}", task.task));
    }
}
