//! The threads that run networks, and the queue before them.

mod answer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::build::Builder;
use super::client::Client;
use super::cores::Place;
use super::fault::Fault;
use super::loaded::LoadedChild;
use super::picture::{Decoder, Picture};
use super::schedule::{Busy, Queue, Refused, Run, Waiting, least};
use super::spare::Spare;
use super::types::{Answer, ClassifyError, Source};
use crate::metrics::Metrics;
use crate::space::ChildId;

/// How often [`Pool::stop`] looks whether runs have ended.
const STOP_POLL: Duration = Duration::from_millis(2);

/// A loaded child that may answer a request.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    pub(super) loaded: Arc<LoadedChild>,
    /// Where it came from.
    pub(super) source: Source,
}

impl PartialEq for Choice {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.loaded, &other.loaded)
    }
}

/// What a request waits with.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) pictures: Vec<Picture>,
    /// The child that an idle server would have taken.
    pub(super) best: ChildId,
    /// As [`super::types::Request::has_floor`].
    pub(super) has_floor: bool,
    pub(super) accepted: Instant,
    /// What to say where no child that it allows can be in time any more.
    pub(super) too_late: ClassifyError,
    pub(super) client: Arc<Client>,
    pub(super) reply: oneshot::Sender<Result<Answer, ClassifyError>>,
}

/// Worker threads that take runs from one queue, the most urgent first.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when a request arrives and when the workers stop.
    arrived: Condvar,
    /// Signalled when more workers may run, and when they stop. Apart from the other: a worker that may not run must not be the one
    /// that hears of a request.
    resumed: Condvar,
    resources: Resources,
    /// Images that may wait.
    limit_images: usize,
    spare: Spare,
}

/// What the workers work with.
#[derive(Debug)]
pub(super) struct Resources {
    pub(super) builder: Arc<Builder>,
    pub(super) decoder: Decoder,
    pub(super) fault: Option<Fault>,
    pub(super) metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct State {
    queue: Queue<Choice, Ask>,
    /// For each worker that runs something, when it is predicted to end.
    ends: Vec<Option<Instant>>,
    /// Workers that may run something; those behind them wait.
    runs: usize,
    stopped: bool,
    /// Images that wait, as the metrics have it.
    recorded_images: i64,
}

impl Pool {
    /// Starts `workers` threads with a queue for as much work as they are predicted to do in `limit`, and for `limit_images` images.
    pub(super) fn start(workers: usize, limit: Duration, limit_images: usize, resources: Resources) -> std::io::Result<Self> {
        let queue = Queue::new(workers, limit);
        let state = State { queue, ends: vec![None; workers], runs: workers, stopped: false, recorded_images: 0 };
        let (state, spare) = (Mutex::new(state), Spare::new(Instant::now()));
        let shared = Arc::new(Shared { state, arrived: Condvar::new(), resumed: Condvar::new(), resources, limit_images, spare });
        let mut pool = Self { shared, threads: Vec::new() };
        for index in 0..workers {
            let shared = Arc::clone(&pool.shared);
            pool.threads.push(std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || work(&shared, index))?);
        }
        Ok(pool)
    }

    /// Workers that may run something.
    pub(super) fn runs(&self) -> usize {
        self.shared.lock().runs
    }

    /// Lets so many workers run something from now on, at most as many as there are.
    pub(super) fn set_runs(&self, runs: usize) {
        let mut state = self.shared.lock();
        state.runs = runs.clamp(1, state.ends.len().max(1));
        let runs = state.runs;
        state.queue.set_workers(runs);
        drop(state);
        self.shared.arrived.notify_all();
        self.shared.resumed.notify_all();
    }

    /// What decodes on the workers.
    pub(super) fn decoder(&self) -> &Decoder {
        &self.shared.resources.decoder
    }

    /// The share of the time until its deadline within which a better child than the smallest may answer a request.
    pub(super) fn share_for_better(&self, now: Instant) -> f64 {
        self.shared.spare.share(now)
    }

    /// Whether a request that comes now is the next to run.
    pub(super) fn nothing_waits(&self) -> bool {
        self.shared.lock().queue.images() == 0
    }

    /// Queues a request, or says at once why not.
    pub(super) fn submit(&self, request: Waiting<Choice, Ask>) -> Result<(), Refused<Ask>> {
        let now = Instant::now();
        let mut state = self.shared.lock();
        // Nobody is refused for the sake of clients that have left.
        self.shared.drop_gone(&mut state, now);
        let (waiting, busy) = (state.queue.images(), state.busy(now, None));
        if state.stopped || (waiting > 0 && waiting + request.images > self.shared.limit_images) {
            let until_free = state.queue.drained_in(&busy, &predict(now));
            self.shared.missed(now);
            return Err(Refused::Full(request.payload, until_free));
        }
        // Who asks for what no server could do says nothing of this one's load.
        let hopeless = now + least(&request, &predict(now)) > request.deadline;
        state.queue.push(request, now, &busy, &predict(now)).map_err(|refused| {
            if hopeless {
                return refused;
            }
            self.shared.missed(now);
            match refused {
                // Less load is all that it takes.
                Refused::TooLate(ask) if ask.has_floor => Refused::Full(ask, state.queue.drained_in(&busy, &predict(now))),
                refused => refused,
            }
        })?;
        self.shared.record_queue(&mut state);
        drop(state);
        self.shared.arrived.notify_one();
        Ok(())
    }

    /// Takes nothing more, drops what waits, and waits until `limit` for what runs. Says whether all has ended.
    pub(super) fn stop(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let unrun = {
            let mut state = self.shared.lock();
            state.stopped = true;
            let unrun = state.queue.clear();
            self.shared.record_queue(&mut state);
            unrun
        };
        drop(unrun);
        self.shared.arrived.notify_all();
        self.shared.resumed.notify_all();
        while !self.threads.iter().all(JoinHandle::is_finished) && Instant::now() < deadline {
            std::thread::sleep(STOP_POLL);
        }
        self.threads.iter().all(JoinHandle::is_finished)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
        for thread in self.threads.drain(..) {
            // A worker catches the panics of its runs, so there is nothing to report.
            let _ = thread.join();
        }
    }
}

impl State {
    /// What the workers do, as `asking` sees it.
    fn busy(&self, now: Instant, asking: Option<usize>) -> Busy {
        let runs = self.ends.iter().flatten().map(|end| end.saturating_duration_since(now)).collect();
        let idle = self.ends.iter().take(self.runs).enumerate().filter(|(worker, end)| end.is_none() && Some(*worker) != asking).count();
        Busy { runs, idle }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Networks run outside the lock, so nothing under it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a deadline that was missed.
    fn missed(&self, now: Instant) {
        if self.spare.missed(now) {
            self.resources.metrics.better_share_cuts.inc();
        }
    }

    /// Adds to the metrics what the queue has more than they know of: queues of several engines share them.
    fn record_queue(&self, state: &mut State) {
        let images = state.queue.images() as i64;
        self.resources.metrics.queue_depth.add(images - state.recorded_images);
        state.recorded_images = images;
    }

    /// Takes out of the queue what nobody waits for any more.
    fn drop_gone(&self, state: &mut State, now: Instant) {
        let (before, mut late) = (state.queue.images(), false);
        state.queue.drop_gone(|request| {
            let gone = request.payload.client.gone();
            late |= gone && request.deadline <= now;
            gone
        });
        if late {
            self.missed(now);
        }
        self.resources.metrics.cancelled_images.inc_by(before.saturating_sub(state.queue.images()) as u64);
    }

    /// Waits for the next run; none where the workers stop.
    fn next(&self, worker: usize) -> Option<Run<Choice, Ask>> {
        let mut state = self.lock();
        state.ends[worker] = None;
        loop {
            if state.stopped {
                return None;
            }
            if worker >= state.runs {
                state = self.resumed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let now = Instant::now();
            let busy = state.busy(now, Some(worker));
            self.drop_gone(&mut state, now);
            while let Some(late) = state.queue.next_late(now, &predict(now)) {
                self.missed(now);
                // The client may be gone by now.
                let _ = late.reply.send(Err(late.too_late));
            }
            let run = state.queue.next(now, &busy, &predict(now));
            self.record_queue(&mut state);
            if let Some(run) = run {
                state.ends[worker] = Some(now + run.predicted);
                return Some(run);
            }
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Predicts runs that begin about `now`.
fn predict(now: Instant) -> impl Fn(&Choice, usize) -> Duration {
    move |choice, images| choice.loaded.pace.predict(images, now)
}

/// How much running networks step back, as `nice` counts. Networks take all the time that there is; requests must be read and
/// refused meanwhile, or they would wait where neither deadlines nor the queue's limits reach them.
const NICENESS: i32 = 5;

fn work(shared: &Shared, index: usize) {
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "running networks at full priority");
    }
    let mut place = Place::of_worker(index);
    // Whatever panics costs the requests of its run, never the worker.
    while catch_unwind(AssertUnwindSafe(|| {
        while let Some(run) = shared.next(index) {
            place.settle(shared.resources.builder.crowds_workers());
            shared.answer(index, run);
        }
    }))
    .is_err()
    {
        shared.resources.metrics.panics.inc();
    }
}
