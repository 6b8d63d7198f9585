//! `keepwell key`: the passphrases that open this server's part of a vault.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use cloudsync::crypto::slot::{KdfCosts, KdfLimits};
use cloudsync::keys::{self, LeftBehind, Slot};
use cloudsync::vault::credentials::Credentials;
use cloudsync::vault::snapshot::Snapshot;
use serde::Serialize;
use storepool::disk::{Disk, SystemDisk};
use zeroize::Zeroizing;

use crate::assembly::Assembly;
use crate::console::Console;
use crate::console::units::{local, rfc3339};
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::passphrases::{KnownPassphrase, NewPassphrase};
use crate::vaults::{self, Engine, OwnVault};

/// Add, change and remove passphrases
///
/// Each passphrase opens all points that this server has in the vault. Changes take seconds and touch no data. The last passphrase cannot be removed.
#[derive(Args, Debug)]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub(super) struct Key {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    List(List),
    Add(Add),
    Passwd(Passwd),
    Remove(Remove),
    Export(Export),
}

/// List the passphrases by name
#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    which: Which,
}

/// Add a passphrase beside those there are
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell key add safe --generate-passphrase /mnt/usb/passphrase
  keepwell key add deputy --passphrase-command 'pass show keepwell'")]
struct Add {
    /// What to call it
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    passphrase: NewPassphrase,
    #[command(flatten)]
    which: Which,
}

/// Replace a passphrase
///
/// The old one opens nothing any more, unless the vault kept a copy of its slot: against a passphrase that somebody knows already, register anew.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell key passwd
  keepwell key passwd safe --generate-passphrase /mnt/usb/passphrase")]
struct Passwd {
    /// Which one (not needed if there is only one)
    #[arg(value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    passphrase: NewPassphrase,
    #[command(flatten)]
    which: Which,
}

/// Take a passphrase away
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell key remove deputy")]
struct Remove {
    /// Which one
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    which: Which,
}

/// Write a recovery sheet to be printed and kept safe
///
/// It holds what a recovery needs besides the passphrase: address and credentials of the vault, this server's name there, and what to type. The passphrase
/// itself only with --with-passphrase.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell key export --to sheet.txt
  keepwell key export --to sheet.txt --with-passphrase --passphrase-file /root/passphrase")]
struct Export {
    /// Where to write it; must not exist
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Write the passphrase on the sheet, too
    #[arg(long)]
    with_passphrase: bool,
    #[command(flatten)]
    passphrase: KnownPassphrase,
    #[command(flatten)]
    which: Which,
}

/// Which vault is meant.
#[derive(Args, Debug)]
struct Which {
    /// Which vault of the configuration
    #[arg(long, value_name = "NAME")]
    vault: Option<String>,
}

#[derive(Serialize)]
struct KeyDocument {
    name: String,
    id: String,
    revision: u64,
    made: Option<String>,
}

impl From<&Slot> for KeyDocument {
    fn from(slot: &Slot) -> Self {
        Self {
            name: slot.name.clone(),
            id: slot.id.to_string(),
            revision: slot.revision,
            made: slot.made.map(rfc3339),
        }
    }
}

#[derive(Serialize)]
struct Changed {
    vault: String,
    action: &'static str,
    name: String,
    passphrase_file: Option<PathBuf>,
    left_behind: Vec<String>,
}

#[derive(Serialize)]
struct Exported {
    vault: String,
    label: String,
    file: PathBuf,
    with_passphrase: bool,
}

impl Key {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        match self.action {
            Action::List(args) => args.run(assembly),
            Action::Add(args) => args.run(assembly),
            Action::Passwd(args) => args.run(assembly),
            Action::Remove(args) => args.run(assembly),
            Action::Export(args) => args.run(assembly),
        }
    }
}

// An open vault and its newest state.
struct Open {
    engine: Engine,
    own: OwnVault,
    snapshot: Snapshot,
    credentials: Credentials,
}

impl Which {
    fn open(&self, assembly: &Assembly) -> Result<Open, Error> {
        let config = assembly.config()?;
        let (name, vault) = vaults::choose(&config, self.vault.as_deref())?;
        let attempt = || format!("look at the passphrases of the vault \"{name}\"");
        let engine = Engine::start()?;
        let mut own = OwnVault::open(assembly, &engine, name, vault).attempt(attempt)?;
        let snapshot = own.state(&engine).attempt(attempt)?;
        let credentials = Credentials::load(&vault.credentials).attempt(attempt)?;
        Ok(Open { engine, own, snapshot, credentials })
    }
}

fn costs() -> KdfCosts {
    KdfCosts::fitting(&KdfLimits::of_this_machine())
}

impl List {
    fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let open = self.which.open(assembly)?;
        let console = &assembly.console;
        let mut listing = console.listing("keys", &serde_json::json!({ "vault": open.own.name }));
        for slot in keys::slots(&open.snapshot) {
            listing.item(&KeyDocument::from(&slot));
            let id = slot.id.to_string();
            let name = if slot.name.is_empty() { "(no name)" } else { slot.name.as_str() };
            let made = slot.made.map(|made| format!("  set {}", local(made))).unwrap_or_default();
            console.say(format!("{name}  {}{made}", &id[..8]));
        }
        listing.finish(&());
        Ok(Outcome::Done)
    }
}

impl Add {
    fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let mut open = self.which.open(assembly)?;
        let attempt = || format!("add the passphrase \"{}\"", self.name);
        if keys::slots(&open.snapshot).iter().any(|slot| slot.name == self.name) {
            let name = self.name.clone();
            return Err(cloudsync::Error::SlotExists { name }).attempt(attempt);
        }
        let passphrase = self.passphrase.get(&open.engine, &assembly.console).attempt(attempt)?;
        let Open { engine, own, snapshot, .. } = &mut open;
        let left = own
            .write(engine, async |writing| {
                keys::add(writing, snapshot, &self.name, &passphrase, costs()).await
            })
            .attempt(attempt)?;
        tell(&assembly.console, &open, "add", &self.name, self.passphrase.generated(), &left);
        Ok(Outcome::Done)
    }
}

impl Passwd {
    fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let mut open = self.which.open(assembly)?;
        let slots = keys::slots(&open.snapshot);
        let slot = match (&self.name, slots.as_slice()) {
            (Some(name), _) => keys::find(&open.snapshot, name)
                .attempt(|| format!("replace the passphrase \"{name}\""))?,
            (None, [only]) => only.clone(),
            (None, _) => return Err(Error::usage("there are several passphrases: name one")),
        };
        let attempt = || format!("replace the passphrase \"{}\"", slot.name);
        let passphrase = self.passphrase.get(&open.engine, &assembly.console).attempt(attempt)?;
        let id = slot.id.to_string();
        let Open { engine, own, snapshot, .. } = &mut open;
        let left = own
            .write(engine, async |writing| {
                keys::change(writing, snapshot, &id, &passphrase, costs()).await
            })
            .attempt(attempt)?;
        tell(&assembly.console, &open, "passwd", &slot.name, self.passphrase.generated(), &left);
        Ok(Outcome::Done)
    }
}

impl Remove {
    fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let mut open = self.which.open(assembly)?;
        let Open { engine, own, snapshot, .. } = &mut open;
        let left = own
            .write(engine, async |writing| keys::remove(writing, snapshot, &self.name).await)
            .attempt(|| format!("remove the passphrase \"{}\"", self.name))?;
        tell(&assembly.console, &open, "remove", &self.name, None, &left);
        Ok(Outcome::Done)
    }
}

fn tell(
    console: &Console,
    open: &Open,
    action: &'static str,
    name: &str,
    generated: Option<&Path>,
    left: &LeftBehind,
) {
    console.document(&Changed {
        vault: open.own.name.clone(),
        action,
        name: name.to_string(),
        passphrase_file: generated.map(Path::to_path_buf),
        left_behind: left.objects.iter().map(ToString::to_string).collect(),
    });
    let vault = &open.own.name;
    console.note(match action {
        "add" => format!("the passphrase \"{name}\" opens the vault \"{vault}\" now, too"),
        "passwd" => format!("the passphrase \"{name}\" of the vault \"{vault}\" was replaced"),
        _ => format!("the passphrase \"{name}\" does not open the vault \"{vault}\" any more"),
    });
    if let Some(file) = generated {
        console.note(format!("keep it safe, away from this machine: {}", file.display()));
    }
    if !left.objects.is_empty() {
        console.warn(
            "the vault does not let this server delete: its owner has to delete the old slots, with which old passphrases still open",
        );
    }
}

impl Export {
    fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let open = self.which.open(assembly)?;
        let attempt = || format!("write the recovery sheet {}", self.to.display());
        let label = open.snapshot.label().cloned();
        let label = label.ok_or_else(|| Error::usage("this server has no label in the vault"))?;
        let passphrase = match self.with_passphrase {
            false => None,
            true => {
                let passphrase = self.passphrase.read(&assembly.console).attempt(attempt)?;
                // A sheet with a passphrase that does not open would be worse than none.
                let unlocked = vaults::unlock(&open.engine, &open.own.vault, &label, &passphrase)
                    .attempt(attempt)?;
                if unlocked.is_retired(&open.snapshot) {
                    let label = label.to_string();
                    return Err(cloudsync::Error::WrongPassphrase { label }).attempt(attempt);
                }
                Some(passphrase)
            }
        };
        let written = passphrase.as_ref().map(|passphrase| passphrase.expose());
        let text = sheet(&open, label.as_str(), written);
        write_sheet(&self.to, &text).attempt(attempt)?;
        assembly.console.document(&Exported {
            vault: open.own.name.clone(),
            label: label.to_string(),
            file: self.to.clone(),
            with_passphrase: self.with_passphrase,
        });
        assembly.console.note(format!("wrote {}", self.to.display()));
        assembly.console.note(match self.with_passphrase {
            true => "whoever has this sheet can read all points: print it, lock it away, delete the file",
            false => "print it and keep it apart from the passphrase",
        });
        Ok(Outcome::Done)
    }
}

fn sheet(open: &Open, label: &str, passphrase: Option<&str>) -> Zeroizing<String> {
    let credentials = &open.credentials;
    let names: Vec<_> = keys::slots(&open.snapshot)
        .iter()
        .map(|slot| match slot.made {
            Some(made) => format!("{} (set {})", slot.name, local(made)),
            None => slot.name.clone(),
        })
        .collect();
    let now = local(open.engine.around().clock.now());
    let blank = "_".repeat(60);
    // Reserved at once: a string that grows leaves its earlier copies behind in memory.
    let mut text = Zeroizing::new(String::with_capacity(16 << 10));
    text.push_str(&format!(
        "\
KEEPWELL RECOVERY SHEET, made {now}

With this sheet and a passphrase everything that the server \"{label}\" has copied to
its vault can be brought back, on any Linux machine with Keepwell:

  1. Save what stands between the two lines below as the file main.vault.
  2. keepwell recover --credentials main.vault --server {label} --list
  3. keepwell recover --credentials main.vault --server {label} latest --to DIR
  Or, to become this server again:
     keepwell recover --credentials main.vault --server {label} --adopt

vault         {name} ({id})
address       {address}
server        {label}
realm         {realm}
passphrases   {names}
witness       {witness}
              A vault that shows less than that was rewound.

passphrase    {passphrase}

---------------------------------- main.vault ----------------------------------
",
        name = credentials.name,
        id = credentials.vault,
        address = credentials.address,
        realm = open.own.realm.id(),
        names = names.join(", "),
        witness = open.snapshot.witness(open.own.realm.keys()),
        passphrase = passphrase.unwrap_or(&blank),
    ));
    text.push_str(&credentials.to_text());
    text.push_str(&"-".repeat(80));
    text.push('\n');
    text
}

// New, readable by its owner alone, durable.
fn write_sheet(path: &Path, text: &str) -> Result<(), Cause> {
    let io = |action| move |cause| Cause::Io { action, path: path.to_path_buf(), cause };
    let mut file = SystemDisk.create(path).map_err(io("create"))?;
    file.append(text.as_bytes()).and_then(|()| file.sync()).map_err(io("write"))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    SystemDisk.sync_directory(parent.unwrap_or(Path::new("."))).map_err(io("sync the folder of"))
}
