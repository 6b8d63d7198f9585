//! Real servers for the stories of the vault, each started by the test that needs it: on free ports of the loopback, with its data below a
//! temporary folder, and gone when the test is, however it ends.

mod azurite;
mod azurite_table;
mod cable;
mod calendar;
mod ceph;
mod certificate;
mod fault_proxy;
pub(crate) mod mariadb;
mod moto;
mod mysql;
pub(crate) mod postgres;
mod process;
mod rclone;
mod tunnel;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cloudsync::store::access::{Access, AccessValue};
use cloudsync::store::{ObjectStore, Opening, VaultAddress};
use storepool::clock::SystemClock;

pub(crate) use azurite::Azurite;
pub(crate) use azurite_table::AzuriteTable;
pub(crate) use cable::Cable;
pub(crate) use calendar::Calendar;
pub(crate) use ceph::Ceph;
pub(crate) use certificate::Certificate;
pub(crate) use fault_proxy::{Fault, FaultProxy};
pub(crate) use mariadb::Mariadb;
pub(crate) use moto::Moto;
pub(crate) use mysql::Mysql;
pub(crate) use postgres::Postgres;
pub(crate) use rclone::Rclone;
pub(crate) use tunnel::Tunnel;

/// A place for a vault on a server, and how it is reached.
#[derive(Clone)]
pub(crate) struct Place {
    /// The address, as `vault create` takes it.
    pub(crate) url: String,
    /// `http://127.0.0.1:port`, with whatever follows.
    pub(crate) endpoint: String,
    /// Options that are no secret: the option of the command line, its name in the credentials file, the value.
    plain: Vec<(&'static str, &'static str, String)>,
    /// The secret: the option that names a file with it, its name in the credentials file, the value.
    secret: (&'static str, &'static str, String),
}

impl Place {
    /// Returns a place in a bucket of an S3 server.
    pub(crate) fn s3(url: String, endpoint: String, id: &str, secret: &str) -> Self {
        Self {
            url,
            endpoint,
            plain: vec![("--access-key-id", "access_key_id", id.to_string())],
            secret: ("--secret-key-file", "secret_access_key", secret.to_string()),
        }
    }

    /// Returns a place in a container of an Azure server.
    pub(crate) fn azure(url: String, endpoint: String, account: &str, key: &str) -> Self {
        Self {
            url,
            endpoint,
            plain: vec![("--account", "account", account.to_string())],
            secret: ("--account-key-file", "account_key", key.to_string()),
        }
    }

    /// Returns the same place, reached another way.
    pub(crate) fn through(&self, endpoint: String) -> Self {
        Self { endpoint, ..self.clone() }
    }

    /// Returns the same place, for somebody who has the wrong key.
    pub(crate) fn with_secret(&self, secret: &str) -> Self {
        let mut place = self.clone();
        place.secret.2 = secret.to_string();
        place
    }

    /// Returns the same server, another address on it.
    pub(crate) fn at(&self, url: &str) -> Self {
        Self { url: url.to_string(), ..self.clone() }
    }

    /// Returns the arguments that tell the program how to get here; the secret is put into a file in `folder`.
    pub(crate) fn arguments(&self, folder: &Path) -> Vec<String> {
        let file = folder.join("store-secret");
        std::fs::write(&file, format!("{}\n", self.secret.2)).expect("a file");
        let mut arguments = vec!["--endpoint".to_string(), self.endpoint.clone()];
        for (option, _, value) in &self.plain {
            arguments.extend([option.to_string(), value.clone()]);
        }
        arguments.extend([self.secret.0.to_string(), file.display().to_string()]);
        arguments
    }

    /// Returns what must never be seen anywhere.
    pub(crate) fn secret(&self) -> &str {
        &self.secret.2
    }

    /// Opens the store here, without the program.
    pub(crate) fn open(&self) -> Arc<dyn ObjectStore> {
        self.open_with(|_| {})
    }

    /// Opens the store here, in another way than usual.
    pub(crate) fn open_with(&self, change: impl FnOnce(&mut Opening)) -> Arc<dyn ObjectStore> {
        let mut access = Access::from([("endpoint".to_string(), AccessValue::new(&self.endpoint))]);
        for (_, name, value) in &self.plain {
            access.insert(name.to_string(), AccessValue::new(value));
        }
        access.insert(self.secret.1.to_string(), AccessValue::new(&self.secret.2));
        let address: VaultAddress = self.url.parse().expect("an address");
        let mut opening = Opening::new(access, Arc::new(SystemClock::new()));
        change(&mut opening);
        address.open(&opening).expect("a store is opened without asking it")
    }
}

/// Returns where the servers were installed.
fn tools() -> PathBuf {
    let cache = || match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache"),
    };
    match std::env::var_os("KEEPWELL_TEST_TOOLS") {
        Some(tools) => tools.into(),
        None => cache().join("keepwell-tests"),
    }
}

/// Returns an installed program; without it the test fails, because a store that is not tested is not supported.
fn tool(path: &str) -> PathBuf {
    let program = tools().join(path);
    let missing = program.display();
    assert!(program.exists(), "{missing} is not installed: run tests/e2e/servers/install");
    program
}

// Signature version 4 in Python's own library: what curl of Debian 12 sends is not what Ceph understands.
const S3_REQUEST: &str = r#"
import hashlib, hmac, sys, time, urllib.parse, urllib.request
method, url, name, secret, path = sys.argv[1:]
body = open(path, "rb").read() if path else b""
parts, now = urllib.parse.urlsplit(url), time.gmtime()
stamp, day = time.strftime("%Y%m%dT%H%M%SZ", now), time.strftime("%Y%m%d", now)
headers = {"host": parts.netloc, "x-amz-content-sha256": hashlib.sha256(body).hexdigest(), "x-amz-date": stamp}
names = ";".join(sorted(headers))
lines = "".join(f"{key}:{headers[key]}\n" for key in sorted(headers))
request = f"{method}\n{parts.path}\n\n{lines}\n{names}\n{headers['x-amz-content-sha256']}"
scope = f"{day}/us-east-1/s3/aws4_request"
text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
key = ("AWS4" + secret).encode()
for part in scope.split("/"):
    key = hmac.new(key, part.encode(), hashlib.sha256).digest()
signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={name}/{scope}, SignedHeaders={names}, Signature={signature}"
headers["content-type"] = "application/octet-stream"
asked = urllib.request.Request(url, data=body or None, method=method, headers=headers)
sys.stdout.buffer.write(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked).read())
"#;

/// Asks an S3 server without the program, and returns the answer; fails if the server refuses.
fn signed(id: &str, secret: &str, method: &str, url: &str, file: Option<&Path>) -> Vec<u8> {
    let file = file.map(|file| file.display().to_string()).unwrap_or_default();
    let mut command = Command::new("python3");
    command.args(["-c", S3_REQUEST, method, url, id, secret, &file]);
    let output = command.output().expect("python3 is installed");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{method} {url}: {complaint}");
    output.stdout
}
