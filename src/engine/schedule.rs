//! Which request runs next, on which child, and with whom: earliest deadline first, SlackFit's rule, bounded by work.
//!
//! A request waits with all children that may answer it, best first. When a worker is free, the request whose deadline is the
//! nearest gets the best child with which it and everyone behind it can still be in time (SuperServe, NSDI 2025, section 4.2,
//! where the idea of choosing by the slack of the most urgent request comes from); in an idle server that is the best there is.
//! Nothing here looks at a clock or starts a thread: time comes in as an argument, and so do predicted times.

mod together;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use self::together::{Others, Together};

/// Looks this far down the queue for requests to run along.
const LOOK_AHEAD: usize = 64;

/// By how much more than predicted the wait in the queue is taken to be at admission, and the run of the best child in an idle server:
/// a request that is let in and then late has cost its client the time in which another server could have answered.
pub(super) const CAUTION: f64 = 1.2;

/// How long `images` images take together on the child called `C`, on one worker.
pub(super) trait Predict<C> {
    fn predict(&self, child: &C, images: usize) -> Duration;
}

impl<C, F: Fn(&C, usize) -> Duration> Predict<C> for F {
    fn predict(&self, child: &C, images: usize) -> Duration {
        self(child, images)
    }
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiting<C, T> {
    /// Images that are to be classified together.
    pub images: usize,
    /// How long a worker is predicted to prepare them before a network can run.
    pub prepare: Duration,
    /// The children that may answer, best first; never empty.
    pub choices: Vec<C>,
    /// When the answer must be there.
    pub deadline: Instant,
    /// When an answer by a better child than the smallest must be there: before the deadline, so that there is time left for a burst.
    pub better_by: Instant,
    /// What belongs to it.
    pub payload: T,
}

impl<C, T> Waiting<C, T> {
    /// The child that it gets at worst.
    fn floor(&self) -> Option<&C> {
        self.choices.last()
    }
}

/// Requests that run together on one child.
#[derive(Debug)]
pub(super) struct Run<C, T> {
    /// The child.
    pub child: C,
    /// At least one request, the most urgent first.
    pub requests: Vec<Waiting<C, T>>,
    /// How long it is predicted to take.
    pub predicted: Duration,
}

/// A request that was not queued, and its payload.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused<T> {
    /// Even the smallest child that it allows would be too late.
    TooLate(T),
    /// More work waits than the queue takes; it takes this long until there is room.
    Full(T, Duration),
}

/// Where requests wait.
#[derive(Debug)]
pub(super) struct Queue<C, T> {
    /// By deadline, then by arrival.
    waiting: BTreeMap<(Instant, u64), Waiting<C, T>>,
    arrivals: u64,
    images: usize,
    workers: usize,
    /// Predicted time until the queue is empty, at most.
    limit: Duration,
}

/// What workers do at the moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Busy {
    /// Predicted time that each run in progress has left; none of one that takes longer than predicted.
    pub runs: Vec<Duration>,
    /// Workers with nothing to do, whoever asks not counted.
    pub idle: usize,
}

impl Busy {
    /// Time that all runs in progress have left, summed.
    fn left(&self) -> Duration {
        self.runs.iter().sum()
    }

    /// The same with one more run.
    fn beside(&self, run: Duration) -> Self {
        let mut runs = self.runs.clone();
        runs.push(run);
        Self { runs, idle: self.idle }
    }

    /// When one of `workers` is free for what comes after `before`, as work that all of them share.
    fn free_in(&self, workers: usize, before: Duration) -> Duration {
        let mut runs = self.runs.clone();
        runs.resize(workers.max(runs.len()), Duration::ZERO);
        runs.sort_unstable();
        let mut work = before;
        for (count, run) in (1..).zip(&runs) {
            work += *run;
            // The first `count` workers are done with it before the next one is free.
            let done = work / count;
            if runs.get(count as usize).is_none_or(|next| done <= *next) {
                return done;
            }
        }
        work
    }
}

impl<C: Clone + PartialEq, T> Queue<C, T> {
    /// An empty queue before `workers` workers, for as much work as they do in `limit`.
    pub(super) fn new(workers: usize, limit: Duration) -> Self {
        Self { waiting: BTreeMap::new(), arrivals: 0, images: 0, workers: workers.max(1), limit }
    }

    /// Counts on so many workers from now on.
    pub(super) fn set_workers(&mut self, workers: usize) {
        self.workers = workers.max(1);
    }

    /// Images that wait.
    pub(super) fn images(&self) -> usize {
        self.images
    }

    /// Queues a request, or says at once why not.
    ///
    /// Work is counted at the smallest children allowed: that is what the queue can shrink to. A request alone is never refused
    /// for the work it is.
    pub(super) fn push(&mut self, request: Waiting<C, T>, now: Instant, busy: &Busy, costs: &impl Predict<C>) -> Result<(), Refused<T>> {
        let own = least(&request, costs);
        let before = self.work(costs, |deadline| deadline <= request.deadline);
        let start = now + busy.free_in(self.workers, before).mul_f64(CAUTION);
        if start + own > request.deadline {
            return Err(Refused::TooLate(request.payload));
        }
        let all = self.drained_in(busy, costs);
        if !self.waiting.is_empty() && all + own > self.limit {
            return Err(Refused::Full(request.payload, (all + own).saturating_sub(self.limit)));
        }
        self.images += request.images;
        self.arrivals += 1;
        self.waiting.insert((request.deadline, self.arrivals), request);
        Ok(())
    }

    /// Predicted time until everything that waits and runs is done, on the smallest children allowed.
    pub(super) fn drained_in(&self, busy: &Busy, costs: &impl Predict<C>) -> Duration {
        self.share(busy.left() + self.work(costs, |_| true))
    }

    /// Takes out the requests that nobody waits for any more.
    pub(super) fn drop_gone(&mut self, mut gone: impl FnMut(&Waiting<C, T>) -> bool) {
        self.retain(|request| !gone(request));
    }

    /// Takes out the most urgent request, if not even its smallest child can be in time any more: running it would only make others late.
    pub(super) fn next_late(&mut self, now: Instant, costs: &impl Predict<C>) -> Option<T> {
        let head = self.waiting.first_entry()?;
        if now + least(head.get(), costs) <= head.key().0 {
            return None;
        }
        let late = head.remove();
        self.images -= late.images;
        Some(late.payload)
    }

    /// Takes out what must run next; none where nothing waits.
    pub(super) fn next(&mut self, now: Instant, busy: &Busy, costs: &impl Predict<C>) -> Option<Run<C, T>> {
        let (&first, head) = self.waiting.first_key_value()?;
        let mut run = Together::of(self.pick(first, now, busy, costs)?, head, costs);
        let mut joined = vec![first];
        // Another worker with nothing to do answers sooner than a place in this run.
        if busy.idle == 0 {
            let (mut end_by, mut passed) = (first.0, (0, Duration::ZERO));
            for (place, (&key, request)) in self.waiting.iter().enumerate().skip(1).take(LOOK_AHEAD) {
                let in_time = |run: &Together<C>| now + run.predicted <= end_by.min(key.0);
                let may_join = |(with, _): &(Together<C>, _)| in_time(with) && !self.has_better(key, &with.child, now, busy, costs);
                if let Some(with) = run.with(request, costs).filter(may_join) {
                    let others = Others { busy, workers: self.workers, passed, behind: self.waiting.len() - 1 - place };
                    if !run.should_become(&with, &others) {
                        break;
                    }
                    run = with.0;
                    joined.push(key);
                    continue;
                }
                // Whoever is passed over is more urgent than those who may join after: they must not make it late.
                let own = least(request, costs);
                let start_by = key.0.checked_sub(self.share(passed.1) + own);
                if let Some(start_by) = start_by.filter(|&start_by| now + run.predicted <= start_by) {
                    end_by = end_by.min(start_by);
                    passed = (passed.0 + 1, passed.1 + own);
                }
            }
        }
        self.images -= run.images;
        let requests = joined.into_iter().filter_map(|key| self.waiting.remove(&key)).collect();
        Some(Run { child: run.child, requests, predicted: run.predicted })
    }

    /// The best child with which the request at `key`, and everyone behind it on the smallest, can be there with time to spare; else the
    /// smallest that it allows. Where nothing else waits or runs, there is nobody to spare time for.
    fn pick(&self, key: (Instant, u64), now: Instant, busy: &Busy, costs: &impl Predict<C>) -> Option<C> {
        let request = self.waiting.get(&key)?;
        let alone = self.waiting.len() == 1 && busy.runs.is_empty();
        let in_time = |child: &&C| {
            let own = request.prepare + costs.predict(child, request.images);
            if alone {
                return now + own.mul_f64(CAUTION) <= request.deadline;
            }
            if now + own > request.better_by {
                return false;
            }
            let mut work = busy.left() + own;
            self.waiting.iter().filter(|(other, _)| **other != key).all(|((deadline, _), other)| {
                work += least(other, costs);
                *deadline < key.0 || now + self.share(work) <= other.better_by
            })
        };
        request.choices.iter().find(in_time).or(request.floor()).cloned()
    }

    /// Whether the request at `key` would get a better child than `child` by itself.
    fn has_better(&self, key: (Instant, u64), child: &C, now: Instant, busy: &Busy, costs: &impl Predict<C>) -> bool {
        let Some(request) = self.waiting.get(&key) else { return false };
        let place = |child: &C| request.choices.iter().position(|other| other == child);
        let Some(offered) = place(child).filter(|&offered| offered > 0) else { return false };
        self.pick(key, now, busy, costs).and_then(|own| place(&own)).is_some_and(|own| own < offered)
    }

    /// Takes out everything.
    pub(super) fn clear(&mut self) -> Vec<Waiting<C, T>> {
        self.images = 0;
        std::mem::take(&mut self.waiting).into_values().collect()
    }

    /// Takes out whatever does not satisfy `keep`.
    fn retain(&mut self, mut keep: impl FnMut(&Waiting<C, T>) -> bool) {
        self.waiting.retain(|_, request| keep(request));
        self.images = self.waiting.values().map(|request| request.images).sum();
    }

    /// Predicted time of the requests whose deadline `counts`, on their smallest children, on one worker.
    fn work(&self, costs: &impl Predict<C>, counts: impl Fn(Instant) -> bool) -> Duration {
        self.waiting.iter().filter(|((deadline, _), _)| counts(*deadline)).map(|(_, request)| least(request, costs)).sum()
    }

    /// The time that all workers together need for `work`.
    fn share(&self, work: Duration) -> Duration {
        work / u32::try_from(self.workers).unwrap_or(u32::MAX)
    }
}

/// Predicted time on the smallest child that the request allows.
pub(super) fn least<C, T>(request: &Waiting<C, T>, costs: &impl Predict<C>) -> Duration {
    request.floor().map_or(Duration::ZERO, |child| request.prepare + costs.predict(child, request.images))
}

#[cfg(test)]
mod tests;
