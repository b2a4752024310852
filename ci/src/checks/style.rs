//! Rules of CONTRIBUTING.md that no lint of the compiler's knows.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::Outcome;

/// Lines of a file, tests aside, before it wants splitting.
const FILE_LINES_MAX: usize = 600;

/// Looks at every Rust file that git knows.
pub fn check() -> Result<Outcome> {
    let root = crate::workspace();
    let mut files = Vec::new();
    rust_files(&root, &mut files)?;
    let mut complaints = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file)?;
        let name = file.strip_prefix(&root).unwrap_or(file);
        complaints.extend(complaints_of(name, &text));
    }
    complaints.iter().for_each(|complaint| println!("{complaint}"));
    ensure!(complaints.is_empty(), "{} complaints", complaints.len());
    println!("{} files", files.len());
    Ok(Outcome::Passed)
}

fn complaints_of(name: &Path, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let is_test = name.iter().any(|part| part == "tests" || part == "tests.rs");
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
    if lines > FILE_LINES_MAX && !is_test {
        complaints.push(format!("{}: {lines} lines without its tests, more than {FILE_LINES_MAX}", name.display()));
    }
    let is_root = name.ends_with("src/lib.rs") || name.ends_with("src/main.rs");
    let may_be_unsafe = name.starts_with("datapath/engine");
    if is_root && !may_be_unsafe && !text.contains("#![forbid(unsafe_code)]") {
        complaints
            .push(format!("{}: no #![forbid(unsafe_code)], as every crate but the engine has it", name.display()));
    }
    complaints
}

/// Every Rust file below a directory, build output aside.
fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            if name != "target" && !name.as_encoded_bytes().starts_with(b".") {
                rust_files(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complains_of_long_files_and_of_crates_that_allow_unsafe() {
        let long = "\n".repeat(601);
        let tests = format!("#[cfg(test)]\n{long}");
        assert_eq!(complaints_of(Path::new("a/src/b.rs"), &long).len(), 1);
        assert_eq!(complaints_of(Path::new("a/src/b.rs"), &tests).len(), 0);
        assert_eq!(complaints_of(Path::new("a/tests/b.rs"), &long).len(), 0);
        assert_eq!(complaints_of(Path::new("a/src/lib.rs"), "").len(), 1);
        assert_eq!(complaints_of(Path::new("a/src/lib.rs"), "#![forbid(unsafe_code)]\n").len(), 0);
        assert_eq!(complaints_of(Path::new("datapath/engine/src/lib.rs"), "").len(), 0);
    }
}
