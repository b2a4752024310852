//! Making sockets: what the admin thread binds before workers adopt it, and the options that engines need.

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use l7mp_forwarder::address::UnixName;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Longest path that a socket address holds, in bytes.
const UNIX_PATH_BYTES_MAX: usize = 107;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// What a UDP group is made with.
#[derive(Clone, Copy, Debug)]
pub struct UdpOptions {
    /// SO_RCVBUF and SO_SNDBUF, in bytes.
    pub socket_bytes: usize,
    /// One owner only: without SO_REUSEPORT. `count` must be 1.
    pub exclusive: bool,
}

impl Default for UdpOptions {
    fn default() -> UdpOptions {
        UdpOptions { socket_bytes: 4 * 1024 * 1024, exclusive: false }
    }
}

/// Kind of a Unix listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnixKind {
    /// A byte stream.
    Stream,
    /// Connections with message boundaries.
    Seqpacket,
    /// Datagrams.
    Dgram,
}

/// Kind of a socket for [`probe_free`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InetKind {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// Proves that nobody else has the address, by an exclusive bind that is undone at once. With SO_REUSEPORT alone a
/// second process of the same user would silently share its flows. EADDRINUSE may pass: a killed process's ring lets
/// its sockets go late, so callers try again for up to 2 s.
pub fn probe_free(kind: InetKind, address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    let fd = inet_socket(address, if kind == InetKind::Udp { SocketType::DGRAM } else { SocketType::STREAM })?;
    if kind == InetKind::Tcp {
        // Connections in TIME_WAIT do not count.
        rustix::net::sockopt::set_socket_reuseaddr(&fd, true)?;
    }
    rustix::net::bind(&fd, &address)?;
    if kind == InetKind::Tcp {
        rustix::net::listen(&fd, 1)?;
    }
    Ok(())
}

/// A group of `count` UDP sockets on one address, made whole: adding a socket later would move flows. With port 0 the
/// first one's port is everybody's.
pub fn bind_udp(address: SocketAddr, count: usize, options: UdpOptions) -> io::Result<Vec<OwnedFd>> {
    let mut address = address;
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let fd = inet_socket(address, SocketType::DGRAM)?;
        if !options.exclusive {
            rustix::net::sockopt::set_socket_reuseport(&fd, true)?;
        }
        set_buffer_sizes(&fd, options.socket_bytes);
        rustix::net::bind(&fd, &address)?;
        address = local_addr(&fd)?;
        sockets.push(fd);
    }
    Ok(sockets)
}

/// A group of `count` listening TCP sockets on one address.
pub fn bind_tcp(address: SocketAddr, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut address = address;
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let fd = inet_socket(address, SocketType::STREAM)?;
        rustix::net::sockopt::set_socket_reuseaddr(&fd, true)?;
        // Also for one: a wildcard may take the place of a specific address while both are bound.
        rustix::net::sockopt::set_socket_reuseport(&fd, true)?;
        rustix::net::bind(&fd, &address)?;
        rustix::net::listen(&fd, BACKLOG)?;
        address = local_addr(&fd)?;
        sockets.push(fd);
    }
    Ok(sockets)
}

/// Notices a TCP peer that is gone without a word: asked after 60 s of silence, every 10 s, given up after six askings.
pub(crate) fn keep_alive(fd: impl AsFd) {
    use rustix::net::sockopt;
    // A socket without it serves as well; it is only found dead later.
    let _ = sockopt::set_socket_keepalive(&fd, true);
    let _ = sockopt::set_tcp_keepidle(&fd, Duration::from_secs(60));
    let _ = sockopt::set_tcp_keepintvl(&fd, Duration::from_secs(10));
    let _ = sockopt::set_tcp_keepcnt(&fd, 6);
}

/// The address that stands for all of ours: `[::]` for both families, `0.0.0.0` where there is no IPv6.
pub fn any_address(port: u16) -> SocketAddr {
    let dual = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
    let works = inet_socket(dual, SocketType::DGRAM)
        .is_ok_and(|fd| rustix::net::bind(&fd, &SocketAddr::new(dual.ip(), 0)).is_ok());
    if works { dual } else { SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, port)) }
}

fn inet_socket(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if let SocketAddr::V6(v6) = address {
        rustix::net::sockopt::set_ipv6_v6only(&fd, !v6.ip().is_unspecified())?;
    }
    Ok(fd)
}

/// Where a socket is bound.
pub fn local_addr(fd: impl AsFd) -> io::Result<SocketAddr> {
    let name = rustix::net::getsockname(fd)?;
    SocketAddr::try_from(name).map_err(|_| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
}

/// A Unix listener at `path`, which lies under `root` if there is one: then `..`, symbolic links and anything else that
/// leads out is refused. A socket file that nobody listens on is replaced; a live one (EADDRINUSE) and a file that is no
/// socket (EEXIST) are refused. `mode` is that of the socket file.
pub fn bind_unix(root: Option<BorrowedFd<'_>>, path: &Path, kind: UnixKind, mode: u32) -> io::Result<OwnedFd> {
    let socket_type = match kind {
        UnixKind::Stream => SocketType::STREAM,
        UnixKind::Seqpacket => SocketType::SEQPACKET,
        UnixKind::Dgram => SocketType::DGRAM,
    };
    let (parent, name) = parent(root, path)?;
    // Peers and tools see the name that was bound: the path itself, unless it must not be followed or does not fit.
    let address = match root {
        None if path.as_os_str().len() <= UNIX_PATH_BYTES_MAX => SocketAddrUnix::new(path)?,
        None | Some(_) => proc_path(&parent, Some(&name))?,
    };
    remove_stale(&parent, &name, &address, socket_type)?;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, socket_type, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&fd, &address)?;
    rustix::fs::chmodat(&parent, &*name, Mode::from_raw_mode(mode), AtFlags::empty())?;
    if kind != UnixKind::Dgram {
        rustix::net::listen(&fd, BACKLOG)?;
    }
    Ok(fd)
}

/// Removes the socket file of a listener that is gone, by the path that it was bound with.
pub fn unlink_unix(root: Option<BorrowedFd<'_>>, path: &Path) -> io::Result<()> {
    let (parent, name) = parent(root, path)?;
    let stat = rustix::fs::statat(&parent, &*name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(io::Error::from_raw_os_error(libc::EEXIST));
    }
    Ok(rustix::fs::unlinkat(&parent, &*name, AtFlags::empty())?)
}

/// The directory of a path, and the name in it.
fn parent(root: Option<BorrowedFd<'_>>, path: &Path) -> io::Result<(OwnedFd, std::ffi::OsString)> {
    let name = path.file_name().ok_or(io::Error::from_raw_os_error(libc::EINVAL))?.to_owned();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fd = match root {
        None => rustix::fs::open(directory, flags, Mode::empty())?,
        Some(root) => rustix::fs::openat2(root, beneath(directory), flags, Mode::empty(), BENEATH)?,
    };
    Ok((fd, name))
}

/// Nothing may lead out of the root: no `..`, no absolute or magic link.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// A path of the configuration, counted from the root.
fn beneath(path: &Path) -> PathBuf {
    let relative: PathBuf = path.components().filter(|part| !matches!(part, Component::RootDir)).collect();
    if relative.as_os_str().is_empty() { PathBuf::from(".") } else { relative }
}

/// A socket address for an open file, or for a name in an open directory, however long its path is.
fn proc_path(fd: &OwnedFd, name: Option<&OsStr>) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(proc_bytes(fd, name).as_slice())?)
}

fn proc_bytes(fd: &OwnedFd, name: Option<&OsStr>) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes();
    if let Some(name) = name {
        path.push(b'/');
        path.extend_from_slice(name.as_bytes());
    }
    path
}

/// Makes way for a new socket file, unless something alive or foreign is there.
fn remove_stale(parent: &OwnedFd, name: &OsStr, address: &SocketAddrUnix, kind: SocketType) -> io::Result<()> {
    let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(io::Error::from_raw_os_error(libc::EEXIST));
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
    match rustix::net::connect(&probe, address) {
        Err(rustix::io::Errno::CONNREFUSED) => Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?),
        Err(rustix::io::Errno::NOENT) => Ok(()),
        // Connected, of another type (EPROTOTYPE), or its queue is full: somebody lives there.
        Ok(()) | Err(rustix::io::Errno::PROTOTYPE | rustix::io::Errno::AGAIN) => {
            Err(io::Error::from_raw_os_error(libc::EADDRINUSE))
        }
        Err(error) => Err(error.into()),
    }
}

/// The name to connect to, and what keeps it alive. Under a root, and for a path that no address holds, it is that of
/// the file itself, opened.
pub(crate) fn unix_remote(root: Option<BorrowedFd<'_>>, path: &Path) -> io::Result<(UnixName, Option<OwnedFd>)> {
    let too_long = || io::Error::from_raw_os_error(libc::ENAMETOOLONG);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = match root {
        Some(root) => rustix::fs::openat2(root, beneath(path), flags, Mode::empty(), BENEATH)?,
        None if path.as_os_str().len() > UNIX_PATH_BYTES_MAX => rustix::fs::open(path, flags, Mode::empty())?,
        None => return Ok((UnixName::new(path.as_os_str().as_bytes()).ok_or_else(too_long)?, None)),
    };
    Ok((UnixName::new(&proc_bytes(&file, None)).ok_or_else(too_long)?, Some(file)))
}

/// Gives a Unix dgram socket an abstract name of the kernel's choice.
pub(crate) fn autobind(fd: &OwnedFd) -> io::Result<()> {
    Ok(rustix::net::bind(fd, &SocketAddrUnix::new_unnamed())?)
}

/// Datagrams that the kernel dropped before a receive saw them.
pub fn kernel_drops(fd: impl AsFd) -> io::Result<u64> {
    /// `SK_MEMINFO_DROPS` of `struct sk_meminfo`.
    const DROPS: usize = 8;
    let mut info = [0_u32; 9];
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: `info` is writable for `len` bytes, and both outlive the call.
    let done = unsafe {
        libc::getsockopt(fd.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, info.as_mut_ptr().cast(), &mut len)
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(info[DROPS].into()) }
}

/// Operations of a ring wait by themselves; a nonblocking socket would make them fail instead.
pub(crate) fn make_blocking(fd: &OwnedFd) {
    if let Ok(flags) = rustix::fs::fcntl_getfl(fd) {
        let _ = rustix::fs::fcntl_setfl(fd, flags - OFlags::NONBLOCK);
    }
}

/// Large buffers, beyond the system's limit where we may.
pub(crate) fn set_buffer_sizes(fd: &OwnedFd, bytes: usize) {
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
    for (force, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        if set_option(fd, libc::SOL_SOCKET, force, bytes).is_err() {
            // Cut to net.core.[rw]mem_max by the kernel.
            let _ = set_option(fd, libc::SOL_SOCKET, plain, bytes);
        }
    }
}

/// Trains are received as such.
pub(crate) fn set_gro(fd: &OwnedFd) -> io::Result<()> {
    set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Datagrams say to which address they were sent.
pub(crate) fn set_packet_info(fd: &OwnedFd, ipv6: bool) -> io::Result<()> {
    if ipv6 {
        set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
    } else {
        set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
    }
}

/// A bind to an address alone leaves the port to connect, which knows the peer and has more to choose from.
pub(crate) fn set_bind_address_no_port(fd: &OwnedFd, on: bool) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, on.into())
}

fn set_option(fd: &OwnedFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let (value, len) = ((&raw const value).cast(), size_of::<i32>() as libc::socklen_t);
    // SAFETY: `value` points to `len` readable bytes that outlive the call.
    let done = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value, len) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
