//! `keepwell service`: the daemon under systemd, with no more rights than it needs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::accounts;
use crate::assembly::Assembly;
use crate::error::{Attempt, Cause, Error, Outcome};

/// The name of the unit.
const UNIT: &str = "keepwell.service";
/// Whose members may control the daemon.
const GROUP: &str = "keepwell";

/// Install or remove the service for systemd
#[derive(Args, Debug)]
pub(super) struct Service {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Install(Install),
    Remove(Remove),
}

/// Install the service and start it
///
/// Writes the unit, makes the group "keepwell", whose members may control the daemon, and has systemd start the service now and at each boot. Each
/// step is checked; what is there already stays. Nothing is asked.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell service install
  keepwell service install --print
  keepwell service install --no-start --directory /etc/systemd/system")]
struct Install {
    /// Only print the unit
    #[arg(long)]
    print: bool,
    /// Write the unit, but start nothing
    #[arg(long)]
    no_start: bool,
    /// Where units are
    #[arg(long, value_name = "DIR", default_value = "/etc/systemd/system")]
    directory: PathBuf,
}

/// Stop the service and remove its unit; configuration, pool and vault stay
#[derive(Args, Debug)]
struct Remove {
    /// Where units are
    #[arg(long, value_name = "DIR", default_value = "/etc/systemd/system")]
    directory: PathBuf,
}

/// What a step did.
#[derive(Serialize)]
struct Step {
    step: &'static str,
    state: &'static str,
    detail: String,
}

impl Service {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        match self.command {
            Command::Install(install) => install.run(assembly),
            Command::Remove(remove) => remove.run(assembly),
        }
    }
}

// A word of a command line in a unit: quoted, with what systemd would replace escaped.
fn quoted(text: &str) -> String {
    let text =
        text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{text}\"")
}

fn unit(assembly: &Assembly) -> Result<String, Cause> {
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |cause| Cause::Io { action: "find", path, cause }
    };
    let text = |path: &Path| {
        let unwritable = || Cause::Unwritable { path: path.to_path_buf() };
        path.to_str().map(quoted).ok_or_else(unwritable)
    };
    let absolute = |path: &Path| std::path::absolute(path).map_err(io(path));
    let program = std::env::current_exe().map_err(io(Path::new("/proc/self/exe")))?;
    let mut start = text(&program)?;
    if let Some(home) = &assembly.place.home {
        start.push_str(&format!(" --home {}", text(&absolute(home)?)?));
    }
    let configuration = absolute(&assembly.place.configuration)?;
    start.push_str(&format!(" --config {} daemon", text(&configuration)?));
    let folder = configuration.parent().unwrap_or(Path::new("/etc/keepwell"));
    Ok(format!(
        "\
# Written by \"keepwell service install\"; changes belong into \"systemctl edit keepwell\".
[Unit]
Description=Keepwell backup agent
Documentation=man:keepwell(1)
Wants=network-online.target
After=network-online.target local-fs.target remote-fs.target
StartLimitIntervalSec=600
StartLimitBurst=5

[Service]
Type=notify
ExecStart={start}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=10
# Fed only when scheduler, pool and queue make progress.
WatchdogSec=180
TimeoutStartSec=300
TimeoutStopSec=20
# The daemon stops its jobs itself; what is left after the time-out is killed, which the pool survives.
KillMode=mixed
# A job that takes too much memory must not take the daemon with it.
OOMPolicy=continue
RuntimeDirectory=keepwell
RuntimeDirectoryPreserve=yes
UMask=0077

# Reading everything, restoring owners and modes, hooks of other users: nothing else of root's power.
CapabilityBoundingSet=CAP_DAC_READ_SEARCH CAP_DAC_OVERRIDE CAP_CHOWN CAP_FOWNER CAP_FSETID CAP_SETFCAP CAP_MKNOD CAP_SETUID CAP_SETGID CAP_KILL
AmbientCapabilities=
NoNewPrivileges=yes
ProtectSystem=full
ReadWritePaths=-{folder}
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictRealtime=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
KeyringMode=private

[Install]
WantedBy=multi-user.target
",
        folder = folder.display(),
    ))
}

impl Install {
    fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let attempt = || "install the service".to_string();
        // A service that cannot start would only be restarted for ever.
        let config = assembly.config()?;
        let unit = unit(assembly).attempt(attempt)?;
        if self.print {
            assembly.console.document(&serde_json::json!({ "unit": unit }));
            unit.lines().for_each(|line| assembly.console.say(line));
            return Ok(Outcome::Done);
        }
        let path = self.directory.join(UNIT);
        let mut steps = vec![make_group().attempt(attempt)?];
        steps.push(write_unit(&path, &unit).attempt(attempt)?);
        match self.no_start {
            true => steps.push(Step {
                step: "start",
                state: "left out",
                detail: "as asked".to_string(),
            }),
            false => {
                steps.push(systemctl("reload", &["daemon-reload"]).attempt(attempt)?);
                steps.push(systemctl("start", &["enable", "--now", UNIT]).attempt(attempt)?);
                if steps.iter().any(|step| step.step == "unit" && step.state == "done") {
                    steps.push(systemctl("restart", &["restart", UNIT]).attempt(attempt)?);
                }
            }
        }
        tell(assembly, &steps);
        if config.groups.values().all(|group| group.schedule.is_none()) {
            assembly.console.warn("no group has a schedule: nothing will happen by itself");
        }
        Ok(Outcome::Done)
    }
}

impl Remove {
    fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let attempt = || "remove the service".to_string();
        let path = self.directory.join(UNIT);
        if !path.exists() {
            let detail = format!("{} is not there", path.display());
            tell(assembly, &[Step { step: "unit", state: "already so", detail }]);
            return Ok(Outcome::Done);
        }
        let mut steps = vec![systemctl("stop", &["disable", "--now", UNIT]).attempt(attempt)?];
        fs::remove_file(&path)
            .map_err(|cause| Cause::Io { action: "remove", path: path.clone(), cause })
            .attempt(attempt)?;
        steps.push(Step {
            step: "unit",
            state: "done",
            detail: format!("removed {}", path.display()),
        });
        steps.push(systemctl("reload", &["daemon-reload"]).attempt(attempt)?);
        tell(assembly, &steps);
        Ok(Outcome::Done)
    }
}

fn tell(assembly: &Assembly, steps: &[Step]) {
    assembly.console.document(&serde_json::json!({ "steps": steps }));
    for step in steps {
        assembly.console.note(format!("{}: {} ({})", step.step, step.state, step.detail));
    }
}

fn make_group() -> Result<Step, Cause> {
    let step = |state, detail: &str| Step { step: "group", state, detail: detail.to_string() };
    if accounts::group(GROUP).is_some() {
        return Ok(step("already so", GROUP));
    }
    if !rustix::process::geteuid().is_root() {
        return Ok(step("left out", "only root can make groups; only you can control the daemon"));
    }
    run("groupadd", &["--system", GROUP])?;
    Ok(step("done", GROUP))
}

fn write_unit(path: &Path, unit: &str) -> Result<Step, Cause> {
    let io = |action| move |cause| Cause::Io { action, path: path.to_path_buf(), cause };
    let detail = path.display().to_string();
    if fs::read_to_string(path).is_ok_and(|there| there == unit) {
        return Ok(Step { step: "unit", state: "already so", detail });
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(io("make the folder of"))?;
    let new = path.with_extension("new");
    fs::write(&new, unit).map_err(io("write"))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).map_err(io("open up"))?;
    fs::rename(&new, path).map_err(io("replace"))?;
    Ok(Step { step: "unit", state: "done", detail })
}

fn systemctl(step: &'static str, words: &[&str]) -> Result<Step, Cause> {
    // As sd_booted(3) has it.
    if !Path::new("/run/systemd/system").is_dir() {
        let detail = "systemd does not run here; use \"keepwell watch\"".to_string();
        return Ok(Step { step, state: "left out", detail });
    }
    run("systemctl", words)?;
    Ok(Step { step, state: "done", detail: format!("systemctl {}", words.join(" ")) })
}

fn run(program: &str, words: &[&str]) -> Result<(), Cause> {
    let io = |cause| Cause::Io { action: "run", path: program.into(), cause };
    let output = Process::new(program).args(words).output().map_err(io)?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint = format!("{} ({})", complaint.trim(), output.status);
    Err(io(std::io::Error::other(complaint)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_unit_are_quoted_so_that_nothing_in_them_is_replaced() {
        assert_eq!(quoted("/home/a b/50%/$x\"\\"), "\"/home/a b/50%%/$$x\\\"\\\\\"");
    }
}
