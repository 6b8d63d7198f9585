//! What a group owes: the commands that end what others have begun, kept in the journal until they have run.

use std::time::Duration;

use super::Workshop;
use super::backup::{told, variables};
use crate::error::Cause;
use crate::hooks::{Debt, Hook, HookError};
use crate::journal::{JobId, OwedHook};
use crate::workload::WorkloadError;

fn run_owed(group: &str, job: JobId, owed: &OwedHook) -> Result<(), Cause> {
    let hook = Hook {
        command: owed.command.clone(),
        timeout: Duration::from_secs(owed.timeout_seconds),
        user: owed.user.clone(),
    };
    if let Some(what) = &owed.what {
        let debt = Debt { what: what.clone(), hook, variables: owed.variables.clone() };
        return debt.pay().map_err(|cause| unpaid(&debt, cause));
    }
    let error = "the run was interrupted".to_string();
    let variables = variables("after", group, job, "interrupted", &error, "");
    hook.run(&variables, "", &|| false).map_err(|error| told("after", group, error))
}

/// Returns the problem that a debt could not be paid.
pub(super) fn unpaid(debt: &Debt, cause: HookError) -> Cause {
    WorkloadError::failed(format!("cannot {}", debt.what))
        .hint("it is tried again by the next run; \"keepwell resume\" tries now")
        .because(cause)
        .into()
}

/// Returns a debt as the journal keeps it.
pub(super) fn as_owed(debt: &Debt) -> OwedHook {
    OwedHook {
        what: Some(debt.what.clone()),
        variables: debt.variables.clone(),
        command: debt.hook.command.clone(),
        timeout_seconds: debt.hook.timeout.as_secs(),
        user: debt.hook.user.clone(),
    }
}

/// Adds a debt, once.
pub(super) fn add(owed: &mut Vec<OwedHook>, debt: OwedHook) {
    if !owed.contains(&debt) {
        owed.push(debt);
    }
}

/// Runs what runs before this one began and never ended; resumes of services that fail again stay owed.
///
/// # Errors
/// The journal cannot be read or written.
pub(crate) fn pay_group(
    workshop: &Workshop<'_>,
    group: &str,
) -> Result<(Vec<String>, Vec<Cause>), Cause> {
    let Some((job, owed)) = workshop.journal.owed_hooks(group)? else {
        return Ok((Vec::new(), Vec::new()));
    };
    let (mut paid, mut left, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    for hook in owed {
        match run_owed(group, job, &hook) {
            Ok(()) => paid.push(hook.what.unwrap_or_else(|| "run the hook \"after\"".to_string())),
            Err(problem) => {
                problems.push(problem);
                if hook.what.is_some() {
                    left.push(hook);
                }
            }
        }
    }
    match left.is_empty() {
        true => workshop.journal.settle_hooks(group)?,
        false => workshop.journal.owe_hooks(group, job, &left, workshop.now())?,
    }
    Ok((paid, problems))
}

/// What went wrong beside the points, and what stays owed.
#[derive(Default)]
pub(super) struct Aftermath {
    /// What went wrong.
    pub(super) problems: Vec<Cause>,
    /// What the next run has to do first.
    pub(super) owed: Vec<OwedHook>,
}
