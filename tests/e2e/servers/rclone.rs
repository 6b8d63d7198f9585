//! `rclone serve s3`: checks signatures, and silently overwrites whatever was to be created.

use tempfile::TempDir;

use super::process::{ServerProcess, free_ports};
use super::{Place, tool};

const BUCKET: &str = "keepwell-tests";
const ID: &str = "RCLONEACCESSKEY";
const SECRET: &str = "rclone-planted-secret-key";

/// An rclone server with an empty bucket.
pub(crate) struct Rclone {
    _process: ServerProcess,
    _folder: TempDir,
    endpoint: String,
}

impl Rclone {
    /// Starts it.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        std::fs::create_dir_all(data.join(BUCKET)).expect("a bucket is a folder");
        let [port] = free_ports();
        let address = format!("127.0.0.1:{port}");
        let keys = format!("{ID},{SECRET}");
        let data = data.display().to_string();
        let arguments = ["serve", "s3", "--addr", &address, "--auth-key", &keys, &data];
        let program = tool("python/bin/rclone");
        let mut process = ServerProcess::start(&program, &arguments, folder.path(), &[]);
        process.wait_for_port("127.0.0.1", port);
        Self { _process: process, _folder: folder, endpoint: format!("http://{address}") }
    }

    /// Returns a place in the bucket.
    pub(crate) fn place(&self, prefix: &str) -> Place {
        Place::s3(format!("s3://{BUCKET}/{prefix}"), self.endpoint.clone(), ID, SECRET)
    }
}
