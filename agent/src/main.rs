//! The keepwell program: everything that knows a human, a schedule or a configuration file.
//!
//! `main` parses, prepares the process, runs one command and turns its outcome into an exit code. Libraries state facts; `console/` alone prints them.

mod accounts;
mod adoption;
mod assembly;
mod bandwidth;
mod cli;
mod comparison;
mod config;
mod console;
mod contents;
mod control;
mod courier;
mod daemon;
mod documents;
mod drill;
mod duration;
mod error;
mod examination;
mod healing;
mod hooks;
mod http;
mod job;
mod journal;
mod last_words;
mod memory;
mod metrics;
mod nearest;
mod notify;
mod origin;
mod passphrases;
mod place;
mod process;
mod record;
mod schedule;
mod scheduler;
mod scratch;
mod selection;
mod signals;
#[cfg(test)]
mod simulation;
mod standing;
mod status;
mod subscription;
mod variables;
mod vault_life;
mod vaults;
mod worker;
mod workload;

fn main() -> std::process::ExitCode {
    memory::keep_little();
    cli::main()
}
