//! Taking a cluster down, whatever is left of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};

use super::control::{self, Request};
use super::place::{Place, Record};
use super::{needs, network};

/// How long the first process may take to end everything by itself.
const END_PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to be gone when it is killed.
const KILL_PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// Ends the cluster if it runs, and removes whatever is left of it. Its lock is the caller's business.
pub fn down(place: &Place) -> Result<()> {
    if let Some(record) = place.running() {
        // It answers, then ends. When it cannot, it is killed, and the kernel takes the rest with it.
        let asked = control::ask(&place.directory, &Request::End);
        if asked.is_err() || !gone(&record, END_PATIENCE) {
            let pid = Pid::from_raw(record.pid).context("no process id")?;
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            ensure!(
                gone(&record, KILL_PATIENCE),
                "process {} is killed, but not gone after {KILL_PATIENCE:?}",
                record.pid
            );
        }
    }
    remains(place)
}

/// Removes what a cluster that is dead has left.
pub fn remains(place: &Place) -> Result<()> {
    network::remove_link(place)?;
    remove_cgroups(&place.cgroup())?;
    let directory = &place.directory;
    if directory.exists() {
        empty(directory)?;
        fs::remove_dir(directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(())
}

fn gone(record: &Record, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while record.is_alive() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}

/// Unmounts whatever is mounted below these directories; they stay mounted themselves.
pub fn unmount(below: &[&str]) -> Result<()> {
    let mut points = mount_points()?;
    points.retain(|point| below.iter().any(|top| point.starts_with(top) && point != Path::new(top)));
    // The last one mounted may cover, or be inside of, an earlier one.
    for point in points.iter().rev() {
        rustix::mount::unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .with_context(|| format!("cannot unmount {}", point.display()))?;
    }
    Ok(())
}

/// Removes all that is in a directory.
///
/// # Errors
///
/// When something is mounted in it: that could be anybody's files.
pub fn empty(directory: &Path) -> Result<()> {
    if let Some(point) = mounted_inside(&mount_points()?, directory) {
        bail!("{} is still mounted: nothing is removed", point.display());
    }
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let entry = entry?;
        let path = entry.path();
        let removed = if entry.file_type()?.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Makes the control group of the pods, in every hierarchy.
pub fn make_cgroups(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(name);
        fs::create_dir_all(&group).with_context(|| format!("cannot make the control group {}", group.display()))?;
        // The second version gives a group the controllers that its parent names. What a machine lacks, the kubelet says.
        for controller in ["cpu", "cpuset", "memory", "pids"] {
            let _ = fs::write(hierarchy.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        // The first version's sets of processors and memories begin empty, and nothing may run in them.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read(hierarchy.join(file)) {
                let _ = fs::write(group.join(file), value);
            }
        }
    }
    Ok(())
}

/// Removes the control group of the pods, with all below it. Their processes are dead.
pub fn remove_cgroups(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(name);
        let deadline = Instant::now() + KILL_PATIENCE;
        // A killed process leaves its group a moment later than it dies.
        while let Err(error) = remove_group(&group) {
            ensure!(Instant::now() < deadline, "cannot remove the control group {}: {error}", group.display());
            std::thread::sleep(POLL);
        }
    }
    Ok(())
}

fn remove_group(group: &Path) -> std::io::Result<()> {
    if !group.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_group(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

/// Where the hierarchies of control groups are mounted.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let all: Vec<_> = text.lines().filter(|line| line.contains(" - cgroup")).filter_map(mount_point).collect();
    ensure!(!all.is_empty(), "no control groups are mounted");
    Ok(all)
}

/// Every mount point of this namespace, in the order of mounting.
fn mount_points() -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(text.lines().filter_map(mount_point).collect())
}

fn mounted_inside<'a>(points: &'a [PathBuf], top: &Path) -> Option<&'a PathBuf> {
    points.iter().find(|point| point.starts_with(top) && *point != top)
}

/// proc_pid_mountinfo(5): the fifth field, with spaces and the like in octal.
fn mount_point(line: &str) -> Option<PathBuf> {
    let field = line.split(' ').nth(4)?;
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| *first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    Some(PathBuf::from(std::ffi::OsString::from(String::from_utf8(bytes).ok()?)))
}

/// Runs a small program of the machine's, for its effect.
pub fn tool(program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(needs::path(program));
    let output = command.args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mount_points_with_spaces_and_backslashes() {
        let line = r"36 35 98:0 / /mnt/a\040b\134c rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(mount_point(line), Some(PathBuf::from(r"/mnt/a b\c")));
        assert_eq!(mount_point("too short"), None);
    }

    #[test]
    fn what_is_in_a_directory_goes_and_what_links_in_it_point_to_stays() {
        let top = tempfile::tempdir().unwrap();
        let directory = top.path().join("cluster");
        fs::create_dir_all(directory.join("a/b")).unwrap();
        fs::write(directory.join("a/file"), "x").unwrap();
        std::os::unix::fs::symlink(top.path(), directory.join("link")).unwrap();
        fs::write(top.path().join("kept"), "x").unwrap();
        empty(&directory).unwrap();
        assert_eq!(directory.read_dir().unwrap().count(), 0);
        assert!(top.path().join("kept").exists());
    }

    #[test]
    fn a_mount_inside_is_seen_and_one_beside_or_on_top_is_not() {
        let points = ["/", "/run", "/run/cluster", "/run/cluster2/a"].map(PathBuf::from);
        assert_eq!(mounted_inside(&points, Path::new("/run/cluster")), None);
        assert_eq!(mounted_inside(&points, Path::new("/run/cluster2")), Some(&points[3]));
        assert!(mounted_inside(&mount_points().unwrap(), Path::new("/")).is_some());
    }
}
