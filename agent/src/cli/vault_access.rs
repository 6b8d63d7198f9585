//! How the store of a vault is reached, on the command line: never a secret itself, only files that hold one.

use std::path::{Path, PathBuf};

use clap::Args;
use cloudsync::store::access::{
    ACCESS_KEY_ID, ACCOUNT, ACCOUNT_KEY, Access, AccessValue, CA_CERTIFICATES, ENDPOINT, PROXY,
    REGION, SAS, SECRET_ACCESS_KEY, SERVICE_ACCOUNT,
};
use storepool::disk::{Disk, SystemDisk};
use zeroize::Zeroizing;

use crate::error::{Attempt, Cause, Error};

/// Longest file with a key or with certificates: a bundle of all authorities of the world is a third of it.
const FILE_LIMIT: u64 = 1 << 20;

/// Options of the store; those that are given go into the credentials file.
#[derive(Args, Debug)]
#[command(
    next_help_heading = "Access to a bucket (else from AWS_*, AZURE_* and GOOGLE_* variables)"
)]
pub(super) struct StoreAccess {
    /// The server, if it is not the provider's own
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// S3: the region
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// S3: the name of the access key
    #[arg(long, value_name = "ID", requires = "secret_key_file")]
    access_key_id: Option<String>,
    /// S3: read the access key from FILE
    #[arg(long, value_name = "FILE", requires = "access_key_id")]
    secret_key_file: Option<PathBuf>,
    /// Azure: the storage account
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// Azure: read the account's key from FILE
    #[arg(long, value_name = "FILE")]
    account_key_file: Option<PathBuf>,
    /// Azure: read a shared access signature from FILE
    #[arg(long, value_name = "FILE", conflicts_with = "account_key_file")]
    sas_file: Option<PathBuf>,
    /// Google: read the key of a service account (JSON) from FILE
    #[arg(long, value_name = "FILE")]
    service_account_file: Option<PathBuf>,
    /// Trust the certificates (PEM) in FILE besides the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Go through this proxy, or "off" for none (HTTPS_PROXY)
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
}

impl StoreAccess {
    /// Reads what was given.
    pub(super) fn read(&self) -> Result<Access, Error> {
        let attempt = || "read how to reach the vault".to_string();
        if [&self.endpoint, &self.proxy].into_iter().flatten().any(|url| has_password(url)) {
            return Err(Error::usage(
                "a password does not belong on the command line: write it into the credentials file, or set HTTPS_PROXY",
            ));
        }
        let mut access = Access::new();
        for (name, value) in [
            (ENDPOINT, &self.endpoint),
            (REGION, &self.region),
            (ACCESS_KEY_ID, &self.access_key_id),
            (ACCOUNT, &self.account),
            (PROXY, &self.proxy),
        ] {
            if let Some(value) = value {
                access.insert(name.to_string(), AccessValue::new(value));
            }
        }
        for (name, file) in [
            (SECRET_ACCESS_KEY, &self.secret_key_file),
            (ACCOUNT_KEY, &self.account_key_file),
            (SAS, &self.sas_file),
            (SERVICE_ACCOUNT, &self.service_account_file),
            (CA_CERTIFICATES, &self.ca_file),
        ] {
            if let Some(file) = file {
                access.insert(name.to_string(), read_value(file).attempt(attempt)?);
            }
        }
        Ok(access)
    }
}

// user:password@ between the slashes of the scheme and of the path.
fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().is_some_and(|authority| authority.contains('@'))
}

fn read_value(file: &Path) -> Result<AccessValue, Cause> {
    let io = |cause| Cause::Io { action: "read", path: file.to_path_buf(), cause };
    let bytes = SystemDisk.read(file, FILE_LIMIT).map(Zeroizing::new).map_err(io)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| io(std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not text")))?;
    Ok(AccessValue::new(text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_seen() {
        for (url, has) in [
            ("http://proxy:3128", false),
            ("http://user:word@proxy:3128/", true),
            ("user:word@proxy", true),
            ("https://s3.example/a@b", false),
            ("off", false),
        ] {
            assert_eq!(has_password(url), has, "{url}");
        }
    }
}
