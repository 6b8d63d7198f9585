//! `keepwell selftest`: what a disk or a vault's place is worth, tried out.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use cloudsync::vault::credentials::Credentials;
use serde::Serialize;
use storepool::selftest::{Depth, Examination, Grade};

use crate::assembly::Assembly;
use crate::error::{Attempt, Error, Outcome};
use crate::examination::{examine_disk, examine_vault};
use crate::vaults::{self, Engine};

/// Try out what backups rest on
#[derive(Args, Debug)]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub(super) struct Selftest {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Storage(Storage),
}

/// Examine a disk, or the place of a vault, before it is relied on
///
/// Tries what Keepwell's promises rest on, with files or objects of its own. On a disk: exclusive creation, replacement in one step, lists, locks,
/// syncs, what is read back, file system, mount options and caches. In a vault's place: exclusive creation by many at once, lists, parts, its clock,
/// rules of the owner that delete objects, versions. Measures speed. Says what cannot be seen from here. Nothing is left behind.
///
/// Grades: good; note, worth knowing; weak, a promise does not hold there (exit code 3); unfit, it does not work correctly (exit code 1).
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell selftest storage /mnt/backup      a disk, before a pool is made there
  keepwell selftest storage main             the place of the vault that the configuration calls \"main\"
  keepwell selftest storage ./main main      both")]
struct Storage {
    /// A directory, or the name of a vault in the configuration; a name with a slash is a directory
    #[arg(value_name = "DIR|VAULT", required = true)]
    what: Vec<String>,
    /// Only what takes a fraction of a second, as \"init\" and \"doctor\" do
    #[arg(long)]
    quick: bool,
}

/// What was examined.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Subject {
    Disk { path: PathBuf },
    Vault { name: String, url: String },
}

#[derive(Debug, Serialize)]
struct Examined {
    #[serde(flatten)]
    subject: Subject,
    grade: Grade,
    #[serde(flatten)]
    found: Examination,
}

#[derive(Serialize)]
struct Document {
    grade: Grade,
    examined: Vec<Examined>,
}

impl Selftest {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        match self.action {
            Action::Storage(storage) => storage.run(assembly),
        }
    }
}

impl Storage {
    fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let depth = if self.quick { Depth::Quick } else { Depth::Full };
        let mut examined = Vec::new();
        for what in &self.what {
            let one = examine_one(assembly, what, depth)?;
            tell(assembly, &one);
            examined.push(one);
        }
        let grade = examined.iter().map(|one| one.grade).max().unwrap_or(Grade::Good);
        assembly.console.document(&Document { grade, examined });
        Ok(match grade {
            Grade::Good | Grade::Note => Outcome::Done,
            Grade::Weak => Outcome::Incomplete,
            Grade::Unfit => Outcome::NotWell,
        })
    }
}

fn examine_one(assembly: &Assembly, what: &str, depth: Depth) -> Result<Examined, Error> {
    let path = Path::new(what);
    // Without a configuration there are disks to examine all the same; before it is made most of all.
    if !what.contains('/') && assembly.place.configuration.exists() {
        let config = assembly.config()?;
        if config.vaults.contains_key(what) {
            let (name, vault) = vaults::choose(&config, Some(what))?;
            let attempt = || format!("examine the vault \"{name}\"");
            let credentials = Credentials::load(&vault.credentials).attempt(attempt)?;
            let engine = Engine::start()?;
            let found = examine_vault(&engine, &credentials, depth).attempt(attempt)?;
            let (name, url) = (name.to_string(), credentials.address.to_string());
            return Ok(Examined {
                subject: Subject::Vault { name, url },
                grade: found.grade(),
                found,
            });
        }
    }
    if !path.exists() {
        return Err(Error::usage(format!(
            "\"{what}\" is neither a directory nor a vault of the configuration"
        )));
    }
    let found = examine_disk(path, depth).attempt(|| format!("examine {what}"))?;
    let subject = Subject::Disk { path: path.to_path_buf() };
    Ok(Examined { subject, grade: found.grade(), found })
}

fn tell(assembly: &Assembly, examined: &Examined) {
    let console = &assembly.console;
    match &examined.subject {
        Subject::Disk { path } => {
            console.say(format!("{}: {}", path.display(), examined.grade.name()))
        }
        Subject::Vault { name, url } => {
            console.say(format!("vault {name} at {url}: {}", examined.grade.name()))
        }
    }
    for finding in &examined.found.findings {
        console.say(format!(
            "  {:<5}  {:<14}  {}",
            finding.grade.name(),
            finding.check,
            finding.seen
        ));
        if let Some(advice) = &finding.advice {
            console.say(format!("         {:<14}  {advice}", ""));
        }
    }
    if !examined.found.unseen.is_empty() {
        console.say("  cannot be seen from here:");
        for what in &examined.found.unseen {
            console.say(format!("    {what}"));
        }
    }
}
