//! Everything measured, in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::config::AlertLevel;
use crate::error::Cause;
use crate::journal::Journal;
use crate::status::{Status, TaskStatus};

/// Returns the metrics of a status.
pub(crate) fn text(status: &Status, journal: &Journal) -> Result<String, Cause> {
    let mut page = Page::default();
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    page.gauge("keepwell_build_info", "Version of the agent.", &version, 1.0);
    page.gauge("keepwell_up", "Whether the daemon runs.", &[], f64::from(u8::from(status.daemon)));
    let well = f64::from(u8::from(status.well));
    page.gauge("keepwell_well", "Whether everything is protected as configured.", &[], well);
    for group in &status.groups {
        let name = group.group.as_str();
        let copies = [("disk", Some(&group.backup)), ("vault", group.sync.as_ref())];
        for (copy, task) in copies {
            let Some(seconds) = task.and_then(|task| task.last_success_seconds) else { continue };
            let help = "When the copy of a group succeeded the last time.";
            let labels = [("group", name), ("copy", copy)];
            page.gauge("keepwell_last_success_timestamp_seconds", help, &labels, seconds as f64);
        }
        for source in &group.sources {
            let labels = [("group", name), ("source", source.source.as_str())];
            page.gauge("keepwell_points", "Points in the pool.", &labels, source.points as f64);
            let help = "Points that the vault does not have yet.";
            page.gauge("keepwell_backlog_points", help, &labels, source.backlog as f64);
            if let Some(bytes) = source.bytes {
                let help = "Bytes of the newest point of a source.";
                page.gauge("keepwell_source_bytes", help, &labels, bytes as f64);
            }
            for proof in &source.proofs {
                let Some(seconds) = proof.proven_seconds else { continue };
                let help = "When a drill proved the last time that a copy can be restored.";
                let labels = [labels[0], labels[1], ("copy", proof.copy.as_str())];
                page.gauge("keepwell_proven_timestamp_seconds", help, &labels, seconds as f64);
            }
            let ages = [("disk", source.newest_age_seconds), ("vault", source.vault_age_seconds)];
            for (copy, age) in ages {
                let Some(age) = age else { continue };
                let help = "Age of the newest point of each copy.";
                let labels = [labels[0], labels[1], ("copy", copy)];
                page.gauge("keepwell_newest_point_age_seconds", help, &labels, age as f64);
            }
        }
    }
    let tasks = status
        .groups
        .iter()
        .flat_map(|group| [Some(&group.backup), group.sync.as_ref(), group.drill.as_ref()]);
    for task in tasks.flatten().chain(&status.maintenance) {
        page.task(task);
    }
    let check = status.maintenance.iter().find(|task| task.task == "check");
    if let Some(seconds) = check.and_then(|check| check.last_success_seconds) {
        let help = "When all points were proven to be complete the last time.";
        page.gauge("keepwell_verified_timestamp_seconds", help, &[], seconds as f64);
    }
    let pool = &status.pool;
    page.gauge("keepwell_pool_bytes", "Bytes of packs in the pool.", &[], pool.bytes as f64);
    let help = "Bytes that can be written without touching the reserve.";
    page.gauge("keepwell_pool_room_bytes", help, &[], pool.room_bytes as f64);
    if let Some(days) = pool.full_in_days {
        let help = "Time until the pool is full, at the pace of the last weeks.";
        page.gauge("keepwell_pool_full_in_seconds", help, &[], days as f64 * 86_400.0);
    }
    for level in [AlertLevel::Information, AlertLevel::Warning, AlertLevel::Critical] {
        let count = status.alerts.iter().filter(|alert| alert.level == level.word()).count();
        let labels = [("level", level.word())];
        page.gauge("keepwell_alerts", "Alerts that go on.", &labels, count as f64);
    }
    let open = journal.open_jobs()?.len();
    page.gauge("keepwell_jobs_open", "Jobs that wait or run.", &[], open as f64);
    Ok(page.finish())
}

/// Metrics under construction: samples of one name must stand together.
#[derive(Default)]
struct Page {
    families: BTreeMap<&'static str, (&'static str, Vec<String>)>,
}

impl Page {
    fn task(&mut self, task: &TaskStatus) {
        let labels = [("task", task.task.as_str())];
        let help = "Failures of a task since its last success.";
        self.gauge("keepwell_job_errors", help, &labels, f64::from(task.failures));
        let help = "Whether a task has not succeeded for too long.";
        self.gauge("keepwell_task_late", help, &labels, f64::from(u8::from(task.late)));
        if let Some(seconds) = task.last_success_seconds {
            let help = "When a task succeeded the last time.";
            self.gauge(
                "keepwell_task_last_success_timestamp_seconds",
                help,
                &labels,
                seconds as f64,
            );
        }
    }

    fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        value: f64,
    ) {
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let labels = match labels.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", labels.join(",")),
        };
        let (_, samples) = self.families.entry(name).or_insert((help, Vec::new()));
        samples.push(format!("{name}{labels} {value}"));
    }

    fn finish(self) -> String {
        let mut text = String::new();
        for (name, (help, samples)) in self.families {
            // Writing to a text cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
            for sample in samples {
                text.push_str(&sample);
                text.push('\n');
            }
        }
        text
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_name_stand_together_and_labels_are_escaped() {
        let mut page = Page::default();
        page.gauge("keepwell_b", "B.", &[("source", "a\"b\\c\nd")], 1.0);
        page.gauge("keepwell_a", "A.", &[], 2.5);
        page.gauge("keepwell_b", "B.", &[("source", "x")], 3.0);

        assert_eq!(
            page.finish(),
            "# HELP keepwell_a A.\n# TYPE keepwell_a gauge\nkeepwell_a 2.5\n\
             # HELP keepwell_b B.\n# TYPE keepwell_b gauge\n\
             keepwell_b{source=\"a\\\"b\\\\c\\nd\"} 1\nkeepwell_b{source=\"x\"} 3\n"
        );
    }
}
