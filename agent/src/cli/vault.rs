//! `keepwell vault`: making vaults, registering with them, looking at them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use cloudsync::layout::Label;
use cloudsync::store::VaultAddress;
use cloudsync::store::access::Access;
use cloudsync::vault::credentials::Credentials;
use cloudsync::vault::owner::OwnerKey;
use cloudsync::vault::{NewVault, REGISTRATION_PERIOD, Vault as OpenVault};
use serde::Serialize;

use super::arguments;
use super::vault_access::StoreAccess;
use super::vault_ping::Ping;
use super::vault_state::SetState;
use super::vault_status::Status;
use crate::assembly::Assembly;
use crate::config::{self, Config, is_vault_name};
use crate::console::units::{local, rfc3339};
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::examination::before_registration;
use crate::passphrases::NewPassphrase;
use crate::process::host_name;
use crate::vaults::{self, Engine, VaultFiles};

/// Make vaults, register with them, look at them
#[derive(Args, Debug)]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub(super) struct Vault {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Create(Create),
    Register(Register),
    List(List),
    Status(Status),
    SetState(SetState),
    Ping(Ping),
}

/// Make an empty vault and its credentials file
///
/// For the owner of the storage. The storage is tested first: it must refuse to overwrite, and give back what was put. The credentials file lets
/// servers register for some days, and recover always; it never holds a passphrase.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell vault create /mnt/usb/vault --credentials main.vault
  keepwell vault create file:///srv/vault --credentials web.vault --name web --expires 2d
  keepwell vault create s3://backups/web --credentials web.vault --region eu-central-1 \\
      --access-key-id AKIA... --secret-key-file /run/secrets/s3
  keepwell vault create az://backups --credentials web.vault --account name --account-key-file key")]
struct Create {
    /// An empty folder, or a URL: file:///dir, s3://bucket/prefix, az://container/prefix, gs://bucket/prefix
    #[arg(value_name = "URL")]
    url: String,
    /// Where to write the credentials file
    #[arg(long, value_name = "FILE")]
    credentials: PathBuf,
    /// Where to write the owner file, with which the vault's state is set (beside the credentials, ending in .owner)
    #[arg(long, value_name = "FILE")]
    owner_key: Option<PathBuf>,
    /// The vault's name
    #[arg(long, value_name = "NAME", default_value = "main")]
    name: String,
    /// How long servers can register with the credentials (10 days)
    #[arg(long, value_name = "DURATION", value_parser = arguments::duration)]
    expires: Option<Duration>,
    #[command(flatten)]
    access: StoreAccess,
}

/// Register this server with a vault
///
/// Examines the vault's place shortly, makes this server's keys, closes them with the passphrase, proves that the passphrase opens them again, and enters the vault in the configuration.
/// Needed for recovery are the credentials file and the passphrase: keep both, apart from this machine and from each other.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell vault register --credentials main.vault --generate-passphrase /root/passphrase
  keepwell vault register --credentials main.vault --passphrase-file /run/secrets/vault --label web1")]
struct Register {
    /// The credentials file of the vault
    #[arg(long, value_name = "FILE")]
    credentials: PathBuf,
    #[command(flatten)]
    passphrase: NewPassphrase,
    /// This server's name in the vault, visible there (the host's name)
    #[arg(long, value_name = "LABEL")]
    label: Option<Label>,
    /// What the configuration is to call the vault (the vault's own name)
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    access: StoreAccess,
}

/// List the vaults of the configuration
#[derive(Args, Debug)]
struct List {}

impl Vault {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        match self.action {
            Action::Create(args) => args.run(assembly),
            Action::Register(args) => args.run(assembly),
            Action::List(args) => args.run(assembly),
            Action::Status(args) => args.run(assembly),
            Action::SetState(args) => args.run(assembly),
            Action::Ping(args) => args.run(assembly),
        }
    }
}

#[derive(Serialize)]
struct Created {
    vault: String,
    name: String,
    url: String,
    credentials: PathBuf,
    owner_key: PathBuf,
    registration_expires: String,
}

impl Create {
    fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let attempt = || "make a vault".to_string();
        if self.credentials.exists() {
            let path = self.credentials.display();
            return Err(Error::usage(format!("{path} is there already: name a new file")));
        }
        let owner_file =
            self.owner_key.clone().unwrap_or_else(|| self.credentials.with_extension("owner"));
        if owner_file.exists() || owner_file == self.credentials {
            let path = owner_file.display();
            return Err(Error::usage(format!(
                "{path} is there already: name a new file with --owner-key"
            )));
        }
        let engine = Engine::start()?;
        let owner = OwnerKey::generate(engine.around().entropy);
        let address: VaultAddress = self.url.parse().attempt(attempt)?;
        let period = self.expires.unwrap_or(REGISTRATION_PERIOD);
        let access = self.access.read()?;
        let made = create_vault(&engine, &self.name, address, period, access, &owner);
        let credentials = made.attempt(attempt)?;
        owner.save(&owner_file).attempt(attempt)?;
        credentials.save(&self.credentials).attempt(attempt)?;
        assembly.console.document(&Created {
            vault: credentials.vault.to_string(),
            name: credentials.name.clone(),
            url: credentials.address.to_string(),
            credentials: self.credentials.clone(),
            owner_key: owner_file.clone(),
            registration_expires: rfc3339(credentials.registration_expires),
        });
        let console = &assembly.console;
        console.note(format!("made vault \"{}\" at {}", credentials.name, credentials.address));
        console.note(format!(
            "wrote {}: servers can register with it until {}, and recover with it always",
            self.credentials.display(),
            local(credentials.registration_expires)
        ));
        console.note(format!(
            "wrote {}: with it the vault's state is set; no server needs it",
            owner_file.display()
        ));
        console.note(format!(
            "next: keepwell vault register --credentials {} --generate-passphrase FILE",
            self.credentials.display()
        ));
        Ok(Outcome::Done)
    }
}

/// Makes a vault; returns its credentials, not yet written anywhere.
pub(super) fn create_vault(
    engine: &Engine,
    name: &str,
    address: VaultAddress,
    registration_period: Duration,
    access: Access,
    owner: &OwnerKey,
) -> Result<Credentials, cloudsync::Error> {
    let store = engine.patient(&address, address.create(&engine.opening(&access))?);
    let request = NewVault {
        name: name.to_string(),
        address,
        registration_period,
        labels: Vec::new(),
        access,
    };
    let (_, credentials) =
        engine.run(OpenVault::create_owned(store, &request, owner, &engine.around()))?;
    Ok(credentials)
}

#[derive(Serialize)]
struct Registered {
    name: String,
    vault: String,
    label: String,
    credentials: PathBuf,
    passphrase_file: Option<PathBuf>,
}

impl Register {
    fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let attempt = || "register with the vault".to_string();
        let config = assembly.config()?;
        let mut credentials = Credentials::load(&self.credentials).attempt(attempt)?;
        let name = self.name.clone().unwrap_or_else(|| credentials.name.to_lowercase());
        if !is_vault_name(&name) {
            return Err(Error::usage(format!(
                "\"{name}\" cannot be the name of a vault in the configuration: choose one with --name"
            )));
        }
        let files = VaultFiles::of(&assembly.place, &name);
        if config.vaults.contains_key(&name) && files.is_registered() {
            return Err(Error::usage(format!(
                "this server is registered with the vault \"{name}\" already"
            )));
        }
        let label = match self.label.clone().or_else(|| credentials.labels.first().cloned()) {
            Some(label) => label,
            None => label_of_host()?,
        };
        let engine = Engine::start()?;
        let passphrase = self.passphrase.get(&engine, &assembly.console).attempt(attempt)?;
        let added = self.access.read()?;
        let file = match added.is_empty() {
            true => self.credentials.clone(),
            // The owner's file stays as it is; this server's own says how it gets there.
            false => config.path.with_file_name(format!("{name}.vault")),
        };
        if file != self.credentials && file.exists() {
            let there = Credentials::load(&file).attempt(attempt)?;
            if there.vault != credentials.vault {
                let file = file.display();
                return Err(Error::usage(format!(
                    "{file} belongs to another vault: choose another name with --name"
                )));
            }
        }
        credentials.access.extend(added);
        before_registration(&assembly.console, &engine, &credentials).attempt(attempt)?;
        vaults::register(&engine, &files, &credentials, &label, &passphrase).attempt(attempt)?;
        if file != self.credentials {
            credentials.save(&file).attempt(attempt)?;
        }
        enter(assembly, &config, &name, &file).attempt(attempt)?;
        let console = &assembly.console;
        console.document(&Registered {
            name: name.clone(),
            vault: credentials.vault.to_string(),
            label: label.to_string(),
            credentials: file.clone(),
            passphrase_file: self.passphrase.generated().map(Path::to_path_buf),
        });
        console.note(format!("registered as \"{label}\" with the vault \"{name}\""));
        console.note("keep safe, away from this machine and apart from each other:");
        console.note(format!("  the credentials  {}", file.display()));
        if let Some(file) = self.passphrase.generated() {
            console.note(format!("  the passphrase   {}", file.display()));
        }
        console.note("without the passphrase nobody can read the vault, and nobody can replace it");
        console.note("next: keepwell sync");
        Ok(Outcome::Done)
    }
}

/// Returns this host's name as a label.
pub(super) fn label_of_host() -> Result<Label, Error> {
    Label::suggest(&host_name())
        .ok_or_else(|| Error::usage("this host's name cannot be a label: choose one with --label"))
}

/// Enters a vault in the configuration file.
pub(super) fn enter(
    assembly: &Assembly,
    config: &Config,
    name: &str,
    credentials: &Path,
) -> Result<(), Cause> {
    let folder = config.path.parent().unwrap_or(Path::new(""));
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |cause| Cause::Io { action: "find", path, cause }
    };
    let absolute = std::path::absolute(credentials).map_err(io(credentials))?;
    let folder = std::path::absolute(folder).map_err(io(folder))?;
    // Below `--home` relative, so that the whole home can be moved.
    let inside = absolute.strip_prefix(&folder).ok().filter(|_| assembly.place.home.is_some());
    let written = inside.unwrap_or(&absolute);
    let text = std::fs::read_to_string(&config.path).map_err(|cause| Cause::Io {
        action: "read",
        path: config.path.clone(),
        cause,
    })?;
    let text = config::with_vault(&text, name, written)
        .ok_or_else(|| Cause::Unwritable { path: config.path.clone() })?;
    Config::parse(&config.path, &text)?;
    config::write(&config.path, &text)
}

#[derive(Serialize)]
struct Listed {
    name: String,
    vault: String,
    url: String,
    credentials: PathBuf,
    registered: bool,
}

impl List {
    fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let config = assembly.config()?;
        let mut listing = assembly.console.listing("vaults", &serde_json::json!({}));
        for (name, vault) in &config.vaults {
            let credentials = Credentials::load(&vault.credentials)
                .attempt(|| format!("look at the vault \"{name}\""))?;
            let files = VaultFiles::of(&assembly.place, name);
            let registered = files.is_registered();
            listing.item(&Listed {
                name: name.clone(),
                vault: credentials.vault.to_string(),
                url: credentials.address.to_string(),
                credentials: vault.credentials.clone(),
                registered,
            });
            let state = if registered { "" } else { ", not registered" };
            assembly.console.say(format!("{name}  {}{state}", credentials.address));
        }
        let none = listing.items() == 0;
        listing.finish(&serde_json::json!({}));
        if none {
            assembly.console.note("no vault in the configuration");
        }
        Ok(Outcome::Done)
    }
}
