//! What can go wrong between us and a database: facts, each naming the server or the object.

use std::io;
use std::path::PathBuf;

use crate::error::Cause;
use crate::workload::WorkloadError;

/// Why a database could not be backed up or brought back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostgresError {
    /// There is no way to the server.
    #[error("cannot connect to {server}")]
    Unreachable {
        /// Socket or host.
        server: String,
        /// The system's answer.
        #[source]
        cause: io::Error,
    },
    /// The connection ended or stood still in the middle.
    #[error("the connection to {server} broke")]
    Broken {
        /// Socket or host.
        server: String,
        /// The system's answer.
        #[source]
        cause: io::Error,
    },
    /// The server has no TLS, and it is wanted.
    #[error("{server} offers no TLS")]
    NoTls {
        /// Host.
        server: String,
    },
    /// There is no TLS with the server that could be relied on.
    #[error("no protected connection to {server}")]
    Tls {
        /// Host.
        server: String,
        /// What is wrong, perhaps with its certificate.
        #[source]
        cause: io::Error,
    },
    /// The server said no.
    #[error("{server} says: {message} ({code})")]
    Refused {
        /// Socket or host.
        server: String,
        /// In the server's words.
        message: String,
        /// SQLSTATE.
        code: String,
    },
    /// The server asks for a password and there is none, or for one that must not travel so.
    #[error("{server} {asks}")]
    Password {
        /// Socket or host.
        server: String,
        /// What it asks.
        asks: &'static str,
    },
    /// The server is older than the protocol we speak.
    #[error("{server} is version {version}; physical backups need PostgreSQL 15 or newer")]
    TooOld {
        /// Socket or host.
        server: String,
        /// Its version.
        version: String,
    },
    /// What the server sent does not fit together.
    #[error("{server} sent something unexpected: {what}")]
    Unexpected {
        /// Socket or host.
        server: String,
        /// What.
        what: String,
    },
    /// The answer of the server differs from its own list of what it sent.
    #[error("what arrived of {server} is not what it sent: {what}")]
    NotAsSent {
        /// Socket or host.
        server: String,
        /// Which file, and how.
        what: String,
    },
    /// Its files cannot be read by us.
    #[error("the files of {server} cannot be read here: {why}")]
    NotReadHere {
        /// Socket or host.
        server: String,
        /// Why.
        why: String,
    },
    /// What was read does not make a base.
    #[error("what was read of {server} is no base: {what}")]
    NoBase {
        /// Socket or host.
        server: String,
        /// What is wrong.
        what: String,
    },
    /// A file of a point is not as it must be.
    #[error("{object} of the point cannot be used: {why}")]
    Unusable {
        /// Which file.
        object: String,
        /// Why.
        why: String,
    },
    /// A segment that recovery would need is not there.
    #[error("WAL segment {segment} is missing: {reachable} can be reached, {wanted} was asked for")]
    WalMissing {
        /// The first that is missing.
        segment: String,
        /// How far recovery would come.
        reachable: String,
        /// How far it was to come.
        wanted: String,
    },
    /// The target lies before the end of the base.
    #[error("the base was not consistent before {consistent}; {wanted} lies before")]
    TargetTooEarly {
        /// When or where the base ended.
        consistent: String,
        /// What was asked for.
        wanted: String,
    },
    /// What was pushed is not what it must be.
    #[error("{} is not the WAL that its name says: {why}", path.display())]
    NotThatWal {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A segment of that name with other content is in the pool.
    #[error("another {name} is in the pool already")]
    OtherWal {
        /// Its name.
        name: String,
    },
    /// The folder for a cluster holds something.
    #[error("{} is not empty", path.display())]
    TargetNotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// Tablespaces need a place of their own.
    #[error("a place has to be named for each tablespace: {}", options(locations))]
    TablespacesUnplaced {
        /// Where they were.
        locations: Vec<PathBuf>,
    },
    /// A file could not be worked with.
    #[error("cannot {action} {}", path.display())]
    File {
        /// A verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        cause: io::Error,
    },
}

// As they would be typed to have them where they were.
fn options(locations: &[PathBuf]) -> String {
    let option = |place: &PathBuf| format!("--tablespace {0}={0}", place.display());
    locations.iter().map(option).collect::<Vec<_>>().join(" ")
}

impl PostgresError {
    /// Returns what happened and why.
    pub(crate) fn chain(&self) -> String {
        match std::error::Error::source(self) {
            Some(cause) => format!("{self}: {cause}"),
            None => self.to_string(),
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Unreachable { .. } => {
                "does the server run, and do socket, host and port in the configuration fit?"
            }
            Self::NoTls { .. } => {
                "set ssl = on in the server; sslmode = \"disable\" in the source does without, where nobody else is on the way"
            }
            Self::Tls { .. } => {
                "sslrootcert names the file with the certificate of the server's authority; host must be a name that stands in the server's own"
            }
            Self::Refused { .. } | Self::Password { .. } => {
                "see docs/workloads/postgres.md for the role and the line of pg_hba.conf it needs"
            }
            Self::NotReadHere { .. } => {
                "read_from = \"server\" in the source has the server send them; see docs/workloads/postgres.md"
            }
            Self::WalMissing { .. } => {
                "name a target that can be reached, or --at latest if nothing is missing before the end; where the old server still runs, \"select pg_switch_wal()\" sends what is not here yet"
            }
            Self::TablespacesUnplaced { .. } => {
                "behind the = stands where it goes now; as printed, where it was"
            }
            Self::TargetTooEarly { .. } => "choose an older base: run \"keepwell points\"",
            Self::TargetNotEmpty { .. } => {
                "name an empty folder; a tablespace goes elsewhere with --tablespace OLD=NEW"
            }
            Self::OtherWal { .. } => {
                "two clusters send WAL to one source, or one was restored and still archives: give each a source of its own"
            }
            Self::TooOld { .. } => "physical = false with dump = true protects it by dumps",
            _ => return None,
        })
    }

    /// Returns a function that names the file of a failed call.
    pub(crate) fn file<'a>(
        action: &'static str,
        path: &'a std::path::Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |cause| Self::File { action, path: path.to_path_buf(), cause }
    }
}

impl From<PostgresError> for WorkloadError {
    fn from(error: PostgresError) -> Self {
        let hint = error.hint();
        let failed = Self::failed(error.to_string());
        let failed = match hint {
            Some(hint) => failed.hint(hint),
            None => failed,
        };
        match error {
            PostgresError::Unreachable { cause, .. }
            | PostgresError::Broken { cause, .. }
            | PostgresError::Tls { cause, .. }
            | PostgresError::File { cause, .. } => failed.because(cause),
            _ => failed,
        }
    }
}

impl From<PostgresError> for Cause {
    fn from(error: PostgresError) -> Self {
        WorkloadError::from(error).into()
    }
}
