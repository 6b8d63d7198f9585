//! Giving exports back: everything is checked first and all faults are told together; then the service is suspended, fed, and left suspended until
//! somebody who has looked at it resumes it.

use std::collections::BTreeSet;

use storepool::entry::EntryPath;
use storepool::monitor::Monitor;

use super::service::{Service, ServiceState};
use super::{CommandDetail, CommandExport, FORMAT};
use crate::config::{CommandConfig, HookCommand};
use crate::error::Cause;
use crate::nearest::nearest;
use crate::workload::streams::source_error;
use crate::workload::suspended::SuspendedService;
use crate::workload::{PointContents, RestoreOrder, RestoredService, Restorer, WorkloadError};

/// Restores points of one command source.
pub(crate) struct CommandRestore {
    config: CommandConfig,
}

/// What the checks found out.
struct Plan {
    service: Service,
    files: Vec<(EntryPath, u64, HookCommand)>,
    target_exists: bool,
}

impl CommandRestore {
    pub(in crate::workload) fn new(config: CommandConfig) -> Self {
        Self { config }
    }
}

impl Restorer for CommandRestore {
    fn restore(
        &self,
        point: &PointContents<'_>,
        order: &RestoreOrder<'_>,
    ) -> Result<RestoredService, Cause> {
        let plan = self.plan(point, order)?;
        let service = &plan.service;
        let target = service.target().to_string();
        let mut done = RestoredService { target: target.clone(), ..RestoredService::default() };
        if order.dry_run {
            done.items = plan.files.len() as u64;
            done.bytes = plan.files.iter().map(|(_, size, _)| size).sum();
            return Ok(done);
        }
        if plan.target_exists {
            let before = CommandExport::of(service.clone());
            done.safety_point = Some((order.safety_point)(&before)?);
        }
        // Remembered before anything is stopped: whatever happens then, somebody can wake it.
        let suspended = service.debt().map(|debt| SuspendedService::new(&target, point.id, &debt));
        if let Some(suspended) = &suspended {
            suspended.remember(&order.state)?;
        }
        if plan.target_exists {
            service.suspend(point.monitor)?;
        }
        for (path, _, command) in &plan.files {
            done.bytes += feed(service, point, path, command).map_err(|cause| {
                let message = format!(
                    "{target} has not all of point {}: \"{path}\" was not taken",
                    point.id.short()
                );
                let hint = match done.safety_point {
                    Some(before) => format!(
                        "it is left suspended; what was there before is point {}",
                        before.short()
                    ),
                    None => format!(
                        "it is left as it is; remove {target} before the next try, or add --replace"
                    ),
                };
                WorkloadError::failed(message).hint(hint).because(cause.chain())
            })?;
            done.items += 1;
        }
        if let Some(suspend) = &service.config.suspend {
            service.step(suspend, ServiceState::Suspended, &|| false)?;
            done.notes.push(format!(
                "{target} is suspended: look at it, then run \"keepwell resume {target}\""
            ));
        }
        Ok(done)
    }
}

impl CommandRestore {
    // Collects every fault instead of stopping at the first: whoever restores is in a hurry.
    fn plan(&self, point: &PointContents<'_>, order: &RestoreOrder<'_>) -> Result<Plan, Cause> {
        let detail: CommandDetail = point.detail()?;
        if detail.format != FORMAT {
            return Err(point.of_newer_version().into());
        }
        let mut faults = Vec::new();
        let service = self.service(&detail, order, &mut faults);
        let files = self.files(point, &detail, &mut faults)?;
        compare_versions(&service, &detail, point.monitor, &mut faults);
        compare_editions(&service, &detail, point.monitor, &mut faults);
        let target_exists = look_at_target(&service, order, point.monitor, &mut faults);
        if point.monitor.cancelled() {
            return Err(storepool::Error::Interrupted.into());
        }
        if faults.is_empty() {
            return Ok(Plan { service, files, target_exists });
        }
        let elsewhere = ", --to DIR gets the exports as files";
        Err(point.kept_from(service.target(), &faults, elsewhere).into())
    }

    // Typed parameters win over those of the point, those over the configured ones.
    fn service(
        &self,
        detail: &CommandDetail,
        order: &RestoreOrder<'_>,
        faults: &mut Vec<String>,
    ) -> Service {
        let mut service = Service::configured(self.config.clone());
        service.parameters.extend(detail.parameters.clone());
        for (name, value) in &order.parameters {
            if name != "target" && !service.parameters.contains_key(name) {
                let mut known: Vec<&str> = service.parameters.keys().map(String::as_str).collect();
                known.push("target");
                let near = nearest(name, known.iter().copied())
                    .map(|near| format!(", did you mean \"{near}\"?"))
                    .unwrap_or_default();
                faults.push(format!("there is no parameter \"{name}\"{near}"));
            }
            if value.is_empty() {
                faults.push(format!("the parameter \"{name}\" is empty"));
            }
            service.parameters.insert(name.clone(), value.clone());
        }
        service
    }

    fn files(
        &self,
        point: &PointContents<'_>,
        detail: &CommandDetail,
        faults: &mut Vec<String>,
    ) -> Result<Vec<(EntryPath, u64, HookCommand)>, Cause> {
        let mut missing: BTreeSet<&str> = detail.exports.iter().map(String::as_str).collect();
        let mut files = Vec::new();
        for (path, size) in point.files()? {
            let name = path.to_string();
            missing.remove(name.as_str());
            match self.config.restores.get(&name) {
                Some(command) => files.push((path, size, command.clone())),
                None => faults.push(format!("no restore command takes \"{name}\"")),
            }
        }
        for name in missing {
            faults.push(format!("the point does not have its export \"{name}\""));
        }
        Ok(files)
    }
}

fn feed(
    service: &Service,
    point: &PointContents<'_>,
    path: &EntryPath,
    command: &HookCommand,
) -> Result<u64, Cause> {
    let mut program = service.program(command, ServiceState::Suspended);
    program.variables.push(("KEEPWELL_EXPORT".to_string(), path.to_string()));
    program.variables.push(("KEEPWELL_POINT".to_string(), point.id.to_string()));
    let mut bytes = 0;
    program.feed(point.monitor, |input| {
        bytes = point.copy(path, input)?;
        Ok(())
    })?;
    Ok(bytes)
}

fn compare_versions(
    service: &Service,
    detail: &CommandDetail,
    monitor: &dyn Monitor,
    faults: &mut Vec<String>,
) {
    let Some(source) = detail.version.as_ref().filter(|_| !service.config.allow_other_version)
    else {
        return;
    };
    match service.version(monitor) {
        Ok(Some(target)) if target == *source => {}
        Ok(Some(target)) => faults.push(format!(
            "the point is of version {source} and the target is {target} (allow_other_version = true allows it)"
        )),
        Ok(None) => faults.push(format!(
            "the point is of version {source}, and no command tells the target's"
        )),
        Err(error) => faults.push(format!("version: {}", source_error(&error).message)),
    }
}

fn compare_editions(
    service: &Service,
    detail: &CommandDetail,
    monitor: &dyn Monitor,
    faults: &mut Vec<String>,
) {
    let Some(source) = &detail.edition else { return };
    let editions = match service.config.editions.is_empty() {
        true => &detail.editions,
        false => &service.config.editions,
    };
    let rank = |edition: &String| editions.iter().position(|other| other == edition);
    match service.edition(monitor) {
        Ok(Some(target)) => match (rank(source), rank(&target)) {
            (Some(needed), Some(there)) if there >= needed => {}
            (Some(_), Some(_)) => faults
                .push(format!("the point is of edition {source} and the target is only {target}")),
            _ => faults.push(format!("{source} and {target} cannot be compared as editions")),
        },
        Ok(None) => {
            faults.push(format!(
                "the point is of edition {source}, and no command tells the target's"
            ));
        }
        Err(error) => faults.push(format!("edition: {}", source_error(&error).message)),
    }
}

fn look_at_target(
    service: &Service,
    order: &RestoreOrder<'_>,
    monitor: &dyn Monitor,
    faults: &mut Vec<String>,
) -> bool {
    let target = service.target();
    let exists = match &service.config.exists {
        Some(command) => service.program(command, ServiceState::Running).decides(monitor),
        None => {
            faults.push(format!(
                "nothing tells whether {target} is there already: configure \"exists\""
            ));
            return false;
        }
    };
    match exists {
        Ok(false) => false,
        Ok(true) => {
            if !order.replace {
                faults.push(format!("{target} is there already (--replace replaces it)"));
                return true;
            }
            let counted = service.count_pending(monitor);
            let accepted = |pending| service.accept(pending, order.accept_pending);
            if let Err(error) = counted.and_then(accepted) {
                faults.push(error.chain());
            }
            true
        }
        Err(error) => {
            faults.push(format!("exists: {}", source_error(&error).message));
            false
        }
    }
}
