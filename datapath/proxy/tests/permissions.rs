//! A Unix socket that the proxy may not open: the log and the admin API say which, its mode, and who the proxy is.

mod common;

use std::fs::{self, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use common::{Proxy, within};

/// The user that proxies in pods run as.
const USER: u32 = 65532;

const CONFIG: &str = r"
listeners: [{name: in, spec: {UDP: {port: 0}}, rules: [{action: {route: {destination: worker}}}]}]
clusters: [{name: worker, spec: {UnixDomainSocket: {framing: line}}, endpoints: [{spec: {filename: /x.sock}}]}]";

/// Sends a message, which opens a session, until `seen` sees what it waits for.
fn knock_until<T>(proxy: &Proxy, mut seen: impl FnMut(&Proxy) -> Option<T>) -> T {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(proxy.address("in")).unwrap();
    within(|| {
        client.send(b"x").unwrap();
        seen(proxy)
    })
}

fn last_error(proxy: &Proxy) -> Option<String> {
    let cluster = proxy.get("/api/v1/clusters/worker").json();
    let status = &cluster["status"];
    assert_eq!(status["last_error"].is_null(), status["last_error_age_ms"].is_null(), "{status}");
    status["last_error"].as_str().map(str::to_owned)
}

#[test]
fn a_socket_of_mode_0600_is_named_with_what_to_do() {
    assert_eq!(rustix::process::geteuid().as_raw(), 0, "this test runs the proxy as another user: run it as root");
    let proxy = Proxy::start_as(USER, CONFIG);
    assert_eq!(last_error(&proxy), None);
    let missing = knock_until(&proxy, last_error);
    assert_eq!(missing, "No such file or directory: /x.sock");

    let path = proxy.root().join("x.sock");
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let why = "permission denied for /x.sock (mode 0600, owner 0:0; this proxy is 65532:65532): \
               give the socket mode 0666, or run its owner and the proxy as one user";
    knock_until(&proxy, |proxy| (last_error(proxy)? == why).then_some(()));
    knock_until(&proxy, |proxy| proxy.log().contains(&format!("; the last: {why}")).then_some(()));
    let line = proxy.log().lines().find(|line| line.contains(why)).unwrap().to_owned();
    assert!(line.contains("WARN") && line.contains("cluster worker: connections that failed in the last 5 s: "));
    let failing = proxy.get("/api/v1/info").json()["failing"].clone();
    assert_eq!(failing[0]["path"], "clusters[0]");
    assert_eq!(failing[0]["message"], format!("connections fail: {why}"));

    // What it says to do is what helps.
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    listener.set_nonblocking(true).unwrap();
    knock_until(&proxy, |_| listener.accept().ok());

    drop(listener);
    knock_until(&proxy, |proxy| (last_error(proxy)? == "Connection refused: /x.sock").then_some(()));
}

#[test]
fn another_user_at_the_admin_socket_is_counted() {
    assert_eq!(rustix::process::geteuid().as_raw(), 0, "this test speaks as another user: run it as root");
    let proxy = Proxy::start("{}");
    // The modes of the socket and its directories would keep it out before: they are opened, to see who asks.
    let socket = proxy.admin_socket();
    for path in socket.ancestors().take(3) {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    // On Linux a thread may be another user than its process.
    let ask = || {
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(USER)).unwrap();
        proxy.get("/api/v1/config")
    };
    let answer = std::thread::scope(|scope| scope.spawn(ask).join().unwrap());
    assert!(answer.status == 403 && answer.body.contains("its proxy's own user and root only"), "{answer:?}");
    assert_eq!(proxy.metric("l7mp_admin_refused_total", ""), 1);
    assert!(proxy.log().contains("to the admin socket is refused"), "{}", proxy.log());
}
