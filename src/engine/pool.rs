//! The threads that run networks, and the queue before them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::build::Builder;
use super::client::{Audience, Client};
use super::fault::Fault;
use super::loaded::LoadedChild;
use super::picture::{Decoder, Picture};
use super::schedule::{Busy, Queue, Refused, Run, Waiting};
use super::types::{Answer, ClassifyError, Source};
use crate::image::Patch;
use crate::metrics::Metrics;
use crate::runtime::Stop;
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
    pub(super) accepted: Instant,
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
}

impl Pool {
    /// Starts `workers` threads with a queue for as much work as they are predicted to do in `limit`, and for `limit_images` images.
    pub(super) fn start(workers: usize, limit: Duration, limit_images: usize, resources: Resources) -> std::io::Result<Self> {
        let state = State { queue: Queue::new(workers, limit), ends: vec![None; workers], runs: workers, stopped: false };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), arrived: Condvar::new(), resumed: Condvar::new(), resources, limit_images });
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

    /// Queues a request, or says at once why not.
    pub(super) fn submit(&self, request: Waiting<Choice, Ask>) -> Result<(), Refused<Ask>> {
        let now = Instant::now();
        let mut state = self.shared.lock();
        let waiting = state.queue.images();
        if state.stopped || (waiting > 0 && waiting + request.images > self.shared.limit_images) {
            let until_free = state.busy(now, None).left / u32::try_from(state.runs).unwrap_or(1).max(1);
            return Err(Refused::Full(request.payload, until_free));
        }
        let busy = state.busy(now, None);
        state.queue.push(request, now, busy, &predict)?;
        self.shared.resources.metrics.queue_depth.set(state.queue.images() as i64);
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
            state.queue.clear()
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
        let left = self.ends.iter().flatten().map(|end| end.saturating_duration_since(now)).sum();
        let idle = self.ends.iter().take(self.runs).enumerate().filter(|(worker, end)| end.is_none() && Some(*worker) != asking).count();
        Busy { left, idle }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Networks run outside the lock, so nothing under it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
            let before = state.queue.images();
            state.queue.drop_gone(|ask| ask.client.gone());
            self.resources.metrics.cancelled_images.inc_by(before.saturating_sub(state.queue.images()) as u64);
            while let Some(late) = state.queue.next_late(now, &predict) {
                // The client may be gone by now.
                let _ = late.reply.send(Err(ClassifyError::TooLate));
            }
            let run = state.queue.next(now, busy, &predict);
            self.resources.metrics.queue_depth.set(state.queue.images() as i64);
            if let Some(run) = run {
                state.ends[worker] = Some(now + run.predicted);
                return Some(run);
            }
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Decodes the images of all requests, runs the network over them, and answers each.
    fn answer(&self, worker: usize, run: Run<Choice, Ask>) {
        let Run { child, requests, .. } = run;
        let started = Instant::now();
        let requests: Vec<Decoded> = requests.into_iter().filter_map(|request| self.decoded(request.payload)).collect();
        if requests.is_empty() {
            return;
        }
        let decoded = Instant::now();
        let patches: Vec<&Patch> = requests.iter().flat_map(|request| &request.patches).collect();
        self.resources.metrics.batch_size.observe(patches.len() as f64);
        let logits = catch_unwind(AssertUnwindSafe(|| self.run(&child, &requests, &patches))).unwrap_or_else(|_| {
            self.resources.metrics.panics.inc();
            Err(ClassifyError::WorkerLost)
        });
        let (decode, inference) = (decoded - started, decoded.elapsed());
        // A run that was stopped took at least this long: that is news where it was already late.
        if logits.is_ok() || inference > child.loaded.pace.predict(patches.len()) {
            self.resources.metrics.prediction_ratio.observe(child.loaded.pace.learn(patches.len(), inference));
        }
        // Before anyone hears of it: whoever asks next must not find this worker busy.
        self.lock().ends[worker] = None;
        let id = child.loaded.id();
        let mut rows = logits.map(Vec::into_iter);
        for Decoded { ask, patches } in requests {
            let answer = match &mut rows {
                Ok(rows) => Ok(Answer {
                    logits: rows.take(patches.len()).collect(),
                    child: id,
                    degraded_from: (ask.best != id).then_some(ask.best),
                    source: child.source,
                    queue: started - ask.accepted,
                    decode,
                    inference,
                }),
                Err(error) => Err(error.clone()),
            };
            // The client may be gone by now.
            let _ = ask.reply.send(answer);
        }
    }

    /// The request with its images decoded; one that nobody waits for is dropped, and one that cannot be read is answered.
    fn decoded(&self, mut ask: Ask) -> Option<Decoded> {
        let pictures = std::mem::take(&mut ask.pictures);
        if ask.client.gone() {
            self.resources.metrics.cancelled_images.inc_by(pictures.len() as u64);
            return None;
        }
        match self.resources.decoder.decode(pictures) {
            Ok(patches) => Some(Decoded { ask, patches }),
            Err(error) => {
                let _ = ask.reply.send(Err(error));
                None
            }
        }
    }

    /// Runs the network over all patches, until nobody waits any more.
    fn run(&self, child: &Choice, requests: &[Decoded], patches: &[&Patch]) -> Result<Vec<Vec<f32>>, ClassifyError> {
        let audience = Arc::new(Audience::new(requests.len(), Stop::new().map_err(|error| ClassifyError::Runtime(Arc::new(error)))?));
        requests.iter().for_each(|request| request.ask.client.watch(&audience));
        if let Some(fault) = &self.resources.fault {
            fault.strike();
        }
        let logits = child.loaded.run(&self.resources.builder, patches, &audience.stop);
        if audience.stop.asked() {
            self.resources.metrics.cancelled_images.inc_by(patches.len() as u64);
        }
        logits
    }
}

/// A request that can run now.
struct Decoded {
    ask: Ask,
    patches: Vec<Patch>,
}

fn predict(choice: &Choice, images: usize) -> Duration {
    choice.loaded.pace.predict(images)
}

/// How much running networks step back, as `nice` counts. Networks take all the time that there is; requests must be read and
/// refused meanwhile, or they would wait where neither deadlines nor the queue's limits reach them.
const NICENESS: i32 = 5;

fn work(shared: &Shared, index: usize) {
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "running networks at full priority");
    }
    // Whatever panics costs the requests of its run, never the worker.
    while catch_unwind(AssertUnwindSafe(|| {
        while let Some(run) = shared.next(index) {
            shared.answer(index, run);
        }
    }))
    .is_err()
    {
        shared.resources.metrics.panics.inc();
    }
}
