//! What can go wrong with a vault: facts told apart by what the reader has to do about them, never advice.

use std::path::PathBuf;
use std::time::Duration;

use crate::layout::{Generation, InstanceId, Label, ObjectName, RealmId, VaultId};

/// The result of an operation on a vault.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the store could not do what it was asked to, by meaning; the words of the store are in the source of
/// [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreFault {
    /// No object has this name.
    NotFound,
    /// An object of this name exists, so it was not created. After a lost answer it may be one's own.
    AlreadyExists,
    /// The store does not know who is asking.
    Unauthenticated,
    /// The store knows who is asking and refuses.
    PermissionDenied,
    /// The login is refused because this machine's clock and the store's differ too much.
    WrongClock,
    /// There is no such bucket or container: not a missing object, but no place for one.
    NoPlace,
    /// The server's certificate is not one that this machine trusts, so nothing was said to it.
    Untrusted,
    /// No answer in time; the request may have been carried out.
    Timeout,
    /// No connection; the request may have been carried out if it broke later.
    Unreachable,
    /// The store asks for patience.
    Busy {
        /// How long it asks to wait, if it says so.
        retry_after: Option<Duration>,
    },
    /// The store is full.
    NoSpace,
    /// The answer contradicts the request or itself: too long, too short, unreadable.
    Corrupt,
    /// Anything else.
    Other,
}

impl StoreFault {
    /// Returns whether asking again may help.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Timeout | Self::Unreachable | Self::Busy { .. })
    }

    /// Returns whether the request may have been carried out in spite of the error.
    pub fn is_ambiguous(self) -> bool {
        matches!(
            self,
            Self::Timeout
                | Self::Unreachable
                | Self::Busy { .. }
                | Self::AlreadyExists
                | Self::Other
        )
    }

    fn words(self) -> &'static str {
        match self {
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::Unauthenticated => "login refused",
            Self::PermissionDenied => "permission denied",
            Self::WrongClock => "login refused because of a wrong clock",
            Self::NoPlace => "there is no such bucket",
            Self::Untrusted => "the server's certificate is not trusted",
            Self::Timeout => "no answer in time",
            Self::Unreachable => "no connection",
            Self::Busy { .. } => "the store is busy",
            Self::NoSpace => "no space left in the store",
            Self::Corrupt => "the answer is damaged",
            Self::Other => "the store failed",
        }
    }
}

/// A request to the store that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} \"{object}\": {}", fault.words())]
pub struct StoreError {
    /// What was asked for: a verb.
    pub action: &'static str,
    /// Which object, prefix or place.
    pub object: String,
    /// What it means.
    pub fault: StoreFault,
    /// The store's own words, if it has any.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StoreError {
    /// Creates an error without words of the store.
    pub fn new(action: &'static str, object: impl Into<String>, fault: StoreFault) -> Self {
        Self { action, object: object.into(), fault, source: None }
    }

    /// Adds the words of the store.
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

/// Why a passphrase is not acceptable. Never holds any of its characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassphraseError {
    /// Fewer than 16 characters.
    #[error("the passphrase has {characters} characters; at least 16 are needed")]
    TooShort {
        /// How many it has.
        characters: usize,
    },
    /// More than 1,024 bytes.
    #[error("the passphrase has {bytes} bytes; at most 1024 are allowed")]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
    /// A line break, tab or other control character.
    #[error("the passphrase contains a line break or another control character")]
    ControlCharacter,
    /// Not UTF-8.
    #[error("the passphrase is not valid UTF-8 text")]
    NotText,
}

/// Why sealed bytes were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The length does not fit the header, or there is no room for one.
    #[error("the length is wrong")]
    Length,
    /// The first bytes are not those of such an object.
    #[error("it does not begin like a sealed object")]
    Magic,
    /// A newer version, or bytes that were changed.
    #[error("unknown {field} {value}")]
    Unknown {
        /// Which field of the header.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// Bytes that must be zero are not.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// Another type of object than asked for.
    #[error("it is a {found}, not a {expected}")]
    Kind {
        /// What it is.
        found: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// An object of another realm.
    #[error("it belongs to another server")]
    Realm,
    /// The key commitment matches none of the keys.
    #[error("it was sealed with another key")]
    Key,
    /// A tag or the synthetic salt does not match.
    #[error("its content was changed")]
    Content,
    /// The name does not match the content.
    #[error("its content does not match its name")]
    Name,
    /// Asking for more memory or time than a reader will spend, or for less than is safe.
    #[error("{field} of {value} is outside of {least} to {most}")]
    Cost {
        /// Which parameter.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The least accepted.
        least: u64,
        /// The most accepted.
        most: u64,
    },
    /// The plaintext breaks the format.
    #[error("{0}")]
    Format(&'static str),
}

impl From<storepool::wire::WireError> for SealError {
    fn from(error: storepool::wire::WireError) -> Self {
        Self::Format(error.0)
    }
}

/// A fact that stopped an operation on a vault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store did not do what it was asked to.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The passphrase cannot be used for a new slot.
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    /// The address is of a kind that this build does not know, or is not an address.
    #[error("the vault address \"{address}\" cannot be used: {reason}")]
    Address {
        /// The address, without secrets.
        address: String,
        /// Why.
        reason: &'static str,
    },
    /// The options of the store cannot be used.
    #[error("the access options for {address} cannot be used: {reason}")]
    Access {
        /// Which store.
        address: String,
        /// Why; never with the value of an option that may be a key.
        reason: String,
    },
    /// There is no descriptor.
    #[error("there is no vault at {address}")]
    NotAVault {
        /// Where.
        address: String,
    },
    /// A vault was to be made where one is.
    #[error("there is a vault at {address} already: {vault}")]
    VaultExists {
        /// Where.
        address: String,
        /// Which.
        vault: VaultId,
    },
    /// The credentials belong to another vault than the one at the address.
    #[error("the credentials are for vault {expected}, but at {address} is vault {found}")]
    OtherVault {
        /// Where.
        address: String,
        /// The vault of the credentials.
        expected: VaultId,
        /// The vault that is there.
        found: VaultId,
    },
    /// The credentials file cannot be understood.
    #[error("the credentials file is damaged: {reason}")]
    CredentialsDamaged {
        /// What is wrong with it.
        reason: String,
    },
    /// The credentials can no longer be used to register, only to recover.
    #[error("the credentials expired for registration at {expired}; the vault's clock says {now}")]
    CredentialsExpired {
        /// When.
        expired: String,
        /// The vault's time.
        now: String,
    },
    /// The store does not refuse to overwrite, so two writers could destroy each other's work.
    #[error("the store at {address} overwrites an existing object instead of refusing")]
    CreateNotExclusive {
        /// Where.
        address: String,
    },
    /// The store does not give back what was written, or does not list it.
    #[error("the store at {address} failed its test: {reason}")]
    StoreUnsound {
        /// Where.
        address: String,
        /// Which promise it broke.
        reason: &'static str,
    },
    /// Another server of the vault has this label.
    #[error("the label \"{label}\" is taken by another server of this vault")]
    LabelTaken {
        /// The label.
        label: Label,
    },
    /// No server of the vault has this label.
    #[error("no server \"{label}\" is registered with this vault")]
    NoSuchServer {
        /// The label asked for.
        label: String,
    },
    /// No passphrase slot opens.
    #[error("wrong passphrase for server \"{label}\"")]
    WrongPassphrase {
        /// The server.
        label: String,
    },
    /// A sealed or plain object of the vault is not what it should be.
    #[error("\"{object}\" in the vault is damaged: {reason}")]
    Damaged {
        /// Which.
        object: String,
        /// In what way.
        reason: SealError,
    },
    /// The chain of commits contradicts itself.
    #[error("commit {generation} is not valid: {reason}")]
    ChainBroken {
        /// At which commit.
        generation: Generation,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// The vault shows less than this server has seen there before.
    #[error(
        "the vault shows {found}, but this server has seen {anchored} there: it was rewound or restored"
    )]
    Rewound {
        /// The highest commit the vault shows.
        found: Generation,
        /// The highest commit this server knows of.
        anchored: Generation,
    },
    /// The vault shows another history than this server has seen.
    #[error("the vault shows another {generation} than this server has seen there")]
    Forked {
        /// Where the histories differ.
        generation: Generation,
    },
    /// Another installation took over this server's place in the vault.
    #[error(
        "another installation ({owner}) took over this server's place in the vault at {generation}"
    )]
    TakenOver {
        /// Who owns it now.
        owner: InstanceId,
        /// The newest commit.
        generation: Generation,
    },
    /// A commit in this installation's name that it did not write: there is a copy of this machine.
    #[error("a copy of this installation is writing to the vault: it wrote {generation}")]
    Twin {
        /// The first commit that is not ours.
        generation: Generation,
    },
    /// Somebody else committed first; the decision must be made again on the new state.
    #[error("another commit became {generation} first")]
    CommitLost {
        /// Which.
        generation: Generation,
    },
    /// It could not be learnt whether the commit was carried out.
    #[error("it is not known whether commit {generation} reached the vault")]
    CommitUnknown {
        /// Which.
        generation: Generation,
        /// Why.
        #[source]
        cause: StoreError,
    },
    /// The anchor file is not what this installation wrote.
    #[error("the anchor file {path} is damaged: {reason}")]
    AnchorDamaged {
        /// Which file.
        path: PathBuf,
        /// In what way.
        reason: &'static str,
    },
    /// The key file is not what this installation wrote.
    #[error("the key file {path} is damaged: {reason}")]
    KeyFileDamaged {
        /// Which file.
        path: PathBuf,
        /// In what way.
        reason: String,
    },
    /// Others than its owner could read the key file.
    #[error("the key file {path} can be read by others: mode {mode:o}, owner {owner}")]
    KeyFileExposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its owner.
        owner: u32,
    },
    /// The key belongs to another realm or vault than it is used for.
    #[error("the key is for server {found}, not for server {expected}")]
    OtherRealm {
        /// The realm that was asked for.
        expected: RealmId,
        /// The realm of the key.
        found: RealmId,
    },
    /// A local file could not be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// A verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        cause: std::io::Error,
    },
    /// A limit of the format would be passed.
    #[error("{what} would be larger than the format allows")]
    TooLarge {
        /// What.
        what: &'static str,
    },
    /// The pool, or the restore, failed.
    #[error(transparent)]
    Pool(#[from] storepool::Error),
    /// No point of the server has this name.
    #[error("no recovery point in the vault matches \"{name}\"")]
    NoSuchPoint {
        /// As it was asked for.
        name: String,
    },
    /// The last point of a data source never goes.
    #[error("point {} is the last one of \"{source_name}\" in the vault", point.short())]
    LastPoint {
        /// The point.
        point: storepool::id::PointId,
        /// Its data source.
        source_name: String,
    },
    /// A data source would have more points than it can.
    #[error(
        "\"{source_name}\" has {} points in the vault already, the most there can be",
        crate::retention::POINTS_PER_SOURCE
    )]
    TooManyPoints {
        /// The data source.
        source_name: String,
    },
    /// A realm has as many passphrase slots as it can.
    #[error("there are {most} passphrases already, the most there can be")]
    TooManySlots {
        /// The most.
        most: usize,
    },
    /// No passphrase slot has this name.
    #[error("there is no passphrase \"{name}\"")]
    NoSuchSlot {
        /// As it was asked for.
        name: String,
    },
    /// Another passphrase slot has this name.
    #[error("there is a passphrase \"{name}\" already")]
    SlotExists {
        /// The name.
        name: String,
    },
    /// Without any passphrase nobody could ever recover.
    #[error("\"{name}\" is the last passphrase: without it nobody could recover anything")]
    LastSlot {
        /// Its name.
        name: String,
    },
    /// The vault has no owner's key, so its state cannot be set.
    #[error("the vault was made without an owner's key: its state cannot be set")]
    NoOwner,
    /// The key is not that of the vault's owner.
    #[error("the owner's key is for vault {found}, not for vault {expected}")]
    OtherOwner {
        /// The vault.
        expected: VaultId,
        /// The vault that the key is for.
        found: VaultId,
    },
    /// The owner file cannot be understood.
    #[error("the owner file is damaged: {reason}")]
    OwnerFileDamaged {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A computation in the background was cut off.
    #[error("internal error in {stage}")]
    Interrupted {
        /// Which part.
        stage: &'static str,
    },
}

impl Error {
    /// Returns an error for an object that was refused.
    pub fn damaged(object: &ObjectName, reason: impl Into<SealError>) -> Self {
        Self::Damaged { object: object.to_string(), reason: reason.into() }
    }

    /// Returns a closure that wraps an I/O error with what was done to which local file.
    pub fn file(
        action: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |cause| Self::File { action, path, cause }
    }

    /// Returns what the store's refusal means, if it was the store that failed.
    pub fn store_fault(&self) -> Option<StoreFault> {
        match self {
            Self::Store(error) | Self::CommitUnknown { cause: error, .. } => Some(error.fault),
            _ => None,
        }
    }

    /// Returns whether the error says that the vault's bytes are wrong or gone.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Damaged { .. }
                | Self::ChainBroken { .. }
                | Self::Rewound { .. }
                | Self::Forked { .. }
        )
    }

    /// Returns whether the error says that bytes are wrong or gone, in the vault or in the pool, and not that they cannot be had just now.
    pub fn is_gap(&self) -> bool {
        let fault = matches!(self.store_fault(), Some(StoreFault::NotFound | StoreFault::Corrupt));
        fault || self.is_damage() || matches!(self, Self::Pool(error) if error.is_damage())
    }
}
