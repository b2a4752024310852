//! The cluster's programs: Kubernetes, etcd, containerd, CoreDNS and Helm, built from their Go modules once.
//!
//! Which versions, `ci/cluster-modules` says. They are built into a directory of another name, which is renamed when
//! all of them are there: what exists is complete.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal};
use sha2::{Digest as _, Sha256};

use super::place::{Lock, cache};
use super::{interrupted, needs};

/// Between two looks at a build.
const POLL: Duration = Duration::from_millis(50);

/// One `go build`.
struct Build {
    /// For people.
    name: &'static str,
    /// The directory in `ci/cluster-modules`.
    module: &'static str,
    /// Where its programs go, below the programs' directory; a file where `file` is set.
    to: &'static str,
    tags: &'static str,
    packages: &'static [&'static str],
}

const BUILDS: [Build; 9] = [
    Build {
        // The largest first: it compiles most of what the others share.
        name: "kube-apiserver",
        module: "kube",
        to: "bin/",
        tags: "",
        packages: &["k8s.io/kubernetes/cmd/kube-apiserver"],
    },
    Build {
        name: "kube-controller-manager, kube-scheduler",
        module: "kube",
        to: "bin/",
        tags: "",
        packages: &["k8s.io/kubernetes/cmd/kube-controller-manager", "k8s.io/kubernetes/cmd/kube-scheduler"],
    },
    Build {
        name: "kubelet, kube-proxy, kubectl",
        module: "kube",
        to: "bin/",
        tags: "",
        packages: &[
            "k8s.io/kubernetes/cmd/kubelet",
            "k8s.io/kubernetes/cmd/kube-proxy",
            "k8s.io/kubernetes/cmd/kubectl",
        ],
    },
    Build { name: "etcd", module: "etcd", to: "bin/etcd", tags: "", packages: &["go.etcd.io/etcd/server/v3"] },
    Build {
        name: "containerd",
        module: "containerd",
        to: "bin/",
        tags: "no_btrfs no_zfs no_devmapper",
        packages: &[
            "github.com/containerd/containerd/v2/cmd/containerd",
            "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            "github.com/containerd/containerd/v2/cmd/ctr",
        ],
    },
    Build {
        name: "network plugins",
        module: "cni",
        to: "cni/",
        tags: "",
        packages: &[
            "github.com/containernetworking/plugins/plugins/main/ptp",
            "github.com/containernetworking/plugins/plugins/main/loopback",
            "github.com/containernetworking/plugins/plugins/ipam/host-local",
            "github.com/containernetworking/plugins/plugins/meta/portmap",
        ],
    },
    Build { name: "pause", module: "pause", to: "bin/", tags: "", packages: &["."] },
    Build { name: "CoreDNS", module: "coredns", to: "bin/", tags: "", packages: &["github.com/coredns/coredns"] },
    Build { name: "helm", module: "helm", to: "bin/", tags: "", packages: &["helm.sh/helm/v3/cmd/helm"] },
];

/// For tests with many pods; built when it is wanted.
const KWOK: Build =
    Build { name: "kwok", module: "kwok", to: "bin/", tags: "", packages: &["sigs.k8s.io/kwok/cmd/kwok"] };

/// A directory of programs, all of them there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// With `bin` and `cni` in it.
    pub directory: PathBuf,
}

impl Programs {
    /// The path of `kubectl`, `helm`, `ctr` and so on.
    pub fn path(&self, name: &str) -> PathBuf {
        self.bin().join(name)
    }

    /// Where the programs are that people call.
    pub fn bin(&self) -> PathBuf {
        self.directory.join("bin")
    }

    /// Builds what is not there yet, and says what takes how long.
    ///
    /// # Errors
    ///
    /// When Go is missing or too old, or a build fails.
    pub fn find_or_build() -> Result<Programs> {
        find_or_build("k8s.io/kubernetes", &BUILDS)
    }

    /// The path of kwok; builds it if it is not there yet.
    pub fn kwok() -> Result<PathBuf> {
        Ok(find_or_build("sigs.k8s.io/kwok", &[KWOK])?.path("kwok"))
    }

    /// Whether there is a Go that can build them.
    pub fn check_go() -> Result<()> {
        go(&modules(), &BUILDS).map(drop)
    }
}

fn modules() -> PathBuf {
    crate::workspace().join("ci/cluster-modules")
}

/// A directory of everything in `builds`, of which `main` is the module that gives the version.
fn find_or_build(main: &str, builds: &[Build]) -> Result<Programs> {
    let modules = modules();
    let go = go(&modules, builds)?;
    let directory = cache()?.join(key(&modules, &go.version, main, builds)?);
    if directory.exists() {
        return Ok(Programs { directory });
    }
    let _lock = Lock::take(&cache()?.join("build.lock"), "the build of the cluster's programs")?;
    if !directory.exists() {
        build_all(&go, &modules, builds, &directory)?;
    }
    Ok(Programs { directory })
}

struct Go {
    path: PathBuf,
    /// As `go1.26.8`.
    version: String,
}

fn go(modules: &Path, builds: &[Build]) -> Result<Go> {
    let wanted = wanted_go(modules, builds)?;
    let install = format!("install Go {wanted} or newer (https://go.dev/dl), and have it in PATH");
    let usual = PathBuf::from("/usr/local/go/bin/go");
    let found = needs::find("go").or_else(|| usual.exists().then_some(usual));
    let path = found.with_context(|| format!("a cluster is built from Go modules, and there is no `go`: {install}"))?;
    let output = Command::new(&path).args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").current_dir("/").output();
    let output = output.with_context(|| format!("cannot run {}", path.display()))?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(
        numbers(&version) >= numbers(&wanted),
        "a cluster needs Go {wanted}, and {} is \"{version}\": {install}",
        path.display()
    );
    Ok(Go { path, version })
}

/// The newest version that a module asks for.
fn wanted_go(modules: &Path, builds: &[Build]) -> Result<String> {
    let mut wanted = String::new();
    for build in builds {
        let text = read(modules.join(build.module).join("go.mod"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("go ")).unwrap_or_default();
        if numbers(line) > numbers(&wanted) {
            line.clone_into(&mut wanted);
        }
    }
    Ok(wanted)
}

/// The numbers of a version: those of `go1.26.8` and of `1.26.8` are 1, 26, 8.
fn numbers(version: &str) -> Vec<u32> {
    let version = version.trim_start_matches("go");
    let end = version.find(|character: char| character != '.' && !character.is_ascii_digit()).unwrap_or(version.len());
    version[..end].split('.').filter_map(|number| number.parse().ok()).collect()
}

/// The version of `module` in a go.mod, as `v1.36.4`.
fn module_version<'a>(go_mod: &'a str, module: &str) -> Option<&'a str> {
    let mut lines = go_mod.lines().map(|line| line.trim().trim_start_matches("require "));
    lines.find_map(|line| line.strip_prefix(module)?.strip_prefix(' ')?.split_whitespace().next())
}

/// A name for what is built from these modules by that Go: the version of the main one, and a hash of everything.
fn key(modules: &Path, go_version: &str, main: &str, builds: &[Build]) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(go_version);
    for build in builds {
        hash.update([build.name, build.module, build.to, build.tags, &build.packages.join(" ")].join("\n"));
        for file in ["go.mod", "go.sum", "main.go"] {
            let file = modules.join(build.module).join(file);
            if file.exists() {
                hash.update(read(&file)?);
            }
        }
    }
    let hash: String = hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let first = builds.first().context("nothing to build")?;
    let go_mod = read(modules.join(first.module).join("go.mod"))?;
    let version = module_version(&go_mod, main).with_context(|| format!("{}/go.mod names no {main}", first.module))?;
    Ok(format!("{}-{version}-{hash}", first.module))
}

fn build_all(go: &Go, modules: &Path, builds: &[Build], directory: &Path) -> Result<()> {
    let partial = directory.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    for sub in ["bin", "cni"] {
        fs::create_dir_all(partial.join(sub)).with_context(|| format!("cannot make {}", partial.display()))?;
    }
    eprintln!("building programs into {}: once; all of a cluster in 12 minutes on two cores", directory.display());
    let begin = Instant::now();
    let result = builds.iter().enumerate().try_for_each(|(number, build)| {
        eprint!("  {}/{} {} ... ", number + 1, builds.len(), build.name);
        let begin = Instant::now();
        run(go, modules, &partial, build)?;
        eprintln!("{:.1} s", begin.elapsed().as_secs_f64());
        interrupted()
    });
    if let Err(error) = result {
        eprintln!();
        // What Go has compiled stays in its own cache: the next try is shorter.
        let _ = fs::remove_dir_all(&partial);
        return Err(error);
    }
    fs::rename(&partial, directory).with_context(|| format!("cannot rename {}", partial.display()))?;
    eprintln!("  built in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}

fn run(go: &Go, modules: &Path, to: &Path, build: &Build) -> Result<()> {
    let module = modules.join(build.module);
    let mut flags = String::from("-s -w");
    if build.module == "kube" {
        let go_mod = read(module.join("go.mod"))?;
        let version = module_version(&go_mod, "k8s.io/kubernetes").unwrap_or_default();
        let parts = numbers(version.trim_start_matches('v'));
        let [major, minor, ..] = parts[..] else { bail!("no version of Kubernetes in kube/go.mod: \"{version}\"") };
        for (name, value) in [
            ("gitVersion", version.to_owned()),
            ("gitMajor", major.to_string()),
            ("gitMinor", minor.to_string()),
            ("gitTreeState", "clean".to_owned()),
        ] {
            flags += &format!(" -X k8s.io/component-base/version.{name}={value}");
        }
    }
    let mut command = Command::new(&go.path);
    command.current_dir(&module).args(["build", "-buildvcs=false", "-ldflags", &flags, "-tags", build.tags, "-o"]);
    command.arg(to.join(build.to)).args(build.packages);
    command.env("GOTOOLCHAIN", "local").env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=readonly -trimpath");
    command.env("GOWORK", "off").env_remove("GOOS").env_remove("GOARCH");
    let log = tempfile::NamedTempFile::new()?;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.reopen()?).spawn();
    let child = child.as_mut().map_err(|error| anyhow!("cannot run {}: {error}", go.path.display()))?;
    let status = wait(child)?;
    let said = read(log.path())?;
    let said: Vec<_> = said.lines().filter(|line| !line.starts_with("go: downloading")).collect();
    let end = said[said.len().saturating_sub(20)..].join("\n");
    ensure!(status.success(), "`go build` of {} fails ({status}):\n{end}", build.name);
    Ok(())
}

/// Waits for a build, and ends it when we were asked to end.
pub fn wait(child: &mut Child) -> Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            interrupted()?;
            return Ok(status);
        }
        if let Err(error) = interrupted() {
            // Go and cargo end their compilers on this one.
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("no process id")?;
            let _ = rustix::process::kill_process(pid, Signal::INT);
            child.wait()?;
            return Err(error);
        }
        std::thread::sleep(POLL);
    }
}

fn read(path: impl AsRef<OsStr>) -> Result<String> {
    let path = Path::new(path.as_ref());
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(numbers("go1.26.10") > numbers("1.26.8"));
        assert!(numbers("go1.9") < numbers("1.26"));
        assert!(numbers("go1.27rc1") > numbers("1.26.6"));
        assert!(numbers("devel") < numbers("1.26"));
    }

    #[test]
    fn every_module_of_the_workspace_has_a_version_and_asks_for_a_go() {
        let modules = crate::workspace().join("ci/cluster-modules");
        assert!(numbers(&wanted_go(&modules, &BUILDS).unwrap()) >= vec![1, 26]);
        let key = |go: &str| key(&modules, go, "k8s.io/kubernetes", &BUILDS).unwrap();
        let (one, other) = (key("go1.26.8"), key("go1.26.9"));
        assert!(one.starts_with("kube-v1.") && one.len() == other.len() && one != other, "{one} {other}");
    }

    #[test]
    fn finds_the_version_of_a_module_in_a_list_and_in_a_line() {
        let list = "require (\n\tk8s.io/kubernetes-x v9.0.0\n\tk8s.io/kubernetes v1.36.4 // indirect\n)";
        assert_eq!(module_version(list, "k8s.io/kubernetes"), Some("v1.36.4"));
        assert_eq!(module_version("require k8s.io/kubernetes v1.2.3", "k8s.io/kubernetes"), Some("v1.2.3"));
        assert_eq!(module_version("module x\n", "k8s.io/kubernetes"), None);
    }
}
