//! Azurite: Microsoft's own emulator of Azure Blob Storage. Checks signatures.

use std::process::Command;

use tempfile::TempDir;

use super::process::{ServerProcess, free_ports};
use super::{Place, tool};

const CONTAINER: &str = "keepwell-tests";
pub(super) const ACCOUNT: &str = "devstoreaccount1";
// Of the emulator, published by Microsoft, the same everywhere.
pub(super) const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
// Makes the container: only whoever holds the account's key may.
const MAKE_CONTAINER: &str = r#"
import base64, hashlib, hmac, sys, urllib.request
from email.utils import formatdate
endpoint, account, key, container = sys.argv[1:]
date = formatdate(usegmt=True)
text = f"PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:2021-08-06\n/{account}/{account}/{container}\nrestype:container"
signature = base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()
request = urllib.request.Request(f"{endpoint}/{container}?restype=container", method="PUT")
for name, value in [("x-ms-date", date), ("x-ms-version", "2021-08-06"), ("Authorization", f"SharedKey {account}:{signature}")]:
    request.add_header(name, value)
urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)
"#;

/// An Azurite server with an empty container.
pub(crate) struct Azurite {
    _process: ServerProcess,
    _folder: TempDir,
    endpoint: String,
}

impl Azurite {
    /// Starts it.
    pub(crate) fn start() -> Self {
        let (process, folder, endpoint) = start("blob");
        let made = Command::new("python3")
            .args(["-c", MAKE_CONTAINER, &endpoint, ACCOUNT, KEY, CONTAINER])
            .output()
            .expect("python3 is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { _process: process, _folder: folder, endpoint }
    }

    /// Returns a place in the container.
    pub(crate) fn place(&self, prefix: &str) -> Place {
        Place::azure(format!("az://{CONTAINER}/{prefix}"), self.endpoint.clone(), ACCOUNT, KEY)
    }
}

/// Starts the emulator of one service, `blob` or `table`; returns it, its folder, and the address of the account.
pub(super) fn start(service: &str) -> (ServerProcess, TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let [port] = free_ports();
    let (host_option, port_option) = (format!("--{service}Host"), format!("--{service}Port"));
    let number = port.to_string();
    let arguments = [
        "--silent",
        "--skipApiVersionCheck",
        "--disableTelemetry",
        "--inMemoryPersistence",
        &host_option,
        "127.0.0.1",
        &port_option,
        &number,
    ];
    let program = tool(&format!("azurite/node_modules/.bin/azurite-{service}"));
    let mut process = ServerProcess::start(&program, &arguments, folder.path(), &[]);
    process.wait_for_port("127.0.0.1", port);
    (process, folder, format!("http://127.0.0.1:{port}/{ACCOUNT}"))
}
