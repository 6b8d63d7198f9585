//! The README has two commands for a stranger, and both are run: the first by a gate, the second is the gate.

use std::fs;

use crate::source::root;

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn blocks(text: &str) -> Vec<Vec<&str>> {
    let after = text.split("```sh\n").skip(1);
    after.map(|block| block.split("```").next().unwrap_or_default().lines().collect()).collect()
}

#[test]
fn the_first_command_is_run_as_it_stands_and_the_second_is_the_run_itself() {
    let readme = text("README.md");
    let blocks = blocks(&readme);

    assert_eq!(blocks[0].len(), 1, "one command to see it work");
    assert_eq!(blocks[1], ["tests/run"], "one command to test it");
    assert!(
        text(".ci/run").lines().any(|line| line == "exec tests/run"),
        ".ci/run is that command"
    );
    for gate in ["tests/gates/readme", "tests/gates/supply", "tests/bench/compare --smoke"] {
        let run = text("tests/run");
        let calls = run.lines().filter(|line| line.trim().starts_with(gate)).count();
        assert_eq!(calls, 1, "tests/run calls {gate}");
    }
    assert!(text("tests/gates/readme").contains("README.md"), "the gate reads it");
}
