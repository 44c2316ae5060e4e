//! Accepting connections, cutting off what never ends, and stopping in good order.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt;

use super::settings::ServeOptions;
use super::sockets::Sockets;
use super::stall::StallLimit;
use super::{AppState, Server};
use crate::metrics::Metrics;

/// How long accepting rests after an error such as "too many open files", which trying at once would only repeat.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// A request's head is at most this long.
const MAX_HEAD_BYTES: usize = 32 << 10;

/// How long accepting goes on at most when it should end, where more and more connections wait; and how long the first requests of
/// the last connections get to be read, without which these would be closed as idle ones.
const LAST_ACCEPTS: Duration = Duration::from_millis(100);

/// Connections for probes and scrapes at most.
const PROBE_CONNECTIONS: u64 = 64;

/// Catches SIGHUP from now on: one that comes while the first model is still being opened is not the end of the process.
///
/// # Errors
/// Where the system lets no signal be waited for.
pub fn hangups() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Serves `server` on `sockets` until SIGTERM or SIGINT, then stops in good order: `/readyz` says no and every answer closes its
/// connection, the pause passes, accepting ends, requests in flight finish up to the limit. A second signal ends it at once. Each of
/// `hangups` replaces the model.
///
/// # Errors
/// Where the system lets no signal be waited for.
pub async fn listen(sockets: Sockets, server: Server, options: &ServeOptions, hangups: Signal) -> std::io::Result<()> {
    let mut signals = Signals::new()?;
    let Sockets { requests: listener, probes } = sockets;
    let connections = Connections::new(super::app(server.clone()), &server.state(), options, options.max_connections);
    let probing = probes.map(|listener| {
        let connections = Connections::new(super::probes(server.clone()), &server.state(), options, PROBE_CONNECTIONS);
        tokio::spawn(async move { connections.accept_from(&listener).await })
    });
    let replacing = tokio::spawn(replace_at_hangup(hangups, server.clone()));
    tokio::select! {
        never = connections.accept_from(&listener) => match never {},
        () = signals.next() => tracing::info!(pause_ms = options.drain_pause_ms, "draining"),
    }
    replacing.abort();
    server.state().start_draining();
    tokio::select! {
        () = drain(connections, listener, options) => {}
        () = signals.next() => tracing::warn!("stopped at once, by a second signal"),
    }
    // Until now, they said how it stands.
    probing.iter().for_each(tokio::task::JoinHandle::abort);
    server.state().engine.drain();
    Ok(())
}

/// Goes on accepting for the pause, then finishes what was accepted, up to the limit.
async fn drain(connections: Connections, listener: TcpListener, options: &ServeOptions) {
    let pause = Duration::from_millis(options.drain_pause_ms);
    if let Ok(never) = tokio::time::timeout(pause, connections.accept_from(&listener)).await {
        match never {}
    }
    if let Err(error) = connections.accept_waiting(listener) {
        tracing::warn!(%error, "connections that waited to be accepted are cut off");
    }
    // Also for those that were accepted just before.
    tokio::time::sleep(LAST_ACCEPTS).await;
    match tokio::time::timeout(Duration::from_millis(options.drain_limit_ms), connections.finish()).await {
        Ok(()) => tracing::info!("stopped"),
        Err(_) => tracing::warn!(limit_ms = options.drain_limit_ms, "stopped with requests in flight"),
    }
}

/// Replaces the model at every SIGHUP.
async fn replace_at_hangup(mut hangup: Signal, server: Server) {
    while hangup.recv().await.is_some() {
        // The outcome is in the log, where whoever sends signals looks.
        let _ = server.reload().await;
    }
}

/// The signals that ask a server to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
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
    /// Whether each answer is the last on its connection.
    draining: Arc<AtomicBool>,
    /// A permit for each connection that may be open.
    slots: Arc<Semaphore>,
    watched: GracefulShutdown,
}

impl Connections {
    /// Up to `limit` connections to `router`.
    fn new(router: Router, state: &AppState, options: &ServeOptions, limit: u64) -> Self {
        let mut protocol = http1::Builder::new();
        protocol
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_millis(options.header_timeout_ms))
            .max_header_size(MAX_HEAD_BYTES);
        let slots = usize::try_from(limit).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Self {
            router,
            protocol,
            stall_limit: Duration::from_millis(options.body_timeout_ms),
            metrics: Arc::clone(state.engine.metrics()),
            draining: Arc::clone(&state.draining),
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

    /// Accepts what waits in the system's queue already, and closes the listener, with which it would be cut off. The system is asked
    /// itself: the runtime may not have heard of the last ones yet.
    fn accept_waiting(&self, listener: TcpListener) -> std::io::Result<()> {
        let (end, listener) = (Instant::now() + LAST_ACCEPTS, listener.into_std()?);
        while Instant::now() < end
            && let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned()
        {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            self.serve(TcpStream::from_std(stream)?, slot);
        }
        Ok(())
    }

    fn serve(&self, stream: TcpStream, slot: OwnedSemaphorePermit) {
        // Answers are small and complete: waiting for more to send would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection stays slow");
        }
        let (router, draining) = (self.router.clone(), Arc::clone(&self.draining));
        let service = service_fn(move |request: Request<Incoming>| {
            let (answer, draining) = (router.clone().oneshot(request.map(Body::new)), Arc::clone(&draining));
            async move {
                let mut response = answer.await?;
                // A client that keeps its connection would send the next request into one that is about to be closed.
                if draining.load(Ordering::Acquire) {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        });
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
