//! What the system tells of a directory's place: file system, mount options, caches of the disks, room.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Purpose;
use super::device::Device;
use super::finding::Examination;
use super::mounted::Mounted;

/// Below this part of a file system room is short.
const SHORT_SHARE: u64 = 20;
/// With fewer free inodes than this, files of a pool will soon not fit any more: 256 folders and some packs.
const INODES_LEAST: u64 = 2_000;

const MEMORY: &[&str] = &["tmpfs", "ramfs", "devtmpfs", "hugetlbfs"];
const NETWORK: &[&str] = &[
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "virtiofs",
    "ceph",
    "afs",
    "glusterfs",
    "lustre",
    "gfs2",
    "ocfs2",
    "davfs",
    "vboxsf",
    "beegfs",
    "orangefs",
];
const POOR: &[&str] =
    &["vfat", "exfat", "msdos", "fat", "ntfs", "ntfs3", "hfs", "hfsplus", "udf", "iso9660"];

/// What a directory's bytes end up in, as far as it matters for the time that a sync takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Medium {
    /// Nothing outlives the power there; how long a sync takes says nothing.
    Memory,
    /// A real disk that turns.
    Turning,
    /// Anything else: flash, a network, a hypervisor's idea of a disk.
    Other,
}

/// Returns the medium below `path`.
pub(super) fn medium(path: &Path) -> Medium {
    let Some(mounted) = Mounted::at(path) else { return Medium::Other };
    if MEMORY.contains(&mounted.kind.as_str()) {
        return Medium::Memory;
    }
    let number = std::fs::metadata(path).map_or(0, |status| status.dev());
    medium_of(&Device::below(&mounted.source, number))
}

fn medium_of(devices: &[Device]) -> Medium {
    let turning = |device: &Device| device.rotational && !device.is_played;
    // A mirror is as slow as its slowest disk; with flash beside them as a cache nothing can be said.
    match !devices.is_empty() && devices.iter().all(turning) {
        true => Medium::Turning,
        false => Medium::Other,
    }
}

/// Looks at everything that can be read without writing.
pub(super) fn examine(path: &Path, purpose: Purpose, found: &mut Examination) {
    match Mounted::at(path) {
        Some(mounted) => {
            let number = std::fs::metadata(path).map_or(0, |status| status.dev());
            let devices = Device::below(&mounted.source, number);
            judge_kind(&mounted, purpose, found);
            judge_options(&mounted, &devices, found);
            judge_caches(&mounted, &devices, found);
        }
        None => found.cannot_see("which file system it is: /proc/self/mountinfo cannot be read"),
    }
    if let Ok(stat) = rustix::fs::statvfs(path) {
        judge_room(stat.f_blocks, stat.f_bavail, stat.f_files, stat.f_favail, found);
    }
}

fn judge_kind(mounted: &Mounted, purpose: Purpose, found: &mut Examination) {
    const CHECK: &str = "file-system";
    let kind = mounted.kind.as_str();
    let seen = format!("{kind} at {}", mounted.point.display());
    if MEMORY.contains(&kind) {
        let advice = "use it for trials only; a backup belongs on a disk";
        found.weak(CHECK, format!("{seen}: memory, gone when the machine restarts"), advice);
    } else if kind == "overlay" || kind == "aufs" {
        let advice = "mount a volume of the host there";
        found.weak(CHECK, format!("{seen}: the layer of a container, gone with it"), advice);
    } else if NETWORK.contains(&kind) && purpose == Purpose::Vault {
        found.good(CHECK, format!("{seen}: on a network, {}", mounted.source));
    } else if NETWORK.contains(&kind) {
        found.weak(
            CHECK,
            format!("{seen}: on a network, {}", mounted.source),
            "a pool belongs on a disk of this machine, since its index shares memory between processes; use the network for a vault, or make sure that no other machine ever opens the pool",
        );
    } else if kind == "fuse" || kind.starts_with("fuse.") {
        found.weak(
            CHECK,
            format!("{seen}: a program plays this file system, {}", mounted.source),
            "what it does with a sync is its own affair; prefer a file system of the kernel",
        );
        found.cannot_see(format!("what the program behind {kind} does with a sync"));
    } else if POOR.contains(&kind) {
        found.note(
            CHECK,
            format!("{seen}: it keeps neither owners nor modes"),
            "enough for packs; prefer ext4, XFS, Btrfs or ZFS, on which a crash harms less",
        );
    } else {
        found.good(CHECK, seen);
    }
    if kind == "zfs" {
        found.cannot_see("whether syncs are switched off: look with \"zfs get sync\"");
    }
}

fn judge_options(mounted: &Mounted, devices: &[Device], found: &mut Examination) {
    const CHECK: &str = "mount-options";
    if mounted.has("ro") {
        let advice = "mount it for writing; if it was and is not any more, see the system's log: the disk may fail";
        return found.unfit(CHECK, "it is mounted read-only", advice);
    }
    // ext4 and XFS say it in these words, Btrfs in the first, F2FS in the last; nilfs2 and reiserfs as well.
    let without = ["nobarrier", "barrier=0", "barrier=none", "fsync_mode=nobarrier"];
    if let Some(option) = without.iter().find(|option| mounted.has(option)) {
        let cached = devices.iter().any(|device| device.write_back != Some(false));
        let advice = "mount it without this option, unless the cache has a battery";
        match cached {
            true => found.weak(
                CHECK,
                format!("{option}: what was synced may be lost in a power cut"),
                advice,
            ),
            false => {
                found.note(CHECK, format!("{option}, over disks without a volatile cache"), advice)
            }
        }
    } else {
        found.good(CHECK, "a sync is asked of the disk");
    }
}

fn judge_caches(mounted: &Mounted, devices: &[Device], found: &mut Examination) {
    const CHECK: &str = "write-cache";
    if devices.is_empty() {
        if !MEMORY.contains(&mounted.kind.as_str()) {
            found.cannot_see(format!("the disks below {}", mounted.source));
        }
        return;
    }
    let told: Vec<_> = devices
        .iter()
        .map(|device| {
            let cache = match device.write_back {
                Some(true) => "keeps a cache that each sync empties",
                Some(false) => "says that it keeps no volatile cache",
                None => "does not tell of a cache",
            };
            format!("{} {cache}", device.name)
        })
        .collect();
    found.good(CHECK, told.join(", "));
    let played: Vec<_> = devices.iter().filter(|device| device.is_played).collect();
    if let Some(device) = played.first() {
        found.cannot_see(format!(
            "what is behind {}: a hypervisor or a file plays this disk, and may keep what was synced in memory",
            device.name
        ));
    }
    if devices.iter().any(|device| !device.is_played) {
        found
            .cannot_see("whether the disk does what it is told when it is told to empty its cache");
    }
}

fn judge_room(blocks: u64, free: u64, inodes: u64, free_inodes: u64, found: &mut Examination) {
    const CHECK: &str = "space";
    if free == 0 {
        return found.weak(CHECK, "no block is free", "make room, or use a larger disk");
    }
    // File systems that make inodes as they go say that there are none.
    if inodes > 0 && free_inodes < INODES_LEAST {
        let seen = format!("{free_inodes} inodes are free");
        return found.weak(
            CHECK,
            seen,
            "remove many small files, or make a file system with more inodes",
        );
    }
    let percent = free.saturating_mul(100) / blocks.max(1);
    match free < blocks / SHORT_SHARE {
        true => {
            found.note(CHECK, format!("{percent} % are free"), "make room, or use a larger disk")
        }
        false => found.good(CHECK, format!("{percent} % are free")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selftest::Grade;

    fn mounted(kind: &str, options: &[&str]) -> Mounted {
        Mounted {
            point: "/mnt".into(),
            kind: kind.into(),
            source: "/dev/sda1".into(),
            options: options.iter().map(|option| (*option).to_string()).collect(),
        }
    }

    fn device(rotational: bool, write_back: bool, is_played: bool) -> Device {
        Device { name: "sda".into(), rotational, write_back: Some(write_back), is_played }
    }

    #[test]
    fn each_kind_of_file_system_has_its_grade() {
        for (kind, grade) in [
            ("ext4", Grade::Good),
            ("xfs", Grade::Good),
            ("btrfs", Grade::Good),
            ("vfat", Grade::Note),
            ("tmpfs", Grade::Weak),
            ("overlay", Grade::Weak),
            ("nfs4", Grade::Weak),
            ("cifs", Grade::Weak),
            ("fuse.sshfs", Grade::Weak),
        ] {
            let mut found = Examination::default();
            judge_kind(&mounted(kind, &["rw"]), Purpose::Pool, &mut found);
            assert_eq!(found.grade(), grade, "{kind}");
        }
        let mut found = Examination::default();
        judge_kind(&mounted("nfs4", &["rw"]), Purpose::Vault, &mut found);
        assert_eq!(found.grade(), Grade::Good);
    }

    #[test]
    fn what_a_power_cut_would_take_is_told_by_options_and_caches_together() {
        for (options, write_back, grade) in [
            (&["rw", "relatime"][..], true, Grade::Good),
            (&["rw", "nobarrier"], true, Grade::Weak),
            (&["rw", "barrier=0"], true, Grade::Weak),
            (&["rw", "nobarrier"], false, Grade::Note),
            (&["ro"], true, Grade::Unfit),
        ] {
            let mut found = Examination::default();
            judge_options(
                &mounted("ext4", options),
                &[device(false, write_back, false)],
                &mut found,
            );
            assert_eq!(found.grade(), grade, "{options:?} {write_back}");
        }
    }

    #[test]
    fn only_real_disks_that_all_turn_count_as_turning() {
        let (real, played, flash) =
            (device(true, true, false), device(true, true, true), device(false, true, false));

        assert_eq!(medium_of(std::slice::from_ref(&real)), Medium::Turning);
        assert_eq!(medium_of(&[real.clone(), flash]), Medium::Other);
        assert_eq!(medium_of(&[real, played]), Medium::Other);
        assert_eq!(medium_of(&[]), Medium::Other);
    }

    #[test]
    fn room_for_bytes_and_for_names_are_two_things() {
        let grade = |blocks, free, inodes, free_inodes| {
            let mut found = Examination::default();
            judge_room(blocks, free, inodes, free_inodes, &mut found);
            found.grade()
        };

        assert_eq!(grade(1000, 500, 100_000, 90_000), Grade::Good);
        assert_eq!(grade(1000, 500, 0, 0), Grade::Good);
        assert_eq!(grade(1000, 10, 100_000, 90_000), Grade::Note);
        assert_eq!(grade(1000, 500, 100_000, 7), Grade::Weak);
        assert_eq!(grade(1000, 0, 100_000, 90_000), Grade::Weak);
    }
}
