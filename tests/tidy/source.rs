//! The sources of the workspace as text, comments and tests set apart.

use std::fs;
use std::path::{Path, PathBuf};

/// One source file.
pub(crate) struct SourceFile {
    /// Path from the root of the workspace.
    pub(crate) path: String,
    /// The whole text.
    pub(crate) text: String,
    // Declared by its parent for tests alone.
    only_tests: bool,
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
        self.only_tests
            || self.path.ends_with("tests.rs")
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
    let texts: Vec<_> = found
        .into_iter()
        .map(|path| (fs::read_to_string(&path).expect("sources are UTF-8"), path))
        .collect();
    let of_tests: Vec<PathBuf> =
        texts.iter().flat_map(|(text, path)| declared_for_tests(path, text)).collect();
    texts
        .into_iter()
        .map(|(text, path)| SourceFile {
            text,
            only_tests: of_tests.iter().any(|own| path.with_extension("").starts_with(own)),
            path: path.strip_prefix(&root).expect("below the root").display().to_string(),
        })
        .collect()
}

/// Returns the modules that a file declares for tests alone, as paths without extension.
fn declared_for_tests(path: &Path, text: &str) -> Vec<PathBuf> {
    let is_root = path
        .file_stem()
        .is_some_and(|stem| ["mod", "lib", "main"].iter().any(|root| stem.to_str() == Some(root)));
    let folder = match is_root {
        true => path.parent().unwrap_or(Path::new("")).to_path_buf(),
        false => path.with_extension(""),
    };
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let declared = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]");
    declared
        .filter_map(|pair| {
            let name = pair[1].strip_prefix("pub(crate) ").unwrap_or(pair[1]);
            Some(folder.join(name.strip_prefix("mod ")?.strip_suffix(';')?))
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
