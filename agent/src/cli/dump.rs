//! `keepwell dump`: one file of a point to stdout.

use std::io::{self, Write};

use clap::Args;
use storepool::restore::read_file;
use storepool::tree::Node;

use super::entry::kind_word;
use crate::assembly::Assembly;
use crate::console::Console;
use crate::contents::locate;
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::origin::OriginArgs;

/// Write one file of a point to stdout
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell dump latest:etc/hosts
  keepwell dump latest:srv/db.sql.gz | zcat | less
  keepwell dump latest etc/hosts")]
pub(super) struct Dump {
    /// Which point, and which file of it
    #[arg(value_name = "POINT:PATH")]
    point: String,
    /// The file, if it was not named with the point
    #[arg(value_name = "PATH")]
    path: Option<String>,
    #[command(flatten)]
    origin: OriginArgs,
}

impl Dump {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let name = match &self.path {
            Some(path) => format!("{}:{path}", self.point),
            None => self.point,
        };
        let origin = self.origin.open(assembly)?;
        let (selection, manifest) = origin.select(&name).attempt(|| "dump".to_string())?;
        let attempt = || format!("dump {}", selection.name());
        let chunks = origin.chunks([selection.point.id]).attempt(attempt)?;
        let reader = chunks.reader().attempt(attempt)?;
        let (path, entry) = locate(&*reader, &manifest, &selection).attempt(attempt)?;
        if !matches!(entry.node, Node::File { .. }) {
            let cause = Cause::NotAFile { kind: kind_word(&entry.node) };
            return Err(Error { attempt: attempt(), cause });
        }
        let mut out = Output { console: &assembly.console };
        match read_file(&*chunks, &manifest, &path, &mut out) {
            // `keepwell dump ... | head` has seen enough; other failures of stdout are told when the program ends.
            Err(_) if assembly.console.is_gone() => Ok(Outcome::Done),
            result => result.attempt(attempt).map(|_| Outcome::Done),
        }
    }
}

struct Output<'a> {
    console: &'a Console,
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.console.bytes(bytes);
        if self.console.is_gone() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
