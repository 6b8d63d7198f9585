//! The progress of a job that runs elsewhere: the same line, drawn from the messages of the job.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::Console;
use super::units::{clock, count, size};

/// Between two plain lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows what a job of the daemon says.
pub(crate) struct RemoteProgress {
    console: Console,
    last_line: Option<Instant>,
}

impl RemoteProgress {
    /// Begins to show a job. The first signal to stop only ends the showing.
    pub(crate) fn begin(console: &Console) -> Self {
        console.attention.begin_operation(std::sync::Arc::new(|| {}));
        Self { console: console.clone(), last_line: None }
    }

    /// Shows a message.
    pub(crate) fn hear(&mut self, message: &Value) {
        let kind = message["message_type"].as_str().unwrap_or_default();
        if self.console.is_json() {
            // Word for word: a program sees the same whoever does the work.
            if matches!(kind, "status" | "error" | "summary") {
                self.console.pass_on(message);
            }
            return;
        }
        match kind {
            "status" if !self.console.is_quiet() => self.show(message),
            // The last word of the command itself comes with the end of the job.
            "error" if message.get("exit_code").is_none() => {
                let word = |name: &str| message[name].as_str();
                let what = [word("path"), word("what"), word("id")];
                let what: Vec<_> = what.into_iter().flatten().collect();
                let text = word("message").unwrap_or_default();
                self.console.warn(format!("{}: {text}", what.join(" ")));
            }
            _ => {}
        }
    }

    fn show(&mut self, status: &Value) {
        let line = line(status);
        if self.console.screen.has_live_line() {
            self.console.screen.live(&line);
        } else if self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
            // The first second says nothing that is worth a line.
            if self.last_line.replace(Instant::now()).is_some() {
                self.console.screen.err_line(&line);
            }
        }
    }

    /// Ends the showing.
    pub(crate) fn finish(self) {
        self.console.attention.end_operation();
        self.console.screen.live("");
    }
}

fn line(status: &Value) -> String {
    let number = |name: &str| status[name].as_u64().unwrap_or(0);
    let elapsed = status["seconds_elapsed"].as_f64().unwrap_or(0.0).max(0.0);
    let mut parts = vec![format!("[{}]", clock(Duration::from_secs_f64(elapsed)))];
    if let Some(fraction) = status["fraction_done"].as_f64() {
        parts.push(format!("{:5.1}%", fraction * 100.0));
    }
    parts.extend(status["stage"].as_str().filter(|stage| !stage.is_empty()).map(str::to_string));
    parts.push(count(number("items_done")));
    if number("bytes_done") > 0 {
        parts.push(size(number("bytes_done")));
    }
    if number("bytes_per_second") > 0 {
        parts.push(format!("{}/s", size(number("bytes_per_second"))));
    }
    if let Some(seconds) = status["seconds_remaining"].as_u64() {
        parts.push(format!("{} left", clock(Duration::from_secs(seconds))));
    }
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_of_a_job_is_one_line() {
        let status = json!({
            "stage": "reading files", "seconds_elapsed": 72.4, "fraction_done": 0.342,
            "items_done": 12345, "bytes_done": 1_u64 << 30, "bytes_per_second": 120 << 20,
            "seconds_remaining": 20,
        });

        assert_eq!(
            line(&status),
            "[1:12]   34.2%  reading files  12,345  1.00 GiB  120 MiB/s  0:20 left"
        );
        assert_eq!(line(&json!({})), "[0:00]  0");
    }
}
