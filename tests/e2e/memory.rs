//! How much memory a run of the program took at its peak.

use std::process::{Child, Command};

use crate::home::Finished;

/// Runs a command and returns how it ended and its peak memory in KiB.
pub(crate) fn run_measured(mut command: Command) -> (Finished, u64) {
    let line = format!("{command:?}");
    let child = command.spawn().expect("the program starts");
    let id = child.id();
    std::thread::scope(|scope| {
        let output = scope.spawn(|| Child::wait_with_output(child).expect("it can be waited for"));
        let mut peak = 0;
        // The high-water mark never falls, so the last look before the end is the peak but for the last milliseconds.
        while !output.is_finished() {
            peak = high_water_mark(id).unwrap_or(peak).max(peak);
            std::thread::park_timeout(std::time::Duration::from_millis(2));
        }
        (Finished::new(line, output.join().expect("the waiting thread never panics")), peak)
    })
}

fn high_water_mark(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let mark = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    mark.trim().trim_end_matches(" kB").parse().ok()
}
