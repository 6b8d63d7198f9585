//! `keepwell jobs`: what ran, what runs, and how it ended.

use clap::{Args, Subcommand};
use storepool::clock::{Clock, SystemClock};

use super::remote;
use crate::assembly::Assembly;
use crate::console::table::{Align, Table};
use crate::console::units::{between, duration, local};
use crate::documents::JobDocument;
use crate::error::{Attempt, Error, Outcome};
use crate::record::open_journal;

/// List jobs: what ran, what runs, and how it ended
///
/// The newest comes first. A job that was running when its process was killed is shown as interrupted.
#[derive(Args, Debug)]
#[command(
    after_help = "\
Examples:
  keepwell jobs
  keepwell jobs web -n 5
  keepwell jobs backup --json
  keepwell jobs attach 17
  keepwell jobs cancel 17",
    args_conflicts_with_subcommands = true
)]
pub(super) struct Jobs {
    #[command(subcommand)]
    command: Option<Command>,
    /// Only of this group, kind or task: web, backup, "backup web"
    #[arg(value_name = "WHAT")]
    what: Option<String>,
    /// At most N
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
    limit: u32,
}

#[derive(Debug, Subcommand)]
enum Command {
    Attach(Attach),
    Cancel(Cancel),
}

/// Show a job of the daemon while it runs, and end as it ends
///
/// Ctrl-C only ends the showing; the job goes on.
#[derive(Args, Debug)]
struct Attach {
    /// Its number
    #[arg(value_name = "JOB")]
    job: i64,
}

/// Stop a job of the daemon safely, or take it from the queue
#[derive(Args, Debug)]
struct Cancel {
    /// Its number
    #[arg(value_name = "JOB")]
    job: i64,
}

impl Jobs {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        match self.command {
            Some(Command::Attach(attach)) => {
                return remote::attach(assembly, &remote::daemon(assembly)?, attach.job);
            }
            Some(Command::Cancel(cancel)) => {
                return remote::cancel(assembly, &remote::daemon(assembly)?, cancel.job);
            }
            None => {}
        }
        let attempt = || "list the jobs".to_string();
        assembly.config()?;
        let journal = open_journal(assembly).attempt(attempt)?;
        journal.reap(SystemClock::new().now()).attempt(attempt)?;
        let jobs = journal.jobs(self.what.as_deref(), self.limit).attempt(attempt)?;
        let documents: Vec<_> = jobs.iter().map(JobDocument::of).collect();
        assembly.console.document(&serde_json::json!({ "jobs": documents }));
        if jobs.is_empty() {
            assembly.console.note("no jobs yet");
            return Ok(Outcome::Done);
        }
        let mut table = Table::new(&[
            ("Job", Align::Right),
            ("Task", Align::Left),
            ("State", Align::Left),
            ("Why", Align::Left),
            ("Began", Align::Left),
            ("Took", Align::Right),
            ("", Align::Left),
        ]);
        for job in &jobs {
            let took = job.started.zip(job.finished);
            table.row(vec![
                job.id.to_string(),
                job.task.clone(),
                job.state.word().to_string(),
                job.reason.word().replace('_', " "),
                local(job.started.unwrap_or(job.queued)),
                took.map(|(from, to)| duration(between(from, to))).unwrap_or_default(),
                job.message.clone().unwrap_or_default(),
            ]);
        }
        table.lines().iter().for_each(|line| assembly.console.say(line));
        Ok(Outcome::Done)
    }
}
