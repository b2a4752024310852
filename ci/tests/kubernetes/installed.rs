//! The cluster of all tests, and the states that tests begin with.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use l7mp_ci::cluster::Cluster;
use l7mp_ci::testbed::Profile;
use l7mp_ci::testbed::client::{Answer, Client};

use crate::clients::Diagnosis;

/// For what must come, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The manifests of the task, in the order of the page.
pub const MANIFESTS: [&str; 5] = [
    "1-uds-cluster.yaml",
    "2-transcoder-vsvc.yaml",
    "3-websocket-cluster.yaml",
    "4-udp-cluster.yaml",
    "5-gateway-vsvc.yaml",
];

/// A cluster with the project's images, for one test at a time.
pub struct Kubernetes {
    pub cluster: &'static Cluster,
    _turn: MutexGuard<'static, ()>,
}

impl Diagnosis for Cluster {
    fn diagnosis(&self) -> String {
        let mut text = Cluster::diagnosis(self);
        for arguments in [
            &["get", "vsvc,tr,route,rule", "-A", "-o", "wide"][..],
            &["logs", "-l", "app=l7mp-operator", "--tail=40", "--prefix"],
            &["logs", "-l", "app=l7mp-ingress", "--all-containers", "--tail=20", "--prefix"],
        ] {
            text += &self.kubectl(arguments).unwrap_or_else(|error| format!("{error:#}\n"));
        }
        text
    }
}

impl Kubernetes {
    /// The cluster, when it is this test's turn.
    pub fn take() -> Kubernetes {
        static TURN: Mutex<()> = Mutex::new(());
        static LOADED: OnceLock<()> = OnceLock::new();
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = Cluster::shared().unwrap_or_else(|error| panic!("no cluster: {error:#}"));
        LOADED.get_or_init(|| {
            let profile = if cfg!(debug_assertions) { Profile::Debug } else { Profile::Release };
            let profile = if std::env::var_os("L7MP_RELEASE").is_some() { Profile::Release } else { profile };
            cluster.load(profile).unwrap_or_else(|error| panic!("no images: {error:#}"));
        });
        Kubernetes { cluster, _turn: turn }
    }

    /// With the chart installed into `default`, and nothing of the task.
    pub fn with_chart() -> Kubernetes {
        let kubernetes = Kubernetes::take();
        kubernetes.install();
        kubernetes.clean_up();
        kubernetes
    }

    /// With the whole first task, answering. `line_servers`: its pods answer with our fast servers, not with socat.
    pub fn with_first_task(line_servers: bool) -> Kubernetes {
        let kubernetes = Kubernetes::with_chart();
        kubernetes.deploy(line_servers);
        for manifest in MANIFESTS {
            kubernetes.apply(manifest);
        }
        kubernetes.wait_ready();
        kubernetes
    }

    /// Stops the test with everything that may explain it.
    pub fn fail(&self, why: &str) -> ! {
        panic!("{why}\n{}", Diagnosis::diagnosis(self.cluster))
    }

    /// The answer of kubectl, whose arguments are given as one line.
    pub fn kubectl(&self, line: &str) -> String {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        self.cluster.kubectl(&arguments).unwrap_or_else(|error| self.fail(&format!("{error:#}")))
    }

    /// Installs or upgrades the chart, as the page says, and waits.
    pub fn install(&self) {
        let chart = l7mp_ci::workspace().join("deploy/helm/l7mp");
        let chart = chart.to_str().unwrap();
        let arguments = ["upgrade", "--install", "l7mp", chart, "--namespace", "default", "--wait", "--timeout=120s"];
        self.cluster.helm(&arguments).unwrap_or_else(|error| self.fail(&format!("{error:#}")));
    }

    /// The directory of the task.
    pub fn task() -> PathBuf {
        l7mp_ci::workspace().join("deploy/examples/first-task")
    }

    /// `kubectl apply -f` of a file of the task.
    pub fn apply(&self, file: &str) {
        self.kubectl(&format!("apply -f {}", Self::task().join(file).display()));
    }

    /// Runs the task's `cleanup.sh`.
    pub fn clean_up(&self) {
        let mut script = Command::new("sh");
        let kubectl = self.cluster.program("kubectl");
        let path = std::env::var("PATH").unwrap_or_default();
        script.arg(Self::task().join("cleanup.sh"));
        script.env("PATH", format!("{}:{path}", kubectl.parent().unwrap().display()));
        script.env("KUBECONFIG", self.cluster.kubeconfig());
        let output = script.output().unwrap();
        assert!(output.status.success(), "cleanup.sh: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The two deployments, rolled out.
    pub fn deploy(&self, line_servers: bool) {
        for deployment in ["transcoder", "worker"] {
            let file = Self::task().join(format!("{deployment}-deployment.yaml"));
            let text = std::fs::read_to_string(&file).unwrap();
            let text = if line_servers { with_line_server(&text, deployment) } else { text };
            self.cluster.apply(&text).unwrap_or_else(|error| self.fail(&format!("{error:#}")));
        }
        for deployment in ["transcoder", "worker"] {
            self.roll_out(&format!("deployment/{deployment}-deployment"));
        }
    }

    /// Waits until a deployment has its pods.
    pub fn roll_out(&self, what: &str) {
        self.kubectl(&format!("rollout status {what} --timeout=120s"));
    }

    /// Waits until both VirtualServices and all Targets are Ready.
    pub fn wait_ready(&self) {
        let what = ["vsvc/gateway-vsvc", "vsvc/transcoder-vsvc", "tr/udp-cluster", "tr/websocket-cluster"];
        if let Err(error) = self.cluster.wait("condition=Ready", &what, PATIENCE) {
            self.fail(&format!("{error:#}"));
        }
    }

    /// Where clients send to.
    pub fn gateway(&self) -> SocketAddr {
        SocketAddr::from((self.cluster.node_address().unwrap(), 9001))
    }

    /// The names of the running pods with a label that are not being deleted.
    pub fn pods(&self, label: &str) -> BTreeSet<String> {
        let template = "{range .items[?(@.status.phase==\"Running\")]}{.metadata.name} {.metadata.deletionTimestamp}{\"\\n\"}{end}";
        let lines = self.cluster.kubectl(&["get", "pods", "-l", label, "-o", &format!("jsonpath={template}")]).unwrap();
        lines
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(_, deleted)| deleted.is_empty())
            .map(|(name, _)| name.to_owned())
            .collect()
    }

    /// What the task answers to a line of a new client.
    pub fn ask(&self, line: &str) -> Answer {
        let client = Client::new(self.gateway()).unwrap();
        self.ask_as(&client, line)
    }

    /// What the task answers to a client's line.
    pub fn ask_as(&self, client: &Client, line: &str) -> Answer {
        let text = client.ask(line, PATIENCE, || false).unwrap_or_else(|error| self.fail(&format!("{error:#}")));
        let answers = Answer::parse_all(&text).unwrap_or_else(|| panic!("{text:?}"));
        answers.into_iter().find(|answer| answer.line == line).unwrap_or_else(|| panic!("{text:?} answers {line}"))
    }
}

/// The deployment of the task with our server in the place of socat and perl.
fn with_line_server(deployment: &str, role: &str) -> String {
    let listen = match role {
        "transcoder" => "--socket=/tmp/uds-echo.sock",
        _ => "--listen=0.0.0.0:9999",
    };
    let (head, rest) = deployment.split_once("          command: [socat]\n").expect("the deployment runs socat");
    let (_, tail) = rest.split_once("          env:\n").expect("the deployment's app has an environment");
    let command = format!("          command: [/usr/bin/l7mp-ci, {role}, {listen}, --name=$(POD_NAME)]\n");
    format!("{head}{command}          env:\n{tail}")
}
