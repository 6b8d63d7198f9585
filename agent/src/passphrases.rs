//! Where a passphrase comes from: a file, a command, the terminal, or a new one that is written to a file. Never an
//! argument, never a variable with the passphrase itself.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use cloudsync::crypto::passphrase::{Passphrase, Verdict};
use zeroize::Zeroizing;

use crate::console::{Console, prompt};
use crate::error::{Cause, Error};
use crate::vaults::{self, Engine};

/// Most bytes of a command's output that are read.
const OUTPUT_LIMIT: u64 = 64 << 10;

/// A passphrase that exists.
#[derive(Args, Debug)]
pub(crate) struct KnownPassphrase {
    /// Read the passphrase from FILE
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_command")]
    passphrase_file: Option<PathBuf>,
    /// Read the passphrase from the output of COMMAND
    #[arg(long, value_name = "COMMAND")]
    passphrase_command: Option<String>,
}

/// A passphrase that is to be set.
#[derive(Args, Debug)]
#[group(multiple = false)]
pub(crate) struct NewPassphrase {
    /// Read the new passphrase from FILE (asked for without any of these options)
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Read the new passphrase from the output of COMMAND
    #[arg(long, value_name = "COMMAND")]
    passphrase_command: Option<String>,
    /// Make a passphrase and write it to FILE, which must not exist
    #[arg(long, value_name = "FILE")]
    generate_passphrase: Option<PathBuf>,
}

impl KnownPassphrase {
    /// Reads it; asks for it if nothing was said and there is a terminal.
    pub(crate) fn read(&self, console: &Console) -> Result<Passphrase, Cause> {
        match (&self.passphrase_file, &self.passphrase_command) {
            (Some(file), _) => vaults::read_passphrase(file),
            (None, Some(command)) => output_of(command),
            (None, None) => {
                let text = prompt::secret(console, "Passphrase: ")?;
                Ok(Passphrase::new(&text).map_err(cloudsync::Error::from)?)
            }
        }
    }
}

impl NewPassphrase {
    /// Reads, makes or asks for it, and tells how strong it is.
    pub(crate) fn get(&self, engine: &Engine, console: &Console) -> Result<Passphrase, Cause> {
        let passphrase =
            match (&self.passphrase_file, &self.passphrase_command, &self.generate_passphrase) {
                (Some(file), _, _) => vaults::read_passphrase(file)?,
                (_, Some(command), _) => output_of(command)?,
                (_, _, Some(file)) => vaults::generate_passphrase(engine, file)?,
                (None, None, None) => ask_twice(console)?,
            };
        tell_strength(console, &passphrase);
        Ok(passphrase)
    }

    /// Returns the file that a new passphrase was written to.
    pub(crate) fn generated(&self) -> Option<&Path> {
        self.generate_passphrase.as_deref()
    }
}

/// Tells how hard a passphrase is to guess; one that is not hard is warned of.
pub(crate) fn tell_strength(console: &Console, passphrase: &Passphrase) {
    let strength = passphrase.strength();
    let bits = strength.bits;
    match strength.verdict() {
        Verdict::Strong => console.note(format!("the passphrase has about {bits} bits: strong")),
        Verdict::Fair => console.note(format!("the passphrase has about {bits} bits: fair")),
        Verdict::Weak => console.warn(format!(
            "the passphrase has about {bits} bits: weak, somebody who tries can find it"
        )),
    }
}

fn ask_twice(console: &Console) -> Result<Passphrase, Cause> {
    let first = prompt::secret(console, "New passphrase (at least 16 characters): ")?;
    let passphrase = Passphrase::new(&first).map_err(cloudsync::Error::from)?;
    let second = prompt::secret(console, "The same once more: ")?;
    match Passphrase::new(&second).is_ok_and(|second| second == passphrase) {
        true => Ok(passphrase),
        false => Err(Error::usage("the two passphrases are not the same").cause),
    }
}

fn output_of(command: &str) -> Result<Passphrase, Cause> {
    let io =
        |action| move |cause| Cause::Io { action, path: "the passphrase command".into(), cause };
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(io("run"))?;
    // Reserved at once: a vector that grows leaves its earlier copies behind in memory.
    let mut output = Zeroizing::new(Vec::with_capacity(OUTPUT_LIMIT as usize));
    let stdout = child.stdout.take();
    let read = stdout.map(|stdout| stdout.take(OUTPUT_LIMIT).read_to_end(&mut output));
    let status = child.wait().map_err(io("run"))?;
    read.transpose().map_err(io("read the output of"))?;
    if !status.success() {
        let cause = std::io::Error::other(format!("it ended with {status}"));
        return Err(io("run")(cause));
    }
    Ok(Passphrase::from_file(&output).map_err(cloudsync::Error::from)?)
}
