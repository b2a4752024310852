//! The programs of a node, and what they are started with.

use super::control::Start;
use super::network::{Network, SERVICES};
use super::node::{INSIDE, KUBELET, PROGRAMS};
use super::settings::{API_PORT, NODE};

/// A program of the node, which can be stopped and started by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The store.
    Etcd,
    /// The API server.
    ApiServer,
    /// Deployments, EndpointSlices, service accounts, garbage.
    ControllerManager,
    /// Gives pods to the node.
    Scheduler,
    /// Runs containers; they go on while it is stopped.
    Containerd,
    /// Keeps the node's pods as they should be; they go on while it is stopped.
    Kubelet,
    /// The addresses of Services.
    KubeProxy,
    /// The names of Services and pods.
    Dns,
}

impl Part {
    /// All, in the order of starting.
    pub const ALL: [Part; 8] = [
        Part::Etcd,
        Part::Containerd,
        Part::ApiServer,
        Part::ControllerManager,
        Part::Scheduler,
        Part::Kubelet,
        Part::KubeProxy,
        Part::Dns,
    ];

    /// For people, and of its log.
    pub fn name(self) -> &'static str {
        match self {
            Part::Etcd => "etcd",
            Part::ApiServer => "apiserver",
            Part::ControllerManager => "controller-manager",
            Part::Scheduler => "scheduler",
            Part::Containerd => "containerd",
            Part::Kubelet => "kubelet",
            Part::KubeProxy => "kube-proxy",
            Part::Dns => "dns",
        }
    }

    /// How it is started.
    pub fn start(self, network: Network) -> Start {
        let (program, arguments) = match self {
            Part::Etcd => ("etcd", etcd()),
            Part::ApiServer => ("kube-apiserver", api_server(network)),
            Part::ControllerManager => ("kube-controller-manager", controller_manager()),
            Part::Scheduler => ("kube-scheduler", scheduler()),
            Part::Containerd => ("containerd", format!("--config {INSIDE}/containerd.toml")),
            Part::Kubelet => ("kubelet", kubelet(network)),
            Part::KubeProxy => ("kube-proxy", kube_proxy(network)),
            Part::Dns => ("coredns", format!("-conf {INSIDE}/Corefile")),
        };
        let program = format!("{PROGRAMS}/bin/{program}");
        let command = [program].into_iter().chain(arguments.split_whitespace().map(str::to_owned)).collect();
        let path = super::needs::search_path(&std::path::Path::new(PROGRAMS).join("bin"));
        Start {
            part: self.name().to_owned(),
            command,
            environment: vec![("PATH".to_owned(), path)],
            log: format!("{INSIDE}/log/{}.log", self.name()).into(),
        }
    }
}

fn etcd() -> String {
    let client = "http://127.0.0.1:2379";
    format!(
        "--data-dir {INSIDE}/etcd --listen-client-urls {client} --advertise-client-urls {client} \
         --listen-peer-urls http://127.0.0.1:0 --unsafe-no-fsync"
    )
}

fn api_server(network: Network) -> String {
    let pki = format!("{INSIDE}/pki");
    format!(
        "--etcd-servers=http://127.0.0.1:2379 --secure-port={API_PORT} --advertise-address={node} --cert-dir={pki} \
         --tls-cert-file={pki}/server.crt --tls-private-key-file={pki}/server.key --client-ca-file={pki}/ca.crt \
         --authorization-mode=Node,RBAC --service-cluster-ip-range={SERVICES} --allow-privileged=true \
         --kubelet-preferred-address-types=InternalIP --service-account-issuer=https://kubernetes.default.svc \
         --service-account-key-file={pki}/service-accounts.pub \
         --service-account-signing-key-file={pki}/service-accounts.key \
         --kubelet-client-certificate={pki}/admin.crt --kubelet-client-key={pki}/admin.key \
         --enable-admission-plugins=NodeRestriction \
         --audit-policy-file={INSIDE}/audit.yaml --audit-log-path={INSIDE}/log/audit.log",
        node = network.node()
    )
}

fn controller_manager() -> String {
    let config = format!("{INSIDE}/controller-manager.kubeconfig");
    format!(
        "--kubeconfig={config} --authentication-kubeconfig={config} --authorization-kubeconfig={config} \
         --leader-elect=false --use-service-account-credentials --bind-address=127.0.0.1 \
         --flex-volume-plugin-dir={KUBELET}/volume-plugins \
         --service-account-private-key-file={INSIDE}/pki/service-accounts.key --root-ca-file={INSIDE}/pki/ca.crt"
    )
}

fn scheduler() -> String {
    let config = format!("{INSIDE}/scheduler.kubeconfig");
    format!(
        "--kubeconfig={config} --authentication-kubeconfig={config} --authorization-kubeconfig={config} \
         --leader-elect=false --bind-address=127.0.0.1"
    )
}

fn kubelet(network: Network) -> String {
    let node = network.node();
    format!(
        "--config={INSIDE}/kubelet.yaml --kubeconfig={INSIDE}/kubelet.kubeconfig --root-dir={KUBELET} \
         --cert-dir={KUBELET}/pki --hostname-override={NODE} --node-ip={node}"
    )
}

fn kube_proxy(network: Network) -> String {
    format!(
        "--kubeconfig={INSIDE}/proxy.kubeconfig --proxy-mode=nftables --cluster-cidr={all} --hostname-override={NODE} \
         --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0s --conntrack-tcp-timeout-close-wait=0s",
        all = network.all()
    )
}
