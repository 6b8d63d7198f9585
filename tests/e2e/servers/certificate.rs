//! A certificate for the loopback from an authority that nobody knows.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// An authority and a certificate of it for `127.0.0.1`.
pub(crate) struct Certificate {
    folder: TempDir,
}

impl Certificate {
    /// Makes both.
    pub(crate) fn new() -> Self {
        let certificate = Self { folder: tempfile::tempdir().expect("a folder") };
        let path = certificate.folder.path();
        let extensions = path.join("extensions");
        std::fs::write(&extensions, "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
            .expect("a file");
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        for line in [
            format!("req -x509 {key} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"),
            format!("req {key} -subj /CN=server -keyout server.key -out server.csr"),
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out server.pem".to_string(),
        ] {
            let made = Command::new("openssl").args(line.split(' ')).current_dir(path).output();
            let made = made.expect("openssl is installed");
            assert!(made.status.success(), "{line}: {}", String::from_utf8_lossy(&made.stderr));
        }
        certificate
    }

    /// Returns the file with the authority's certificate.
    pub(crate) fn authority(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// Returns the file with the server's certificate.
    pub(crate) fn file(&self) -> PathBuf {
        self.path("server.pem")
    }

    /// Returns the file with the server's key.
    pub(crate) fn key(&self) -> PathBuf {
        self.path("server.key")
    }

    fn path(&self, name: &str) -> PathBuf {
        let folder: &Path = self.folder.path();
        folder.join(name)
    }
}
