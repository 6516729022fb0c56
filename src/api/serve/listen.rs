//! Sockets to listen on.

use std::fs::Permissions;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use poem::Addr;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::config::{Fault, ListenAddress};

/// Callers that the kernel keeps waiting while nobody is accepted.
const BACKLOG: i32 = 4096;

/// All sockets of the service, bound.
#[derive(Debug)]
pub struct Listeners(Vec<Listener>);

#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// Somebody who has connected: the socket, which no runtime knows yet, and the names of its two ends, ours first.
pub(super) enum Accepted {
    Tcp(TcpStream, (Addr, Addr)),
    Unix(UnixStream, (Addr, Addr)),
}

/// Removes the file of a unix socket when it is no longer listened on.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // If it is gone already, so much the better.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listeners {
    /// Binds all addresses, or none.
    ///
    /// # Errors
    /// One of them cannot be bound.
    pub fn bind(addresses: &[ListenAddress]) -> Result<Self, Fault> {
        Self::bind_for("LLM_PROXY_API_LISTEN", addresses)
    }

    /// The same, for those that another setting names.
    ///
    /// # Errors
    /// One of them cannot be bound.
    pub fn bind_for(setting: &str, addresses: &[ListenAddress]) -> Result<Self, Fault> {
        let mut listeners = Vec::new();
        for address in addresses {
            let bound = match address {
                ListenAddress::Tcp(address) => tcp(address, &mut listeners),
                ListenAddress::Unix(path) => unix(path).map(|listener| listeners.push(listener)),
            };
            bound.map_err(|error| {
                let problem = format!("`{address}` cannot be listened on: {error}");
                Fault::new(setting, problem, "set it to a free address of this machine, such as 127.0.0.1:8089, or stop the program that listens there")
            })?;
        }
        Ok(Self(listeners))
    }

    /// Where callers find the service: `http://` addresses and paths of sockets.
    pub fn addresses(&self, encrypted: bool) -> Vec<String> {
        let scheme = if encrypted { "https" } else { "http" };
        let name = |listener: &Listener| match listener {
            Listener::Tcp(listener) => Some(format!("{scheme}://{}", listener.local_addr().ok()?)),
            Listener::Unix(_, file) => Some(format!("unix:{}", file.0.display())),
        };
        self.0.iter().filter_map(name).collect()
    }

    pub(super) fn into_inner(self) -> Vec<Listener> {
        self.0
    }
}

impl Listener {
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (socket, remote) = listener.accept().await?;
                // Each piece of a stream must leave at once, not when the last one is acknowledged.
                socket.set_nodelay(true)?;
                let local = socket.local_addr()?;
                Ok(Accepted::Tcp(socket.into_std()?, (Addr::SocketAddr(local), Addr::SocketAddr(remote))))
            }
            Self::Unix(listener, _) => {
                let (socket, remote) = listener.accept().await?;
                let local = socket.local_addr()?;
                Ok(Accepted::Unix(socket.into_std()?, (Addr::Unix(local.into()), Addr::Unix(remote.into()))))
            }
        }
    }
}

/// Errors that say nothing about the next caller.
pub(super) fn concerns_one_caller(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, NotConnected};
    // A caller may be gone before its socket has been set up.
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted | NotConnected | io::ErrorKind::InvalidInput
    )
}

/// A name may stand for several addresses; those that this machine does not have are passed over.
fn tcp(address: &str, listeners: &mut Vec<Listener>) -> io::Result<()> {
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    let before = listeners.len();
    for address in address.to_socket_addrs()? {
        match bind(address) {
            Ok(listener) => listeners.push(Listener::Tcp(listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => last = error,
            Err(error) => return Err(error),
        }
    }
    if listeners.len() > before { Ok(()) } else { Err(last) }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // So that 0.0.0.0 and [::] can both be listened on, at one port.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn unix(path: &Path) -> io::Result<Listener> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    // A file without a listener is what a process left that could not clean up.
    if is_socket && UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    // For the owner and the group, such as a web server in front; never for everybody, whatever the umask.
    std::fs::set_permissions(path, Permissions::from_mode(0o660))?;
    Ok(Listener::Unix(listener, SocketFile(path.to_owned())))
}
