//! `keepwell completions`: what a shell needs to complete commands and options.

use clap::Args;
use clap_complete::Shell;

use crate::console::Console;
use crate::error::Outcome;

/// Print the completions of a shell
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell completions bash > /etc/bash_completion.d/keepwell
  keepwell completions zsh > ~/.zfunc/_keepwell
  keepwell completions fish > ~/.config/fish/completions/keepwell.fish")]
pub(super) struct Completions {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self, console: &Console, mut command: clap::Command) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "keepwell", &mut script);
        console.bytes(&script);
        Outcome::Done
    }
}
