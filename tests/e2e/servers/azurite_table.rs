//! Microsoft's own emulator of Azure Table Storage, and Microsoft's own client of it.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::azurite::{ACCOUNT, KEY, start};
use super::process::ServerProcess;
use super::tool;

// What every script begins with: `service`, a client of the account.
const CLIENT: &str = r#"
import sys, datetime, uuid, json, base64
from azure.core.credentials import AzureNamedKeyCredential
from azure.data.tables import TableServiceClient, EntityProperty, EdmType, UpdateMode
endpoint, account, key = sys.argv[1:4]
arguments = sys.argv[4:]
service = TableServiceClient(endpoint, credential=AzureNamedKeyCredential(account, key))
"#;

/// An Azurite server for tables, without any.
pub(crate) struct AzuriteTable {
    _process: ServerProcess,
    _folder: TempDir,
    endpoint: String,
}

impl AzuriteTable {
    /// Starts it.
    pub(crate) fn start() -> Self {
        let (process, folder, endpoint) = start("table");
        Self { _process: process, _folder: folder, endpoint }
    }

    /// Returns what must never be seen anywhere.
    pub(crate) fn secret(&self) -> &'static str {
        KEY
    }

    /// Returns a source for the configuration; the key is put into a file in `folder`.
    pub(crate) fn source(&self, folder: &Path) -> String {
        let file = folder.join("table.key");
        std::fs::write(&file, format!("{KEY}\n")).expect("a file");
        format!(
            "{{ azure-table = {{ account = \"{ACCOUNT}\", endpoint = \"{}\", key_file = \"{}\" }} }}",
            self.endpoint,
            file.display()
        )
    }

    /// Runs a script of Microsoft's client, with `service` and `arguments`, and returns what it prints.
    pub(crate) fn python(&self, script: &str, arguments: &[&str]) -> String {
        let output = Command::new(tool("azure-tables/bin/python"))
            .args(["-c", &format!("{CLIENT}{script}"), &self.endpoint, ACCOUNT, KEY])
            .args(arguments)
            .env_remove("HTTP_PROXY")
            .env_remove("http_proxy")
            .output()
            .expect("python can be started");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {complaint}");
        String::from_utf8(output.stdout).expect("text")
    }
}
