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
        let deadline = self.start + ms(deadline_ms);
        let request = Waiting { images: 1, prepare: ms(0), choices: choices.to_vec(), deadline, better_by: deadline, payload };
        self.queue.push(request, self.start, &Busy::default(), &costs)
    }

    /// The child and the payloads of the next run, `after_ms` from the start, with no other worker idle.
    fn next(&mut self, after_ms: u64) -> Option<(u64, String)> {
        let run = self.queue.next(self.start + ms(after_ms), &Busy::default(), &costs)?;
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

/// Time is spared for others; where there are none, the best child may take it, but for a fifth in case it takes longer.
#[test]
fn an_idle_server_spares_no_time_for_others() {
    for (after_ms, running_ms, behind, child) in [(0, 0, 0, 10), (88, 0, 0, 10), (89, 0, 0, 4), (0, 1, 0, 1), (0, 0, 1, 1)] {
        let mut bench = Bench::new(1, 1_000);
        for payload in ['a'].into_iter().chain((0..behind).map(|_| 'b')) {
            let (deadline, better_by) = (bench.start + ms(100), bench.start);
            let request = Waiting { images: 1, prepare: ms(0), choices: ALL.to_vec(), deadline, better_by, payload };
            bench.queue.push(request, bench.start, &Busy::default(), &costs).unwrap();
        }
        let busy = Busy { runs: (running_ms > 0).then_some(ms(running_ms)).into_iter().collect(), idle: 1 };
        let run = bench.queue.next(bench.start + ms(after_ms), &busy, &costs).unwrap();
        assert_eq!(run.child, child, "after {after_ms} ms, {running_ms} ms of work running, {behind} behind");
    }
}

#[test]
fn the_child_shrinks_with_the_slack() {
    for (after_ms, child) in [(0, 10), (88, 10), (89, 4), (95, 4), (96, 1), (99, 1)] {
        let mut bench = Bench::new(1, 1_000);
        bench.push('a', &ALL, 100).unwrap();
        assert_eq!(bench.next(after_ms), Some((child, "a".into())), "{after_ms} ms later");
    }
}

/// With 10 ms of its own, the head would still be in time; those behind it would not.
#[test]
fn the_child_shrinks_for_those_behind() {
    for (behind, child) in [(1, 10), (2, 10), (3, 4), (8, 4), (9, 1)] {
        let mut bench = Bench::new(1, 1_000);
        bench.push('a', &ALL, 11).unwrap();
        (0..behind).for_each(|_| bench.push('b', &[1], 12).unwrap());
        let alone = bench.queue.next(bench.start, &Busy { idle: 1, ..Busy::default() }, &costs).unwrap();
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
    assert_eq!(bench.push('c', &[10], 21), Err(Refused::TooLate('c')), "the wait may turn out a fifth longer");
    bench.push('d', &[10, 4], 17).unwrap();
    let mut two = Bench::new(2, 1_000);
    two.push('a', &[10], 16).unwrap();
    two.push('b', &[10], 16).unwrap();
    let running = Busy { runs: vec![ms(10), ms(10)], idle: 0 };
    let deadline = two.start + ms(10);
    let request = Waiting { images: 1, prepare: ms(0), choices: vec![1], deadline, better_by: deadline, payload: 'c' };
    assert_eq!(two.queue.push(request, two.start, &running, &costs), Err(Refused::TooLate('c')), "runs in progress count");
}

/// What one worker has left to do keeps nobody from the others.
#[test]
fn a_free_worker_takes_what_comes() {
    let cases: [(&[u64], usize, u64, u64); 11] = [
        (&[], 2, 0, 0),
        (&[3_000], 2, 0, 0),
        (&[3_000], 2, 100, 100),
        (&[3_000], 2, 4_000, 3_500),
        (&[0, 3_000], 2, 0, 0),
        (&[20, 3_000], 2, 0, 20),
        (&[20, 3_000], 2, 80, 100),
        (&[10, 30, 50], 3, 20, 30),
        (&[10, 30, 50], 3, 60, 50),
        (&[10, 30, 50], 3, 90, 60),
        // More run than may from now on.
        (&[10, 20], 1, 0, 10),
    ];
    for (runs, workers, before, free_in) in cases {
        let busy = Busy { runs: runs.iter().copied().map(ms).rev().collect(), idle: 0 };
        assert_eq!(busy.free_in(workers, ms(before)), ms(free_in), "{runs:?} left, {before} ms before it, {workers} workers");
    }
    let mut queue = Queue::new(2, ms(5_000));
    let start = Instant::now();
    let request = |payload, deadline_ms| {
        let deadline = start + ms(deadline_ms);
        Waiting { images: 1, prepare: ms(0), choices: vec![4], deadline, better_by: deadline, payload }
    };
    let busy = Busy { runs: vec![ms(3_000)], idle: 1 };
    queue.push(request('a', 5), start, &busy, &costs).unwrap();
    assert_eq!(queue.push(request('b', 8), start, &busy, &costs), Err(Refused::TooLate('b')), "a comes first, and takes 4 ms");
    queue.push(request('c', 9), start, &busy, &costs).unwrap();
}

#[test]
fn preparing_counts_like_running() {
    let mut bench = Bench::new(1, 1_000);
    let request = |prepare_ms, deadline_ms, payload| {
        let deadline = bench.start + ms(deadline_ms);
        Waiting { images: 1, prepare: ms(prepare_ms), choices: ALL.to_vec(), deadline, better_by: deadline, payload }
    };
    let requests = [request(20, 21, 'a'), request(0, 100, 'b'), request(90, 100, 'c'), request(10, 100, 'd')];
    let outcomes = requests.map(|request| bench.queue.push(request, bench.start, &Busy::default(), &costs).is_ok());
    assert_eq!(outcomes, [true, true, false, true], "c would have to begin at 22 ms");
    let run = bench.queue.next(bench.start, &Busy::default(), &costs).unwrap();
    assert_eq!((run.child, run.predicted), (1, ms(21)), "time for the smallest only");
    let rest = bench.queue.next(bench.start + ms(98), &Busy::default(), &costs).unwrap();
    let (head, predicted) = (rest.requests[0].payload, rest.predicted);
    assert_eq!((rest.requests.len(), head, rest.child, predicted), (1, 'b', 1, ms(1)), "d needs 10 ms before it can run along");
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
    for (payload, deadline_ms) in [('a', 2), ('b', 3), ('c', 4)] {
        tight.push(payload, &[1], deadline_ms).unwrap();
    }
    assert_eq!(tight.next(0), Some((1, "ab".into())), "c waits half a millisecond more, and they wait as much less, each");
    assert_eq!(tight.next(0), Some((1, "c".into())));
    for (payload, deadline_ms) in [('a', 1), ('b', 3)] {
        tight.push(payload, &[1], deadline_ms).unwrap();
    }
    assert_eq!(tight.next(0), Some((1, "a".into())), "with b it would take 1.5 ms");
}

/// Six more on the head's child would take 4 ms, which the head has; a more urgent request of another child may not. With nobody else,
/// a fourth would make the others wait longer than it and those behind it gain.
#[test]
fn nobody_is_late_for_a_batch_of_others() {
    let cases: [(&[u64], &str); 5] = [(&[], "hyyy"), (&[1_000], "hyyyyyy"), (&[6], "hyy"), (&[5], "h"), (&[10, 11], "hyyyy")];
    for (passed_over, together) in cases {
        let mut bench = Bench::new(1, 1_000);
        passed_over.iter().for_each(|&deadline_ms| bench.push('x', &[4], deadline_ms).unwrap());
        bench.push('h', &[1], 4).unwrap();
        (0..6).for_each(|_| bench.push('y', &[1], 2_000).unwrap());
        assert_eq!(bench.next(0), Some((1, together.into())), "another child's are due after {passed_over:?} ms");
    }
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
    let run = bench.queue.next(bench.start, &Busy { idle: 1, ..Busy::default() }, &costs).unwrap();
    assert_eq!(run.requests.len(), 1);
    assert_eq!(bench.queue.images(), 1);
}

/// Two together take 1.5 ms, one and then another on the worker that is free first 1 ms each.
#[test]
fn a_batch_leaves_work_to_workers_that_are_free_soon() {
    for (free_in_ms, behind, together) in [(0, 0, "a"), (0, 1, "a"), (0, 5, "ab"), (5, 0, "ab"), (5, 1, "ab"), (5, 5, "abb")] {
        let mut bench = Bench::new(2, 1_000);
        for payload in ['a', 'b'].into_iter().chain((0..behind).map(|_| 'b')) {
            bench.push(payload, &[1], 1_000).unwrap();
        }
        let busy = Busy { runs: vec![ms(free_in_ms)], idle: 0 };
        let run = bench.queue.next(bench.start, &busy, &costs).unwrap();
        let payloads: String = run.requests.iter().map(|request| request.payload).collect();
        assert_eq!(payloads, together, "the other worker is free in {free_in_ms} ms, {behind} more wait");
    }
}

#[test]
fn those_who_left_are_dropped() {
    let mut bench = Bench::new(1, 1_000);
    for payload in ['a', 'b', 'c'] {
        bench.push(payload, &[4], 100).unwrap();
    }
    bench.queue.drop_gone(|request| request.payload != 'b');
    assert_eq!(bench.next(0), Some((4, "b".into())));
    assert_eq!(bench.queue.images(), 0);
}

#[test]
fn those_who_are_late_already_cost_no_work() {
    let mut bench = Bench::new(1, 1_000);
    for (payload, choices, deadline_ms) in [('a', &[10, 4][..], 20), ('b', &[4], 30), ('c', &[1], 100)] {
        bench.push(payload, choices, deadline_ms).unwrap();
    }
    let mut late_at = |after_ms| bench.queue.next_late(bench.start + ms(after_ms), &costs);
    assert_eq!([late_at(16), late_at(17), late_at(17)], [None, Some('a'), None]);
    assert_eq!([late_at(27), late_at(27)], [Some('b'), None]);
    assert_eq!(bench.queue.images(), 1);
}

/// Better children are for when there is time to spare: the smallest has all the time until the deadline.
#[test]
fn better_children_leave_time_to_spare() {
    for (after_ms, behind, child) in [(0, 0, 10), (40, 0, 10), (41, 0, 4), (47, 0, 1), (99, 0, 1), (0, 40, 10), (0, 41, 4), (0, 47, 1)] {
        let mut bench = Bench::new(1, 1_000);
        for (payload, choices) in [('a', ALL.to_vec())].into_iter().chain((0..behind).map(|_| ('b', vec![1]))) {
            let (deadline, better_by) = (bench.start + ms(100), bench.start + ms(50));
            let request = Waiting { images: 1, prepare: ms(0), choices, deadline, better_by, payload };
            bench.queue.push(request, bench.start, &Busy::default(), &costs).unwrap();
        }
        // With nobody behind it, something else runs: otherwise there would be nobody to spare time for.
        let busy = Busy { runs: (behind == 0).then_some(ms(0)).into_iter().collect(), idle: 1 };
        let run = bench.queue.next(bench.start + ms(after_ms), &busy, &costs).unwrap();
        assert_eq!(run.child, child, "after {after_ms} ms, {behind} behind");
    }
}

/// Other workers learn meanwhile: what was predicted a moment ago may be more by now, or less.
#[test]
fn predictions_may_change_at_any_time() {
    let mut bench = Bench::new(1, 1_000);
    for payload in ['a', 'b', 'c', 'd'] {
        bench.push(payload, &ALL, 900).unwrap();
    }
    for grows in [3.0, 0.3] {
        let factor = std::cell::Cell::new(1.0_f64);
        let moving = |child: &u64, images: usize| {
            factor.set(factor.get() * grows);
            costs(child, images).mul_f64(factor.get().clamp(0.25, 4.0))
        };
        assert!(bench.queue.next(bench.start, &Busy::default(), &moving).is_some());
    }
}
