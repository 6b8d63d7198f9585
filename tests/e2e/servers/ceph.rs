//! Ceph's RADOS gateway over a cluster of one monitor and one storage daemon in memory: the most faithful S3 there is outside of Amazon.
//! Checks signatures and clocks.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::process::{ServerProcess, free_ports};
use super::{Place, signed};

const BUCKET: &str = "keepwell-tests";
const ID: &str = "CEPHACCESSKEY";
const SECRET: &str = "ceph-planted-secret-key";

/// A cluster with a gateway and an empty bucket.
pub(crate) struct Ceph {
    // In the order in which they are stopped.
    _gateway: ServerProcess,
    _storage: ServerProcess,
    _monitor: ServerProcess,
    _folder: TempDir,
    endpoint: String,
}

impl Ceph {
    /// Starts it; takes some ten seconds.
    pub(crate) fn start() -> Self {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let folder = tempfile::Builder::new().prefix("keepwell-ceph-").tempdir_in(parent);
        let folder = folder.expect("a folder");
        let path = folder.path();
        let [second, first, gateway] = free_ports();
        let (cluster, storage) = (uuid(), uuid());
        for name in ["mon", "osd", "run", "log"] {
            fs::create_dir(path.join(name)).expect("a folder");
        }
        fs::write(path.join("ceph.conf"), configuration(path, &cluster, [second, first, gateway]))
            .expect("a file");
        let run = |line: &str| {
            let line = line.replace("$D", &path.display().to_string());
            let words: Vec<_> =
                line.split_whitespace().map(|word| word.replace('+', " ")).collect();
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).env("CEPH_CONF", path.join("ceph.conf")).current_dir(path);
            let output = command.output();
            let output = output.unwrap_or_else(|error| panic!("{line}: {error}: run tests/run"));
            let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{line}: {complaint}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let start = |program: &str, arguments: &[&str]| {
            let conf = path.join("ceph.conf").display().to_string();
            let program = Path::new("/usr/bin").join(program);
            ServerProcess::start(&program, arguments, path, &[("CEPH_CONF", &conf)])
        };

        // A plus sign stands for a space inside of a word.
        run("ceph-authtool -C $D/keyring -n mon. --gen-key --cap mon allow+*");
        run(
            "ceph-authtool $D/keyring -n client.admin --gen-key --cap mon allow+* --cap osd allow+* --cap mgr allow+*",
        );
        run(
            "ceph-authtool $D/keyring -n osd.0 --gen-key --cap mon allow+profile+osd --cap osd allow+*",
        );
        run(
            "ceph-authtool $D/keyring -n client.rgw --gen-key --cap mon allow+rw --cap osd allow+rwx",
        );
        run(&format!(
            "monmaptool --create --addv a [v2:127.0.0.1:{second},v1:127.0.0.1:{first}] --fsid {cluster} $D/monmap"
        ));
        run("ceph-mon -i a --mkfs --monmap $D/monmap --keyring $D/keyring");
        let mut monitor = start("ceph-mon", &["-f", "-i", "a"]);
        monitor.wait_for_port("127.0.0.1", first);
        run(&format!("ceph osd new {storage}"));
        run(&format!("ceph-osd -i 0 --mkfs --osd-uuid {storage}"));
        let mut disk = start("ceph-osd", &["-f", "-i", "0"]);
        run("ceph osd crush add osd.0 1.0 root=default host=h1");
        disk.wait_until("the storage is up", || run("ceph osd stat").contains("1 up"));
        run(&format!(
            "radosgw-admin user create --uid t --display-name t --access-key {ID} --secret-key {SECRET}"
        ));
        let mut door = start("radosgw", &["-f", "-n", "client.rgw"]);
        door.wait_for_port("127.0.0.1", gateway);
        let endpoint = format!("http://127.0.0.1:{gateway}");
        signed(ID, SECRET, "PUT", &format!("{endpoint}/{BUCKET}"), None);
        Self { _gateway: door, _storage: disk, _monitor: monitor, _folder: folder, endpoint }
    }

    /// Returns a place in the bucket.
    pub(crate) fn place(&self, prefix: &str) -> Place {
        Place::s3(format!("s3://{BUCKET}/{prefix}"), self.endpoint.clone(), ID, SECRET)
    }
}

fn uuid() -> String {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("Linux has it");
    uuid.trim().to_string()
}

fn configuration(folder: &Path, cluster: &str, [second, first, gateway]: [u16; 3]) -> String {
    let d = folder.display();
    let mut text = String::new();
    for (section, lines) in [
        (
            "global",
            format!(
                "fsid = {cluster}
mon host = [v2:127.0.0.1:{second},v1:127.0.0.1:{first}]
keyring = {d}/keyring
auth allow insecure global id reclaim = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
osd crush chooseleaf type = 0
mon max pg per osd = 5000
public addr = 127.0.0.1
run dir = {d}/run
admin socket = {d}/run/$name.asok
pid file = {d}/run/$name.pid
log file = {d}/log/$name.log"
            ),
        ),
        ("mon.a", format!("mon data = {d}/mon\nmon data avail crit = 1")),
        (
            "osd.0",
            format!(
                "osd data = {d}/osd
osd objectstore = memstore
memstore device bytes = 1073741824
osd memory target = 939524096"
            ),
        ),
        (
            "client.rgw",
            format!("keyring = {d}/keyring\nrgw frontends = beast endpoint=127.0.0.1:{gateway}"),
        ),
    ] {
        writeln!(text, "[{section}]\n{lines}").expect("text grows");
    }
    text
}
