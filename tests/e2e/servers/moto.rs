//! moto: S3 in one Python process. Quick to start, creates conditionally, checks no signatures.

use std::path::Path;

use tempfile::TempDir;

use super::calendar::Calendar;
use super::certificate::Certificate;
use super::process::{ServerProcess, free_ports};
use super::{Place, signed, tool};

const LOOPBACK: &str = "127.0.0.1";
const BUCKET: &str = "keepwell-tests";
const ID: &str = "MOTOACCESSKEY";
const SECRET: &str = "moto-planted-secret-key";

/// A moto server with an empty bucket.
pub(crate) struct Moto {
    _process: ServerProcess,
    _folder: TempDir,
    endpoint: String,
}

impl Moto {
    /// Starts it.
    pub(crate) fn start() -> Self {
        Self::start_at(LOOPBACK)
    }

    /// Starts it with an empty bucket at another address of this machine.
    pub(crate) fn start_at(host: &str) -> Self {
        Self::start_with(host, &[], "http", &[]).with_bucket()
    }

    /// Starts it with an empty bucket, and with the time that the calendar shows.
    pub(crate) fn start_by(calendar: &Calendar) -> Self {
        let variables = calendar.of_server();
        let variables: Vec<_> =
            variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Self::start_with(LOOPBACK, &[], "http", &variables).with_bucket()
    }

    fn with_bucket(self) -> Self {
        signed(ID, SECRET, "PUT", &format!("{}/{BUCKET}", self.endpoint), None);
        self
    }

    /// Starts it with TLS, without a bucket.
    pub(crate) fn start_encrypted(certificate: &Certificate) -> Self {
        let (own, key) = (certificate.file(), certificate.key());
        let path = |path: &Path| path.display().to_string();
        Self::start_with(LOOPBACK, &["-s", "-c", &path(&own), "-k", &path(&key)], "https", &[])
    }

    fn start_with(
        host: &str,
        arguments: &[&str],
        scheme: &str,
        variables: &[(&str, &str)],
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let [port] = free_ports();
        let number = port.to_string();
        let mut all = vec!["-H", host, "-p", &number];
        all.extend(arguments);
        let mut process =
            ServerProcess::start(&tool("python/bin/moto_server"), &all, folder.path(), variables);
        process.wait_for_port(host, port);
        Self { _process: process, _folder: folder, endpoint: format!("{scheme}://{host}:{port}") }
    }

    /// Returns a place in the bucket.
    pub(crate) fn place(&self, prefix: &str) -> Place {
        Place::s3(format!("s3://{BUCKET}/{prefix}"), self.endpoint.clone(), ID, SECRET)
    }

    /// Replaces an object of the bucket, as rot or an enemy would.
    pub(crate) fn replace(&self, object: &str, file: &Path) {
        signed(ID, SECRET, "PUT", &format!("{}/{BUCKET}/{object}", self.endpoint), Some(file));
    }

    /// Sets the lifecycle rules of the bucket, as its owner would.
    pub(crate) fn set_rules(&self, file: &Path) {
        // A question with a query is not signed here; moto checks no signatures.
        signed(ID, SECRET, "PUT", &format!("{}/{BUCKET}?lifecycle", self.endpoint), Some(file));
    }

    /// Reads an object of the bucket.
    pub(crate) fn read(&self, object: &str) -> Vec<u8> {
        signed(ID, SECRET, "GET", &format!("{}/{BUCKET}/{object}", self.endpoint), None)
    }

    /// Returns the paths of all objects below a prefix, bucket included.
    pub(crate) fn list(&self, prefix: &str) -> Vec<String> {
        // A list of the second kind has a query, which is not signed here; moto checks no signatures.
        let url = format!("{}/{BUCKET}?prefix={prefix}&max-keys=1000", self.endpoint);
        let answer = String::from_utf8(signed(ID, SECRET, "GET", &url, None)).expect("XML is text");
        let keys = answer.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
        keys.map(|(key, _)| format!("/{BUCKET}/{key}")).collect()
    }

    /// Returns `host:port`.
    pub(crate) fn host(&self) -> &str {
        self.endpoint.split_once("://").map_or("", |(_, host)| host)
    }
}
