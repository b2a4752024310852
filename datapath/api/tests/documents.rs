//! Documents and what reading them says. `broken/x.yaml` has its errors in `broken/x.errors`, `good/x.yaml` its
//! canonical spelling and its warnings in `good/x.canonical`. `UPDATE_GOLDEN=1 cargo test -p l7mp-api` writes them anew.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use l7mp_api::Config;

fn documents(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(directory);
    let entries = fs::read_dir(&directory).expect("the directory of the documents");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    paths
}

/// What differs from the file, or nothing.
fn compare(path: &Path, actual: &str) -> Option<String> {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, actual).expect("the golden file is writable");
        return None;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    (expected != actual).then(|| format!("{}\n--- expected\n{expected}--- actual\n{actual}", path.display()))
}

fn lines(problems: &[l7mp_api::Problem]) -> String {
    problems.iter().fold(String::new(), |mut text, problem| {
        writeln!(text, "{problem}").expect("a string takes everything");
        text
    })
}

#[test]
fn broken_documents_have_their_errors() {
    let documents = documents("broken");
    assert!(documents.len() >= 30, "only {} documents", documents.len());
    let mut differences = Vec::new();
    for path in documents {
        let text = fs::read_to_string(&path).expect("a document");
        let problems = Config::read(&text).expect_err(&format!("{} is broken", path.display()));
        differences.extend(compare(&path.with_extension("errors"), &lines(&problems)));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn good_documents_read_back_from_their_canonical_spelling() {
    let documents = documents("good");
    assert!(documents.len() >= 5, "only {} documents", documents.len());
    let mut differences = Vec::new();
    for path in documents {
        let text = fs::read_to_string(&path).expect("a document");
        let config = Config::read(&text).unwrap_or_else(|problems| panic!("{}:\n{}", path.display(), lines(&problems)));
        let json = serde_json::to_string_pretty(&config).expect("a document is JSON");
        assert_eq!(Config::read(&json).as_ref(), Ok(&config), "{}", path.display());
        assert_eq!(Config::from_value(&config.to_value()).as_ref(), Ok(&config), "{}", path.display());
        let yaml = serde_saphyr::to_string(&config).expect("a document is YAML");
        assert_eq!(Config::read(&yaml).as_ref(), Ok(&config), "{}", path.display());
        let mut canonical = json + "\n";
        for warning in config.warnings() {
            writeln!(canonical, "warning: {warning}").expect("a string takes everything");
        }
        differences.extend(compare(&path.with_extension("canonical"), &canonical));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
