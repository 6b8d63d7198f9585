//! Becoming a server again on a machine that has nothing: configuration, credentials, pool, and last the identity.
//!
//! Everything local comes first, the claim of the realm after it: an adoption that fails half-way leaves the old machine in charge,
//! and one that is run again goes on where it was.

use std::path::{Path, PathBuf};

use cloudsync::layout::{InstanceId, Label};
use cloudsync::vault::anchor::Anchor;
use cloudsync::vault::chain::Realm;
use cloudsync::vault::commit::Changes;
use cloudsync::vault::credentials::Credentials;
use cloudsync::vault::key_file::UnlockedKey;
use cloudsync::vault::snapshot::Snapshot;
use storepool::entropy::random_bytes;
use storepool::pool::{Pool, World};

use crate::assembly::Assembly;
use crate::config::{self, Config, is_vault_name};
use crate::error::Cause;
use crate::vaults::{Engine, VaultFiles};

/// How often the claim is decided anew when somebody else was faster or the answer was lost.
const CLAIM_TRIES: u32 = 4;

/// What an adoption needs: who is adopted, and the proof that it may be.
pub(crate) struct Adoption<'a> {
    /// Where this machine is to have its files.
    pub(crate) assembly: &'a Assembly,
    /// Talks to the vault.
    pub(crate) engine: &'a Engine,
    /// The credentials of the vault.
    pub(crate) credentials: &'a Credentials,
    /// Their file.
    pub(crate) credentials_file: &'a Path,
    /// The server's part of the vault, unlocked.
    pub(crate) realm: &'a Realm,
}

/// What an adoption did.
#[derive(Debug)]
pub(crate) struct Adopted {
    /// What the configuration calls the vault.
    pub(crate) vault_name: String,
    /// Whether the vault knew the configuration; otherwise it is a new one without groups.
    pub(crate) configuration_known: bool,
    /// The pool's directories.
    pub(crate) pool: Vec<PathBuf>,
    /// Whether the pool was made now.
    pub(crate) pool_created: bool,
    /// Other vaults of the configuration, which must be registered with anew.
    pub(crate) other_vaults: Vec<String>,
    /// The state after the claim.
    pub(crate) snapshot: Snapshot,
}

impl Adoption<'_> {
    /// Makes this installation the server whose state `snapshot` is.
    ///
    /// On return every file is durable and only this installation may write in the server's place.
    pub(crate) fn run(&self, snapshot: Snapshot) -> Result<Adopted, Cause> {
        let place = &self.assembly.place;
        let (vault_name, text) = self.configuration(&snapshot)?;
        let config = Config::parse(&place.configuration, &text)?;
        match config::read(&place.configuration) {
            Ok(found) if found != text => {
                return Err(Cause::ConfigurationInTheWay { path: place.configuration.clone() });
            }
            Ok(_) | Err(Cause::NoConfiguration { .. }) => {}
            Err(error) => return Err(error),
        }
        self.place_credentials(&config, &vault_name)?;
        let pool_created = self.open_pool(&config)?;
        config::write(&place.configuration, &text)?;
        let configuration_known = snapshot.configuration().is_some();
        let snapshot = self.claim(snapshot, &vault_name)?;
        let registered = |name: &String| VaultFiles::of(place, name).is_registered();
        Ok(Adopted {
            configuration_known,
            pool: config.pool.paths.clone(),
            pool_created,
            other_vaults: config.vaults.keys().filter(|name| !registered(name)).cloned().collect(),
            vault_name,
            snapshot,
        })
    }

    // What the vault is called, and the text of the configuration file.
    fn configuration(&self, snapshot: &Snapshot) -> Result<(String, String), Cause> {
        if let Some(known) = snapshot.configuration() {
            return Ok((known.vault_name.clone(), known.text.clone()));
        }
        let place = &self.assembly.place;
        let name = self.credentials.name.to_lowercase();
        let name = if is_vault_name(&name) { name } else { "main".to_string() };
        let inside = place.home.as_deref().and_then(|home| place.pool.strip_prefix(home).ok());
        let text = config::new_file(&[inside.unwrap_or(&place.pool).to_path_buf()]);
        let file = std::path::absolute(self.credentials_file).map_err(|cause| Cause::Io {
            action: "find",
            path: self.credentials_file.to_path_buf(),
            cause,
        })?;
        let text = config::with_vault(&text, &name, &file)
            .ok_or_else(|| Cause::Unwritable { path: place.configuration.clone() })?;
        Ok((name, text))
    }

    // The configuration says where the credentials are to be.
    fn place_credentials(&self, config: &Config, name: &str) -> Result<(), Cause> {
        let Some(vault) = config.vaults.get(name) else {
            return Err(Cause::NotRegistered { vault: name.to_string() });
        };
        let path = &vault.credentials;
        if path.exists() {
            let found = Credentials::load(path)?;
            return match found.vault == self.credentials.vault {
                true => Ok(()),
                false => Err(Cause::ConfigurationInTheWay { path: path.clone() }),
            };
        }
        if let Some(folder) = path.parent() {
            let io = |cause| Cause::Io { action: "create", path: folder.to_path_buf(), cause };
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        Ok(self.credentials.save(path)?)
    }

    // A pool whose disks survived is taken as it is. Returns whether it was made.
    fn open_pool(&self, config: &Config) -> Result<bool, Cause> {
        let options = || config.pool.options(self.assembly.holder());
        match Pool::open(&config.pool.paths, options(), World::system()) {
            Ok(_) => Ok(false),
            Err(storepool::Error::NoPool { .. }) => {
                Pool::create(&config.pool.paths, options(), World::system())?;
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn claim(&self, mut snapshot: Snapshot, name: &str) -> Result<Snapshot, Cause> {
        let files = VaultFiles::of(&self.assembly.place, name);
        files.create()?;
        let _lock = files.lock(self.assembly)?;
        if files.is_registered() {
            let key = files.load_key()?;
            if key.keys.realm() != self.realm.id() {
                return Err(Cause::ConfigurationInTheWay { path: files.key() });
            }
            if key.instance == snapshot.owner()
                && let Ok(Some(mut anchor)) = Anchor::load(&files.anchor(), self.realm.keys())
            {
                match self.engine.run(self.realm.reconcile(&mut anchor, &snapshot)) {
                    Ok(()) => return Ok(snapshot),
                    // A copy of this machine went on in its name: this one gets a name of its own.
                    Err(cloudsync::Error::Twin { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        let (engine, realm) = (self.engine, self.realm);
        let around = engine.around();
        let instance = InstanceId(random_bytes(around.entropy));
        let label: Label = snapshot
            .label()
            .cloned()
            .ok_or_else(|| cloudsync::Error::NoSuchServer { label: realm.id().to_string() })?;
        for attempt in 1.. {
            let mut anchor =
                Anchor::begin(&files.anchor(), realm.vault(), realm.id(), instance, &snapshot);
            let claimed = realm.claim(&snapshot, &label, Changes::default(), &mut anchor, &around);
            match engine.run(claimed) {
                Ok(after) => {
                    snapshot = after;
                    break;
                }
                Err(
                    error @ (cloudsync::Error::CommitLost { .. }
                    | cloudsync::Error::CommitUnknown { .. }),
                ) => {
                    snapshot = engine.run(realm.load(Some(snapshot)))?;
                    if snapshot.owner() == instance {
                        // It arrived after all.
                        let anchor = &mut anchor;
                        engine.run(realm.reconcile(anchor, &snapshot))?;
                        break;
                    }
                    if attempt == CLAIM_TRIES {
                        return Err(error.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        let keys = realm.keys().as_ref().clone();
        UnlockedKey { vault: realm.vault(), instance, keys }.save(&files.key())?;
        Ok(snapshot)
    }
}
