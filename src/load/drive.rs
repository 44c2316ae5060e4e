//! Sending a load, and collecting what comes back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::arrivals::Arrivals;
use super::client::{ClientError, Connection};
use super::summary::{Outcome, Windows};
use super::target::{Path, Target};

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
    /// Image files; each is sent with every query string before the next one is.
    pub images: Vec<Bytes>,
    /// Query strings, such as `mflops=3&deadline_ms=20`; each request has one of them, in turn.
    pub asks: Vec<String>,
    /// Seed of the times of an open loop.
    pub seed: u64,
    /// How long a connection is waited for, and an answer; after that there is none.
    pub timeout: Duration,
}

/// Connections that are free: open ones, and places for more.
struct Connections {
    idle: Mutex<mpsc::Receiver<Option<Connection>>>,
    back: mpsc::Sender<Option<Connection>>,
}

/// Sends `load` for up to `most` windows of length `window`, and returns what became of the requests, in no order, beside the answers
/// with status 200 a second of each window.
///
/// A closed loop goes on without a pause until `enough` says so of the windows until then. Answers count in the window in which they
/// came; what is still in flight after the last counts nowhere. An open loop always takes all of its windows, its requests count in the
/// window in which they were due, and the last are waited for.
///
/// # Errors
/// [`ClientError`] where the server cannot be reached at all. A connection that breaks later is an outcome.
pub async fn drive(
    load: &Load,
    window: Duration,
    most: u32,
    enough: impl Fn(&Windows) -> bool,
) -> Result<(Vec<Outcome>, Windows), ClientError> {
    let timeout = load.timeout;
    drop(tokio::time::timeout(timeout, Connection::open(&load.target)).await.map_err(|_| ClientError::Silent { timeout })??);
    match load.mode {
        Mode::Closed { connections } => Ok(closed(load, connections, window, most, enough).await),
        Mode::Open { rate, cv2, connections } => {
            let arrivals = Arrivals::new(rate, cv2, load.seed).ok_or(ClientError::Arrivals { rate, cv2 })?;
            let outcomes = open(load, arrivals, connections, window * most).await;
            let windows = (0..most).map(|index| in_window(&outcomes, window, index, |outcome| outcome.due)).collect();
            Ok((outcomes, Windows(windows)))
        }
    }
}

async fn closed(
    load: &Load,
    connections: usize,
    window: Duration,
    most: u32,
    enough: impl Fn(&Windows) -> bool,
) -> (Vec<Outcome>, Windows) {
    let (start, sent, over) = (Instant::now(), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    // Looked at once a window: to wake someone for every answer would take time from the server beside.
    let outcomes = Arc::new(StdMutex::new(Vec::new()));
    // So that no answer after the last window is worked for while the waker of this task is late.
    let last = window * most;
    let mut senders = JoinSet::new();
    for _ in 0..connections {
        let (load, sent, over, outcomes) = (load.clone(), Arc::clone(&sent), Arc::clone(&over), Arc::clone(&outcomes));
        senders.spawn(async move {
            let mut connection = None;
            while !over.load(Ordering::Relaxed) && start.elapsed() < last {
                let number = sent.fetch_add(1, Ordering::Relaxed);
                let outcome = send(&load, &mut connection, number, start, start.elapsed()).await;
                let failed = outcome.reply.is_none();
                outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                if failed {
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        });
    }
    let mut windows = Windows::default();
    while !enough(&windows) && windows.0.len() < most as usize {
        let index = windows.0.len() as u32;
        tokio::time::sleep_until((start + window * (index + 1)).into()).await;
        let outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        windows.0.push(in_window(&outcomes, window, index, |outcome| outcome.due + outcome.latency));
    }
    over.store(true, Ordering::Relaxed);
    // The server is left without any of them.
    while senders.join_next().await.is_some() {}
    let mut outcomes = std::mem::take(&mut *outcomes.lock().unwrap_or_else(PoisonError::into_inner));
    let length = window * windows.0.len() as u32;
    outcomes.retain(|outcome| outcome.due + outcome.latency <= length);
    (outcomes, windows)
}

async fn open(load: &Load, arrivals: Arrivals, connections: usize, length: Duration) -> Vec<Outcome> {
    let (outcomes, mut collected) = mpsc::unbounded_channel();
    let start = Instant::now();
    let (back, idle) = mpsc::channel(connections.max(1));
    for _ in 0..connections.max(1) {
        let _ = back.try_send(None);
    }
    let pool = Arc::new(Connections { idle: Mutex::new(idle), back });
    let mut dues = on_time(arrivals, start, length);
    while let Some((number, due)) = dues.recv().await {
        let (load, pool, outcomes) = (load.clone(), Arc::clone(&pool), outcomes.clone());
        tokio::spawn(async move {
            let free = async { pool.idle.lock().await.recv().await.flatten() };
            // Whoever waits for a connection in vain is not to hold up the end by another wait for an answer.
            let Ok(mut connection) = tokio::time::timeout_at((start + due + load.timeout).into(), free).await else {
                let _ = outcomes.send(unanswered(&load, number, start, due));
                return;
            };
            let outcome = send(&load, &mut connection, number, start, due).await;
            let _ = outcomes.send(outcome);
            let _ = pool.back.send(connection).await;
        });
    }
    drop(outcomes);
    let mut all = Vec::new();
    while let Some(outcome) = collected.recv().await {
        all.push(outcome);
    }
    all
}

/// Answers with status 200 a second in window `index`, each at the time that `at` says.
fn in_window(outcomes: &[Outcome], window: Duration, index: u32, at: impl Fn(&Outcome) -> Duration) -> f64 {
    let range = window * index..window * (index + 1);
    let counts = |outcome: &&Outcome| outcome.reply.as_ref().is_some_and(|reply| reply.status == 200) && range.contains(&at(outcome));
    outcomes.iter().filter(counts).count() as f64 / window.as_secs_f64()
}

/// The deadline that a query asks for.
fn deadline_of(ask: &str) -> Option<Duration> {
    let ms = ask.split('&').find_map(|field| field.strip_prefix("deadline_ms="))?;
    Duration::try_from_secs_f64(ms.parse::<f64>().ok()? / 1e3).ok()
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

/// Which of `asks` query strings and of `images` images request `number` has: in time, each with each.
fn turn(number: u64, asks: usize, images: usize) -> (usize, usize) {
    let (asks, images) = (asks.max(1) as u64, images.max(1) as u64);
    ((number % asks) as usize, (number / asks % images) as usize)
}

/// Request `number`, of which nothing came.
fn unanswered(load: &Load, number: u64, start: Instant, due: Duration) -> Outcome {
    let (ask, _) = turn(number, load.asks.len(), load.images.len());
    Outcome { due, latency: start.elapsed() - due, deadline: deadline_of(&load.asks[ask]), reply: None }
}

/// Sends request `number`, which was due `due` after `start`; a connection that breaks, or waits in vain, is dropped.
async fn send(load: &Load, connection: &mut Option<Connection>, number: u64, start: Instant, due: Duration) -> Outcome {
    let (ask, image) = turn(number, load.asks.len(), load.images.len());
    let (ask, image) = (&load.asks[ask], load.images[image].clone());
    let reply = async {
        let mut open = match connection.take().filter(Connection::is_open) {
            Some(open) => open,
            None => Connection::open(&load.target).await?,
        };
        let reply = open.post(&load.path, ask, image).await?;
        *connection = Some(open);
        Ok::<_, ClientError>(reply)
    };
    let reply = tokio::time::timeout(load.timeout, reply).await.ok().and_then(Result::ok);
    Outcome { reply, ..unanswered(load, number, start, due) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_is_the_one_that_was_asked_for() {
        for (ask, ms) in [("", None), ("mflops=3", None), ("mflops=3&deadline_ms=20", Some(20)), ("deadline_ms=1.5e3&top_k=1", Some(1500))]
        {
            assert_eq!(deadline_of(ask), ms.map(Duration::from_millis), "{ask}");
        }
        assert_eq!([deadline_of("deadline_ms=soon"), deadline_of("deadline_ms=-1")], [None, None]);
    }

    #[test]
    fn every_image_meets_every_query() {
        for (asks, images) in [(1, 1), (1, 3), (2, 2), (2, 3), (4, 2)] {
            let pairs: std::collections::BTreeSet<_> = (0..(asks * images) as u64).map(|number| turn(number, asks, images)).collect();
            assert_eq!(pairs.len(), asks * images, "{asks} queries, {images} images");
            assert!(pairs.iter().all(|&(ask, image)| ask < asks && image < images));
        }
    }

    #[test]
    fn answers_count_in_their_window_and_in_no_other() {
        let reply =
            |status| Some(super::super::client::Reply { status, child: None, accuracy: None, degraded: false, batch: None, timing: None });
        let outcome = |due_ms, status| {
            let (due, latency) = (Duration::from_millis(due_ms), Duration::from_millis(300));
            Outcome { due, latency, deadline: None, reply: reply(status) }
        };
        let outcomes = [outcome(0, 200), outcome(600, 200), outcome(800, 200), outcome(900, 429), outcome(1800, 200)];
        let count = |index, at: fn(&Outcome) -> Duration| in_window(&outcomes, Duration::from_secs(1), index, at);
        let due: fn(&Outcome) -> Duration = |outcome| outcome.due;
        let done: fn(&Outcome) -> Duration = |outcome| outcome.due + outcome.latency;
        assert_eq!([count(0, due), count(1, due)], [3.0, 1.0]);
        assert_eq!([count(0, done), count(1, done), count(2, done)], [2.0, 1.0, 1.0]);
    }
}
