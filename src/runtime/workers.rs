//! Worker threads with one bounded queue: where networks run.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A unit of work. It runs once, on one worker, or is dropped unrun when the workers stop.
pub type Job = Box<dyn FnOnce() + Send>;

/// Threads that take jobs from one queue in order. A job that panics is lost; its worker goes on.
#[derive(Debug)]
pub struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// How often [`Workers::stop`] looks whether jobs have ended.
const STOP_POLL: Duration = Duration::from_millis(2);

/// The queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// Cost of the jobs that wait.
    pub waiting: usize,
}

struct Shared {
    /// Most cost that may wait.
    limit: usize,
    queue: Mutex<Queue>,
    /// Signalled when a job arrives and when the workers stop.
    arrived: Condvar,
    on_panic: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<(Job, usize)>,
    waiting: usize,
    stopped: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Workers {
    /// Starts `count` threads called `NAME-0`, `NAME-1`, …, with a queue for a total cost of `limit`. `on_panic` is called
    /// after a job panicked.
    ///
    /// # Errors
    /// [`std::io::Error`] where the system gives no thread.
    pub fn start(name: &str, count: usize, limit: usize, on_panic: impl Fn() + Send + Sync + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { limit, queue: Mutex::default(), arrived: Condvar::new(), on_panic: Box::new(on_panic) });
        let mut workers = Self { shared, threads: Vec::new() };
        for index in 0..count {
            let shared = Arc::clone(&workers.shared);
            let thread = std::thread::Builder::new().name(format!("{name}-{index}")).spawn(move || work(&shared))?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Queues a job of the given cost, such as its number of images.
    ///
    /// # Errors
    /// [`Full`] where the waiting jobs and this one would exceed the limit; a job alone in the queue is always taken.
    pub fn submit(&self, cost: usize, job: Job) -> Result<(), Full> {
        let mut queue = self.shared.lock();
        if queue.stopped || (queue.waiting > 0 && queue.waiting + cost > self.shared.limit) {
            return Err(Full { waiting: queue.waiting });
        }
        queue.waiting += cost;
        queue.jobs.push_back((job, cost));
        drop(queue);
        self.shared.arrived.notify_one();
        Ok(())
    }

    /// Cost of the jobs that wait for a worker.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.lock().waiting
    }
}

impl Workers {
    /// Takes no more jobs, drops those that wait, and waits until `limit` for those that run. Says whether all have ended.
    pub fn stop(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let unrun = {
            let mut queue = self.shared.lock();
            queue.stopped = true;
            queue.waiting = 0;
            std::mem::take(&mut queue.jobs)
        };
        drop(unrun);
        self.shared.arrived.notify_all();
        while !self.threads.iter().all(JoinHandle::is_finished) && Instant::now() < deadline {
            std::thread::sleep(STOP_POLL);
        }
        self.threads.iter().all(JoinHandle::is_finished)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
        let current = std::thread::current().id();
        for thread in self.threads.drain(..) {
            // The last handle may be dropped by a job, on a worker; a thread cannot wait for itself.
            if thread.thread().id() != current {
                // A worker catches its jobs' panics, so there is nothing to report.
                let _ = thread.join();
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Jobs run outside the lock, so nothing under it can panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.stopped {
                return None;
            }
            if let Some((job, cost)) = queue.jobs.pop_front() {
                queue.waiting -= cost;
                return Some(job);
            }
            queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn work(shared: &Shared) {
    while let Some(job) = shared.next() {
        // A job owns all it touches or shares it through locks, so nothing half-changed outlives its panic.
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            (shared.on_panic)();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_full_queue_refuses_and_a_lone_large_job_does_not() {
        let workers = Workers::start("test", 1, 10, || {}).unwrap();
        let (release, gate) = channel::<()>();
        let (started, running) = channel();
        workers.submit(1, Box::new(move || (started.send(()).unwrap(), gate.recv().unwrap()).1)).unwrap();
        running.recv().unwrap();
        assert_eq!(workers.submit(50, Box::new(|| {})), Ok(()));
        assert_eq!(workers.submit(1, Box::new(|| {})), Err(Full { waiting: 50 }));
        release.send(()).unwrap();
    }

    #[test]
    fn a_panicking_job_costs_only_itself() {
        let panics = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&panics);
        let workers = Workers::start("test", 1, 10, move || {
            counted.fetch_add(1, Ordering::SeqCst);
        })
        .unwrap();
        let (done, result) = channel();
        workers.submit(1, Box::new(|| panic!("on purpose"))).unwrap();
        workers.submit(1, Box::new(move || done.send(7).unwrap())).unwrap();
        assert_eq!(result.recv(), Ok(7));
        assert_eq!(panics.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn stopping_waits_for_what_runs_but_not_for_ever() {
        let workers = Workers::start("test", 1, 10, || {}).unwrap();
        let (release, gate) = channel::<()>();
        let (started, running) = channel();
        workers.submit(1, Box::new(move || (started.send(()).unwrap(), gate.recv().unwrap()).1)).unwrap();
        running.recv().unwrap();
        assert!(!workers.stop(Duration::from_millis(1)), "the job still runs");
        assert_eq!(workers.submit(1, Box::new(|| {})), Err(Full { waiting: 0 }));
        release.send(()).unwrap();
        assert!(workers.stop(Duration::from_secs(60)));
    }

    #[test]
    fn stopping_drops_what_has_not_run() {
        let workers = Workers::start("test", 0, 10, || {}).unwrap();
        let (held, dropped) = channel::<()>();
        workers.submit(1, Box::new(move || drop(held))).unwrap();
        drop(workers);
        assert!(dropped.recv().is_err(), "the job and what it owns are gone");
    }
}
