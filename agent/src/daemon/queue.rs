//! What waits for a slot, in which order, and what must not run side by side.

use std::time::Duration;

use storepool::clock::Timestamp;

use crate::config::{Config, MaintenanceConfig, Upkeep};
use crate::job::Task;
use crate::journal::{JobId, Reason};

/// Pauses before a failed job is tried again; the last one is kept to.
const BACKOFF: [Duration; 4] = [
    Duration::from_secs(60),
    Duration::from_secs(300),
    Duration::from_secs(900),
    Duration::from_secs(3600),
];
/// Something else was at work there: soon again.
const BUSY_PAUSE: Duration = Duration::from_secs(30);
/// Jobs that may wait: more are refused.
pub(super) const QUEUE_MOST: usize = 1000;

/// Something that shall be done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wish {
    /// The task, if it is one of those that come again; other commands (a restore) have only words.
    pub(crate) task: Option<Task>,
    /// What it is called in the journal.
    pub(crate) name: String,
    /// The words of its command.
    pub(crate) words: Vec<String>,
    /// Why.
    pub(crate) reason: Reason,
    /// 1 for the first try.
    pub(crate) attempt: u32,
    /// The request that asked for it.
    pub(crate) request: Option<String>,
}

impl Wish {
    /// Returns the wish to do a task, as the configuration has it.
    pub(crate) fn task(config: &Config, task: Task, reason: Reason) -> Self {
        let words: Vec<String> = match &task {
            Task::Backup(group) => vec!["backup".into(), group.clone()],
            Task::Sync(group) => vec!["sync".into(), group.clone()],
            Task::Drill(group) => vec!["drill".into(), group.clone()],
            Task::Pool(upkeep) => upkeep_words(*upkeep, None, &config.maintenance),
            Task::Vault(upkeep, name) => {
                // Of a vault that is gone from the configuration only the command itself can say so.
                let vault = config.vaults.get(name).map(|vault| &vault.maintenance);
                upkeep_words(*upkeep, Some(name), vault.unwrap_or(&config.maintenance))
            }
        };
        Self { name: task.to_string(), task: Some(task), words, reason, attempt: 1, request: None }
    }
}

fn upkeep_words(
    upkeep: Upkeep,
    vault: Option<&str>,
    maintenance: &MaintenanceConfig,
) -> Vec<String> {
    let mut words = vec![upkeep.word().to_string()];
    words.extend(vault.map(|vault| format!("--vault={vault}")));
    match (upkeep, maintenance.check_read_percent) {
        (Upkeep::Prune, _) => words.push("--wait=10m".to_string()),
        (Upkeep::Check, percent @ 1..) => words.push(format!("--read-data={percent}%")),
        _ => {}
    }
    words
}

/// A wish that is entered in the journal and waits.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) id: JobId,
    pub(super) wish: Wish,
}

/// A wish for later: a retry.
#[derive(Clone, Debug)]
pub(super) struct Later {
    pub(super) not_before: Timestamp,
    pub(super) wish: Wish,
}

/// Returns the place in the order: what a person asked for comes first, protection before copies, copies before maintenance.
pub(super) fn rank(wish: &Wish) -> u8 {
    match (&wish.reason, &wish.task) {
        (Reason::Hand, _) => 0,
        (_, None) => 1,
        (_, Some(Task::Backup(_))) => 2,
        (_, Some(Task::Sync(_))) => 3,
        (_, Some(Task::Pool(Upkeep::Forget) | Task::Vault(Upkeep::Forget, _))) => 4,
        (_, Some(Task::Pool(_) | Task::Vault(..) | Task::Drill(_))) => 5,
    }
}

/// Returns the vault that a wish works on.
pub(super) fn vault_of<'a>(config: &'a Config, wish: &'a Wish) -> Option<&'a str> {
    match wish.task.as_ref()? {
        Task::Sync(group) => config.groups.get(group)?.vault.as_deref(),
        Task::Vault(_, vault) => Some(vault),
        // A drill only reads.
        Task::Backup(_) | Task::Pool(_) | Task::Drill(_) => None,
    }
}

/// Returns whether `wish` must wait while `running` runs.
pub(super) fn excludes(config: &Config, running: &Wish, wish: &Wish) -> bool {
    let vault = vault_of(config, running);
    let same_vault = vault.is_some() && vault == vault_of(config, wish);
    let (Some(running), Some(wish)) = (&running.task, &wish.task) else { return false };
    let is_upkeep = |task: &Task| matches!(task, Task::Pool(_) | Task::Vault(..));
    let is_drill = |task: &Task| matches!(task, Task::Drill(_));
    // A vault takes commits one after the other. Maintenance by turns: it reads the same disks, and forget decides what prune finds. Drills by turns: the
    // room for one is not the room for two.
    running == wish
        || same_vault
        || is_upkeep(running) && is_upkeep(wish)
        || is_drill(running) && is_drill(wish)
}

/// Returns how long to wait before a job that ended with `code` is tried again; `None` if trying again is of no use.
pub(super) fn retry_after(
    task: &Task,
    code: Option<u8>,
    attempt: u32,
    retries: u32,
) -> Option<Duration> {
    const BUSY: u8 = 11;
    // Wrong configuration, damage, refused, wrong passphrase: only a person can change that.
    const HOPELESS: [u8; 4] = [2, 5, 6, 12];
    if code == Some(BUSY) {
        return Some(BUSY_PAUSE);
    }
    if code.is_some_and(|code| HOPELESS.contains(&code)) {
        return None;
    }
    // A vault that is away comes back some day, and nobody should have to remember it.
    let forever = matches!(task, Task::Sync(_));
    let place = (attempt as usize).saturating_sub(1);
    (forever || attempt <= retries).then(|| BACKOFF[place.min(BACKOFF.len() - 1)])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config() -> Config {
        let text = "[pool]\npaths = [\"p\"]\n[vault.a]\ncredentials = \"a\"\n[vault.b]\ncredentials = \"b\"\n\
                    [group.one]\nsources = [{ files = [\"/\"] }]\nvault = \"a\"\n\
                    [group.two]\nsources = [{ files = [\"/\"] }]\nvault = \"a\"\n\
                    [group.three]\nsources = [{ files = [\"/\"] }]\nvault = \"b\"\n";
        Config::parse(Path::new("/c.toml"), text).unwrap()
    }

    #[test]
    fn what_would_disturb_each_other_does_not_run_side_by_side() {
        let config = config();
        let wish = |text: &str| Wish::task(&config, text.parse().unwrap(), Reason::Schedule);
        for (running, wished, excluded) in [
            ("backup one", "backup one", true),
            ("backup one", "backup two", false),
            ("backup one", "sync one", false),
            ("sync one", "sync two", true),
            ("sync one", "sync three", false),
            ("prune", "check", true),
            ("backup one", "prune", false),
            ("sync one", "prune --vault=a", true),
            ("check --vault=a", "sync two", true),
            ("sync one", "check --vault=b", false),
            ("prune --vault=b", "check", true),
            ("backup one", "forget --vault=a", false),
            ("drill one", "drill two", true),
            ("drill one", "backup one", false),
            ("sync one", "drill one", false),
        ] {
            assert_eq!(
                excludes(&config, &wish(running), &wish(wished)),
                excluded,
                "{running}, {wished}"
            );
        }
        let restore = Wish { task: None, ..wish("prune") };
        assert!(!excludes(&config, &restore, &wish("prune")));
    }

    #[test]
    fn hopeless_failures_are_not_tried_again_and_pauses_grow() {
        let backup = Task::Backup("one".into());
        let pauses: Vec<_> =
            (1..=5).map(|attempt| retry_after(&backup, Some(1), attempt, 4)).collect();
        let minutes = |minutes: u64| Some(Duration::from_secs(minutes * 60));

        assert_eq!(pauses, [minutes(1), minutes(5), minutes(15), minutes(60), None]);
        for code in [2, 5, 6, 12] {
            assert_eq!(retry_after(&backup, Some(code), 1, 3), None, "{code}");
        }
        // Killed, no pool (a disk that is not mounted yet), no space.
        for code in [None, Some(10), Some(7)] {
            assert_eq!(retry_after(&backup, code, 1, 3), minutes(1), "{code:?}");
        }
        assert_eq!(retry_after(&backup, Some(11), 99, 3), Some(BUSY_PAUSE));
        assert_eq!(retry_after(&Task::Sync("one".into()), Some(1), 99, 3), minutes(60));
    }
}
