//! `keepwell config`: the one truth, checked and shown.

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::assembly::Assembly;
use crate::config::{Config as Configuration, effective};
use crate::console::units::counted;
use crate::error::{Attempt, Cause, Error, Outcome};

/// Check or show the configuration
#[derive(Args, Debug)]
pub(super) struct Config {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(Check),
    Show(Show),
}

/// Read the configuration file and say whether all of it makes sense
///
/// Nothing is changed. A mistake is told with file, line and the nearest valid word (exit code 2).
#[derive(Args, Debug)]
struct Check {}

/// Print the configuration
///
/// As it stands in the file, or with --effective every key with the value that is in force. Secrets are hidden then.
#[derive(Args, Debug)]
struct Show {
    /// Every key, whether it is written or not
    #[arg(long)]
    effective: bool,
}

#[derive(Serialize)]
struct Checked {
    configuration: std::path::PathBuf,
    valid: bool,
    groups: usize,
    vaults: usize,
}

#[derive(Serialize)]
struct Shown {
    configuration: std::path::PathBuf,
    toml: String,
}

impl Config {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        match self.command {
            Command::Check(_) => check(assembly),
            Command::Show(show) => show.run(assembly),
        }
    }
}

fn check(assembly: &Assembly) -> Result<Outcome, Error> {
    let config = assembly.config()?;
    let (groups, vaults) = (config.groups.len(), config.vaults.len());
    let path = config.path.clone();
    assembly.console.document(&Checked {
        configuration: path.clone(),
        valid: true,
        groups,
        vaults,
    });
    assembly.console.note(format!(
        "{} is fine: {}, {}",
        path.display(),
        counted(groups as u64, "group"),
        counted(vaults as u64, "vault")
    ));
    for group in config.groups.values().filter(|group| group.retention.is_none()) {
        let name = &group.name;
        assembly
            .console
            .warn(format!("group \"{name}\" has no retention: its points stay for ever"));
    }
    Ok(Outcome::Done)
}

impl Show {
    fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let path = &assembly.place.configuration;
        let toml = match self.effective {
            true => effective(&assembly.config()?),
            false => {
                let text = std::fs::read_to_string(path)
                    .map_err(|cause| Cause::Io { action: "read", path: path.clone(), cause })
                    .attempt(|| "show the configuration".to_string())?;
                // A file that makes no sense is not shown as if it did.
                Configuration::parse(path, &text)
                    .attempt(|| "show the configuration".to_string())?;
                text
            }
        };
        assembly.console.document(&Shown { configuration: path.clone(), toml: toml.clone() });
        toml.lines().for_each(|line| assembly.console.say(line));
        Ok(Outcome::Done)
    }
}
