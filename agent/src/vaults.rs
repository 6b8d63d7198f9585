//! Vaults from the agent's side: where their local files are, how they are opened, registered with and copied to.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cloudsync::check::{CheckOptions, CheckReport, check, remember};
use cloudsync::contact::Contact;
use cloudsync::crypto::passphrase::Passphrase;
use cloudsync::crypto::slot::{KdfCosts, KdfLimits};
use cloudsync::heal::{HealReport, heal};
use cloudsync::layout::Label;
use cloudsync::ledger::Ledger;
use cloudsync::retention::RetentionPolicy;
use cloudsync::standing::Policy;
use cloudsync::store::access::{Access, Variables};
use cloudsync::store::bandwidth::UploadLimiter;
use cloudsync::store::retry::{RetryPolicy, RetryStore};
use cloudsync::store::{ObjectStore, Opening, VaultAddress};
use cloudsync::sync::{SyncOptions, SyncReport, SyncSource, sync};
use cloudsync::vault::anchor::Anchor;
use cloudsync::vault::chain::{Realm, Surroundings};
use cloudsync::vault::commit::ServerConfiguration;
use cloudsync::vault::credentials::Credentials;
use cloudsync::vault::key_file::UnlockedKey;
use cloudsync::vault::snapshot::Snapshot;
use cloudsync::vault::{NewServer, Unlocked, Vault};
use cloudsync::writing::Writing;
use storepool::catalog::Point;
use storepool::clock::Clock;
use storepool::disk::{Disk, SystemDisk};
use storepool::lock::{HeldLock, LockMode, Locks};
use storepool::monitor::Monitor;
use storepool::pool::{Pool, World};
use zeroize::Zeroizing;

use crate::assembly::Assembly;
use crate::bandwidth;
use crate::config::{self, Config, VaultConfig};
use crate::console::Progress;
use crate::error::{Attempt, Cause, Error};
use crate::place::Place;
use crate::subscription::{is_silence, warn_if_lost};

/// How often a wait for the network looks whether it should stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long an operation that was asked to stop may take for it; what was not committed by then is uploaded, and found again.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Longest passphrase file that is read.
const PASSPHRASE_FILE_LIMIT: u64 = 64 << 10;

/// The local files of one registration.
#[derive(Clone, Debug)]
pub(crate) struct VaultFiles {
    folder: PathBuf,
    // Where systemd puts the unlocked key, if it keeps it for the service.
    credential: Option<PathBuf>,
}

/// Where the unlocked key for unattended work is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyKeeping {
    /// A credential of systemd, which may be sealed to this machine's TPM: in no file that a stolen disk gives away.
    Credential(PathBuf),
    /// A file that only its owner can read: whoever has the disk has the key.
    File(PathBuf),
    /// Nowhere: this installation is not registered.
    Nowhere,
}

impl std::fmt::Display for KeyKeeping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Credential(path) => write!(f, "systemd credential {}", path.display()),
            Self::File(path) => write!(f, "file {}, readable by its owner alone", path.display()),
            Self::Nowhere => f.write_str("nowhere"),
        }
    }
}

impl VaultFiles {
    /// Returns the files for the vault that the configuration calls `name`.
    pub(crate) fn of(place: &Place, name: &str) -> Self {
        let credential = place.credential(&format!("keepwell-vault-{name}"));
        Self { folder: place.state().join(format!("vault-{name}")), credential }
    }

    /// Returns where the unlocked key for unattended work is kept.
    pub(crate) fn key_keeping(&self) -> KeyKeeping {
        match &self.credential {
            Some(credential) if credential.exists() => KeyKeeping::Credential(credential.clone()),
            _ if self.key().exists() => KeyKeeping::File(self.key()),
            _ => KeyKeeping::Nowhere,
        }
    }

    /// Reads the unlocked key from where it is kept.
    pub(crate) fn load_key(&self) -> Result<UnlockedKey, cloudsync::Error> {
        match self.key_keeping() {
            KeyKeeping::Credential(path) => UnlockedKey::load_credential(&path),
            KeyKeeping::File(_) | KeyKeeping::Nowhere => UnlockedKey::load(&self.key()),
        }
    }

    /// Returns where it is remembered when the vault was reached last, and what its owner has set.
    pub(crate) fn contact(&self) -> PathBuf {
        self.folder.join("contact")
    }

    /// Returns where the unlocked key is.
    pub(crate) fn key(&self) -> PathBuf {
        self.folder.join("key")
    }

    /// Returns where it is remembered what was seen of the vault.
    pub(crate) fn anchor(&self) -> PathBuf {
        self.folder.join("anchor")
    }

    fn ledger(&self) -> PathBuf {
        self.folder.join("ledger.db")
    }

    /// Returns whether this installation is registered.
    pub(crate) fn is_registered(&self) -> bool {
        self.key_keeping() != KeyKeeping::Nowhere
    }

    /// Makes the folder.
    pub(crate) fn create(&self) -> Result<(), Cause> {
        let io = |cause| Cause::Io { action: "create", path: self.folder.clone(), cause };
        std::fs::create_dir_all(&self.folder).map_err(io)
    }

    /// Keeps other processes from working on this vault; the answer for them is who it is.
    pub(crate) fn lock(&self, assembly: &Assembly) -> Result<HeldLock, Cause> {
        let locks = Locks::new(self.folder.clone(), assembly.holder());
        Ok(locks.take("lock", LockMode::Exclusive)?)
    }
}

/// Runs a future to its end, on a runtime of this command's own.
pub(crate) struct Engine {
    runtime: tokio::runtime::Runtime,
    world: World,
}

impl Engine {
    /// Starts the runtime.
    pub(crate) fn start() -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("vault")
            .enable_all()
            .build()
            .map_err(|cause| Cause::Io { action: "start", path: "threads".into(), cause })
            .attempt(|| "talk to a vault".to_string())?;
        Ok(Self { runtime, world: World::system() })
    }

    /// Returns the handle by which others drive a store.
    pub(crate) fn handle(&self) -> &tokio::runtime::Handle {
        self.runtime.handle()
    }

    /// Runs a future.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Returns the clock.
    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        self.world.clock.clone()
    }

    /// Returns clock and randomness.
    pub(crate) fn around(&self) -> Surroundings<'_> {
        Surroundings { clock: &*self.world.clock, entropy: &*self.world.entropy }
    }

    /// Returns what is needed to open a store, besides its address.
    pub(crate) fn opening(&self, access: &Access) -> Opening {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Opening {
            variables: Variables::of(variables),
            ..Opening::new(access.clone(), self.world.clock.clone())
        }
    }

    /// Wraps a store so that passing faults are waited out: shortly as long as it has never answered, longer once it has, since a
    /// network comes back. A directory that went away does not come back by itself.
    pub(crate) fn patient(
        &self,
        address: &VaultAddress,
        store: Arc<dyn ObjectStore>,
    ) -> Arc<dyn ObjectStore> {
        let brisk = RetryStore::new(store, RetryPolicy::BRISK, self.world.entropy.clone());
        match address {
            VaultAddress::Directory(_) => Arc::new(brisk),
            VaultAddress::Bucket(_) => Arc::new(brisk.once_answered(RetryPolicy::PATIENT)),
        }
    }

    /// Opens the vault that credentials are for.
    pub(crate) fn open(&self, credentials: &Credentials) -> Result<Vault, cloudsync::Error> {
        self.open_limited(credentials, None)
    }

    /// Opens the vault that credentials are for; uploads to it keep the limit.
    pub(crate) fn open_limited(
        &self,
        credentials: &Credentials,
        limiter: Option<Arc<UploadLimiter>>,
    ) -> Result<Vault, cloudsync::Error> {
        let opening = Opening { limiter, ..self.opening(&credentials.access) };
        let store = credentials.address.open(&opening)?;
        let store = self.patient(&credentials.address, store);
        self.run(Vault::open(store, credentials))
    }

    /// Runs a future; once `monitor` asks to stop it has some seconds to end by itself. `None` if it was dropped.
    pub(crate) fn run_stoppable<T>(
        &self,
        future: impl Future<Output = T>,
        monitor: &dyn Monitor,
    ) -> Option<T> {
        self.run(async {
            let mut future = std::pin::pin!(future);
            let mut stop = None;
            loop {
                if let Ok(done) = tokio::time::timeout(LOOK_EVERY, future.as_mut()).await {
                    return Some(done);
                }
                if !monitor.cancelled() {
                    continue;
                }
                let now = self.world.clock.monotonic();
                if now > *stop.get_or_insert(now + STOP_LIMIT) {
                    return None;
                }
            }
        })
    }
}

/// A vault that this installation is registered with, ready for work; nobody else on this machine works on it.
pub(crate) struct OwnVault {
    /// Its name in the configuration.
    pub(crate) name: String,
    /// The vault.
    pub(crate) vault: Vault,
    /// This server's part of it.
    pub(crate) realm: Realm,
    pub(crate) anchor: Anchor,
    pub(crate) ledger: Arc<Ledger>,
    /// What is remembered of the contact with it.
    pub(crate) contact: Contact,
    pub(crate) policy: Policy,
    pub(crate) retention: Option<RetentionPolicy>,
    // The text of the configuration file, which is copied with the points.
    configuration: String,
    _lock: HeldLock,
}

impl OwnVault {
    /// Opens the vault `name` of the configuration with the key file of its registration.
    pub(crate) fn open(
        assembly: &Assembly,
        engine: &Engine,
        name: &str,
        config: &VaultConfig,
    ) -> Result<Self, Cause> {
        let files = VaultFiles::of(&assembly.place, name);
        if !files.is_registered() {
            return Err(Cause::NotRegistered { vault: name.to_string() });
        }
        let lock = files.lock(assembly)?;
        let credentials = Credentials::load(&config.credentials)?;
        if credentials.are_exposed_in(&config.credentials) {
            let file = config.credentials.display();
            assembly.console.warn(format!(
                "the keys of the vault in {file} can be read by others: run chmod 600 {file}"
            ));
        }
        let key = files.load_key()?;
        let limiter = bandwidth::limiter(engine, &assembly.place, name, config);
        let mut contact = Contact::load(&files.contact(), credentials.vault);
        let vault = match engine.open_limited(&credentials, Some(limiter)) {
            Ok(vault) => vault,
            Err(error) => {
                if is_silence(&error) {
                    contact.not_reached(engine.around().clock.now());
                    contact.save()?;
                    warn_if_lost(assembly, name, &contact);
                }
                return Err(error.into());
            }
        };
        note_contact(engine, &mut contact, &vault)?;
        let realm = vault.unlock_with(&key)?;
        let anchor = Anchor::load(&files.anchor(), realm.keys())?
            .ok_or_else(|| Cause::NotRegistered { vault: name.to_string() })?;
        let ledger = Arc::new(Ledger::open(&files.ledger(), realm.id())?);
        let configuration = config::read(&assembly.place.configuration)?;
        let name = name.to_string();
        let (policy, retention) = (config.policy, config.retention.clone());
        Ok(Self {
            name,
            vault,
            realm,
            anchor,
            ledger,
            contact,
            policy,
            retention,
            configuration,
            _lock: lock,
        })
    }

    /// Copies all points of the pool that the vault does not have.
    pub(crate) fn sync(
        &mut self,
        engine: &Engine,
        pool: &Arc<Pool>,
        monitor: Arc<dyn Monitor>,
    ) -> Result<SyncReport, Cause> {
        self.sync_points(engine, pool, |_| true, monitor)
    }

    /// Copies the points that are `wanted` and that the vault does not have.
    pub(crate) fn sync_points(
        &mut self,
        engine: &Engine,
        pool: &Arc<Pool>,
        wanted: impl Fn(&Point) -> bool,
        monitor: Arc<dyn Monitor>,
    ) -> Result<SyncReport, Cause> {
        self.obey(engine)?;
        let session = Arc::new(pool.begin_session()?);
        let mut points = self.wanted(engine, pool.points()?)?;
        points.retain(wanted);
        let (options, around) = (SyncOptions::default(), engine.around());
        let configuration = Some(ServerConfiguration {
            vault_name: self.name.clone(),
            text: self.configuration.clone(),
        });
        let source = SyncSource { session, points, configuration };
        let (realm, anchor, ledger) = (&self.realm, &mut self.anchor, &self.ledger);
        let copying = sync(realm, anchor, ledger, source, &options, &around, monitor.clone());
        // Without this a stop would have to wait until the network is back.
        let copied = engine.run_stoppable(copying, monitor.as_ref());
        Ok(copied.unwrap_or_else(|| Err(storepool::Error::Interrupted.into()))?)
    }

    /// Proves what the vault holds of this server. Nothing is changed there; what is damaged no later sync relies on.
    pub(crate) fn check(
        &self,
        engine: &Engine,
        options: &CheckOptions,
        monitor: Arc<dyn Monitor>,
    ) -> Result<CheckReport, Cause> {
        let known = self.ledger.snapshot(self.realm.keys())?;
        let now = engine.around().clock.now();
        let (report, state) = engine.run(check(&self.realm, known, options, now, monitor))?;
        remember(&self.ledger, &state, &report, options)?;
        Ok(report)
    }

    /// Replaces what is damaged in the vault, from the pool or from what is left of it.
    pub(crate) fn heal(
        &mut self,
        engine: &Engine,
        pool: &Arc<Pool>,
        options: &CheckOptions,
        monitor: Arc<dyn Monitor>,
    ) -> Result<(CheckReport, HealReport), Cause> {
        let session = Arc::new(pool.begin_session()?);
        let around = engine.around();
        let mut writing = self.writing(&around);
        Ok(engine.run(heal(&mut writing, session, options, monitor))?)
    }

    /// Returns what a change of the vault's state needs.
    pub(crate) fn writing<'a>(&'a mut self, around: &'a Surroundings<'a>) -> Writing<'a> {
        let (realm, anchor, ledger) = (&self.realm, &mut self.anchor, &self.ledger);
        Writing { realm, anchor, ledger, around }
    }

    /// Returns the newest state of this server in the vault.
    pub(crate) fn state(&mut self, engine: &Engine) -> Result<Snapshot, Cause> {
        let load = cloudsync::sync::load_to_write(&self.realm, &self.ledger, &mut self.anchor);
        Ok(engine.run(load)?)
    }
}

// The vault was reached; what its owner says is asked once in a while.
fn note_contact(engine: &Engine, contact: &mut Contact, vault: &Vault) -> Result<(), Cause> {
    let now = engine.around().clock.now();
    contact.reached(now);
    if let Err(error) = engine.run(contact.refresh(vault, now)) {
        tracing::warn!(%error, "the state of the vault cannot be read");
    }
    Ok(contact.save()?)
}

/// Opens this server's part of a vault to read from it: without a lock, and whatever became of the right to write there.
pub(crate) fn look_into(
    assembly: &Assembly,
    engine: &Engine,
    name: &str,
    config: &VaultConfig,
) -> Result<(Realm, Snapshot), Cause> {
    let files = VaultFiles::of(&assembly.place, name);
    if !files.is_registered() {
        return Err(Cause::NotRegistered { vault: name.to_string() });
    }
    let credentials = Credentials::load(&config.credentials)?;
    let key = files.load_key()?;
    let realm = engine.open(&credentials)?.unlock_with(&key)?;
    let (snapshot, damage) = engine.run(realm.load_readable())?;
    if let Some(damage) = damage {
        assembly
            .console
            .warn(format!("{damage}; what was committed there and later cannot be seen"));
    } else if let Ok(Some(anchor)) = Anchor::load(&files.anchor(), realm.keys())
        && let Err(error) = engine.run(realm.compare(&anchor, &snapshot))
    {
        assembly.console.warn(format!("{error}; what it shows is read all the same"));
    }
    Ok((realm, snapshot))
}

/// Registers this installation: keys, first commit, key file. Run again after a break, it ends what was begun.
pub(crate) fn register(
    engine: &Engine,
    files: &VaultFiles,
    credentials: &Credentials,
    label: &Label,
    passphrase: &Passphrase,
) -> Result<(), Cause> {
    files.create()?;
    let vault = engine.open(credentials)?;
    let limits = KdfLimits::of_this_machine();
    let anchor = files.anchor();
    let server =
        NewServer { label, passphrase, costs: KdfCosts::fitting(&limits), anchor: &anchor };
    let key = match engine.run(vault.register(credentials, server, &engine.around())) {
        Ok(registration) => registration.key,
        // Registered by a run that ended before it could keep the key: the anchor is the proof.
        Err(error @ cloudsync::Error::LabelTaken { .. }) if anchor.exists() => {
            let unlocked = unlock(engine, &vault, label, passphrase)?;
            let keys = unlocked.realm.keys().as_ref().clone();
            match Anchor::load(&anchor, &keys) {
                Ok(Some(anchor)) => {
                    UnlockedKey { vault: vault.id(), instance: anchor.instance(), keys }
                }
                _ => return Err(error.into()),
            }
        }
        Err(error) => return Err(error.into()),
    };
    Ok(key.save(&files.key())?)
}

/// Opens a server's part of a vault with its passphrase, as on a machine that has nothing else.
pub(crate) fn unlock(
    engine: &Engine,
    vault: &Vault,
    label: &Label,
    passphrase: &Passphrase,
) -> Result<Unlocked, cloudsync::Error> {
    let limits = KdfLimits::of_this_machine();
    engine.run(async {
        let server = vault.server(label).await?;
        vault.unlock(&server, passphrase, &limits).await
    })
}

/// Chooses a vault of the configuration: the one that is named, or the only one.
pub(crate) fn choose<'a>(
    config: &'a Config,
    name: Option<&str>,
) -> Result<(&'a str, &'a VaultConfig), Error> {
    let mut vaults = config.vaults.iter();
    match (name, vaults.next(), vaults.next()) {
        (Some(name), ..) => config
            .vaults
            .get_key_value(name)
            .map(|(name, vault)| (name.as_str(), vault))
            .ok_or_else(|| {
                Error::usage(format!("there is no [vault.{name}] in the configuration"))
            }),
        (None, Some((name, vault)), None) => Ok((name, vault)),
        (None, None, _) => {
            let cause = Cause::NoVault { path: config.path.clone() };
            Err(Error { attempt: String::new(), cause })
        }
        (None, ..) => {
            let names: Vec<_> = config.vaults.keys().cloned().collect();
            Err(Error::usage(format!("there are several vaults: name one of {}", names.join(", "))))
        }
    }
}

/// Reads a passphrase from a file that the administrator named.
pub(crate) fn read_passphrase(path: &Path) -> Result<Passphrase, Cause> {
    let bytes = SystemDisk
        .read(path, PASSPHRASE_FILE_LIMIT)
        .map(Zeroizing::new)
        .map_err(|cause| Cause::Io { action: "read", path: path.to_path_buf(), cause })?;
    Ok(Passphrase::from_file(&bytes).map_err(cloudsync::Error::from)?)
}

/// Generates a passphrase into a new file that only its owner can read; durable on return.
pub(crate) fn generate_passphrase(engine: &Engine, path: &Path) -> Result<Passphrase, Cause> {
    let passphrase = Passphrase::generate(engine.around().entropy);
    let io = |action| move |cause| Cause::Io { action, path: path.to_path_buf(), cause };
    let text = Zeroizing::new(format!("{}\n", passphrase.expose()));
    // Never over an existing file: it may be the passphrase of something.
    let mut file = SystemDisk.create(path).map_err(io("create"))?;
    file.append(text.as_bytes()).and_then(|()| file.sync()).map_err(io("write"))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    SystemDisk
        .sync_directory(parent.unwrap_or(Path::new(".")))
        .map_err(io("sync the folder of"))?;
    Ok(passphrase)
}

/// Ends a progress line that was shared with threads that have ended.
pub(crate) fn finish(progress: Arc<Progress>) -> std::time::Duration {
    Arc::into_inner(progress).map(Progress::finish).unwrap_or_default()
}
