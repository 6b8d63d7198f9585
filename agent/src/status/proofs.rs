//! What drills have shown: from the records in the journal and with the points, as far as their seals are genuine.

use std::collections::BTreeMap;

use storepool::catalog::{Point, Proof};

use super::{Look, ProofStatus};
use crate::config::{AlertLevel, GroupConfig};
use crate::console::units::{counted, local, rfc3339};
use crate::drill::{DrillRecord, Grade, SealKey, Verdict};
use crate::place::Place;

/// The newest success and the newest failure of one copy.
#[derive(Default)]
struct Newest {
    proven: Option<DrillRecord>,
    damaged: Option<DrillRecord>,
}

impl Newest {
    fn take(&mut self, record: DrillRecord) {
        let place = match record.verdict {
            Verdict::Proven => &mut self.proven,
            Verdict::Damaged => &mut self.damaged,
        };
        if place.as_ref().is_none_or(|known| known.drilled < record.drilled) {
            *place = Some(record);
        }
    }

    // The failure, unless a success came after it.
    fn failure(&self) -> Option<&DrillRecord> {
        let proven = self.proven.as_ref().map(|record| record.drilled);
        self.damaged.as_ref().filter(|record| proven.is_none_or(|proven| record.drilled >= proven))
    }
}

impl Look<'_> {
    pub(super) fn seal_key(&mut self, place: &Place) -> Option<SealKey> {
        match SealKey::find(&place.state()) {
            Ok(key) => key,
            Err(cause) => {
                let what = format!("the results of drills cannot be read: {}", cause.chain());
                let hint = "if the key is damaged, remove it and run \"keepwell drill\"";
                self.finding(AlertLevel::Warning, what, hint.to_string());
                None
            }
        }
    }

    /// Returns what is proven of each copy of a source, and enters as findings what is not.
    pub(super) fn proofs(
        &mut self,
        group: &GroupConfig,
        source: &str,
        journal: &[Proof],
        series: &[&Point],
    ) -> Vec<ProofStatus> {
        let mut copies: BTreeMap<String, Newest> = BTreeMap::new();
        let mut take = |record: DrillRecord| {
            copies.entry(record.copy.clone()).or_default().take(record);
        };
        let mut refused = 0;
        match &self.key {
            None => refused = series.iter().map(|point| point.notes.proofs.len() as u64).sum(),
            Some(key) => {
                let of_source =
                    |record: &DrillRecord| record.group == group.name && record.source == source;
                journal
                    .iter()
                    .filter_map(|it| key.believe(it))
                    .filter(of_source)
                    .for_each(&mut take);
                for point in series {
                    let (records, strangers) = key.of_point(point);
                    refused += strangers;
                    records.into_iter().for_each(&mut take);
                }
            }
        }
        if refused > 0 {
            let records = counted(refused, "record");
            let what = format!(
                "{records} of drills with points of {source} were not sealed by this installation and are not believed"
            );
            let hint = format!("run \"keepwell drill {}\" to have one of your own", group.name);
            self.finding(AlertLevel::Information, what, hint);
        }
        copies.into_iter().map(|(copy, newest)| self.proof(group, copy, &newest)).collect()
    }

    fn proof(&mut self, group: &GroupConfig, copy: String, newest: &Newest) -> ProofStatus {
        let failure = newest.failure();
        let difference = failure.and_then(|record| record.differences.first().cloned());
        if let Some(record) = failure {
            let what = format!(
                "{} could not be proven from the {copy} on {}: {}",
                record.source,
                local(record.time()),
                difference.as_deref().unwrap_or("it differs"),
            );
            let vault = if copy == "pool" { "" } else { " --vault" };
            let hint = format!(
                "run \"keepwell check{vault} --read-data\" and \"keepwell repair{vault}\", then \"keepwell drill {}\"",
                group.name
            );
            self.finding(AlertLevel::Critical, what, hint);
        }
        let proven = newest.proven.as_ref();
        ProofStatus {
            copy,
            proven: proven.map(|record| rfc3339(record.time())),
            proven_seconds: proven.map(|record| record.time().seconds()),
            grade: proven.map(|record| match record.grade {
                Grade::Compared => "compared",
                Grade::Working => "working",
            }),
            point: proven.map(|record| record.point.clone()),
            whole: proven.map(|record| record.whole),
            recovery_seconds: proven.map(|record| record.recovery_seconds),
            failed: failure.map(|record| rfc3339(record.time())),
            difference,
        }
    }
}
