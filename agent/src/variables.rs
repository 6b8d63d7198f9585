//! Every option has a variable: `KEEPWELL_JSON` for `--json`, `KEEPWELL_BACKUP_EXCLUDE` for `backup --exclude`.
//!
//! A variable that no option has is an error: a misspelt one that is silently ignored protects nobody.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command};

use crate::error::Error;
use crate::nearest::nearest;

const PREFIX: &str = "KEEPWELL_";
/// Of tests and measurements, and what hooks are told; none of the program's options.
const FOREIGN: [&str; 3] = ["KEEPWELL_TEST_", "KEEPWELL_BENCH_", "KEEPWELL_HOOK_"];

/// Gives every option of the command and of its subcommands its variable.
pub(crate) fn assign(command: Command) -> Command {
    assign_below(command, PREFIX)
}

fn assign_below(command: Command, prefix: &str) -> Command {
    let top = prefix == PREFIX;
    let command = command.mut_args(|arg| {
        let Some(long) = arg.get_long() else { return arg };
        if arg.get_env().is_some() || (arg.is_global_set() && !top) {
            return arg;
        }
        let name = variable(prefix, long);
        // A flag in a variable is written in many ways.
        let arg = match arg.get_action() {
            ArgAction::SetTrue => arg.value_parser(clap::builder::BoolishValueParser::new()),
            _ => arg,
        };
        arg.env(name).hide_env(!top).hide_env_values(true)
    });
    command.mut_subcommands(|subcommand| {
        let prefix = variable(prefix, subcommand.get_name()) + "_";
        assign_below(subcommand, &prefix)
    })
}

fn variable(prefix: &str, name: &str) -> String {
    format!("{prefix}{}", name.to_uppercase().replace('-', "_"))
}

/// Refuses variables that no option has.
pub(crate) fn check(
    command: &Command,
    variables: impl IntoIterator<Item = OsString>,
) -> Result<(), Error> {
    let mut known = Vec::new();
    visit(command, &mut |arg| known.extend(arg.get_env().map(OsStr::to_os_string)));
    for name in variables {
        let text = name.to_string_lossy();
        if !text.starts_with(PREFIX)
            || FOREIGN.iter().any(|foreign| text.starts_with(foreign))
            || known.contains(&name)
        {
            continue;
        }
        let names: Vec<_> = known.iter().filter_map(|known| known.to_str()).collect();
        let near = nearest(&text, names)
            .map_or_else(String::new, |near| format!("; did you mean {near}?"));
        return Err(Error::usage(format!("unknown environment variable {text}{near}")));
    }
    Ok(())
}

/// Returns the variable that a complaint of the command line parser is about, if the value came from one.
pub(crate) fn behind(
    command: &Command,
    error: &clap::Error,
    value_of: impl Fn(&OsStr) -> Option<OsString>,
) -> Option<String> {
    let Some(ContextValue::String(complaint)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue) else {
        return None;
    };
    let mut found = None;
    visit(command, &mut |arg| {
        let about = arg.get_long().is_some_and(|long| {
            let option = complaint.split([' ', '=']).next().unwrap_or_default();
            option.strip_prefix("--") == Some(long)
        });
        let Some(name) = arg.get_env().filter(|_| about) else { return };
        if value_of(name).is_some_and(|set| set.to_string_lossy() == *value) {
            found = Some(name.to_string_lossy().into_owned());
        }
    });
    found
}

fn visit(command: &Command, see: &mut impl FnMut(&Arg)) {
    command.get_arguments().for_each(&mut *see);
    for subcommand in command.get_subcommands() {
        visit(subcommand, see);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
        let backup = Command::new("backup")
            .arg(Arg::new("exclude-file").long("exclude-file").action(ArgAction::Append))
            .arg(flag("dry-run"));
        assign(Command::new("keepwell").arg(flag("json").global(true)).subcommand(backup))
    }

    #[test]
    fn every_option_has_its_variable() {
        let names = ["KEEPWELL_JSON", "KEEPWELL_BACKUP_EXCLUDE_FILE", "KEEPWELL_BACKUP_DRY_RUN"];

        check(&command(), names.map(OsString::from)).unwrap();
        check(&command(), ["KEEPWELL_TEST_X", "PATH"].map(OsString::from)).unwrap();
    }

    #[test]
    fn a_misspelt_variable_is_refused_with_the_nearest_name() {
        let error = check(&command(), ["KEEPWELL_JASON".into()]).unwrap_err();

        assert_eq!(
            error.cause.to_string(),
            "unknown environment variable KEEPWELL_JASON; did you mean KEEPWELL_JSON?"
        );
    }
}
