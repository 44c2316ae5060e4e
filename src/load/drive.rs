//! Sending a load, and collecting what comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Mutex, mpsc};

use super::arrivals::Arrivals;
use super::client::{ClientError, Connection, Path, Target};
use super::summary::Outcome;

/// How long a closed loop waits before it tries to connect again.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
/// Requests that may be due and not yet on their way.
const DUE_REQUESTS: usize = 1 << 16;

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    /// So many at a time, each as soon as one before it is answered.
    Closed {
        /// Requests in flight.
        connections: usize,
    },
    /// At random times, whatever comes back.
    Open {
        /// Requests a second on average.
        rate: f64,
        /// Squared coefficient of variation of the times between them; 1 is a Poisson process.
        cv2: f64,
        /// Connections at most; a request that is due waits for one.
        connections: usize,
    },
}

/// What is sent.
#[derive(Debug, Clone)]
pub struct Load {
    /// To whom.
    pub target: Target,
    /// To which of its routes.
    pub path: Path,
    /// When.
    pub mode: Mode,
    /// Image files; each request has one of them, in turn.
    pub images: Vec<Bytes>,
    /// Query strings, such as `mflops=3&deadline_ms=20`; each request has one of them, in turn.
    pub asks: Vec<String>,
    /// Seed of the times of an open loop.
    pub seed: u64,
}

/// Connections that are free: open ones, and places for more.
struct Connections {
    idle: Mutex<mpsc::Receiver<Option<Connection>>>,
    back: mpsc::Sender<Option<Connection>>,
}

/// Sends `load` for `length` and returns what became of every request, in no order; those in flight at the end are waited for.
///
/// # Errors
/// [`ClientError`] where the server cannot be reached at all. A connection that breaks later is an outcome.
pub async fn drive(load: &Load, length: Duration) -> Result<Vec<Outcome>, ClientError> {
    drop(Connection::open(&load.target).await?);
    let (outcomes, mut collected) = mpsc::unbounded_channel();
    let start = Instant::now();
    let sent = Arc::new(AtomicU64::new(0));
    match load.mode {
        Mode::Closed { connections } => {
            for _ in 0..connections {
                let (load, sent, outcomes) = (load.clone(), Arc::clone(&sent), outcomes.clone());
                tokio::spawn(async move {
                    let mut connection = None;
                    while start.elapsed() < length {
                        let due = start.elapsed();
                        let number = sent.fetch_add(1, Ordering::Relaxed);
                        let outcome = send(&load, &mut connection, number, start, due).await;
                        let failed = outcome.reply.is_none();
                        let _ = outcomes.send(outcome);
                        if failed {
                            tokio::time::sleep(AFTER_FAILURE).await;
                        }
                    }
                });
            }
        }
        Mode::Open { rate, cv2, connections } => {
            let arrivals = Arrivals::new(rate, cv2, load.seed).ok_or_else(|| ClientError::Address(format!("rate {rate}, CV² {cv2}")))?;
            let (back, idle) = mpsc::channel(connections.max(1));
            for _ in 0..connections.max(1) {
                let _ = back.try_send(None);
            }
            let pool = Arc::new(Connections { idle: Mutex::new(idle), back });
            let mut dues = on_time(arrivals, start, length);
            while let Some((number, due)) = dues.recv().await {
                let (load, pool, outcomes) = (load.clone(), Arc::clone(&pool), outcomes.clone());
                tokio::spawn(async move {
                    let mut connection = pool.idle.lock().await.recv().await.flatten();
                    let outcome = send(&load, &mut connection, number, start, due).await;
                    let _ = outcomes.send(outcome);
                    let _ = pool.back.send(connection).await;
                });
            }
        }
    }
    drop(outcomes);
    let mut all = Vec::new();
    while let Some(outcome) = collected.recv().await {
        all.push(outcome);
    }
    Ok(all)
}

/// The numbers of the requests, each with the time after `start` at which it is due and at which it comes out here, until `length`.
///
/// From a thread of its own: the runtime's timers go by whole milliseconds, which would be late for every request, and would make
/// bursts of requests that are none.
fn on_time(arrivals: Arrivals, start: Instant, length: Duration) -> mpsc::Receiver<(u64, Duration)> {
    let (sender, dues) = mpsc::channel(DUE_REQUESTS);
    std::thread::spawn(move || {
        let mut due = Duration::ZERO;
        for (number, gap) in (0..).zip(arrivals) {
            due += gap;
            if due >= length {
                return;
            }
            std::thread::sleep((start + due).saturating_duration_since(Instant::now()));
            if sender.blocking_send((number, due)).is_err() {
                return;
            }
        }
    });
    dues
}

/// Sends request `number`, which was due `due` after `start`; a connection that breaks is dropped.
async fn send(load: &Load, connection: &mut Option<Connection>, number: u64, start: Instant, due: Duration) -> Outcome {
    let of = |length: usize| (number % length.max(1) as u64) as usize;
    let (ask, image) = (&load.asks[of(load.asks.len())], load.images[of(load.images.len())].clone());
    let reply = async {
        let mut open = match connection.take() {
            Some(open) => open,
            None => Connection::open(&load.target).await?,
        };
        let reply = open.post(&load.path, ask, image).await?;
        *connection = Some(open);
        Ok::<_, ClientError>(reply)
    };
    let reply = reply.await.ok();
    Outcome { due, latency: start.elapsed() - due, reply }
}
