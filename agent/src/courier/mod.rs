//! Alerts to the outside: command, web, mail; a heartbeat as long as all is well; measurements as a file. Runs as a short process of its own, so that
//! the daemon needs neither TLS nor memory for it. Every way is tried; what one of them could not deliver is delivered again, on all, the next time.

mod mail;
mod web;

use std::time::Duration;

use serde::Serialize;
use storepool::clock::Timestamp;
use zeroize::Zeroizing;

use crate::config::{AlertLevel, AlertsConfig, Secret};
use crate::console::units::rfc3339;
use crate::documents::AlertDocument;
use crate::error::Cause;
use crate::hooks::{self, Hook, HookError};
use crate::journal::{Alert, Journal};
use crate::process::host_name;

/// Longest time for a command that is given a notice, and for each answer of the web and the mail server.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest secret file that is read.
const SECRET_MOST: u64 = 64 << 10;

/// What is told at once: some alerts, or the end of some.
#[derive(Debug, Serialize)]
pub(crate) struct Notice {
    /// The form of this document.
    version: u32,
    /// The server it is about.
    host: String,
    /// When it was sent.
    time: String,
    /// The worst level among the alerts that go on; `information` if all of them are over.
    level: &'static str,
    /// Whether this is only a trial.
    test: bool,
    /// What is told.
    alerts: Vec<AlertDocument>,
}

/// A way that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CourierError {
    /// The command.
    #[error("the command of [alerts]")]
    Command(#[source] HookError),
    /// The web. Its address may hold a token, so it is not named.
    #[error("{what}: {detail}")]
    Web {
        /// `the webhook` or `the heartbeat`.
        what: &'static str,
        /// What happened, without the address.
        detail: String,
    },
    /// The mail server.
    #[error("mail through {host}: {detail}")]
    Mail {
        /// Its name.
        host: String,
        /// What happened.
        detail: String,
    },
    /// A file that holds a secret.
    #[error("cannot read {}", path.display())]
    Secret {
        /// The file.
        path: std::path::PathBuf,
        /// The system's answer.
        #[source]
        cause: std::io::Error,
    },
}

impl Notice {
    /// Makes the notice about some alerts.
    fn about(alerts: &[Alert], now: Timestamp, test: bool) -> Self {
        let active = alerts.iter().filter(|alert| alert.resolved.is_none());
        let level = active.map(|alert| alert.level).max().unwrap_or(AlertLevel::Information);
        Self {
            version: 1,
            host: host_name(),
            time: rfc3339(now),
            level: level.word(),
            test,
            alerts: alerts.iter().map(AlertDocument::of).collect(),
        }
    }

    /// Returns the one line that says it all.
    fn subject(&self) -> String {
        let test = if self.test { "test: " } else { "" };
        let more = match self.alerts.len() {
            0 | 1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        let first = self.alerts.first().map_or("", |alert| alert.message.as_str());
        let over = self.alerts.first().is_some_and(|alert| !alert.active);
        let what = if over { format!("over: {first}") } else { first.to_string() };
        let line = format!("[keepwell {}] {test}{}: {what}{more}", self.host, self.level);
        line.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
    }

    /// Returns the text for people.
    fn text(&self) -> String {
        let mut text = String::new();
        for alert in &self.alerts {
            let word = if alert.active { alert.level } else { "over" };
            text.push_str(&format!("{word}: {}\n", alert.message));
            text.push_str(&format!("  since {}, seen {} times\n", alert.first_seen, alert.count));
            if let (Some(hint), true) = (&alert.hint, alert.active) {
                text.push_str(&format!("  {hint}\n"));
            }
            text.push('\n');
        }
        text.push_str(&format!("From Keepwell on {} at {}.\n", self.host, self.time));
        text
    }
}

/// Returns the alerts that are to be told now: those that matter and were not told, once a critical one or the age of the oldest calls for it.
pub(crate) fn due(
    config: &AlertsConfig,
    journal: &Journal,
    now: Timestamp,
) -> Result<Vec<Alert>, Cause> {
    let repeat = now.minus(config.repeat);
    let mut alerts = journal.untold_alerts(repeat)?;
    alerts.retain(|alert| alert.level >= config.level);
    alerts
        .sort_by_key(|alert| (alert.resolved.is_some(), std::cmp::Reverse(alert.level), alert.id));
    let waits = |alert: &Alert| {
        let since = alert.resolved.unwrap_or(alert.told.unwrap_or(alert.first_seen));
        let urgent = alert.level == AlertLevel::Critical && alert.resolved.is_none();
        !urgent && now.minus(config.digest) < since
    };
    Ok(if alerts.iter().all(waits) { Vec::new() } else { alerts })
}

/// Tells the alerts on every way that is configured, and returns the ways that failed.
pub(crate) fn deliver(
    config: &AlertsConfig,
    alerts: &[Alert],
    now: Timestamp,
    test: bool,
) -> Vec<CourierError> {
    let notice = Notice::about(alerts, now, test);
    let body = serde_json::to_string(&notice).unwrap_or_default();
    let mut failures = Vec::new();
    if let Some(command) = &config.command {
        let hook = Hook { command: hooks::words(command), timeout: PATIENCE, user: None };
        let variables = [
            ("KEEPWELL_HOOK_PHASE", "alert".to_string()),
            ("KEEPWELL_HOOK_HOST", notice.host.clone()),
            ("KEEPWELL_HOOK_LEVEL", notice.level.to_string()),
            ("KEEPWELL_HOOK_SUBJECT", notice.subject()),
        ];
        let ran = hook.run(&variables, &body, &|| false);
        failures.extend(ran.err().map(CourierError::Command));
    }
    if let Some(webhook) = &config.webhook {
        failures.extend(web::post("the webhook", webhook, body).err());
    }
    if let Some(mail) = &config.mail {
        failures.extend(mail::send(mail, &notice).err());
    }
    failures
}

/// Says that all is well.
pub(crate) fn beat(config: &AlertsConfig) -> Result<(), CourierError> {
    match &config.heartbeat {
        Some(heartbeat) => web::get("the heartbeat", heartbeat),
        None => Ok(()),
    }
}

/// Reads a secret: the first line of its file, or what stands in the configuration.
fn reveal(secret: &Secret) -> Result<Zeroizing<String>, CourierError> {
    use std::io::Read;
    match secret {
        Secret::Here(text) => Ok(text.clone()),
        Secret::File(path) => {
            let mut text = Zeroizing::new(String::new());
            let read = std::fs::File::open(path)
                .and_then(|file| file.take(SECRET_MOST).read_to_string(&mut text));
            read.map_err(|cause| CourierError::Secret { path: path.clone(), cause })?;
            Ok(Zeroizing::new(text.lines().next().unwrap_or_default().trim_end().to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use storepool::entropy::SystemEntropy;

    use super::*;
    use crate::journal::AlertDraft;

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000_000)
    }

    fn journal(directory: &tempfile::TempDir) -> Journal {
        Journal::open(directory.path(), "a test".to_string(), &SystemEntropy).unwrap()
    }

    fn draft(key: &str, level: AlertLevel) -> AlertDraft {
        AlertDraft { key: key.into(), level, message: format!("about {key}"), hint: None }
    }

    #[test]
    fn warnings_wait_for_the_digest_and_critical_alerts_take_them_along() {
        let directory = tempfile::tempdir().unwrap();
        let journal = journal(&directory);
        let config = AlertsConfig { digest: Duration::from_secs(600), ..AlertsConfig::default() };
        let keys = |now| -> Vec<String> {
            due(&config, &journal, at(now)).unwrap().into_iter().map(|alert| alert.key).collect()
        };

        journal.raise(&draft("low", AlertLevel::Information), at(0)).unwrap();
        journal.raise(&draft("warning", AlertLevel::Warning), at(1000)).unwrap();
        assert!(keys(1100).is_empty());
        assert_eq!(keys(1600), ["warning"]);
        journal.raise(&draft("critical", AlertLevel::Critical), at(1200)).unwrap();
        assert_eq!(keys(1200), ["critical", "warning"]);
        journal.told(&due(&config, &journal, at(1200)).unwrap(), at(1200)).unwrap();
        assert!(keys(2000).is_empty());
        // Each day again, as long as nobody acts.
        assert_eq!(keys(1200 + 86_400), ["critical", "warning"]);
    }

    #[test]
    fn a_notice_has_a_subject_of_one_line_and_a_text_for_people() {
        let directory = tempfile::tempdir().unwrap();
        let journal = journal(&directory);
        journal.raise(&draft("one\ntwo", AlertLevel::Critical), at(0)).unwrap();
        journal.raise(&draft("three", AlertLevel::Warning), at(0)).unwrap();

        let notice = Notice::about(&journal.active_alerts().unwrap(), at(9), false);

        let subject = notice.subject();
        assert!(subject.ends_with("critical: about one two (and 1 more)"), "{subject}");
        assert!(notice.text().contains("warning: about three\n"), "{}", notice.text());
    }

    #[test]
    fn a_secret_is_the_first_line_of_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "hidden \nsecond\n").unwrap();

        assert_eq!(reveal(&Secret::File(path)).unwrap().as_str(), "hidden");
        let missing = reveal(&Secret::File("/nowhere/secret".into())).unwrap_err();
        assert_eq!(missing.to_string(), "cannot read /nowhere/secret");
    }
}
