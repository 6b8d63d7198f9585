//! `keepwell man`: the manual, from the same source as `--help`.

use std::path::PathBuf;

use clap::Args;
use clap_mangen::Man as Page;

use crate::console::Console;
use crate::error::{Attempt, Cause, Error, Outcome};

/// Print the manual page, or write all pages to a folder
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell man | man -l -
  keepwell man --to /usr/local/share/man/man1")]
pub(super) struct Man {
    /// Write the pages of all commands into this folder
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

impl Man {
    pub(super) fn run(self, console: &Console, command: clap::Command) -> Result<Outcome, Error> {
        let attempt = || "write the manual".to_string();
        let Some(folder) = self.to else {
            let mut text = Vec::new();
            Page::new(command)
                .render(&mut text)
                .map_err(|cause| Cause::Io { action: "write", path: "manual".into(), cause })
                .attempt(attempt)?;
            console.bytes(&text);
            return Ok(Outcome::Done);
        };
        let failed = |cause| Cause::Io { action: "write to", path: folder.clone(), cause };
        std::fs::create_dir_all(&folder)
            .and_then(|()| clap_mangen::generate_to(command, &folder))
            .map_err(failed)
            .attempt(attempt)?;
        console.note(format!("wrote the manual pages to {}", folder.display()));
        Ok(Outcome::Done)
    }
}
