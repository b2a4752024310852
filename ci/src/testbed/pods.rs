//! The pods of a testbed: their names, addresses, directories and programs.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::network::Subnet;
use super::{Binaries, Options};
use crate::process::{Process, Program};

/// Where the transcoder listens, below the root of its pod.
const TRANSCODER_SOCKET: &str = "tmp/uds-echo.sock";
const WORKER_PORT: u16 = 9999;

/// What a pod is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A proxy, where clients send to.
    Gateway,
    /// A proxy beside a server on a Unix socket.
    Transcoder,
    /// A server on UDP.
    Worker,
}

impl Role {
    /// The value of the pods' label `app`.
    pub fn label(self) -> &'static str {
        match self {
            Role::Gateway => "l7mp-ingress",
            Role::Transcoder => "transcoder",
            Role::Worker => "worker",
        }
    }
}

/// Who answers in transcoder and worker pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Servers {
    /// [`crate::servers`].
    Ours,
    /// socat, executing perl, as the task's page has it.
    Socat,
}

/// One pod.
pub struct Pod {
    /// As Kubernetes would name it.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its address, in the testbed's own network.
    pub address: IpAddr,
    /// What its proxy binds; its address, but for a gateway that is to listen elsewhere.
    pub bind: IpAddr,
    /// Its file system, as far as Unix paths are concerned.
    pub root: PathBuf,
    /// The admin socket of its proxy.
    pub admin_socket: PathBuf,
    /// Its proxy, if it has one.
    pub proxy: Option<Process>,
    /// Its transcoder or worker, if it has one.
    pub server: Option<Process>,
}

/// All pods of a testbed, their directories made, nothing started.
pub fn plan(options: &Options, subnet: &Subnet, directory: &Path, binaries: &Binaries) -> Result<Vec<Pod>> {
    let (transcoders, workers) = (options.transcoders, options.workers);
    ensure!(transcoders <= 100 && workers <= 100, "at most 100 pods of a kind have addresses");
    let numbered = |role, base: u8, count: usize| (0..count as u8).map(move |n| (role, base + n, n));
    let all = numbered(Role::Gateway, 1, 1).chain(numbered(Role::Transcoder, 10, transcoders)).chain(numbered(
        Role::Worker,
        120,
        workers,
    ));
    all.map(|(role, host, number)| {
        let address = IpAddr::V4(subnet.host(host));
        let bind = match role {
            Role::Gateway => options.gateway_address.unwrap_or(address),
            Role::Transcoder | Role::Worker => address,
        };
        let name = pod_name(role, number);
        let home = directory.join(&name);
        std::fs::create_dir_all(home.join("root/tmp"))?;
        let mut pod = Pod {
            root: home.join("root"),
            admin_socket: home.join("admin.sock"),
            name,
            role,
            address,
            bind,
            proxy: None,
            server: None,
        };
        if role != Role::Worker {
            pod.proxy = Some(proxy(&pod, options, &home, binaries));
        }
        if role != Role::Gateway {
            pod.server = Some(server(&pod, options.servers, &home, binaries)?);
        }
        Ok(pod)
    })
    .collect()
}

/// The names of the task's page, and more of the same kind.
fn pod_name(role: Role, number: u8) -> String {
    let (prefix, first) = match role {
        Role::Gateway => ("l7mp-ingress", "x7k2p"),
        Role::Transcoder => ("transcoder-deployment-6784fc494c", "6t7l5"),
        Role::Worker => ("worker-deployment-6bfdf5584c", "97dgn"),
    };
    if number == 0 {
        return format!("{prefix}-{first}");
    }
    // The letters that Kubernetes makes such names of.
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let letter = |n: usize| char::from(LETTERS[n % LETTERS.len()]);
    let n = usize::from(number) + prefix.len();
    let suffix: String = [n * 7, n / LETTERS.len() + 5, n * 11 + 3, n, n * 5 + 2].map(letter).iter().collect();
    format!("{prefix}-{suffix}")
}

fn proxy(pod: &Pod, options: &Options, home: &Path, binaries: &Binaries) -> Process {
    let extra = match pod.role {
        Role::Gateway => &options.gateway_arguments,
        Role::Transcoder | Role::Worker => &options.sidecar_arguments,
    };
    let mut arguments: Vec<OsString> = vec![
        "--admin-socket".into(),
        pod.admin_socket.clone().into(),
        "--bind".into(),
        pod.bind.to_string().into(),
        "--unix-root".into(),
        pod.root.clone().into(),
    ];
    arguments.extend(extra.iter().map(OsString::from));
    let program = Program {
        name: format!("{} proxy", pod.name),
        path: binaries.proxy.clone(),
        arguments,
        directory: home.to_owned(),
        environment: super::log_environment(options),
        log: home.join("proxy.log"),
    };
    Process::new(program, binaries.tool.clone())
}

/// A server runs in the root of its pod: so its socket's path is short, however deep the testbed's directory is.
fn server(pod: &Pod, servers: Servers, home: &Path, binaries: &Binaries) -> Result<Process> {
    let listen = SocketAddr::new(pod.address, WORKER_PORT);
    let is_transcoder = pod.role == Role::Transcoder;
    let (path, arguments): (PathBuf, Vec<String>) = match servers {
        Servers::Ours => {
            let [kind, flag] = if is_transcoder { ["transcoder", "--socket"] } else { ["worker", "--listen"] };
            let place = if is_transcoder { TRANSCODER_SOCKET.to_owned() } else { listen.to_string() };
            let arguments = [kind, flag, &place, "--name", &pod.name].map(str::to_owned);
            (binaries.tool.clone(), arguments.into())
        }
        Servers::Socat => {
            let (listen, answer) = if is_transcoder {
                let listen = format!("unix-l:{TRANSCODER_SOCKET},fork,unlink-early,backlog=256");
                (listen, format!("Transcoded on {}: ", pod.name))
            } else {
                let listen = format!("udp-l:{WORKER_PORT},bind={},fork,reuseaddr", pod.address);
                (listen, format!("Echo on {}: \\n", pod.name))
            };
            std::fs::write(home.join("server.pl"), perl(&answer))?;
            // -T: a child without traffic ends, as udp-l's would never else.
            let arguments = ["-d", "-d", "-T", "60", &listen, "EXEC:perl ../server.pl"].map(str::to_owned);
            ("socat".into(), arguments.into())
        }
    };
    let program = Program {
        name: format!("{} server", pod.name),
        path,
        arguments: arguments.into_iter().map(OsString::from).collect(),
        directory: pod.root.clone(),
        environment: Vec::new(),
        log: home.join("server.log"),
    };
    Ok(Process::new(program, binaries.tool.clone()))
}

/// Reads byte by byte up to a newline and answers with one write, as the page's perl does.
fn perl(answer: &str) -> String {
    format!(
        r#"my $line = "";
while (sysread(STDIN, my $byte, 1)) {{
    $line .= $byte;
    next unless $byte eq "\n";
    syswrite(STDOUT, "{answer}$line");
    $line = "";
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_a_kind_have_names_of_their_own() {
        for role in [Role::Gateway, Role::Transcoder, Role::Worker] {
            let names: std::collections::HashSet<_> = (0..100).map(|n| pod_name(role, n)).collect();
            assert_eq!(names.len(), 100, "{role:?}");
        }
        assert_eq!(pod_name(Role::Worker, 0), "worker-deployment-6bfdf5584c-97dgn");
    }
}
