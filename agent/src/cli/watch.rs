//! `keepwell watch`: keeps the daemon alive where no service manager does.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use storepool::clock::{Clock, SystemClock};

use super::arguments;
use crate::assembly::Assembly;
use crate::config::AlertLevel;
use crate::control::client::Client;
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::journal::AlertDraft;
use crate::record::open_journal;
use crate::signals::Sign;

/// The alert that the daemon cannot be kept alive.
const ALERT: &str = "daemon";
/// So many good looks in a row, and earlier failures are forgiven.
const FORGIVEN_AFTER: u32 = 5;
/// How long the daemon may take to end; it needs ten seconds at most.
const END_WITHIN: Duration = Duration::from_secs(15);

/// Keep the daemon alive, on systems without a service manager
///
/// Starts the daemon, asks it for a sign of life every INTERVAL, and starts it again when it has ended or does not answer. After five good looks
/// earlier failures are forgiven; after N failures it gives up with an alert and exit code 70. With systemd, use "keepwell service install".
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell watch
  keepwell watch --interval 10s --start-timeout 10s --max-fails 5")]
pub(super) struct Watch {
    /// Between two looks
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = arguments::duration)]
    interval: Duration,
    /// Longest time until a started daemon answers
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = arguments::duration)]
    start_timeout: Duration,
    /// Give up after so many failures
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    max_fails: u32,
}

/// What the next look found.
enum Look {
    Good,
    Bad(String),
    Stopped,
}

impl Watch {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let (stop, stopped) = channel();
        assembly.console.attention().serve(move |sign| {
            if sign == Sign::Stop {
                // Only the first counts.
                let _ = stop.send(());
            }
        });
        let mut watch = Watching {
            assembly,
            settings: &self,
            stopped,
            child: None,
            clock: Arc::new(SystemClock::new()),
        };
        let (mut fails, mut good) = (0, 0);
        loop {
            match watch.look() {
                Look::Stopped => {
                    watch.end();
                    return Ok(Outcome::Done);
                }
                Look::Good => {
                    good += 1;
                    if good == FORGIVEN_AFTER {
                        fails = 0;
                        watch.resolve();
                    }
                }
                Look::Bad(reason) => {
                    fails += 1;
                    good = 0;
                    assembly
                        .console
                        .warn(format!("failure {fails} of {}: {reason}", self.max_fails));
                    watch.end();
                    if fails >= self.max_fails {
                        watch.raise(fails, &reason);
                        let cause = Cause::GaveUp { fails, reason };
                        return Err(Error { attempt: "keep the daemon alive".to_string(), cause });
                    }
                }
            }
            if !watch.rest(self.interval) {
                watch.end();
                return Ok(Outcome::Done);
            }
        }
    }
}

struct Watching<'a> {
    assembly: &'a Assembly,
    settings: &'a Watch,
    stopped: Receiver<()>,
    child: Option<Child>,
    clock: Arc<dyn Clock>,
}

impl Watching<'_> {
    // Waits; `false` if somebody asked to stop meanwhile.
    fn rest(&self, duration: Duration) -> bool {
        matches!(self.stopped.recv_timeout(duration), Err(RecvTimeoutError::Timeout))
    }

    fn answers(&self) -> bool {
        let client = Client::connect(&self.assembly.place);
        client.is_some_and(|client| client.ask("GET", "/v1/health", None).is_ok())
    }

    fn look(&mut self) -> Look {
        if let Some(child) = &mut self.child {
            match child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => {
                    self.child = None;
                    return Look::Bad(format!("the daemon ended with {status}"));
                }
                Err(error) => return Look::Bad(error.to_string()),
            }
            return match self.answers() {
                true => Look::Good,
                false => Look::Bad("the daemon does not answer".to_string()),
            };
        }
        // Perhaps somebody else has started one.
        if self.answers() {
            return Look::Good;
        }
        self.start()
    }

    fn start(&mut self) -> Look {
        let place = &self.assembly.place;
        let mut command = Command::new("/proc/self/exe");
        if let Some(home) = &place.home {
            command.arg("--home").arg(home);
        }
        command.arg("--config").arg(&place.configuration).arg("daemon").stdin(Stdio::null());
        match command.spawn() {
            Ok(child) => self.child = Some(child),
            Err(error) => return Look::Bad(format!("the daemon cannot be started: {error}")),
        }
        let until = self.clock.monotonic() + self.settings.start_timeout;
        while self.clock.monotonic() < until {
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                self.child = None;
                return Look::Bad(format!("the daemon ended with {status}"));
            }
            if self.answers() {
                return Look::Good;
            }
            if !self.rest(Duration::from_millis(100)) {
                return Look::Stopped;
            }
        }
        Look::Bad("the daemon did not answer in time".to_string())
    }

    // Ends the daemon that we started, safely if it can be.
    fn end(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // It has ended already, if it fails.
        let _ = kill_process(Pid::from_child(&child), Signal::TERM);
        let until = self.clock.monotonic() + END_WITHIN;
        while self.clock.monotonic() < until {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = child.kill();
        let _ = child.wait();
    }

    fn raise(&self, fails: u32, reason: &str) {
        let draft = AlertDraft {
            key: ALERT.to_string(),
            level: AlertLevel::Critical,
            message: format!(
                "the daemon failed {fails} times in a row and is not started again: {reason}"
            ),
            hint: Some("run \"keepwell doctor\", then start it again".to_string()),
        };
        let raised = open_journal(self.assembly)
            .and_then(|journal| journal.raise(&draft, self.clock.now()))
            .attempt(|| "enter an alert".to_string());
        if let Err(error) = raised {
            self.assembly.console.complain(&error);
        }
        // Nobody else would tell it now.
        let mut command = Command::new("/proc/self/exe");
        if let Some(home) = &self.assembly.place.home {
            command.arg("--home").arg(home);
        }
        let configuration = &self.assembly.place.configuration;
        command.arg("--config").arg(configuration).args(["--quiet", "alerts", "send"]);
        let _ = command.stdin(Stdio::null()).status();
    }

    fn resolve(&self) {
        if let Ok(journal) = open_journal(self.assembly) {
            let _ = journal.resolve(ALERT, self.clock.now());
        }
    }
}
