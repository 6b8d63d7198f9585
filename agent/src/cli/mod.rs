//! The command line: one file per command, each with its arguments and what it runs.

mod alerts;
mod arguments;
mod backup;
mod check;
mod check_vault;
mod completions;
mod config;
mod configured_forget;
mod daemon;
mod decision;
mod diff;
mod discover;
mod doctor;
mod drill;
mod dump;
mod entry;
mod find;
mod forget;
mod group;
mod group_backup;
mod group_sync;
mod init;
mod jobs;
mod key;
mod ls;
mod man;
mod pin;
mod points;
mod pool;
mod prune;
mod quickstart;
mod recover;
mod remote;
mod repair;
mod repair_vault;
mod restore;
mod restore_database;
mod restore_mariadb;
mod restore_service;
mod resume;
mod selftest;
mod service;
mod stats;
mod status;
mod sync;
mod tag;
mod undelete;
mod upkeep;
mod vault;
mod vault_access;
mod vault_forget;
mod vault_ping;
mod vault_points;
mod vault_prune;
mod vault_state;
mod vault_status;
mod wal_push;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use storepool::pool::Pool;

use crate::assembly::Assembly;
use crate::config::Config;
use crate::console::{Console, Form};
use crate::error::{Error, Outcome};
use crate::job::Workshop;
use crate::journal::{JobId, Journal};
use crate::place::{Place, Surroundings};
use crate::signals::Attention;
use crate::{process, variables, worker};

/// Widest text of a help page; longer lines are hard to read.
const HELP_COLUMNS: usize = 100;

#[derive(Debug, Parser)]
#[command(
    name = "keepwell",
    version,
    about = "Backs up this server: to a local deduplicated pool first, then encrypted to a vault",
    disable_help_subcommand = false,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = HELP_COLUMNS,
    after_help = "\
Examples:
  keepwell init                              make a configuration and an empty pool
  keepwell backup --files /srv /etc          make a recovery point of two folders
  keepwell points                            list what there is
  keepwell restore latest --to /tmp/back     get everything back
  keepwell restore latest:etc/hosts --to .   get one file back

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 done but something was skipped,
5 damage found, 6 refused, 7 no space, 10 no pool, 11 busy, 130 interrupted.
Every option has a variable: KEEPWELL_JSON=1, KEEPWELL_BACKUP_EXCLUDE='*.tmp'."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Keep everything below DIR: configuration, pool and state
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Read the configuration from FILE
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON: one document, or a line per message for long commands
    #[arg(long, global = true)]
    json: bool,
    /// Print errors and what was asked for, nothing else
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Tell more; repeat for still more
    #[arg(long, short, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Run as this job of the daemon
    // Not called "job": an argument of that name of any command would be taken for it.
    #[arg(long = "job", global = true, hide = true, value_name = "ID")]
    daemon_job: Option<i64>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Quickstart(quickstart::Quickstart),
    Init(init::Init),
    Backup(backup::Backup),
    Restore(restore::Restore),
    Resume(resume::Resume),
    #[command(alias = "snapshots")]
    Points(points::Points),
    Ls(ls::Ls),
    Find(find::Find),
    Diff(diff::Diff),
    Dump(dump::Dump),
    Forget(forget::Forget),
    Prune(prune::Prune),
    Check(check::Check),
    Drill(drill::Drill),
    Repair(repair::Repair),
    Stats(stats::Stats),
    Pool(pool::Pool),
    Vault(vault::Vault),
    Sync(sync::Sync),
    Undelete(undelete::Undelete),
    Key(key::Key),
    Recover(recover::Recover),
    Status(status::Status),
    Daemon(daemon::Daemon),
    Discover(discover::Discover),
    Service(service::Service),
    WalPush(wal_push::WalPush),
    Watch(watch::Watch),
    Doctor(doctor::Doctor),
    Selftest(selftest::Selftest),
    Jobs(jobs::Jobs),
    Alerts(alerts::Alerts),
    Group(group::Group),
    Config(config::Config),
    Tag(tag::Tag),
    Pin(pin::Pin),
    Completions(completions::Completions),
    Man(man::Man),
}

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    process::prepare();
    let attention = Attention::default();
    attention.listen();
    let mut command = command();
    let plain = Console::new(Form::Text, false, 0, attention.clone());
    let names = std::env::vars_os().map(|(name, _)| name);
    if let Err(error) = variables::check(&command, names) {
        return plain.conclude(Err(error));
    }
    let parsed = command.try_get_matches_from_mut(std::env::args_os());
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            let variable = variables::behind(&command, &error, |name| std::env::var_os(name));
            return plain.usage(&error, variable);
        }
    };
    let form = if cli.global.json { Form::Json } else { Form::Text };
    // Whoever reads the log of a service wants to see that it works.
    let verbose = cli.global.verbose + u8::from(matches!(cli.command, Command::Daemon(_)));
    let console = Console::new(form, cli.global.quiet, verbose, attention);
    console.log();
    let result = run(cli, &console);
    console.conclude(result)
}

fn run(cli: Cli, console: &Console) -> Result<Outcome, Error> {
    let Global { home, config, daemon_job: job, .. } = cli.global;
    let assembly = |command| {
        Place::choose(home.as_deref(), config.as_deref(), &Surroundings::of_process())
            .map(|place| Assembly { place, console: console.clone(), command, job: job.map(JobId) })
            .ok_or_else(|| Error::usage("there is no home folder: name a place with --home DIR"))
    };
    if job.is_some() {
        worker::prepare(&assembly("job")?.config()?.daemon, console.attention());
    }
    match cli.command {
        Command::Quickstart(args) => args.run(&assembly("quickstart")?),
        Command::Vault(args) => args.run(&assembly("vault")?),
        Command::Sync(args) => args.run(&assembly("sync")?),
        Command::Undelete(args) => args.run(&assembly("undelete")?),
        Command::Key(args) => args.run(&assembly("key")?),
        Command::Recover(args) => args.run(&assembly("recover")?),
        Command::Init(args) => args.run(&assembly("init")?),
        Command::Backup(args) => args.run(&assembly("backup")?),
        Command::Resume(args) => args.run(&assembly("resume")?),
        Command::Restore(args) => args.run(&assembly("restore")?),
        Command::Points(args) => args.run(&assembly("points")?),
        Command::Ls(args) => args.run(&assembly("ls")?),
        Command::Find(args) => args.run(&assembly("find")?),
        Command::Diff(args) => args.run(&assembly("diff")?),
        Command::Dump(args) => args.run(&assembly("dump")?),
        Command::Forget(args) => args.run(&assembly("forget")?),
        Command::Prune(args) => args.run(&assembly("prune")?),
        Command::Check(args) => args.run(&assembly("check")?),
        Command::Drill(args) => args.run(&assembly("drill")?),
        Command::Repair(args) => args.run(&assembly("repair")?),
        Command::Stats(args) => args.run(&assembly("stats")?),
        Command::Pool(args) => args.run(&assembly("pool")?),
        Command::Status(args) => args.run(&assembly("status")?),
        Command::Service(args) => args.run(&assembly("service")?),
        Command::WalPush(args) => args.run(&assembly("wal-push")?),
        Command::Watch(args) => args.run(&assembly("watch")?),
        Command::Doctor(args) => args.run(&assembly("doctor")?),
        Command::Selftest(args) => args.run(&assembly("selftest")?),
        Command::Discover(args) => args.run(&assembly("discover")?),
        Command::Daemon(args) => args.run(&assembly("daemon")?),
        Command::Jobs(args) => args.run(&assembly("jobs")?),
        Command::Alerts(args) => args.run(&assembly("alerts")?),
        Command::Group(args) => args.run(&assembly("group")?),
        Command::Config(args) => args.run(&assembly("config")?),
        Command::Tag(args) => args.run(&assembly("tag")?),
        Command::Pin(args) => args.run(&assembly("pin")?),
        Command::Completions(args) => Ok(args.run(console, command())),
        Command::Man(args) => args.run(console, command()),
    }
}

// What jobs work with, put together for a command.
fn workshop<'a>(
    assembly: &'a Assembly,
    config: &'a Config,
    pool: &'a Arc<Pool>,
    journal: &'a Journal,
) -> Workshop<'a> {
    Workshop { place: &assembly.place, config, pool, journal, holder: assembly.holder() }
}

/// Returns the whole command line, with variables.
fn command() -> clap::Command {
    variables::assign(Cli::command())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written anew when this variable is set; then its changes are looked at before they are committed.
    const BLESS: &str = "KEEPWELL_TEST_BLESS";
    const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/command-line.txt");

    fn describe(command: &mut clap::Command, name: &str, text: &mut String) {
        let help = command.clone().bin_name(name).term_width(HELP_COLUMNS).render_long_help();
        text.push_str(&format!("==== {name} ====\n\n"));
        let mut global = false;
        for line in help.to_string().lines().map(str::trim_end) {
            // The same for all commands: once is enough.
            if name != "keepwell" && !line.starts_with(' ') && !line.is_empty() {
                global = line == "Global options:";
            }
            if !global {
                text.push_str(line);
                text.push('\n');
            }
        }
        text.push('\n');
        for subcommand in command.get_subcommands_mut() {
            if subcommand.get_name() != "help" {
                let name = format!("{name} {}", subcommand.get_name());
                describe(subcommand, &name, text);
            }
        }
    }

    #[test]
    fn the_command_line_is_the_one_that_was_promised() {
        let mut command = command();
        command.build();
        let mut text = String::new();
        describe(&mut command, "keepwell", &mut text);

        if std::env::var_os(BLESS).is_some() {
            std::fs::write(REFERENCE, &text).unwrap();
        }

        let promised = std::fs::read_to_string(REFERENCE).unwrap_or_default();
        assert!(
            text == promised,
            "the command line changed: set {BLESS}=1 and look at the difference"
        );
    }

    #[test]
    fn every_option_is_explained_and_every_command_has_an_example() {
        fn visit(command: &clap::Command) {
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{}: {argument}", command.get_name());
            }
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let simple = command.has_subcommands() || command.get_arguments().count() <= 1;
            assert!(simple || help.contains("Examples:"), "{}", command.get_name());
            command.get_subcommands().for_each(visit);
        }

        command().debug_assert();
        visit(&command());
    }
}
