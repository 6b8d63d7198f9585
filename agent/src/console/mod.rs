//! The only code that prints. Human text for people, JSON for programs, never both on one stream.
//!
//! stdout carries what a command is asked for: its text, or with `--json` nothing but JSON. stderr carries errors, warnings and progress. When the
//! reader of stdout goes away, output is dropped and the command decides whether to go on ([`Console::is_gone`]).

pub(crate) mod failure;
mod listing;
mod progress;
pub(crate) mod prompt;
mod remote;
mod screen;
pub(crate) mod table;
pub(crate) mod units;
mod vault_advice;

use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;

use crate::error::{Error, Outcome};
use crate::signals::Attention;
pub(crate) use listing::Listing;
pub(crate) use progress::Progress;
pub(crate) use remote::RemoteProgress;
use screen::Screen;

/// How a command talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Text for people.
    Text,
    /// JSON for programs.
    Json,
}

/// The voice of one command.
#[derive(Clone)]
pub(crate) struct Console {
    form: Form,
    quiet: bool,
    verbosity: u8,
    screen: Arc<Screen>,
    attention: Attention,
}

impl Console {
    /// Creates the console of a command.
    pub(crate) fn new(form: Form, quiet: bool, verbosity: u8, attention: Attention) -> Self {
        Self { form, quiet, verbosity, screen: Arc::new(Screen::new()), attention }
    }

    /// Returns whether programs read the output.
    pub(crate) fn is_json(&self) -> bool {
        self.form == Form::Json
    }

    /// Returns whether only errors and what was asked for are wanted.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Returns how often `-v` was given.
    pub(crate) fn verbosity(&self) -> u8 {
        self.verbosity
    }

    /// Prints a line that the user asked for. Nothing in JSON.
    pub(crate) fn say(&self, line: impl AsRef<str>) {
        if self.form == Form::Text {
            self.screen.out_line(line.as_ref());
        }
    }

    /// Prints a line that says what was done. Nothing when quiet or in JSON.
    pub(crate) fn note(&self, line: impl AsRef<str>) {
        if !self.quiet {
            self.say(line);
        }
    }

    /// Prints a warning on stderr; in JSON too.
    pub(crate) fn warn(&self, line: impl AsRef<str>) {
        self.screen.err_line(&format!("keepwell: {}", line.as_ref()));
    }

    /// Prints on stderr what helps; nothing when quiet.
    pub(crate) fn hint(&self, line: &str) {
        if !self.quiet {
            self.screen.err_line(&format!("hint: {line}"));
        }
    }

    /// Prints the one document of a short command. Nothing in text.
    pub(crate) fn document(&self, document: &impl Serialize) {
        if self.form == Form::Json {
            let text = serde_json::to_string_pretty(document);
            self.screen.out_line(&text.expect("documents have text keys only"));
        }
    }

    /// Prints one line of a long command, with its `message_type`. Nothing in text.
    pub(crate) fn message(&self, message_type: &str, body: &impl Serialize) {
        if self.form == Form::Json {
            self.screen.out_line(&message_line(message_type, body));
            // A program waits for each line.
            self.screen.flush();
        }
    }

    /// Prints a message of another process as it is. Nothing in text.
    fn pass_on(&self, message: &serde_json::Value) {
        if self.form == Form::Json {
            self.screen.out_line(&message.to_string());
            self.screen.flush();
        }
    }

    /// Begins the one document of a short command that lists many things; see [`Listing`].
    pub(crate) fn listing(&self, name: &'static str, head: &impl Serialize) -> Listing<'_> {
        Listing::begin(self, name, head)
    }

    /// Writes raw bytes to stdout.
    pub(crate) fn bytes(&self, bytes: &[u8]) {
        self.screen.out(bytes);
    }

    /// Returns whether nobody reads stdout any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.screen.is_gone()
    }

    /// Returns what listens to signals for this command.
    pub(crate) fn attention(&self) -> &Attention {
        &self.attention
    }

    /// Returns whether somebody asked the running operation to stop.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.attention.cancellation().is_cancelled()
    }

    /// Begins to show the progress of an operation that works on `noun` ("files", "packs").
    pub(crate) fn progress(&self, noun: &'static str) -> Progress {
        Progress::begin(self, noun, self.is_json())
    }

    /// Begins to show the progress of a short command, of which programs want nothing but the document.
    pub(crate) fn brief_progress(&self, noun: &'static str) -> Progress {
        Progress::begin(self, noun, false)
    }

    /// Sends log records to stderr, without disturbing the progress line.
    pub(crate) fn log(&self) {
        let level = match (self.quiet, self.verbosity) {
            (true, _) => tracing::Level::ERROR,
            (false, 0) => tracing::Level::WARN,
            (false, 1) => tracing::Level::INFO,
            (false, 2) => tracing::Level::DEBUG,
            (false, _) => tracing::Level::TRACE,
        };
        let screen = self.screen.clone();
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .without_time()
            .with_target(self.verbosity > 1)
            .with_writer(move || screen::ErrorLines::new(screen.clone()))
            .init();
    }

    /// Prints how a command ended, if that needs words, and returns its exit code.
    pub(crate) fn conclude(self, result: Result<Outcome, Error>) -> ExitCode {
        let code = match result {
            Ok(outcome) => outcome.code(),
            Err(error) => {
                let failure = failure::explain(&error);
                self.fail(&failure);
                failure.code
            }
        };
        if let Some(error) = self.screen.finish() {
            let failure = failure::output_failed(&error);
            self.fail(&failure);
            return ExitCode::from(failure.code);
        }
        ExitCode::from(code)
    }

    /// Tells of a failure after which the command goes on.
    pub(crate) fn complain(&self, error: &Error) {
        self.fail(&failure::explain(error));
    }

    /// Prints help, versions and complaints about the command line.
    pub(crate) fn usage(self, error: &clap::Error, cause: Option<String>) -> ExitCode {
        if error.use_stderr() {
            let failure = failure::usage(error, cause);
            self.fail(&failure);
            return ExitCode::from(failure.code);
        }
        let text = error.render();
        let text =
            if self.screen.shows_colours() { text.ansi().to_string() } else { text.to_string() };
        self.screen.out(text.as_bytes());
        self.conclude(Ok(Outcome::Done))
    }

    fn fail(&self, failure: &failure::Failure) {
        if self.form == Form::Json {
            self.screen.out_line(&message_line("error", failure));
        }
        self.screen.err_line(&format!("keepwell: {}", failure.message));
        if let Some(hint) = &failure.hint {
            self.screen.err_line(&format!("hint: {hint}"));
        }
    }
}

fn message_line(message_type: &str, body: &impl Serialize) -> String {
    #[derive(Serialize)]
    struct Message<'a, T> {
        message_type: &'a str,
        #[serde(flatten)]
        body: &'a T,
    }
    serde_json::to_string(&Message { message_type, body }).expect("messages have text keys only")
}
