//! Unix paths of a document that lead to the admin socket, or to the directory where it lies.
//!
//! Whoever writes a document could otherwise let sessions speak to the admin API, or put a listener in its place. What
//! becomes a link to it only later is refused by the API itself, which answers no connection of its own process.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use l7mp_api::Problem;
use l7mp_api::config::{
    Action, ActionTarget, Cluster, ClusterSpec, Config, EndpointAt, ListenerSpec, Ref, Route, Rule, Rules,
};

/// Every such path of a document, as a problem with its place.
pub fn paths(config: &Config, admin_socket: &Path, root: Option<&OwnedFd>) -> Vec<Problem> {
    let parent = admin_socket.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Some(directory) = identity(parent) else { return Vec::new() };
    let root = root.and_then(|root| fs::read_link(format!("/proc/self/fd/{}", root.as_raw_fd())).ok());
    let mut walk = Walk { directory, root, problems: Vec::new() };
    walk.config(config);
    walk.problems
}

/// Device and inode of a directory, links followed.
fn identity(directory: &Path) -> Option<(u64, u64)> {
    fs::metadata(directory).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

struct Walk {
    /// Where the admin socket lies.
    directory: (u64, u64),
    /// Paths of the document are counted from here.
    root: Option<PathBuf>,
    problems: Vec<Problem>,
}

impl Walk {
    fn config(&mut self, config: &Config) {
        for (n, listener) in config.listeners.iter().enumerate() {
            let at = format!("listeners[{n}]");
            if let ListenerSpec::UnixDomainSocket(unix) = &listener.spec {
                self.path(&unix.filename, format!("{at}.spec.UnixDomainSocket.filename"));
            }
            if let Rules::Inline(rules) = &listener.rules {
                self.rules(rules, &format!("{at}.rules"));
            }
        }
        for (n, cluster) in config.clusters.iter().enumerate() {
            self.cluster(cluster, &format!("clusters[{n}]"));
        }
        for (n, route) in config.routes.iter().enumerate() {
            self.route(route, &format!("routes[{n}]"));
        }
        for (n, rule) in config.rules.iter().enumerate() {
            self.action(&rule.action, &format!("rules[{n}].action"));
        }
        for (n, list) in config.rulelists.iter().enumerate() {
            self.rules(&list.rules, &format!("rulelists[{n}].rules"));
        }
    }

    fn rules(&mut self, rules: &[Ref<Rule>], at: &str) {
        for (n, rule) in rules.iter().enumerate() {
            if let Ref::Inline(rule) = rule {
                self.action(&rule.action, &format!("{at}[{n}].action"));
            }
        }
    }

    fn action(&mut self, action: &Action, at: &str) {
        match &action.target {
            ActionTarget::Route(Ref::Inline(route)) => self.route(route, &format!("{at}.route")),
            ActionTarget::Route(Ref::Name(_)) | ActionTarget::Apply(_) | ActionTarget::Refuse(_) => {}
        }
    }

    fn route(&mut self, route: &Route, at: &str) {
        self.stage(&route.destination, &format!("{at}.destination"));
        for (side, stages) in [("ingress", &route.ingress), ("egress", &route.egress)] {
            for (n, stage) in stages.iter().enumerate() {
                self.stage(stage, &format!("{at}.{side}[{n}]"));
            }
        }
    }

    fn stage(&mut self, cluster: &Ref<Cluster>, at: &str) {
        if let Ref::Inline(cluster) = cluster {
            self.cluster(cluster, at);
        }
    }

    fn cluster(&mut self, cluster: &Cluster, at: &str) {
        if let ClusterSpec::UnixDomainSocket(unix) = &cluster.spec
            && let Some(filename) = &unix.filename
        {
            self.path(filename, format!("{at}.spec.UnixDomainSocket.filename"));
        }
        for (n, endpoint) in cluster.endpoints.iter().enumerate() {
            if let EndpointAt::Filename(filename) = &endpoint.at {
                self.path(filename, format!("{at}.endpoints[{n}].spec.filename"));
            }
        }
    }

    /// The path's directory, and that of what it is a link to. One that is not there cannot be judged, nor used.
    fn path(&mut self, filename: &str, at: String) {
        let path = match &self.root {
            Some(root) => root.join(filename.trim_start_matches('/')),
            None => PathBuf::from(filename),
        };
        let target = fs::canonicalize(&path).ok();
        let beside = [Some(&path), target.as_ref()].into_iter().flatten().any(|path| {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            identity(parent) == Some(self.directory)
        });
        if beside {
            let message = format!(
                "{filename:?} is in the directory of the admin socket, where only that may be: take another directory"
            );
            self.problems.push(Problem::new(at, message));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn forbidden(directory: &Path, rooted: bool, document: &str) -> Vec<String> {
        let root = rooted.then(|| OwnedFd::from(fs::File::open(directory).unwrap()));
        let config = Config::read(document).unwrap();
        let problems = paths(&config, &directory.join("admin/admin.sock"), root.as_ref());
        problems.into_iter().map(|problem| problem.path).collect()
    }

    #[test]
    fn the_admin_socket_and_its_neighbours_are_forbidden_wherever_they_are_named() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("admin/below")).unwrap();
        fs::create_dir(directory.path().join("other")).unwrap();
        fs::write(directory.path().join("admin/admin.sock"), "").unwrap();
        symlink("admin", directory.path().join("link")).unwrap();
        symlink("../admin/admin.sock", directory.path().join("other/alias")).unwrap();
        let base = directory.path().display();
        let unix = |file: &str| format!("{{UnixDomainSocket: {{filename: {file}}}}}");
        let document = |prefix: &str| {
            let path = |file: &str| unix(&format!("{prefix}/{file}"));
            format!(
                "
listeners:
  - {{name: a, spec: {}, rules: []}}
  - {{name: b, spec: {}, rules: [{{action: {{route: {{destination: {{spec: {}}}, ingress: [c]}}}}}}]}}
  - {{name: c, spec: {}, rules: []}}
  - {{name: d, spec: {}, rules: []}}
clusters:
  - {{name: c, spec: {{UnixDomainSocket: {{}}}}, endpoints: [{{spec: {{filename: {prefix}/other/x}}}}, {{spec: {{filename: {prefix}/other/alias}}}}]}}
",
                path("admin/x.sock"),
                path("other/x.sock"),
                path("link/admin.sock"),
                path("admin/below/x.sock"),
                path("missing/x.sock"),
            )
        };
        let expected = [
            "listeners[0].spec.UnixDomainSocket.filename",
            "listeners[1].rules[0].action.route.destination.spec.UnixDomainSocket.filename",
            "clusters[0].endpoints[1].spec.filename",
        ];
        assert_eq!(forbidden(directory.path(), false, &document(&base.to_string())), expected);
        assert_eq!(forbidden(directory.path(), true, &document("")), expected);
    }
}
