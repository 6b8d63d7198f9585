//! `keepwell vault ping`: how far one comes on the way to a vault, and how long each step takes.

use std::time::Duration;

use clap::Args;
use cloudsync::store::ping::{PingReport, ping};
use cloudsync::vault::credentials::Credentials;
use serde::Serialize;

use crate::assembly::Assembly;
use crate::error::{Attempt, Error, Outcome};
use crate::vaults::{self, Engine};

/// Beyond this the clock is worth a warning: some minutes later logins are refused.
const CLOCK_WARNING_SECONDS: u64 = 60;

/// Test the way to a vault: find, connect, log in, write, read, compare clocks
///
/// Each step is told with its time. What is written is deleted again.
#[derive(Args, Debug)]
pub(super) struct Ping {
    /// Which vault of the configuration
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

#[derive(Serialize)]
struct Pinged {
    name: String,
    url: String,
    reached: bool,
    steps: Vec<Step>,
    failed_step: Option<&'static str>,
    clock_ahead_seconds: Option<i64>,
}

#[derive(Serialize)]
struct Step {
    step: &'static str,
    seconds: f64,
    finding: Option<String>,
}

impl Ping {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let config = assembly.config()?;
        let (name, vault) = vaults::choose(&config, self.name.as_deref())?;
        let attempt = || format!("reach the vault \"{name}\"");
        let engine = Engine::start()?;
        let credentials = Credentials::load(&vault.credentials).attempt(attempt)?;
        let opening = engine.opening(&credentials.access);
        let around = engine.around();
        let report = engine.run(ping(&credentials.address, &opening, around.entropy));
        let report = report.attempt(attempt)?;
        let url = credentials.address.to_string();
        tell(assembly, name, &url, &report);
        if let Some((_, error)) = report.failure {
            return Err(error).attempt(attempt);
        }
        // Which vault it is comes last: another one answers as well.
        engine.open(&credentials).attempt(attempt)?;
        Ok(Outcome::Done)
    }
}

fn tell(assembly: &Assembly, name: &str, url: &str, report: &PingReport) {
    let console = &assembly.console;
    let failed_step = report.failure.as_ref().map(|(step, _)| step.name());
    let steps = report.steps.iter().map(|done| Step {
        step: done.step.name(),
        seconds: done.took.as_secs_f64(),
        finding: done.finding.clone(),
    });
    console.document(&Pinged {
        name: name.to_string(),
        url: url.to_string(),
        reached: failed_step.is_none(),
        steps: steps.collect(),
        failed_step,
        clock_ahead_seconds: report.clock_ahead_seconds,
    });
    console.say(format!("{name}  {url}"));
    for done in &report.steps {
        let finding = done.finding.as_deref().unwrap_or_default();
        let line = format!("  {:<8} {:>9}  {finding}", done.step.name(), milliseconds(done.took));
        console.say(line.trim_end());
    }
    match failed_step {
        Some(step) => console.say(format!("  {step:<8}    failed")),
        None => console.say("all tests passed"),
    }
    let ahead = report.clock_ahead_seconds.unwrap_or(0).unsigned_abs();
    if ahead > CLOCK_WARNING_SECONDS {
        console.warn(format!(
            "this machine's clock differs from the vault's by {ahead} s; logins are refused from 15 minutes on"
        ));
    }
}

fn milliseconds(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1000.0)
}
