//! Which request runs next, on which child, and with whom: earliest deadline first, SlackFit's rule, bounded by work.
//!
//! A request waits with all children that may answer it, best first. When a worker is free, the request whose deadline is the
//! nearest gets the best child with which it and everyone behind it can still be in time (SuperServe, NSDI 2025, section 4.2,
//! where the idea of choosing by the slack of the most urgent request comes from); in an idle server that is the best there is.
//! Nothing here looks at a clock or starts a thread: time comes in as an argument, and so do predicted times.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Looks this far down the queue for requests to run along.
const LOOK_AHEAD: usize = 64;
/// A run together must save at least this share of the time that the runs would take apart.
const WORTH_BATCHING: f64 = 0.05;

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
    /// The children that may answer, best first; never empty.
    pub choices: Vec<C>,
    /// When the answer must be there.
    pub deadline: Instant,
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
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Busy {
    /// Predicted time of all runs in progress that is left, summed.
    pub left: Duration,
    /// Workers with nothing to do, whoever asks not counted.
    pub idle: usize,
}

impl<C: Clone + PartialEq, T> Queue<C, T> {
    /// An empty queue before `workers` workers, for as much work as they do in `limit`.
    pub(super) fn new(workers: usize, limit: Duration) -> Self {
        Self { waiting: BTreeMap::new(), arrivals: 0, images: 0, workers: workers.max(1), limit }
    }

    /// Images that wait.
    pub(super) fn images(&self) -> usize {
        self.images
    }

    /// Queues a request, or says at once why not.
    ///
    /// Work is counted at the smallest children allowed: that is what the queue can shrink to. A request alone is never refused
    /// for the work it is.
    pub(super) fn push(&mut self, request: Waiting<C, T>, now: Instant, busy: Busy, costs: &impl Predict<C>) -> Result<(), Refused<T>> {
        let own = least(&request, costs);
        let before = self.work(costs, |deadline| deadline <= request.deadline);
        let start = now + self.share(busy.left + before);
        if start + own > request.deadline {
            return Err(Refused::TooLate(request.payload));
        }
        let all = self.share(busy.left + self.work(costs, |_| true));
        if !self.waiting.is_empty() && all + own > self.limit {
            return Err(Refused::Full(request.payload, (all + own).saturating_sub(self.limit)));
        }
        self.images += request.images;
        self.arrivals += 1;
        self.waiting.insert((request.deadline, self.arrivals), request);
        Ok(())
    }

    /// Takes out what must run next; none where nothing waits. Requests that `gone` says nobody waits for are left out, and dropped.
    pub(super) fn next(&mut self, now: Instant, busy: Busy, costs: &impl Predict<C>, gone: impl Fn(&T) -> bool) -> Option<Run<C, T>> {
        self.retain(|request| !gone(&request.payload));
        let (&first, head) = self.waiting.first_key_value()?;
        let (child, images) = (self.pick(first, now, busy, costs)?, head.images);
        let mut run = Run { predicted: costs.predict(&child, images), child, requests: Vec::new() };
        let mut joined = vec![first];
        let mut images = images;
        // Another worker with nothing to do answers sooner than a place in this run.
        if busy.idle == 0 {
            let mut tightest = first.0;
            for (&key, request) in self.waiting.iter().skip(1).take(LOOK_AHEAD) {
                if self.joins(&run, images, tightest, key, request, now, busy, costs) {
                    images += request.images;
                    tightest = tightest.min(key.0);
                    run.predicted = costs.predict(&run.child, images);
                    joined.push(key);
                }
            }
        }
        run.requests = joined.into_iter().filter_map(|key| self.waiting.remove(&key)).collect();
        self.images -= images;
        Some(run)
    }

    /// The best child with which the request at `key` and everyone behind it can be in time; else the smallest that it allows.
    fn pick(&self, key: (Instant, u64), now: Instant, busy: Busy, costs: &impl Predict<C>) -> Option<C> {
        let request = self.waiting.get(&key)?;
        let in_time = |child: &&C| {
            let own = costs.predict(child, request.images);
            if now + own > key.0 {
                return false;
            }
            let mut work = busy.left + own;
            self.waiting.iter().filter(|(other, _)| **other != key).all(|((deadline, _), other)| {
                work += least(other, costs);
                *deadline < key.0 || now + self.share(work) <= *deadline
            })
        };
        request.choices.iter().find(in_time).or(request.floor()).cloned()
    }

    /// Whether a request runs along: it allows the child, would get no better one itself, it pays, and nobody is late for it.
    #[expect(clippy::too_many_arguments, reason = "one condition with many sides, asked at one place")]
    fn joins(
        &self,
        run: &Run<C, T>,
        images: usize,
        tightest: Instant,
        key: (Instant, u64),
        request: &Waiting<C, T>,
        now: Instant,
        busy: Busy,
        costs: &impl Predict<C>,
    ) -> bool {
        let place = |child: &C| request.choices.iter().position(|other| other == child);
        let Some(offered) = place(&run.child) else { return false };
        let better = || self.pick(key, now, busy, costs).and_then(|child| place(&child)).is_some_and(|own| own < offered);
        let together = costs.predict(&run.child, images + request.images);
        let apart = run.predicted + costs.predict(&run.child, request.images);
        let pays = together.as_secs_f64() <= apart.as_secs_f64() * (1.0 - WORTH_BATCHING);
        pays && now + together <= tightest.min(key.0) && (offered == 0 || !better())
    }

    /// Takes out everything.
    pub(super) fn clear(&mut self) -> Vec<Waiting<C, T>> {
        self.images = 0;
        std::mem::take(&mut self.waiting).into_values().collect()
    }

    /// Takes out whatever does not satisfy `keep`.
    fn retain(&mut self, keep: impl Fn(&Waiting<C, T>) -> bool) {
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
fn least<C, T>(request: &Waiting<C, T>, costs: &impl Predict<C>) -> Duration {
    request.floor().map_or(Duration::ZERO, |child| costs.predict(child, request.images))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Children are called by their milliseconds for one image; ten images of child 1 take no longer than five apart would.
    fn costs(child: &u64, images: usize) -> Duration {
        let per_image = if *child == 1 { 0.5 } else { 1.0 };
        Duration::from_secs_f64(*child as f64 * (1.0 + (images as f64 - 1.0) * per_image) / 1e3)
    }

    const ALL: [u64; 3] = [10, 4, 1];

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    struct Bench {
        queue: Queue<u64, char>,
        start: Instant,
    }

    impl Bench {
        fn new(workers: usize, limit_ms: u64) -> Self {
            Self { queue: Queue::new(workers, ms(limit_ms)), start: Instant::now() }
        }

        fn push(&mut self, payload: char, choices: &[u64], deadline_ms: u64) -> Result<(), Refused<char>> {
            let request = Waiting { images: 1, choices: choices.to_vec(), deadline: self.start + ms(deadline_ms), payload };
            self.queue.push(request, self.start, Busy::default(), &costs)
        }

        /// The child and the payloads of the next run, `after_ms` from the start, with no other worker idle.
        fn next(&mut self, after_ms: u64) -> Option<(u64, String)> {
            let run = self.queue.next(self.start + ms(after_ms), Busy::default(), &costs, |_| false)?;
            Some((run.child, run.requests.iter().map(|request| request.payload).collect()))
        }
    }

    #[test]
    fn an_idle_server_gives_the_best_child() {
        let mut bench = Bench::new(1, 1_000);
        bench.push('a', &ALL, 100).unwrap();
        assert_eq!(bench.next(0), Some((10, "a".into())));
        assert_eq!(bench.next(0), None);
    }

    #[test]
    fn the_nearest_deadline_comes_first() {
        let mut bench = Bench::new(1, 1_000);
        for (payload, deadline_ms) in [('a', 500), ('b', 100), ('c', 300), ('d', 100)] {
            bench.push(payload, &[4], deadline_ms).unwrap();
        }
        let order: String = std::iter::from_fn(|| bench.next(0)).map(|(_, payloads)| payloads).collect();
        assert_eq!(order, "bdca", "and among equals, who came first");
    }

    #[test]
    fn the_child_shrinks_with_the_slack() {
        for (after_ms, child) in [(0, 10), (90, 10), (91, 4), (96, 4), (97, 1), (120, 1)] {
            let mut bench = Bench::new(1, 1_000);
            bench.push('a', &ALL, 100).unwrap();
            assert_eq!(bench.next(after_ms), Some((child, "a".into())), "{after_ms} ms later");
        }
    }

    /// With 10 ms of its own, the head would still be in time; those behind it would not.
    #[test]
    fn the_child_shrinks_for_those_behind() {
        for (behind, child) in [(0, 10), (6, 10), (7, 4), (12, 4), (13, 1)] {
            let mut bench = Bench::new(1, 1_000);
            bench.push('a', &ALL, 15).unwrap();
            (0..behind).for_each(|_| bench.push('b', &[1], 16).unwrap());
            let alone = bench.queue.next(bench.start, Busy { idle: 1, ..Busy::default() }, &costs, |_| false).unwrap();
            assert_eq!(alone.child, child, "{behind} behind it");
        }
    }

    #[test]
    fn a_floor_is_never_passed() {
        let mut bench = Bench::new(1, 1_000);
        bench.push('a', &[10, 4], 20).unwrap();
        assert_eq!(bench.next(19), Some((4, "a".into())), "late, but not under its floor");
    }

    #[test]
    fn hopeless_requests_are_refused_at_once() {
        let mut bench = Bench::new(1, 1_000);
        assert_eq!(bench.push('a', &[10], 9), Err(Refused::TooLate('a')));
        bench.push('b', &[10], 10).unwrap();
        assert_eq!(bench.push('c', &[10], 19), Err(Refused::TooLate('c')), "after b there are 9 ms left");
        bench.push('d', &[10, 4], 14).unwrap();
        let mut two = Bench::new(2, 1_000);
        two.push('a', &[10], 15).unwrap();
        two.push('b', &[10], 15).unwrap();
        let running = Busy { left: ms(20), idle: 0 };
        let request = Waiting { images: 1, choices: vec![1], deadline: two.start + ms(10), payload: 'c' };
        assert_eq!(two.queue.push(request, two.start, running, &costs), Err(Refused::TooLate('c')), "runs in progress count");
    }

    #[test]
    fn the_queue_is_bounded_by_work() {
        let mut bench = Bench::new(2, 20);
        for payload in ['a', 'b', 'c'] {
            bench.push(payload, &[10], 1_000).unwrap();
        }
        assert_eq!(bench.push('d', &[10], 1_000), Err(Refused::Full('d', ms(5))), "30 ms of work for two, and 10 of its own");
        bench.push('e', &[10, 4], 1_000).unwrap();
        assert_eq!(bench.queue.images(), 4);
        let mut small = Bench::new(1, 5);
        small.push('a', &[10], 1_000).unwrap();
    }

    #[test]
    fn batches_are_made_where_they_pay_and_nobody_is_late() {
        let mut bench = Bench::new(1, 1_000);
        for payload in ['a', 'b', 'c'] {
            bench.push(payload, &[1], 100).unwrap();
        }
        bench.push('d', &[4], 100).unwrap();
        assert_eq!(bench.next(0), Some((1, "abc".into())), "one child, half the time each");
        assert_eq!(bench.next(0), Some((4, "d".into())));
        for payload in ['a', 'b'] {
            bench.push(payload, &[4], 100).unwrap();
        }
        assert_eq!(bench.next(0), Some((4, "a".into())), "together they would take as long as apart");
        let mut tight = Bench::new(1, 1_000);
        for (payload, deadline_ms) in [('a', 2), ('b', 3), ('c', 3)] {
            tight.push(payload, &[1], deadline_ms).unwrap();
        }
        assert_eq!(tight.next(0), Some((1, "abc".into())), "2 ms");
        for (payload, deadline_ms) in [('a', 1), ('b', 3)] {
            tight.push(payload, &[1], deadline_ms).unwrap();
        }
        assert_eq!(tight.next(0), Some((1, "a".into())), "with b it would take 1.5 ms");
    }

    #[test]
    fn nobody_gets_a_smaller_child_for_the_sake_of_a_batch() {
        let mut bench = Bench::new(1, 1_000);
        bench.push('a', &[1], 100).unwrap();
        bench.push('b', &ALL, 500).unwrap();
        assert_eq!(bench.next(0), Some((1, "a".into())));
        assert_eq!(bench.next(0), Some((10, "b".into())));
    }

    #[test]
    fn idle_workers_are_better_than_batches() {
        let mut bench = Bench::new(2, 1_000);
        for payload in ['a', 'b'] {
            bench.push(payload, &[1], 100).unwrap();
        }
        let run = bench.queue.next(bench.start, Busy { idle: 1, ..Busy::default() }, &costs, |_| false).unwrap();
        assert_eq!(run.requests.len(), 1);
        assert_eq!(bench.queue.images(), 1);
    }

    #[test]
    fn those_who_left_are_dropped() {
        let mut bench = Bench::new(1, 1_000);
        for payload in ['a', 'b', 'c'] {
            bench.push(payload, &[4], 100).unwrap();
        }
        let run = bench.queue.next(bench.start, Busy::default(), &costs, |payload| *payload != 'b').unwrap();
        assert_eq!(run.requests[0].payload, 'b');
        assert_eq!(bench.queue.images(), 0);
    }
}
