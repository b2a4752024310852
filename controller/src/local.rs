//! A directory of manifests as the source of the world.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::mem::take;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;

use crate::watch::DirWatch;
use l7mp_compiler::manifest::{self, FILE_BYTES_MAX};
use l7mp_compiler::object::{ObjectId, PodName};
use l7mp_compiler::world::World;

/// How long changes are collected before they are read.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// How often the directory is looked at without being told: mounts that inotify is silent about.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How deep directories are followed.
const DEPTH_MAX: usize = 16;

/// A directory that cannot be used at all.
#[derive(Debug, Error)]
#[error("cannot read the directory {} (--manifests names a directory of YAML files)", path.display())]
pub struct DirectoryError {
    path: PathBuf,
    source: io::Error,
}

/// A directory of manifests, and the world that they make.
///
/// Every `.yaml`, `.yml` and `.json` file below it counts, but for names that begin with a dot.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    files: BTreeMap<String, File>,
    directories: Vec<PathBuf>,
    duplicates: BTreeSet<String>,
    withdrawn: BTreeSet<ObjectId>,
    world: World,
    readable: bool,
}

#[derive(Debug, Default)]
struct File {
    stamp: Option<Stamp>,
    faults: Vec<String>,
    /// Objects that were in the file before it had the faults that took them out.
    lost: BTreeSet<ObjectId>,
}

/// What changes when a file is written: device, inode, length, and the times of content and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp(u64, u64, u64, (i64, i64), (i64, i64));

impl Stamp {
    fn of(meta: &Metadata) -> Stamp {
        Stamp(meta.dev(), meta.ino(), meta.len(), (meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()))
    }
}

impl Directory {
    /// Reads a directory.
    ///
    /// # Errors
    /// When the directory itself cannot be read. A file that cannot be read is reported and left out.
    pub fn open(root: impl Into<PathBuf>) -> Result<Directory, DirectoryError> {
        let root = root.into();
        fs::read_dir(&root).map_err(|source| DirectoryError { path: root.clone(), source })?;
        let mut directory = Directory {
            root,
            files: BTreeMap::new(),
            directories: Vec::new(),
            duplicates: BTreeSet::new(),
            withdrawn: BTreeSet::new(),
            world: World::default(),
            readable: true,
        };
        directory.scan(true);
        Ok(directory)
    }

    /// The objects that are right by themselves.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// These pods have a proxy whatever their manifests say of their containers.
    pub fn give_proxies(&mut self, pods: impl IntoIterator<Item = PodName>) {
        self.world.give_proxies(pods);
    }

    /// Everything that was left out: file, document, object, path and what is wrong.
    pub fn faults(&self) -> impl Iterator<Item = String> {
        let faults =
            self.files.iter().flat_map(|(file, state)| state.faults.iter().map(move |f| format!("{file}: {f}")));
        faults.chain(self.duplicates.iter().cloned())
    }

    /// Objects that were in force until an edit made them wrong.
    pub fn withdrawn(&self) -> impl Iterator<Item = &ObjectId> {
        self.withdrawn.iter()
    }

    /// Looks at the directory again; whether the world has changed. With `all`, files are read even if
    /// they look the same. A root that cannot be read changes nothing: an unmounted volume must not take
    /// every listener down.
    pub fn scan(&mut self, all: bool) -> bool {
        let mut found = Walk::default();
        if let Err(error) = found.walk(&self.root, "", 0) {
            if self.readable {
                tracing::warn!("{}: {error}; the last objects stay in force", self.root.display());
            }
            self.readable = false;
            return false;
        }
        self.readable = true;
        self.directories = found.directories;
        let before = self.world.clone();
        let gone: Vec<String> = self.files.keys().filter(|name| !found.files.contains_key(*name)).cloned().collect();
        for name in gone {
            self.files.remove(&name);
            self.world.reset(&name, []);
        }
        for (name, path) in found.files {
            self.read(name, &path, all);
        }
        self.report_duplicates();
        self.report_withdrawn();
        !self.world.changed_since(&before).is_empty()
    }

    fn read(&mut self, name: String, path: &Path, all: bool) {
        let stamp = fs::metadata(path).ok().map(|meta| Stamp::of(&meta));
        let state = self.files.entry(name.clone()).or_default();
        if !all && stamp.is_some() && state.stamp == stamp {
            return;
        }
        state.stamp = stamp;
        let held: BTreeSet<ObjectId> = self.world.held_by(&name).cloned().collect();
        let text = read_text(path, stamp);
        if !held.is_empty() && text.as_ref().is_ok_and(|text| text.trim().is_empty()) {
            // A shell truncates a file long before the program behind the `>` writes it.
            let fault = "is empty; its last objects stay in force until it is written or removed".to_owned();
            if !state.faults.contains(&fault) {
                tracing::warn!("{name}: {fault}");
            }
            state.faults = vec![fault];
            return;
        }
        let before: BTreeSet<ObjectId> = held.into_iter().chain(take(&mut state.lost)).collect();
        let faults = match text {
            Ok(text) => {
                let manifest = manifest::read(&text);
                self.world.reset(&name, manifest.objects);
                state.lost = before;
                state.lost.retain(|id| manifest.faults.iter().any(|fault| fault.may_concern(id)));
                manifest.faults.iter().map(|fault| format!("{fault}; left out")).collect()
            }
            Err(error) => {
                self.world.reset(&name, []);
                state.lost = before;
                vec![format!("{error}; left out")]
            }
        };
        for fault in faults.iter().filter(|fault| !state.faults.contains(fault)) {
            tracing::warn!("{name}: {fault}");
        }
        state.faults = faults;
    }

    /// An object that stands in another file by now is not lost.
    fn report_withdrawn(&mut self) {
        let lost = self.files.values().flat_map(|file| &file.lost);
        let withdrawn: BTreeSet<ObjectId> = lost.filter(|id| self.world.get(id).is_none()).cloned().collect();
        for id in withdrawn.difference(&self.withdrawn) {
            tracing::error!("{id} was in force and is withdrawn until it is mended");
        }
        for id in self.withdrawn.difference(&withdrawn).filter(|id| self.world.get(id).is_some()) {
            tracing::info!("{id} is mended, and in force again");
        }
        self.withdrawn = withdrawn;
    }

    fn report_duplicates(&mut self) {
        let describe = |(id, files): (_, Vec<&str>)| {
            let (first, others) = files.split_first().unwrap_or((&"", &[]));
            format!("{}: {id} stands in {first} already, which counts; left out", others.join(", "))
        };
        let duplicates: BTreeSet<String> = self.world.duplicates().map(describe).collect();
        for duplicate in duplicates.difference(&self.duplicates) {
            tracing::warn!("{duplicate}");
        }
        self.duplicates = duplicates;
    }
}

fn read_text(path: &Path, stamp: Option<Stamp>) -> io::Result<String> {
    if stamp.is_some_and(|stamp| stamp.2 > FILE_BYTES_MAX as u64) {
        let message = format!("is longer than {} MiB", FILE_BYTES_MAX >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    fs::read_to_string(path)
}

/// The files and directories below a root.
#[derive(Default)]
struct Walk {
    /// By their path relative to the root.
    files: BTreeMap<String, PathBuf>,
    directories: Vec<PathBuf>,
    seen: BTreeSet<(u64, u64)>,
}

impl Walk {
    fn walk(&mut self, directory: &Path, relative: &str, depth: usize) -> io::Result<()> {
        let meta = fs::metadata(directory)?;
        // A link to a directory above would never end.
        if depth > DEPTH_MAX || !self.seen.insert((meta.dev(), meta.ino())) {
            return Ok(());
        }
        let entries = fs::read_dir(directory)?;
        self.directories.push(directory.to_owned());
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        for path in paths {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name.starts_with('.') {
                continue;
            }
            let relative = if relative.is_empty() { name.to_owned() } else { format!("{relative}/{name}") };
            let Ok(meta) = fs::metadata(&path) else { continue };
            if meta.is_dir() {
                // One that cannot be read, or has just gone, is as good as empty.
                let _ = self.walk(&path, &relative, depth + 1);
            } else if meta.is_file() && [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end)) {
                self.files.insert(relative, path);
            }
        }
        Ok(())
    }
}

/// Follows a directory, and sends every new world, until nobody listens any more.
///
/// # Errors
/// When there is no watch to be had; a directory that cannot be watched is looked at every two seconds.
pub async fn follow(mut directory: Directory, worlds: watch::Sender<Arc<World>>) -> io::Result<()> {
    let watch = DirWatch::new()?;
    // Changes between the first reading and the first watch are found by the first look.
    let mut all = true;
    loop {
        for path in &directory.directories {
            if let Err(error) = watch.add(path) {
                tracing::debug!("cannot watch {}: {error}; it is looked at every 2 s", path.display());
            }
        }
        if directory.scan(all) && worlds.send(Arc::new(directory.world().clone())).is_err() {
            return Ok(());
        }
        all = tokio::select! {
            () = watch.changed() => {
                tokio::time::sleep(DEBOUNCE).await;
                true
            }
            () = tokio::time::sleep(LOOK_EVERY) => false,
            () = worlds.closed() => return Ok(()),
        };
    }
}
