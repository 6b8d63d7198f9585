//! The sources of the workspace as text, comments and tests set apart.

use std::fs;
use std::path::{Path, PathBuf};

/// One source file.
pub(crate) struct SourceFile {
    /// Path from the root of the workspace.
    pub(crate) path: String,
    /// The whole text.
    pub(crate) text: String,
}

impl SourceFile {
    /// Returns the lines of shipped code with their numbers: no comments, nothing from the first `#[cfg(test)]` module on.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut in_tests = false;
        let lines: Vec<_> = self.text.lines().collect();
        lines
            .iter()
            .enumerate()
            .filter(|(index, line)| {
                let opens_tests = line.trim() == "#[cfg(test)]"
                    && lines.get(index + 1).is_some_and(|next| next.contains("mod tests {"));
                in_tests |= opens_tests;
                !in_tests && !line.trim_start().starts_with("//")
            })
            .map(|(index, line)| (index + 1, *line))
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// Returns whether the file holds only tests or test doubles.
    pub(crate) fn is_test(&self) -> bool {
        self.path.ends_with("tests.rs")
            || self.path.contains("/testing/")
            || self.path.contains("/tests/")
    }

    /// Returns the module directly below `src` that the file belongs to.
    pub(crate) fn room(&self) -> &str {
        let below = self.path.split_once("/src/").map_or("", |(_, below)| below);
        below.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }
}

/// Returns the root of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the agent lies in the workspace").into()
}

/// Returns the Rust files below `folder`, in order.
pub(crate) fn files(folder: &str) -> Vec<SourceFile> {
    let mut found = Vec::new();
    collect(&root().join(folder), &mut found);
    found.sort();
    let root = root();
    found
        .into_iter()
        .map(|path| SourceFile {
            text: fs::read_to_string(&path).expect("sources are UTF-8"),
            path: path.strip_prefix(&root).expect("below the root").display().to_string(),
        })
        .collect()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder exists") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}
