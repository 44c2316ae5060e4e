//! Warming up, draining, and the limit of the queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bignas::engine::{Budget, ChildState, ClassifyError, Request};

use crate::common::{TestModel, engine, ids, patch};
use crate::states;

#[tokio::test]
async fn warm_up_measures_the_family_and_a_restart_is_ready_at_once() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let first = engine(&model, cache.path(), &["--warm-up", "true"]);
    let begin = Instant::now();
    while !first.ready() {
        assert!(begin.elapsed() < Duration::from_secs(60), "the warm-up does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(first.children().iter().all(|status| status.latency_ms.is_some_and(|ms| ms > 0.0)));
    let fastest = first.children().iter().filter_map(|status| status.latency_ms).min_by(f64::total_cmp).unwrap();
    let within = first.resolve(&Budget { latency_ms: Some(fastest), ..Budget::default() }).unwrap();
    assert_eq!(within.latency_ms, Some(fastest));
    drop(first);
    let second = engine(&model, cache.path(), &["--warm-up", "true"]);
    assert!(second.ready(), "all latencies are on disk");
    assert!(states(&second).iter().all(|state| *state == ChildState::Disk));
    drop(second);
    std::fs::remove_dir_all(cache.path().join("built")).unwrap();
    let third = engine(&model, cache.path(), &["--warm-up", "true", "--disk-limit-bytes", "1"]);
    assert!(third.ready(), "what would not stay on disk is not built at every start");
    drop(third);
    let fourth = engine(&model, cache.path(), &["--warm-up", "true"]);
    assert!(!fourth.ready(), "what is known to be fast is still to be built");
}

/// The thread that warms it up is no reason to go on.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_let_go_of_stops_in_the_middle_of_its_warm_up() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let engine = engine(&model, cache.path(), &["--warm-up", "true"]);
    let metrics = Arc::clone(engine.metrics());
    drop(engine);
    let built = || metrics.builds.with_label_values(&["ok"]).get();
    let then = built();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(built(), then);
}

#[tokio::test]
async fn the_default_budget_holds_where_a_request_gives_none() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let engine = engine(&model, cache.path(), &["--default-mflops", "3"]);
    let resolve = |budget: Budget| engine.resolve(&budget).unwrap().cost.macs.millions();
    assert!(resolve(Budget::default()) <= 3.0);
    assert!(resolve(Budget { mflops: Some(100.0), ..Budget::default() }) > 9.0);
    assert!(resolve(Budget { params: Some(u64::MAX), ..Budget::default() }) > 9.0);
}

#[tokio::test]
async fn a_draining_engine_takes_nothing_new() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let engine = engine(&model, cache.path(), &[]);
    let id = ids(&engine)[0];
    engine.classify(id, vec![patch(1)]).await.unwrap();
    engine.drain();
    let hurried = Request { deadline: Some(Instant::now() + Duration::from_secs(9)), ..id.into() };
    assert!(matches!(engine.classify(hurried, vec![patch(1)]).await, Err(ClassifyError::ShuttingDown)));
    assert!(matches!(engine.classify(ids(&engine)[0], vec![patch(1)]).await, Err(ClassifyError::ShuttingDown)));
}

#[tokio::test]
async fn more_than_the_queue_takes_is_refused_with_a_time_to_return() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let engine = engine(&model, cache.path(), &["--queue-limit-images", "2"]);
    let id = ids(&engine)[5];
    engine.classify(id, vec![patch(0)]).await.unwrap();
    let big = vec![patch(0); 64];
    let requests: Vec<_> = (0..12)
        .map(|_| {
            let (engine, big) = (engine.clone(), big.clone());
            tokio::spawn(async move { engine.classify(id, big).await })
        })
        .collect();
    let mut refused = 0;
    for request in requests {
        match request.await.unwrap() {
            Ok(answer) => assert_eq!(answer.logits.len(), 64),
            Err(ClassifyError::Overloaded { retry_after_s }) => {
                assert!(retry_after_s >= 1);
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 0, "twelve large requests do not fit a queue of two images");
}
