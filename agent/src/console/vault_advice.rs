//! What a person can do about a vault that refuses: each kind of failure has its own answer.

use cloudsync::Error;
use cloudsync::error::{SealError, StoreFault};

use super::failure::{DAMAGE, FAILED, NO_POOL, NO_SPACE, REFUSED, USAGE, WRONG_PASSPHRASE};

/// Returns the exit code and the advice for a failure of a vault.
pub(super) fn advise_vault(error: &Error) -> (u8, Option<String>) {
    let (code, hint) = advise(error);
    (code, (!hint.is_empty()).then(|| hint.to_string()))
}

fn advise(error: &Error) -> (u8, &'static str) {
    match error {
        Error::WrongPassphrase { .. } => (
            WRONG_PASSPHRASE,
            "passphrases are case sensitive; without the right one nobody can read this server's points",
        ),
        Error::Passphrase(_) => (USAGE, "let Keepwell make one with --generate-passphrase FILE"),
        Error::NotAVault { .. } => (
            NO_POOL,
            "is the place mounted, and the address right? To make a vault there, run \"keepwell vault create\"",
        ),
        Error::OtherVault { .. } => {
            (FAILED, "use the credentials file that was made for this vault")
        }
        Error::VaultExists { .. } => {
            (FAILED, "use the credentials file that was made with it, or choose another place")
        }
        Error::CredentialsDamaged { .. } => {
            (USAGE, "use a credentials file as \"keepwell vault create\" writes it")
        }
        Error::CredentialsExpired { .. } => (
            REFUSED,
            "they are still good for recovery; if the time is wrong, set this machine's clock, else ask the vault's owner for new ones",
        ),
        Error::Address { .. } => (
            USAGE,
            "name an absolute folder or a URL: file:///dir, s3://bucket/prefix, az://container/prefix, gs://bucket/prefix",
        ),
        Error::Access { .. } => (
            USAGE,
            "they stand in the credentials file below [access], or come from AWS_*, AZURE_* or GOOGLE_* variables",
        ),
        Error::LabelTaken { .. } => (
            FAILED,
            "choose another name with --label, or use \"keepwell recover\" to get that server's points",
        ),
        Error::NoSuchServer { .. } => (FAILED, "run \"keepwell recover --servers\" to list them"),
        Error::NoSuchPoint { .. } => (FAILED, "run \"keepwell recover --list\" to see all points"),
        Error::Rewound { .. } | Error::Forked { .. } => (
            DAMAGE,
            "nothing is written there any more; recovery is still possible; ask the vault's owner what was done to it",
        ),
        Error::TakenOver { .. } | Error::Twin { .. } => (
            REFUSED,
            "if this machine was copied or restored, only one of the two may go on: \"keepwell recover --adopt\" makes this one the right one; nothing was harmed",
        ),
        Error::LastPoint { .. } => {
            (REFUSED, "the last point of a data source stays; make a newer one first")
        }
        Error::TooManyPoints { .. } => {
            (REFUSED, "run \"keepwell forget --vault\" with a retention that fits")
        }
        Error::TooManySlots { .. } | Error::SlotExists { .. } | Error::NoSuchSlot { .. } => {
            (USAGE, "run \"keepwell key list\" to see all passphrases")
        }
        Error::LastSlot { .. } => (
            REFUSED,
            "add another one first with \"keepwell key add\", or change it with \"keepwell key passwd\"",
        ),
        Error::NoOwner | Error::OtherOwner { .. } | Error::OwnerFileDamaged { .. } => (
            USAGE,
            "use the owner file that \"keepwell vault create\" wrote beside the credentials",
        ),
        Error::KeyFileExposed { .. } => {
            (REFUSED, "take the rights away from others with chmod 600")
        }
        Error::CreateNotExclusive { .. } | Error::StoreUnsound { .. } => {
            (FAILED, "this store cannot keep a vault safely; choose another one")
        }
        Error::Store(error) => match error.fault {
            StoreFault::NoSpace => (NO_SPACE, "make room in the vault's place"),
            StoreFault::Unreachable | StoreFault::Timeout => {
                (FAILED, "is the place mounted, and the network up? Local backups go on without it")
            }
            StoreFault::Unauthenticated | StoreFault::PermissionDenied => (
                FAILED,
                "check the rights of this user there, and the access keys in the credentials file",
            ),
            StoreFault::WrongClock => (FAILED, "set this machine's clock, then try again"),
            StoreFault::NoPlace => (
                FAILED,
                "check the address and the endpoint; buckets and containers are made by their owner, not by Keepwell",
            ),
            StoreFault::Untrusted => (
                FAILED,
                "if the server has a certificate of your own authority, name it with --ca-file; nothing was sent",
            ),
            StoreFault::Busy { .. } => (FAILED, "try again later; local backups go on without it"),
            _ => (FAILED, ""),
        },
        Error::Damaged { reason: SealError::Cost { .. }, .. } => {
            (FAILED, "use a machine with more memory")
        }
        error if error.is_damage() => (
            DAMAGE,
            "\"keepwell repair --vault\" replaces what the pool has; recovery of what is not affected is still possible",
        ),
        _ => (FAILED, ""),
    }
}
