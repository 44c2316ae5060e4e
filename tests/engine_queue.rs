//! The engine with more to do than it can: who waits, who is answered without an answer, and who has left.

mod common;

use std::time::{Duration, Instant};

use bignas::engine::{Answer, Budget, ChildState, ClassifyError, Engine, Request, Source};
use bignas::space::ChildId;
use common::{TestModel, engine, ids, patch};
use tokio::task::JoinHandle;

/// Keeps the only worker busy with `images`; returns when they run.
async fn keep_busy(engine: &Engine, id: ChildId, images: usize) -> JoinHandle<Result<Answer, ClassifyError>> {
    let runs = || engine.metrics().batch_size.get_sample_count();
    let before = runs();
    let long = {
        let engine = engine.clone();
        tokio::spawn(async move { engine.classify(id, vec![patch(0); images]).await })
    };
    while runs() == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    long
}

/// One whose deadline passes in the queue hears of it then, and not when the worker has time for it.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_past_the_deadline_is_answered_by_a_timer() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    common::measure(&model, cache.path()).await;
    common::claim_latencies(cache.path(), |_| 0.001);
    let engine = engine(&model, cache.path(), &["--workers", "1"]);
    let id = ids(&engine)[0];
    engine.classify(id, vec![patch(0)]).await.unwrap();
    let long = keep_busy(&engine, id, 5_000).await;
    let begin = Instant::now();
    let hurried = Request { deadline: Some(begin + Duration::from_millis(100)), ..id.into() };
    let late = engine.classify(hurried, vec![patch(1)]).await;
    assert!(matches!(late, Err(ClassifyError::TooLate)), "{late:?}");
    assert!(begin.elapsed() >= Duration::from_millis(100), "it was let in, for what was predicted");
    assert!(!long.is_finished(), "the worker is still busy");
    long.abort();
    engine.classify(id, vec![patch(2)]).await.unwrap();
    assert_eq!(engine.metrics().better_share_cuts.get(), 1, "a miss, though a timer gave the answer");
}

/// A floor that only the load keeps from being held is a reason to come back; a deadline that it keeps from being met is missed.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_floor_hears_when_it_can_be_held_again() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    common::measure(&model, cache.path()).await;
    common::claim_latencies(cache.path(), |_| 2.0);
    let engine = engine(&model, cache.path(), &["--workers", "1"]);
    let id = ids(&engine)[0];
    engine.classify(id, vec![patch(0)]).await.unwrap();
    // It is on record as taking ten seconds, and is there much sooner.
    let long = keep_busy(&engine, id, 5_000).await;
    let ask = |has_floor, time_s| {
        let (engine, deadline) = (engine.clone(), Some(Instant::now() + Duration::from_secs_f64(time_s)));
        async move { engine.classify(Request { has_floor, deadline, ..id.into() }, vec![patch(1)]).await }
    };
    match ask(true, 5.0).await {
        Err(ClassifyError::Overloaded { retry_after_s }) => assert!((5..60).contains(&retry_after_s), "{retry_after_s} s"),
        other => panic!("{other:?}"),
    }
    for (has_floor, time_s) in [(false, 5.0), (true, 1e-3)] {
        let late = ask(has_floor, time_s).await;
        assert!(matches!(late, Err(ClassifyError::TooLate)), "floor: {has_floor}, {time_s} s: {late:?}");
    }
    assert!(!long.is_finished(), "the worker is still busy");
    long.abort();
}

/// Requests that run together are answered each for its own images.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_run_together_get_their_own_answers() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    common::measure(&model, cache.path()).await;
    common::claim_profiles(cache.path(), |_| vec![(1, 10.0), (2, 11.0), (4, 12.0), (8, 13.0), (16, 14.0)]);
    let engine = engine(&model, cache.path(), &["--workers", "1"]);
    let id = ids(&engine)[2];
    // One image, two, three, and so on.
    let images = |client: u64| (0..=client % 3).map(|image| common::natural_patch(28, 1, 10 * client + image)).collect::<Vec<_>>();
    let mut alone = Vec::new();
    for client in 0..6 {
        alone.push(engine.classify(id, images(client)).await.unwrap().logits);
    }
    let long = keep_busy(&engine, id, 2_000).await;
    let ask = |client| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.classify(id, images(client)).await.unwrap() })
    };
    let asked: Vec<_> = (0..6).map(ask).collect();
    while engine.metrics().queue_depth.get() < 12 {
        assert!(!long.is_finished(), "the worker is done before all wait");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for (alone, together) in alone.iter().zip(asked) {
        let together = together.await.unwrap();
        assert_eq!((together.batch, together.logits.len()), (12, alone.len()), "all in one run");
        let pairs = alone.iter().flatten().zip(together.logits.iter().flatten());
        let furthest = pairs.map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
        assert!(furthest < 1e-4, "{furthest} apart");
    }
    long.await.unwrap().unwrap();
}

/// Who has left does not take the place of who comes.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_left_do_not_fill_the_queue() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let engine = engine(&model, cache.path(), &["--workers", "1", "--queue-limit-images", "2"]);
    let id = ids(&engine)[0];
    engine.classify(id, vec![patch(0)]).await.unwrap();
    let long = keep_busy(&engine, id, 2_000).await;
    let gone = tokio::time::timeout(Duration::from_millis(1), engine.classify(id, vec![patch(1); 2])).await;
    assert!(gone.is_err(), "the worker is busy");
    assert_eq!(engine.metrics().queue_depth.get(), 2);
    let answer = engine.classify(id, vec![patch(2)]).await;
    assert!(answer.is_ok(), "{answer:?}");
    assert_eq!(engine.metrics().cancelled_images.get(), 2);
    long.await.unwrap().unwrap();
}

/// As many images wait as the limit says, and not one more or less.
#[tokio::test(flavor = "multi_thread")]
async fn the_queue_takes_what_its_limit_says() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let engine = engine(&model, cache.path(), &["--workers", "1", "--queue-limit-images", "8"]);
    let id = ids(&engine)[0];
    engine.classify(id, vec![patch(0)]).await.unwrap();
    let long = keep_busy(&engine, id, 4_000).await;
    let ask = |_| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.classify(id, vec![patch(1)]).await })
    };
    let (mut answered, mut refused) = (0, 0);
    for request in (0..10).map(ask).collect::<Vec<_>>() {
        match request.await.unwrap() {
            Ok(_) => answered += 1,
            Err(ClassifyError::Overloaded { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((answered, refused), (8, 2));
    assert_eq!(engine.metrics().better_share_cuts.get(), 1, "both refusals are of one burst");
    long.await.unwrap().unwrap();
}

/// What is on disk and allowed comes into memory for a busier time, as long as it pushes nobody out.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_budget_allows_is_loaded_for_later() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let first = engine(&model, cache.path(), &["--warm-up", "true"]);
    while !first.ready() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Later, the fastest is the cheapest, and so on, whatever was measured.
    let order: Vec<String> = ids(&first).iter().map(ToString::to_string).collect();
    drop(first);
    common::claim_latencies(cache.path(), |id| 0.1 * (1 + order.iter().position(|other| other == id).unwrap()) as f64);
    for (limit, all) in [("1000000000", true), ("6000000", false)] {
        let engine = engine(&model, cache.path(), &["--memory-limit-bytes", limit]);
        let children: Vec<ChildId> = engine.room(&Budget::default()).unwrap().iter().map(|status| status.child.id()).collect();
        assert_eq!(children.len(), 6);
        let loaded = || engine.children().iter().filter(|status| status.state == ChildState::Loaded).count();
        for _ in 0..30 {
            let answer =
                engine.classify(Request { children: children.clone(), deadline: None, has_floor: false }, vec![patch(1)]).await.unwrap();
            assert_eq!(answer.child, children[0], "an idle server gives the best");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(engine.metrics().cache_evictions.get(), 0, "nobody is pushed out");
        assert!(if all { loaded() == 6 } else { (2..6).contains(&loaded()) }, "{} are loaded with {limit} bytes", loaded());
    }
}

/// One worker, kept busy; whoever left while waiting is not computed.
#[tokio::test(flavor = "multi_thread")]
async fn requests_whose_clients_left_are_not_computed() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let engine = engine(&model, cache.path(), &["--workers", "1"]);
    let id = *ids(&engine).last().unwrap();
    engine.classify(id, vec![patch(0)]).await.unwrap();
    let long = {
        let engine = engine.clone();
        tokio::spawn(async move { engine.classify(id, vec![patch(0); 200]).await })
    };
    let runs = || engine.metrics().batch_size.get_sample_count();
    while runs() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let before = runs();
    for _ in 0..30 {
        let gone = tokio::time::timeout(Duration::from_micros(200), engine.classify(id, vec![patch(1)])).await;
        assert!(gone.is_err(), "the worker is busy");
    }
    long.await.unwrap().unwrap();
    engine.classify(id, vec![patch(2)]).await.unwrap();
    assert_eq!(runs() - before, 1, "the last request alone");
    assert_eq!(engine.metrics().cancelled_images.get(), 30);
}

/// Requests of one run may have chosen their child at different times.
#[tokio::test(flavor = "multi_thread")]
async fn each_request_of_a_run_hears_where_it_found_its_child() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let before = engine(&model, cache.path(), &[]);
    let ids = ids(&before);
    before.classify(ids[0], vec![patch(0)]).await.unwrap();
    drop(before);
    let engine = engine(&model, cache.path(), &["--workers", "1"]);
    engine.classify(ids[1], vec![patch(0)]).await.unwrap();
    let long = keep_busy(&engine, ids[1], 5_000).await;
    let mut waiting = Vec::new();
    for queued in 1..=2 {
        let (engine, id) = (engine.clone(), ids[0]);
        waiting.push(tokio::spawn({
            let engine = engine.clone();
            async move { engine.classify(id, vec![patch(1)]).await }
        }));
        while engine.metrics().queue_depth.get() < queued {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(!long.is_finished(), "the worker is busy");
    long.abort();
    let mut heard = Vec::new();
    for request in waiting {
        let answer = request.await.unwrap().unwrap();
        heard.push((answer.source, answer.batch));
    }
    assert_eq!(heard, [(Source::Disk, 2), (Source::Memory, 2)]);
}

/// A run ends where the last of its clients leaves, and its worker takes the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_when_its_clients_leave() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let engine = engine(&model, cache.path(), &["--workers", "1"]);
    let id = *ids(&engine).last().unwrap();
    engine.classify(id, vec![patch(0)]).await.unwrap();
    let runs = || engine.metrics().batch_size.get_sample_count();
    let before = runs();
    let images = vec![patch(0); 2_000];
    let mut long = Box::pin(engine.classify(id, images));
    while runs() == before {
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut long).await.is_err(), "2,000 images take longer");
    }
    drop(long);
    assert_eq!(engine.classify(id, vec![patch(1)]).await.unwrap().source, Source::Memory);
    assert_eq!(engine.metrics().cancelled_images.get(), 2_000);
    assert_eq!(engine.metrics().panics.get(), 0);
}
