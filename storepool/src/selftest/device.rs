//! The disks below a file system, as far as sysfs tells: do they turn, do they keep written bytes in a cache, are they real?

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

/// How deep disks may lie on each other: partitions on RAID on encryption on volumes and so on.
const DEPTH_LIMIT: usize = 8;

/// A disk at the bottom: nothing that this system knows of lies below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Device {
    /// Its name: `sda`, `nvme0n1`.
    pub(super) name: String,
    /// Whether it says that it turns.
    pub(super) rotational: bool,
    /// Whether it keeps written bytes in a cache that a power cut empties; the system flushes it at each sync.
    pub(super) write_back: Option<bool>,
    /// Whether something else plays this disk: a hypervisor, a file, memory.
    pub(super) is_played: bool,
}

impl Device {
    /// Returns the disks below what is mounted from `source` and has files with the device number `number`.
    pub(super) fn below(source: &str, number: u64) -> Vec<Self> {
        let system = Path::new("/sys/dev/block");
        let entry = |number: u64| system.join(format!("{}:{}", major(number), minor(number)));
        // File systems that span disks give numbers of their own; what was mounted is one of their disks.
        let own = Some(entry(number)).filter(|entry| entry.exists());
        let mounted = || {
            let status = fs::metadata(source).ok().filter(|_| source.starts_with('/'))?;
            Some(entry(status.rdev())).filter(|entry| status.rdev() != 0 && entry.exists())
        };
        let mut found = BTreeSet::new();
        if let Some(entry) = own.or_else(mounted).and_then(|entry| fs::canonicalize(entry).ok()) {
            collect(&entry, DEPTH_LIMIT, &mut found);
        }
        found.into_iter().collect()
    }

    fn read(folder: &Path) -> Self {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let value = |file: &str| {
            let text = fs::read_to_string(folder.join("queue").join(file)).ok()?;
            Some(text.trim().to_string())
        };
        let played = ["loop", "vd", "xvd", "nbd", "zram", "ram", "rbd"];
        let played = played.iter().any(|kind| {
            name.strip_prefix(kind).is_some_and(|rest| !rest.is_empty() && is_unit(rest))
        });
        let model = fs::read_to_string(folder.join("device/model")).unwrap_or_default();
        let virtual_model = ["qemu", "vmware", "virtual", "vbox"];
        let model = model.to_ascii_lowercase();
        Self {
            rotational: value("rotational").as_deref() == Some("1"),
            write_back: value("write_cache").map(|cache| cache == "write back"),
            is_played: played || virtual_model.iter().any(|word| model.contains(word)),
            name,
        }
    }
}

// "a" of vda, "0" of loop0.
fn is_unit(rest: &str) -> bool {
    rest.bytes().all(|byte| byte.is_ascii_digit())
        || rest.bytes().all(|byte| byte.is_ascii_lowercase())
}

fn collect(entry: &Path, depth: usize, found: &mut BTreeSet<Device>) {
    let whole: PathBuf = match entry.join("partition").exists() {
        true => entry.parent().unwrap_or(entry).to_path_buf(),
        false => entry.to_path_buf(),
    };
    let below: Vec<_> =
        fs::read_dir(whole.join("slaves")).into_iter().flatten().flatten().collect();
    if below.is_empty() || depth == 0 {
        found.insert(Device::read(&whole));
    }
    for slave in below.iter().filter(|_| depth > 0) {
        if let Ok(path) = fs::canonicalize(slave.path()) {
            collect(&path, depth - 1, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(root: &Path, name: &str, rotational: &str, cache: &str) -> PathBuf {
        let folder = root.join(name);
        fs::create_dir_all(folder.join("queue")).expect("a folder");
        fs::write(folder.join("queue/rotational"), rotational).expect("written");
        fs::write(folder.join("queue/write_cache"), cache).expect("written");
        folder
    }

    #[test]
    fn a_volume_on_a_partition_leads_to_its_disk() {
        let root = tempfile::tempdir().expect("a folder");
        let sda = disk(root.path(), "sda", "1\n", "write back\n");
        let partition = sda.join("sda1");
        fs::create_dir_all(&partition).expect("a folder");
        fs::write(partition.join("partition"), "1\n").expect("written");
        let volume = disk(root.path(), "dm-0", "1\n", "write back\n");
        fs::create_dir_all(volume.join("slaves")).expect("a folder");
        std::os::unix::fs::symlink(&partition, volume.join("slaves/sda1")).expect("linked");

        let mut found = BTreeSet::new();
        collect(&volume, DEPTH_LIMIT, &mut found);

        let found: Vec<_> = found.into_iter().collect();
        let sda = Device {
            name: "sda".into(),
            rotational: true,
            write_back: Some(true),
            is_played: false,
        };
        assert_eq!(found, [sda]);
    }

    #[test]
    fn disks_that_are_played_are_told_from_real_ones() {
        let root = tempfile::tempdir().expect("a folder");
        for (name, is_played) in [
            ("vda", true),
            ("xvdb", true),
            ("loop7", true),
            ("nvme0n1", false),
            ("sdb", false),
            ("md0", false),
        ] {
            let device = Device::read(&disk(root.path(), name, "0\n", "write through\n"));
            assert_eq!(device.is_played, is_played, "{name}");
            assert_eq!((device.rotational, device.write_back), (false, Some(false)));
        }
    }
}
