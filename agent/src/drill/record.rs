//! What a drill found, sealed: kept with the point and in the journal, and believed only if the key of this installation made the seal.
//!
//! Whoever can write in the pool alone cannot invent a success; whoever can read the state of the agent can. See docs/decisions/0043.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ring::hmac;
use serde::{Deserialize, Serialize};
use storepool::catalog::{Notes, Point, Proof};
use storepool::clock::Timestamp;
use storepool::entropy::{SystemEntropy, random_bytes};
use storepool::id::{PointId, hex};
use zeroize::Zeroizing;

use crate::error::Cause;

/// Version of [`DrillRecord`] that is written; others are passed over.
const FORMAT: u32 = 1;
/// What is sealed begins with this, so that the key never seals anything that could be taken for something else.
const CONTEXT: &[u8] = b"keepwell drill record 1\0";
/// The key in the folder of the state.
const KEY_FILE: &str = "drill.key";
const KEY_LENGTH: usize = 32;
/// Records that a point keeps: the last success and the last failure of each copy.
const RECORDS_MOST: usize = 16;

/// What came of a drill.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// Everything that was restored is as it should be.
    Proven,
    /// Something is not.
    Damaged,
}

/// How much a drill proves.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Grade {
    /// It was restored, and read again from the disk it is what the point says.
    Compared,
    /// The restored service was started, or its database opened, and its own check found nothing wrong.
    Working,
}

/// What a drill of one source found.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct DrillRecord {
    /// Version of this record.
    pub(crate) format: u32,
    /// The group.
    pub(crate) group: String,
    /// The source.
    pub(crate) source: String,
    /// Its kind.
    pub(crate) workload: String,
    /// `pool`, or the name of a vault after `vault `.
    pub(crate) copy: String,
    /// The point, in hexadecimal digits.
    pub(crate) point: String,
    /// When the point was begun; nanoseconds since 1970.
    pub(crate) point_time: i64,
    /// When the drill was begun; nanoseconds since 1970.
    pub(crate) drilled: i64,
    /// What came of it.
    pub(crate) verdict: Verdict,
    /// How much it proves.
    pub(crate) grade: Grade,
    /// Whether all of the point was restored.
    pub(crate) whole: bool,
    /// Entries restored that are no directories.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// How many such entries the point has.
    pub(crate) all_files: u64,
    /// Their bytes.
    pub(crate) all_bytes: u64,
    /// What the choice of the files began with.
    pub(crate) seed: String,
    /// Until what was wanted was back (and a database answered), in seconds.
    pub(crate) recovery_seconds: f64,
    /// What the check of the restored service said, or why there was none.
    pub(crate) check: Option<String>,
    /// How much is not as it should be.
    pub(crate) difference_count: u64,
    /// The first of it.
    pub(crate) differences: Vec<String>,
    /// What could not be compared here.
    pub(crate) remarks: Vec<String>,
}

impl DrillRecord {
    /// Returns the version that is written.
    pub(crate) fn format() -> u32 {
        FORMAT
    }

    /// Returns when the drill was begun.
    pub(crate) fn time(&self) -> Timestamp {
        Timestamp(self.drilled)
    }

    // Records of one kind replace each other.
    fn is_like(&self, other: &Self) -> bool {
        (&self.copy, self.verdict) == (&other.copy, other.verdict)
    }
}

/// The key of this installation.
pub(crate) struct SealKey(hmac::Key);

fn path_of(state: &Path) -> PathBuf {
    state.join(KEY_FILE)
}

impl SealKey {
    /// Reads the key, making it if there is none yet; durable on return.
    ///
    /// # Errors
    /// It cannot be read or made, or is no key.
    pub(crate) fn open(state: &Path) -> Result<Self, Cause> {
        if let Some(key) = Self::find(state)? {
            return Ok(key);
        }
        let path = path_of(state);
        let bytes = Zeroizing::new(random_bytes::<KEY_LENGTH>(&SystemEntropy));
        let temporary =
            state.join(format!("{KEY_FILE}.{}", hex(&random_bytes::<8>(&SystemEntropy))));
        let written = (|| {
            fs::create_dir_all(state)?;
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(&*bytes)?;
            file.sync_all()?;
            // Never over one that somebody else has just made: what it sealed would not be believed any more.
            match fs::hard_link(&temporary, &path) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
                _ => fs::File::open(state)?.sync_all(),
            }
        })();
        let _ = fs::remove_file(&temporary);
        let failed = |cause| Cause::Io { action: "write", path: path.clone(), cause };
        written.map_err(failed)?;
        Self::find(state)?.ok_or_else(|| failed(ErrorKind::NotFound.into()))
    }

    /// Reads the key, if there is one.
    ///
    /// # Errors
    /// It cannot be read, or is no key.
    pub(crate) fn find(state: &Path) -> Result<Option<Self>, Cause> {
        let path = path_of(state);
        let failed = |cause| Cause::Io { action: "read", path: path.clone(), cause };
        match fs::read(&path).map(Zeroizing::new) {
            Ok(bytes) if bytes.len() == KEY_LENGTH => {
                Ok(Some(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes))))
            }
            Ok(_) => Err(failed(ErrorKind::InvalidData.into())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Seals a record.
    pub(crate) fn seal(&self, record: &DrillRecord) -> Proof {
        let text = serde_json::to_string(record).unwrap_or_default();
        let seal = hmac::sign(&self.0, &sealed(&text));
        Proof { record: text, seal: hex(seal.as_ref()) }
    }

    /// Returns the record, if this key sealed it and this version understands it.
    pub(crate) fn believe(&self, proof: &Proof) -> Option<DrillRecord> {
        let seal = unhex(&proof.seal)?;
        hmac::verify(&self.0, &sealed(&proof.record), &seal).ok()?;
        let record: DrillRecord = serde_json::from_str(&proof.record).ok()?;
        (record.format == FORMAT).then_some(record)
    }

    /// Returns the records with a point that are genuine and of this very point, and how many are not.
    pub(crate) fn of_point(&self, point: &Point) -> (Vec<DrillRecord>, u64) {
        let mut records = Vec::new();
        let mut refused = 0;
        for proof in &point.notes.proofs {
            match self.believe(proof) {
                // The genuine record of another point proves nothing of this one.
                Some(record) if is_of(&record, point.id, &point.group, &point.source) => {
                    records.push(record);
                }
                _ => refused += 1,
            }
        }
        (records, refused)
    }

    /// Returns the notes of a point with one more record, which replaces the one like it; what is not genuine goes.
    pub(crate) fn with(&self, notes: &Notes, record: &DrillRecord) -> Notes {
        let mut notes = notes.clone();
        notes
            .proofs
            .retain(|proof| self.believe(proof).is_some_and(|other| !other.is_like(record)));
        let excess = (notes.proofs.len() + 1).saturating_sub(RECORDS_MOST);
        notes.proofs.drain(..excess);
        notes.proofs.push(self.seal(record));
        notes
    }
}

fn is_of(record: &DrillRecord, point: PointId, group: &str, source: &str) -> bool {
    record.point == point.to_string() && record.group == group && record.source == source
}

fn sealed(text: &str) -> Vec<u8> {
    [CONTEXT, text.as_bytes()].concat()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(point: &str, copy: &str, verdict: Verdict, drilled: i64) -> DrillRecord {
        DrillRecord {
            format: FORMAT,
            group: "web".into(),
            source: "/srv".into(),
            workload: "files".into(),
            copy: copy.into(),
            point: point.into(),
            point_time: 1,
            drilled,
            verdict,
            grade: Grade::Compared,
            whole: true,
            files: 1,
            bytes: 2,
            all_files: 1,
            all_bytes: 2,
            seed: String::new(),
            recovery_seconds: 0.5,
            check: None,
            difference_count: 0,
            differences: Vec::new(),
            remarks: Vec::new(),
        }
    }

    #[test]
    fn only_what_this_key_sealed_unchanged_is_believed() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = SealKey::open(own.path()).unwrap();
        let again = SealKey::open(own.path()).unwrap();
        let foreign = SealKey::open(other.path()).unwrap();
        let made = record("aa", "pool", Verdict::Damaged, 5);

        let proof = key.seal(&made);

        assert_eq!(again.believe(&proof), Some(made.clone()));
        assert_eq!(foreign.believe(&proof), None);
        let text = proof.record.replace("damaged", "proven");
        assert_ne!(text, proof.record);
        assert_eq!(key.believe(&Proof { record: text, ..proof.clone() }), None);
        for seal in ["", "zz", "ü", &proof.seal[2..]] {
            assert_eq!(key.believe(&Proof { seal: seal.to_string(), ..proof.clone() }), None);
        }
        let newer = key.seal(&DrillRecord { format: FORMAT + 1, ..made });
        assert_eq!(key.believe(&newer), None);
    }

    #[test]
    fn a_record_replaces_the_one_like_it_and_what_people_noted_stays() {
        let state = tempfile::tempdir().unwrap();
        let key = SealKey::open(state.path()).unwrap();
        let forged = Proof { record: "{}".into(), seal: "00".into() };
        let mut notes =
            Notes { tags: vec!["kept".into()], proofs: vec![forged], ..Notes::default() };

        for (copy, verdict, drilled) in [
            ("pool", Verdict::Proven, 1),
            ("pool", Verdict::Damaged, 2),
            ("vault main", Verdict::Proven, 3),
            ("pool", Verdict::Proven, 4),
        ] {
            notes = key.with(&notes, &record("aa", copy, verdict, drilled));
        }

        let times: Vec<_> = notes
            .proofs
            .iter()
            .filter_map(|proof| key.believe(proof))
            .map(|it| it.drilled)
            .collect();
        assert_eq!((times, notes.proofs.len()), (vec![2, 3, 4], 3));
        assert_eq!(notes.tags, ["kept"]);
    }
}
