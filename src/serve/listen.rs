//! The sockets: accepting, cutting off what never ends, and stopping in good order.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt;

use super::settings::ServeOptions;
use super::stall::StallLimit;
use super::{AppState, Server};
use crate::engine::Engine;
use crate::metrics::Metrics;

/// How long accepting rests after an error such as "too many open files", which trying at once would only repeat.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// A request's head is at most this long.
const MAX_HEAD_BYTES: usize = 32 << 10;

/// A port that cannot be listened on.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another program has it.
    #[error("port {port} on {host} is taken: stop the program that listens there, or choose another port with --port", port = .0.port(), host = .0.ip())]
    Taken(SocketAddr),
    /// The user may not have it.
    #[error("port {port} on {host} needs more rights: choose a port from 1024 with --port", port = .0.port(), host = .0.ip())]
    Forbidden(SocketAddr),
    /// Anything else, such as an address that the machine does not have.
    #[error("cannot listen on {address}: check --host and --port")]
    Other {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Listens on `address`; connections wait until [`listen`] accepts them.
///
/// # Errors
/// [`BindError`] names the port and the remedy.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => BindError::Taken(address),
        std::io::ErrorKind::PermissionDenied => BindError::Forbidden(address),
        _ => BindError::Other { address, source },
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

/// Serves `server` on `listener` until SIGTERM or SIGINT, then stops in good order: `/readyz` says no, the pause passes,
/// accepting ends, requests in flight finish up to the limit. A second signal ends the wait.
///
/// # Errors
/// Where the system lets no signal be waited for.
pub async fn listen(listener: TcpListener, server: Server, options: &ServeOptions) -> std::io::Result<()> {
    let mut signals = Signals::new()?;
    let connections = Connections::new(super::app(server.clone()), &server.state(), options);
    let replacing = tokio::spawn(replace_at_hangup(signal(SignalKind::hangup())?, server.clone()));
    {
        let accepting = connections.accept_from(&listener);
        tokio::pin!(accepting);
        tokio::select! {
            never = &mut accepting => match never {},
            () = signals.next() => tracing::info!(pause_ms = options.drain_pause_ms, "draining"),
        }
        replacing.abort();
        server.state().start_draining();
        let pause = tokio::time::sleep(Duration::from_millis(options.drain_pause_ms));
        tokio::select! {
            never = &mut accepting => match never {},
            () = pause => {},
            () = signals.next() => {},
        }
    }
    drop(listener);
    let finished = connections.finish();
    tokio::select! {
        () = finished => tracing::info!("stopped"),
        () = tokio::time::sleep(Duration::from_millis(options.drain_limit_ms)) => {
            tracing::warn!(limit_ms = options.drain_limit_ms, "stopped with requests in flight");
        }
        () = signals.next() => tracing::warn!("stopped at once, by a second signal"),
    }
    server.state().engine.drain();
    Ok(())
}

/// Replaces the model at every SIGHUP.
async fn replace_at_hangup(mut hangup: tokio::signal::unix::Signal, server: Server) {
    while hangup.recv().await.is_some() {
        // The outcome is in the log, where whoever sends signals looks.
        let _ = server.reload().await;
    }
}

/// The signals that ask a server to stop.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// All connections of the server.
struct Connections {
    router: Router,
    protocol: http1::Builder,
    /// How long a client may stop reading its answer.
    stall_limit: Duration,
    metrics: Arc<Metrics>,
    /// A permit for each connection that may be open.
    slots: Arc<Semaphore>,
    watched: GracefulShutdown,
}

impl Connections {
    fn new(router: Router, state: &AppState, options: &ServeOptions) -> Self {
        let mut protocol = http1::Builder::new();
        protocol
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_millis(options.header_timeout_ms))
            .max_header_size(MAX_HEAD_BYTES);
        let slots = usize::try_from(options.max_connections).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Self {
            router,
            protocol,
            stall_limit: Duration::from_millis(options.body_timeout_ms),
            metrics: Arc::clone(state.engine.metrics()),
            slots: Arc::new(Semaphore::new(slots)),
            watched: GracefulShutdown::new(),
        }
    }

    /// Accepts connections as long as it is polled. At the limit, new ones wait in the system's queue.
    async fn accept_from(&self, listener: &TcpListener) -> Infallible {
        loop {
            let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else { std::future::pending().await };
            match listener.accept().await {
                Ok((stream, _)) => self.serve(stream, slot),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    fn serve(&self, stream: TcpStream, slot: OwnedSemaphorePermit) {
        // Answers are small and complete: waiting for more to send would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection stays slow");
        }
        let router = self.router.clone();
        let service = service_fn(move |request: Request<Incoming>| router.clone().oneshot(request.map(Body::new)));
        let connection =
            self.watched.watch(self.protocol.serve_connection(TokioIo::new(StallLimit::new(stream, self.stall_limit)), service));
        let open = OpenConnection::new(&self.metrics, slot);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(open);
        });
    }

    /// Waits until all requests in flight are answered; idle connections are closed.
    async fn finish(self) {
        self.watched.shutdown().await;
    }
}

/// A connection in the metrics, and its slot.
struct OpenConnection {
    metrics: Arc<Metrics>,
    _slot: OwnedSemaphorePermit,
}

impl OpenConnection {
    fn new(metrics: &Arc<Metrics>, slot: OwnedSemaphorePermit) -> Self {
        metrics.http_connections.inc();
        Self { metrics: Arc::clone(metrics), _slot: slot }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.metrics.http_connections.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_the_remedy() {
        let first = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address).await.unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "port {} on 127.0.0.1 is taken: stop the program that listens there, or choose another port with --port",
                address.port()
            )
        );
    }

    #[test]
    fn clients_are_told_an_address_that_works() {
        let cases = [("0.0.0.0:80", "127.0.0.1:80"), ("[::]:80", "[::1]:80"), ("10.0.0.1:80", "10.0.0.1:80"), ("[::1]:8080", "[::1]:8080")];
        for (bound, expected) in cases {
            assert_eq!(reachable(bound.parse().unwrap()).to_string(), expected);
        }
    }
}
