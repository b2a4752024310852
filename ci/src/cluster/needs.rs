//! What the machine must have.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

/// Programs, and the Debian packages that they come in.
const NEEDED: [(&str, &str); 7] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("openssl", "openssl"),
    ("runc", "runc"),
    ("setsid", "util-linux"),
    ("unshare", "util-linux"),
];
/// Where Debian puts what a user's PATH may lack.
const MORE_DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// The path of a program, if the machine has it.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).filter(|path| path.is_absolute());
    let mut all = directories.chain(MORE_DIRECTORIES.map(PathBuf::from)).map(|directory| directory.join(program));
    all.find(|path| is_executable(path))
}

/// The path of a program that [`check`] has looked for, or its bare name.
pub fn path(program: &str) -> PathBuf {
    find(program).unwrap_or_else(|| program.into())
}

/// The variable PATH for programs that look for others.
pub fn search_path(first: &Path) -> String {
    let more = MORE_DIRECTORIES.join(":");
    format!("{}:{}:{more}", first.display(), std::env::var("PATH").unwrap_or_default())
}

/// Whether a node can run here.
///
/// # Errors
///
/// One line that says what is missing, and how it is had.
pub fn check() -> Result<()> {
    ensure!(cfg!(target_os = "linux"), "a cluster needs Linux");
    missing(|program| find(program).is_some())?;
    ensure!(
        rustix::process::geteuid().is_root(),
        "a cluster needs root, for its namespaces and containers: `sudo -E env PATH=$PATH cargo cluster ...`"
    );
    ensure!(
        Path::new("/sys/fs/cgroup").read_dir().is_ok_and(|mut entries| entries.next().is_some()),
        "a cluster needs control groups, and /sys/fs/cgroup is empty: mount them"
    );
    Ok(())
}

fn missing(has: impl Fn(&str) -> bool) -> Result<()> {
    let missing: Vec<_> = NEEDED.into_iter().filter(|(program, _)| !has(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    bail!("a cluster needs {}: `apt-get install {}`", programs.join(", "), packages.join(" "))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_in_one_line_what_is_missing_and_how_it_is_installed() {
        assert!(missing(|_| true).is_ok());
        let error = missing(|program| program != "runc" && program != "nft").unwrap_err().to_string();
        assert_eq!(error, "a cluster needs nft, runc: `apt-get install nftables runc`");
        let error = missing(|program| !["nsenter", "setsid", "unshare"].contains(&program)).unwrap_err().to_string();
        assert!(error.ends_with("`apt-get install util-linux`"), "{error}");
    }

    #[test]
    fn finds_programs_wherever_path_points() {
        assert!(find("sh").is_some());
        assert_eq!(find("no-such-program"), None);
        // A directory of that name is no program.
        assert_eq!(find("."), None);
    }
}
