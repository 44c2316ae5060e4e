//! Where the server listens, and what it says of that.

use std::net::SocketAddr;
use std::path::Path;

use thiserror::Error;
use tokio::net::TcpListener;

use super::settings::ServeOptions;
use crate::engine::Engine;

/// A port that cannot be listened on; `flag` chooses another.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another program has it.
    #[error("port {port} on {host} is taken: stop the program that listens there, or choose another port with {flag}", port = .address.port(), host = .address.ip())]
    Taken {
        /// The address.
        address: SocketAddr,
        /// The flag.
        flag: &'static str,
    },
    /// The user may not have it.
    #[error("port {port} on {host} needs more rights: choose a port from 1024 with {flag}", port = .address.port(), host = .address.ip())]
    Forbidden {
        /// The address.
        address: SocketAddr,
        /// The flag.
        flag: &'static str,
    },
    /// Anything else, such as an address that the machine does not have.
    #[error("cannot listen on {address}: check --host and {flag}")]
    Other {
        /// The address.
        address: SocketAddr,
        /// The flag.
        flag: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// What a server listens on; connections wait until [`super::listen()`] accepts them.
#[derive(Debug)]
pub struct Sockets {
    /// For everyone.
    pub(super) requests: TcpListener,
    /// For `/healthz`, `/readyz` and `/metrics` alone.
    pub(super) probes: Option<TcpListener>,
}

impl Sockets {
    /// Listens as `options` say.
    ///
    /// # Errors
    /// [`BindError`] names the port and the remedy.
    pub async fn bind(options: &ServeOptions) -> Result<Self, BindError> {
        let requests = bind(SocketAddr::new(options.host, options.port), "--port").await?;
        let probes = match options.probe_port {
            Some(port) => Some(bind(SocketAddr::new(options.host, port), "--probe-port").await?),
            None => None,
        };
        Ok(Self { requests, probes })
    }

    /// Where everyone's requests go.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.requests.local_addr()
    }
}

async fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => BindError::Taken { address, flag },
        std::io::ErrorKind::PermissionDenied => BindError::Forbidden { address, flag },
        _ => BindError::Other { address, flag, source },
    })
}

/// What to print once the server listens on `address`: what serves there, and a command to try.
#[must_use]
pub fn announcement(engine: &Engine, model: &Path, address: SocketAddr) -> String {
    let children = engine.children();
    let mflops: Vec<f64> = children.iter().map(|child| child.cost.macs.millions()).collect();
    let (least, most) = (mflops.first().copied().unwrap_or(0.0), mflops.last().copied().unwrap_or(0.0));
    let base = format!("http://{}", reachable(address));
    // The model's directory as it was named, which is short enough to paste.
    let example = engine.examples().first().map(|example| match example.path.parent().and_then(Path::file_name) {
        Some(folder) if model.join(folder).is_dir() => model.join(folder).join(&example.file),
        _ => model.join(&example.file),
    });
    let command = if let Some(example) = example {
        // A round number that some children fit and some do not.
        let budget = mflops.get(mflops.len() / 2).copied().unwrap_or(1.0).ceil();
        format!("curl -F image=@{} '{base}/classify?mflops={budget}'", example.display())
    } else {
        format!("curl {base}/children")
    };
    let name = &engine.card().name;
    format!(
        "serving {name} ({} children, {least:.2}–{most:.2} MFLOPs) on {base}\ntry: {command}\nor open {base}/ in a browser",
        children.len()
    )
}

/// The address that a client on this machine would use.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        _ => address.ip(),
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_the_remedy() {
        let first = bind(SocketAddr::from(([127, 0, 0, 1], 0)), "--port").await.unwrap();
        let address = first.local_addr().unwrap();
        for flag in ["--port", "--probe-port"] {
            let error = bind(address, flag).await.unwrap_err().to_string();
            let remedy = format!("stop the program that listens there, or choose another port with {flag}");
            assert_eq!(error, format!("port {} on 127.0.0.1 is taken: {remedy}", address.port()));
        }
    }

    #[test]
    fn clients_are_told_an_address_that_works() {
        let cases = [("0.0.0.0:80", "127.0.0.1:80"), ("[::]:80", "[::1]:80"), ("10.0.0.1:80", "10.0.0.1:80"), ("[::1]:8080", "[::1]:8080")];
        for (bound, expected) in cases {
            assert_eq!(reachable(bound.parse().unwrap()).to_string(), expected);
        }
    }
}
