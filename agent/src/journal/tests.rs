//! What survives in a journal, and what becomes of jobs whose process is gone.

use serde_json::json;
use storepool::entropy::SystemEntropy;

use super::*;
use crate::config::AlertLevel;

fn open(directory: &tempfile::TempDir) -> Journal {
    Journal::open(directory.path(), "a test".to_string(), &SystemEntropy).unwrap()
}

fn backup_of(group: &str) -> NewJob {
    NewJob {
        task: format!("backup {group}"),
        reason: Reason::Schedule,
        attempt: 1,
        arguments: vec!["backup".to_string(), group.to_string()],
        request: None,
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1_000_000_000)
}

#[test]
fn a_job_goes_from_the_queue_to_its_end_and_its_task_remembers_it() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory);

    let id = journal.queue(&backup_of("web"), at(10)).unwrap();
    assert_eq!(journal.open_jobs().unwrap().len(), 1);
    journal.start(id, at(12)).unwrap();
    let ending =
        Ending { exit_code: Some(0), summary: Some(json!({ "bytes": 4096 })), ..Ending::default() };
    journal.finish(id, JobState::Done, &ending, at(20)).unwrap();
    // Whoever comes late changes nothing.
    journal.finish(id, JobState::Failed, &Ending::default(), at(30)).unwrap();

    let job = journal.job(id).unwrap().unwrap();
    assert_eq!(
        (job.state, job.started, job.finished),
        (JobState::Done, Some(at(12)), Some(at(20)))
    );
    assert_eq!(job.arguments, ["backup", "web"]);
    let memory = journal.task("backup web", at(40)).unwrap();
    assert_eq!((memory.last_success, memory.failures), (Some(at(20)), 0));
    assert_eq!((memory.last_bytes, memory.last_seconds), (Some(4096), Some(8.0)));
    assert!(journal.open_jobs().unwrap().is_empty());
}

#[test]
fn failures_are_counted_until_a_success() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory);
    let run = |state| {
        let id = journal.queue(&backup_of("web"), at(1)).unwrap();
        journal.finish(id, state, &Ending::default(), at(2)).unwrap();
        journal.known_task("backup web").unwrap().unwrap().failures
    };

    assert_eq!([run(JobState::Failed), run(JobState::Failed), run(JobState::Cancelled)], [1, 2, 2]);
    assert_eq!([run(JobState::Incomplete), run(JobState::Failed)], [0, 1]);
}

#[test]
fn jobs_of_a_process_that_is_gone_were_interrupted_and_those_of_a_living_one_were_not() {
    let directory = tempfile::tempdir().unwrap();
    let living = open(&directory);
    let gone = open(&directory);
    let living_job = living.queue(&backup_of("web"), at(1)).unwrap();
    let gone_job = gone.queue(&backup_of("db"), at(1)).unwrap();
    gone.start(gone_job, at(2)).unwrap();
    drop(gone);

    let next = open(&directory);
    let reaped = next.reap(at(3)).unwrap();

    assert_eq!(reaped.iter().map(|job| job.id).collect::<Vec<_>>(), [gone_job]);
    assert_eq!(reaped[0].state, JobState::Interrupted);
    assert_eq!(next.job(living_job).unwrap().unwrap().state, JobState::Queued);
    assert!(next.reap(at(4)).unwrap().is_empty());
}

#[test]
fn jobs_are_found_by_kind_and_by_group_and_old_ones_go() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory);
    for group in ["web", "db", "web"] {
        let id = journal.queue(&backup_of(group), at(1)).unwrap();
        journal.finish(id, JobState::Done, &Ending::default(), at(2)).unwrap();
    }
    let open = journal.queue(&NewJob { task: "prune".into(), ..backup_of("") }, at(3)).unwrap();

    let count = |task| journal.jobs(task, 10).unwrap().len();
    assert_eq!((count(None), count(Some("backup")), count(Some("web"))), (4, 3, 2));
    assert_eq!((count(Some("backup db")), count(Some("prune")), count(Some("eb"))), (1, 1, 0));
    journal.trim(2).unwrap();
    assert_eq!(journal.jobs(None, 10).unwrap().len(), 2);
    assert!(journal.job(open).unwrap().is_some());
}

fn draft(level: AlertLevel) -> AlertDraft {
    AlertDraft {
        key: "backup-failed web".to_string(),
        level,
        message: "the backup of web failed".to_string(),
        hint: None,
    }
}

#[test]
fn an_alert_counts_ends_by_itself_and_begins_anew() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory);
    let warning = draft(AlertLevel::Warning);

    assert_eq!(journal.raise(&warning, at(1)).unwrap(), Raised::New);
    assert_eq!(journal.raise(&warning, at(2)).unwrap(), Raised::Again);
    let active = journal.active_alerts().unwrap();
    assert_eq!((active.len(), active[0].count), (1, 2));
    assert_eq!((active[0].first_seen, active[0].last_seen), (at(1), at(2)));
    assert!(journal.resolve(&warning.key, at(3)).unwrap());
    assert!(!journal.resolve(&warning.key, at(4)).unwrap());
    assert_eq!(journal.raise(&warning, at(5)).unwrap(), Raised::New);

    assert_eq!(journal.alerts(10).unwrap().len(), 2);
    assert_eq!(journal.active_alerts().unwrap()[0].first_seen, at(5));
}

#[test]
fn an_acknowledged_alert_is_silent_until_it_becomes_worse() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory);
    journal.raise(&draft(AlertLevel::Warning), at(1)).unwrap();
    let untold = |repeat| journal.untold_alerts(at(repeat)).unwrap();

    assert_eq!(untold(0).len(), 1);
    journal.told(&untold(0), at(10)).unwrap();
    assert!(untold(9).is_empty());
    assert_eq!(untold(10).len(), 1, "after a while it is told again");
    let id = journal.active_alerts().unwrap()[0].id;
    assert!(journal.acknowledge(id, "eva", at(11)).unwrap());
    assert!(untold(100).is_empty());
    assert_eq!(journal.raise(&draft(AlertLevel::Critical), at(12)).unwrap(), Raised::New);
    assert_eq!(untold(0).len(), 1);
    journal.told(&untold(0), at(13)).unwrap();
    journal.resolve("backup-failed web", at(14)).unwrap();

    let end = untold(0);
    assert_eq!(end.len(), 1, "its end is told too");
    journal.told(&end, at(15)).unwrap();
    assert!(untold(100).is_empty());
    assert!(!journal.acknowledge(id, "eva", at(16)).unwrap());
}

#[test]
fn an_owed_hook_is_known_until_it_has_run() {
    let directory = tempfile::tempdir().unwrap();
    let after =
        OwedHook { command: vec!["true".into()], timeout_seconds: 5, ..OwedHook::default() };
    let resume = OwedHook { what: Some("resume shop".into()), ..after.clone() };
    let hooks = vec![resume, after];
    open(&directory).owe_hooks("web", JobId(7), &hooks, at(1)).unwrap();

    let journal = open(&directory);

    assert_eq!(journal.groups_owed().unwrap(), ["web"]);
    assert_eq!(journal.owed_hooks("web").unwrap(), Some((JobId(7), hooks)));
    journal.settle_hooks("web").unwrap();
    assert_eq!(journal.owed_hooks("web").unwrap(), None);
}

#[test]
fn a_damaged_journal_is_put_aside_and_begun_anew() {
    let directory = tempfile::tempdir().unwrap();
    open(&directory).queue(&backup_of("web"), at(1)).unwrap();
    let path = directory.path().join(DATABASE);
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(directory.path().join(format!("{DATABASE}{suffix}")));
    }
    std::fs::write(&path, [7; 8192]).unwrap();

    let journal = open(&directory);

    assert!(journal.jobs(None, 10).unwrap().is_empty());
    let aside = journal.put_aside().unwrap();
    assert_eq!(std::fs::read(aside).unwrap(), [7; 8192]);
}

#[test]
fn a_repeated_request_finds_its_answer() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory);
    let job = journal.queue(&backup_of("web"), at(1)).unwrap();
    journal.answer("key", 5, job, at(1)).unwrap();

    assert_eq!(journal.answered("key", 5).unwrap(), Some((job, true)));
    assert_eq!(journal.answered("key", 6).unwrap(), Some((job, false)));
    assert_eq!(journal.answered("other", 5).unwrap(), None);
}

#[test]
fn migrations_lead_to_the_pinned_schema() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory);

    let schema = journal.database.schema().unwrap();

    let pinned = include_str!("../../../migrations/agent/schema.sql");
    assert!(schema == pinned, "migrations/agent/schema.sql should be:\n{schema}");
}
