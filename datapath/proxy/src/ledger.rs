//! Who listens where: the sockets of every listener, kept for as long as protocol and bound address stay.
//!
//! A configuration is applied in two steps. `plan` makes and binds every new socket of every worker, and changes
//! nothing when one of them fails. `commit` takes the plan over after all workers were told.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use l7mp_api::config::{Listener, ListenerSpec, UnixKind};
use l7mp_api::{Config, Problem};
use l7mp_engine::sockets::{self, InetKind, UdpOptions};
use l7mp_engine::{ListenerKind, ListenerSocket};
use l7mp_forwarder::ids::ListenerId;
use l7mp_forwarder::snapshot::compile::owned_by_one_worker;

use crate::forbidden;

/// How long a bind is tried: the sockets of a killed predecessor are released late.
const BIND_PATIENCE: Duration = Duration::from_secs(2);
/// The wait between two tries.
const BIND_PAUSE: Duration = Duration::from_millis(20);

/// What makes a listening socket the same socket in two documents.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A UDP address. With port 0, the listener's name tells two apart.
    Udp(SocketAddr, Option<String>),
    /// A TCP address, for TCP and WebSocket. With port 0, the listener's name tells two apart.
    Tcp(SocketAddr, Option<String>),
    /// The path of a Unix socket.
    Unix(PathBuf, UnixKind),
}

/// The sockets of one listener.
struct Entry {
    id: ListenerId,
    name: String,
    /// What the engine is told of its sockets.
    kind: ListenerKind,
    /// One per worker that listens: `(worker, socket)`.
    sockets: Vec<(usize, Arc<OwnedFd>)>,
    /// Where it is bound, with the port that the kernel chose.
    local: Option<SocketAddr>,
    /// The file of a Unix socket, which goes when the entry goes.
    _file: Option<SocketFile>,
    /// It left the document, and its sessions may live on: their datagrams come in by its sockets.
    orphan: bool,
}

/// All listening sockets of this process.
pub struct Ledger {
    entries: HashMap<Identity, Entry>,
    next: u32,
    workers: usize,
    settings: Settings,
    /// Where listeners are bound that name no address. Asked once: it is part of their identity.
    anywhere: IpAddr,
}

/// What the command line says of listeners.
#[derive(Clone, Default)]
pub struct Settings {
    /// The address of listeners that name none.
    pub bind: Option<IpAddr>,
    /// Unix paths live under this directory.
    pub unix_root: Option<Arc<OwnedFd>>,
    /// The admin socket and what lies beside it is no place for listeners.
    pub admin_socket: PathBuf,
}

/// What has to be done for a document. Dropping it undoes it: its new sockets close.
pub struct Plan {
    /// The identity of each listener's sockets, in the order of the document.
    pub listeners: Vec<ListenerId>,
    fresh: HashMap<Identity, Entry>,
    names: Vec<(Identity, String)>,
    gone: Vec<Identity>,
}

/// What each worker is told.
#[derive(Default)]
pub struct Orders {
    /// Sockets to listen on.
    pub listen: Vec<(ListenerId, ListenerSocket)>,
    /// Listeners whose sockets are closed.
    pub unlisten: Vec<ListenerId>,
}

impl Ledger {
    /// No sockets.
    pub fn new(workers: usize, settings: Settings) -> Ledger {
        let anywhere = settings.bind.unwrap_or_else(|| sockets::any_address(0).ip());
        Ledger { entries: HashMap::new(), next: 1, workers, settings, anywhere }
    }

    /// The directory under which Unix paths live; `None`: they live where they say.
    pub fn unix_root(&self) -> Option<Arc<OwnedFd>> {
        self.settings.unix_root.clone()
    }

    /// The Unix paths of a document that it may not have: the admin socket and what lies beside it.
    pub fn forbidden(&self, config: &Config) -> Vec<Problem> {
        forbidden::paths(config, &self.settings.admin_socket, self.settings.unix_root.as_deref())
    }

    /// Makes what a document needs and is not there yet.
    ///
    /// # Errors
    ///
    /// Every listener that could not be bound, with its path in the document and the reason.
    pub async fn plan(&mut self, listeners: &[Listener]) -> Result<Plan, Vec<Problem>> {
        let mut plan = Plan { listeners: Vec::new(), fresh: HashMap::new(), names: Vec::new(), gone: Vec::new() };
        let mut problems = Vec::new();
        let deadline = Instant::now() + BIND_PATIENCE;
        for (n, listener) in listeners.iter().enumerate() {
            let identity = self.identity(listener);
            if let Some(entry) = self.entries.get(&identity) {
                plan.listeners.push(entry.id);
            } else {
                let id = ListenerId(self.next);
                self.next += 1;
                match self.bind(listener, &identity, id, deadline).await {
                    Ok(entry) => {
                        plan.fresh.insert(identity.clone(), entry);
                    }
                    Err(message) => {
                        let path = format!("listeners[{n}].spec.{}", listener.spec.protocol());
                        problems.push(Problem::new(path, message));
                    }
                }
                plan.listeners.push(id);
            }
            plan.names.push((identity, listener.name.clone()));
        }
        plan.gone = self
            .entries
            .iter()
            .filter(|(identity, entry)| !entry.orphan && !plan.names.iter().any(|(kept, _)| kept == *identity))
            .map(|(identity, _)| identity.clone())
            .collect();
        if problems.is_empty() { Ok(plan) } else { Err(problems) }
    }

    /// Takes a plan over. `outlives` tells whether the sessions of a listener that is gone live on.
    ///
    /// # Errors
    ///
    /// When a descriptor could not be duplicated for its worker.
    pub fn commit(&mut self, plan: Plan, outlives: impl Fn(ListenerId) -> bool) -> std::io::Result<Vec<Orders>> {
        let mut orders: Vec<Orders> = (0..self.workers).map(|_| Orders::default()).collect();
        for entry in plan.fresh.values() {
            for (worker, socket) in &entry.sockets {
                let socket = ListenerSocket { fd: socket.try_clone()?, kind: entry.kind, local: entry.local };
                orders[*worker].listen.push((entry.id, socket));
            }
        }
        for identity in plan.gone {
            let Some(entry) = self.entries.get_mut(&identity) else { continue };
            let shares_socket = matches!(identity, Identity::Udp(..) | Identity::Unix(_, UnixKind::Dgram));
            if shares_socket && outlives(entry.id) {
                entry.orphan = true;
                continue;
            }
            for order in &mut orders {
                order.unlisten.push(entry.id);
            }
            self.entries.remove(&identity);
        }
        self.entries.extend(plan.fresh);
        for (identity, name) in plan.names {
            if let Some(entry) = self.entries.get_mut(&identity) {
                entry.name = name;
                entry.orphan = false;
            }
        }
        Ok(orders)
    }

    /// Makes the sockets of a listener: one exclusive bind that proves the address free, then the whole group.
    /// It is tried until the deadline, at least once.
    async fn bind(
        &self,
        listener: &Listener,
        identity: &Identity,
        id: ListenerId,
        deadline: Instant,
    ) -> Result<Entry, String> {
        loop {
            match self.try_bind(listener, identity, id) {
                Ok(entry) => return Ok(entry),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                    tokio::time::sleep(BIND_PAUSE).await;
                }
                Err(error) => return Err(explain(identity, &error)),
            }
        }
    }

    fn try_bind(&self, listener: &Listener, identity: &Identity, id: ListenerId) -> io::Result<Entry> {
        let count = if owned_by_one_worker(&listener.spec) { 1 } else { self.workers };
        let mut file = None;
        let (kind, sockets) = match identity {
            Identity::Udp(address, _) => {
                self.prove_free(InetKind::Udp, *address)?;
                let sockets = sockets::bind_udp(*address, count, UdpOptions::default())?;
                (ListenerKind::Udp { gro: gro(&listener.spec) }, sockets)
            }
            Identity::Tcp(address, _) => {
                self.prove_free(InetKind::Tcp, *address)?;
                (ListenerKind::Tcp, sockets::bind_tcp(*address, count)?)
            }
            Identity::Unix(path, kind) => {
                let root = self.settings.unix_root.clone();
                let mode = mode(&listener.spec);
                let (engine_kind, socket_kind) = unix_kinds(*kind);
                let socket = sockets::bind_unix(root.as_deref().map(AsFd::as_fd), path, socket_kind, mode)?;
                file = Some(SocketFile { root, path: path.clone() });
                (engine_kind, vec![socket])
            }
        };
        let local = sockets.first().and_then(|socket| sockets::local_addr(socket).ok());
        let owner = id.0 as usize % self.workers;
        let owner_of = |n: usize| if count == self.workers { n } else { owner };
        let sockets = sockets.into_iter().enumerate().map(|(n, socket)| (owner_of(n), Arc::new(socket))).collect();
        Ok(Entry { id, name: listener.name.clone(), kind, sockets, local, _file: file, orphan: false })
    }

    /// An address that overlaps one of ours is known to be nobody else's, and cannot be proven free.
    fn prove_free(&self, kind: InetKind, address: SocketAddr) -> io::Result<()> {
        let overlaps = |other: &SocketAddr| {
            other.port() == address.port()
                && (other.ip() == address.ip() || other.ip().is_unspecified() || address.ip().is_unspecified())
        };
        let ours = self.entries.iter().any(|(identity, entry)| match (identity, kind) {
            (Identity::Udp(..), InetKind::Udp) | (Identity::Tcp(..), InetKind::Tcp) => {
                entry.local.as_ref().is_some_and(overlaps)
            }
            (Identity::Udp(..) | Identity::Tcp(..) | Identity::Unix(..), InetKind::Udp | InetKind::Tcp) => false,
        });
        if ours { Ok(()) } else { sockets::probe_free(kind, address) }
    }

    fn identity(&self, listener: &Listener) -> Identity {
        let address = |address: Option<IpAddr>, port: u16| SocketAddr::new(address.unwrap_or(self.anywhere), port);
        let name = |port: u16| (port == 0).then(|| listener.name.clone());
        match &listener.spec {
            ListenerSpec::Udp(udp) => Identity::Udp(address(udp.address, udp.port), name(udp.port)),
            ListenerSpec::Tcp(tcp) => Identity::Tcp(address(tcp.address, tcp.port), name(tcp.port)),
            ListenerSpec::WebSocket(websocket) => {
                Identity::Tcp(address(websocket.address, websocket.port), name(websocket.port))
            }
            ListenerSpec::UnixDomainSocket(unix) => Identity::Unix(PathBuf::from(&unix.filename), unix.kind),
        }
    }

    /// Forgets the orphans without sessions, and answers their ids for the workers. `in_use` knows a listener's name.
    pub fn close_orphans(&mut self, in_use: impl Fn(&str) -> bool) -> Vec<ListenerId> {
        let mut gone = Vec::new();
        self.entries.retain(|_, entry| {
            let keep = !entry.orphan || in_use(&entry.name);
            if !keep {
                gone.push(entry.id);
            }
            keep
        });
        gone
    }

    /// Every listener's sockets.
    pub fn sockets(&self) -> Vec<ListenerSockets> {
        let sockets = |entry: &Entry| ListenerSockets {
            listener: entry.name.clone(),
            address: entry.local,
            sockets: entry.sockets.iter().map(|(_, socket)| Arc::clone(socket)).collect(),
        };
        self.entries.values().map(sockets).collect()
    }

    /// Closes this thread's descriptors, and removes the files of Unix listeners.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

/// The sockets of a listener, shared with whoever shows them.
pub struct ListenerSockets {
    listener: String,
    address: Option<SocketAddr>,
    sockets: Vec<Arc<OwnedFd>>,
}

impl ListenerSockets {
    /// What the kernel says of them now.
    pub fn report(&self) -> SocketReport {
        SocketReport {
            listener: self.listener.clone(),
            address: self.address,
            kernel_drops: self.sockets.iter().filter_map(|socket| sockets::kernel_drops(socket).ok()).sum(),
        }
    }
}

/// What is known of a listener's sockets.
#[derive(Clone, Debug)]
pub struct SocketReport {
    /// The listener's name.
    pub listener: String,
    /// Where it is bound, with the port that the kernel chose; `None` for Unix sockets.
    pub address: Option<SocketAddr>,
    /// Datagrams that the kernel dropped before the proxy saw them.
    pub kernel_drops: u64,
}

/// The file of a Unix listener: removed with it.
struct SocketFile {
    root: Option<Arc<OwnedFd>>,
    path: PathBuf,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let root: Option<BorrowedFd<'_>> = self.root.as_deref().map(AsFd::as_fd);
        // Somebody else may have removed it; there is nothing to do about it then.
        let _ = sockets::unlink_unix(root, &self.path);
    }
}

fn gro(spec: &ListenerSpec) -> bool {
    match spec {
        ListenerSpec::Udp(udp) => udp.gro,
        ListenerSpec::Tcp(_) | ListenerSpec::WebSocket(_) | ListenerSpec::UnixDomainSocket(_) => false,
    }
}

/// Permission bits of a socket file: its owner's, unless the document says otherwise.
fn mode(spec: &ListenerSpec) -> u32 {
    const OWNER_ONLY: u32 = 0o600;
    match spec {
        ListenerSpec::UnixDomainSocket(unix) => unix.mode.unwrap_or(OWNER_ONLY),
        ListenerSpec::Udp(_) | ListenerSpec::Tcp(_) | ListenerSpec::WebSocket(_) => OWNER_ONLY,
    }
}

fn unix_kinds(kind: UnixKind) -> (ListenerKind, sockets::UnixKind) {
    match kind {
        UnixKind::Stream => (ListenerKind::UnixStream, sockets::UnixKind::Stream),
        UnixKind::Seqpacket => (ListenerKind::UnixSeqpacket, sockets::UnixKind::Seqpacket),
        UnixKind::Dgram => (ListenerKind::UnixDgram, sockets::UnixKind::Dgram),
    }
}

/// What went wrong, and what to do about it.
fn explain(identity: &Identity, error: &io::Error) -> String {
    let place = match identity {
        Identity::Udp(address, _) => format!("UDP {address}"),
        Identity::Tcp(address, _) => format!("TCP {address}"),
        Identity::Unix(path, _) => format!("the Unix socket {}", path.display()),
    };
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => "another process has it; stop that one, or take another address",
        io::ErrorKind::PermissionDenied => {
            "not permitted; a port below 1024 wants CAP_NET_BIND_SERVICE, a file its directory's"
        }
        io::ErrorKind::AddrNotAvailable => "no interface of this host has this address",
        io::ErrorKind::NotFound => "its directory is not there",
        io::ErrorKind::AlreadyExists => "a file that is no socket is in its place",
        io::ErrorKind::CrossesDevices => "it leads out of the --unix-root",
        io::ErrorKind::InvalidFilename => "its file's name is too long; at most 80 bytes are sure to fit",
        _ => return format!("cannot listen on {place}: {error}"),
    };
    format!("cannot listen on {place}: {advice} ({error})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listeners(text: &str) -> Vec<Listener> {
        Config::read(text).unwrap().listeners
    }

    async fn commit(ledger: &mut Ledger, text: &str) -> Vec<Orders> {
        let plan = ledger.plan(&listeners(text)).await.unwrap();
        ledger.commit(plan, |_| false).unwrap()
    }

    fn ledger(workers: usize) -> Ledger {
        Ledger::new(workers, Settings { bind: Some(IpAddr::from([127, 0, 0, 1])), ..Settings::default() })
    }

    const ONE: &str = "listeners: [{name: a, spec: {UDP: {port: 0}}, rules: []}]";

    #[tokio::test]
    async fn the_same_document_again_needs_nothing() {
        let mut ledger = ledger(2);
        let first = commit(&mut ledger, ONE).await;
        assert!(first.iter().all(|orders| orders.listen.len() == 1 && orders.unlisten.is_empty()));
        let again = commit(&mut ledger, ONE).await;
        assert!(again.iter().all(|orders| orders.listen.is_empty() && orders.unlisten.is_empty()));
    }

    #[tokio::test]
    async fn a_listener_that_leaves_is_closed_on_every_worker() {
        let mut ledger = ledger(2);
        commit(&mut ledger, ONE).await;
        let orders = commit(&mut ledger, "{}").await;
        assert!(orders.iter().all(|orders| orders.unlisten.len() == 1));
        assert!(ledger.sockets().is_empty());
    }

    #[tokio::test]
    async fn a_wildcard_may_take_the_place_of_a_specific_address() {
        let mut ledger = ledger(1);
        commit(&mut ledger, ONE).await;
        let port = ledger.sockets()[0].address.unwrap().port();
        commit(&mut ledger, &format!("listeners: [{{name: a, spec: {{UDP: {{port: {port}}}}}, rules: []}}]")).await;
        let wide = format!("listeners: [{{name: a, spec: {{UDP: {{port: {port}, address: 0.0.0.0}}}}, rules: []}}]");
        commit(&mut ledger, &wide).await;
        assert_eq!(ledger.sockets()[0].address.unwrap().ip(), IpAddr::from([0, 0, 0, 0]));
    }

    #[tokio::test]
    async fn an_address_of_another_process_is_refused_with_its_path() {
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let text = format!("listeners: [{{name: a, spec: {{UDP: {{port: {port}}}}}, rules: []}}]");
        let problems = ledger(1).plan(&listeners(&text)).await.err().unwrap();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].path, "listeners[0].spec.UDP");
        assert!(problems[0].message.contains("another process has it"), "{}", problems[0].message);
    }

    #[tokio::test]
    async fn a_plan_that_is_dropped_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.sock");
        let text = format!(
            "listeners: [{{name: a, spec: {{UnixDomainSocket: {{filename: {}}}}}, rules: []}}]",
            path.display()
        );
        let plan = ledger(1).plan(&listeners(&text)).await.unwrap();
        assert!(path.exists());
        drop(plan);
        assert!(!path.exists());
    }
}
