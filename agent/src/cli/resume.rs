//! `keepwell resume`: wake services that a restore left suspended, or that a backup could not wake.

use clap::Args;
use serde::Serialize;

use super::workshop;
use crate::assembly::Assembly;
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::job::owed::pay_group;
use crate::nearest::nearest;
use crate::record::open_journal;
use crate::workload::WorkloadError;
use crate::workload::suspended::SuspendedService;

/// Wake services that are suspended
///
/// A restored service stays suspended until somebody has looked at it and resumes it by name. Without a name, what a backup that was killed left suspended
/// is resumed, and restored services that wait are listed.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell resume           end what interrupted backups left, list what waits
  keepwell resume shop2     wake the restored service shop2")]
pub(super) struct Resume {
    /// The service that was restored
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
}

#[derive(Serialize)]
struct Document {
    resumed: Vec<String>,
    waiting: Vec<String>,
}

impl Resume {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let state = assembly.place.state();
        let waiting = SuspendedService::all(&state).attempt(|| "look for services".to_string())?;
        let mut document = Document { resumed: Vec::new(), waiting: Vec::new() };
        match &self.service {
            Some(name) => {
                let attempt = || format!("resume \"{name}\"");
                let Some(service) = waiting.iter().find(|service| service.name == *name) else {
                    let cause = unknown(name, &waiting);
                    return Err(Error { attempt: attempt(), cause });
                };
                service.resume(&state).attempt(attempt)?;
                document.resumed.push(name.clone());
            }
            None => document.resumed = end_what_is_owed(assembly)?,
        }
        let left = waiting.iter().map(|service| &service.name);
        document.waiting =
            left.filter(|name| self.service.as_ref() != Some(name)).cloned().collect();
        assembly.console.document(&document);
        for what in &document.resumed {
            assembly.console.note(format!("resumed: {what}"));
        }
        for name in &document.waiting {
            assembly.console.note(format!(
                "{name} was restored and is suspended: look at it, then run \"keepwell resume {name}\""
            ));
        }
        if document.resumed.is_empty() && document.waiting.is_empty() {
            assembly.console.note("nothing is suspended");
        }
        Ok(Outcome::Done)
    }
}

fn unknown(name: &str, waiting: &[SuspendedService]) -> Cause {
    let error = WorkloadError::failed("no restore left a service of this name suspended");
    let near = nearest(name, waiting.iter().map(|service| service.name.as_str()));
    match near {
        Some(near) => error.hint(format!("did you mean \"{near}\"?")),
        None => error.hint("run \"keepwell resume\" to see what waits"),
    }
    .into()
}

fn end_what_is_owed(assembly: &Assembly) -> Result<Vec<String>, Error> {
    let attempt = || "resume what backups left suspended".to_string();
    let config = assembly.config()?;
    let pool = assembly.open_configured(&config)?;
    let journal = open_journal(assembly).attempt(attempt)?;
    let workshop = workshop(assembly, &config, &pool, &journal);
    let mut resumed = Vec::new();
    for group in journal.groups_owed().attempt(attempt)? {
        // A backup that is going on ends by itself what it began.
        let _lock = workshop.lock_group(&group).attempt(attempt)?;
        let (paid, problems) = pay_group(&workshop, &group).attempt(attempt)?;
        resumed.extend(paid);
        if let Some(cause) = problems.into_iter().next() {
            return Err(Error { attempt: attempt(), cause });
        }
    }
    Ok(resumed)
}
