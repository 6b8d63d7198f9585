//! `keepwell jobs`: what ran, what runs, and how it ended.

use clap::Args;
use storepool::clock::{Clock, SystemClock};

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
#[command(after_help = "\
Examples:
  keepwell jobs
  keepwell jobs web -n 5
  keepwell jobs backup --json")]
pub(super) struct Jobs {
    /// Only of this group, kind or task: web, backup, "backup web"
    #[arg(value_name = "WHAT")]
    what: Option<String>,
    /// At most N
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
    limit: u32,
}

impl Jobs {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
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
