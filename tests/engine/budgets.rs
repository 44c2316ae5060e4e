//! Which child answers a budget, with a deadline and without.

use std::path::Path;
use std::time::{Duration, Instant};

use bignas::engine::{Budget, ChildState, ClassifyError, Engine, Request, Source};

use crate::common::{TestModel, engine, ids, patch};
use crate::states;

fn within(engine: &Engine, budget: Budget, deadline: Option<Duration>) -> Request {
    let children = engine.room(&budget).unwrap().iter().map(|status| status.child.id()).collect();
    Request { children, deadline: deadline.map(|time| Instant::now() + time), has_floor: budget.min_accuracy.is_some() }
}

/// Waits until every child is built, measured and in memory.
async fn warm(engine: &Engine) {
    for id in ids(engine) {
        engine.classify(id, vec![patch(0)]).await.unwrap();
    }
    let begin = Instant::now();
    while engine.children().iter().any(|status| status.latency_ms.is_none()) {
        assert!(begin.elapsed() < Duration::from_secs(60), "the children are not measured");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_room_of_a_budget_goes_from_the_best_child_down_to_the_floor() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let engine = engine(&model, cache.path(), &[]);
    warm(&engine).await;
    let budget = Budget { mflops: Some(9.0), ..Budget::default() };
    let room = engine.room(&budget).unwrap();
    assert_eq!(room[0].child, engine.resolve(&budget).unwrap().child, "the first is what an idle server gives");
    assert!(room.len() > 1);
    for pair in room.windows(2) {
        assert!(pair[0].accuracy >= pair[1].accuracy && pair[0].latency_ms > pair[1].latency_ms, "{pair:?}");
    }
    let floor = room[0].accuracy;
    let bound = engine.room(&Budget { min_accuracy: floor, ..budget }).unwrap();
    assert!(bound.iter().all(|status| status.accuracy >= floor), "{bound:?}");
    assert!(engine.room(&Budget { mflops: Some(1e-3), ..Budget::default() }).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_nobody_can_keep_is_refused_before_any_work() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let engine = engine(&model, cache.path(), &[]);
    warm(&engine).await;
    let images = vec![patch(1); 64];
    let runs = || engine.metrics().batch_size.get_sample_count();
    let before = runs();
    let refused = engine.classify(within(&engine, Budget::default(), Some(Duration::from_micros(1))), images.clone()).await;
    assert!(matches!(refused, Err(ClassifyError::TooLate)), "{refused:?}");
    assert_eq!(runs(), before);
    assert_eq!(engine.metrics().shed.with_label_values(&["deadline"]).get(), 1);
    assert_eq!(engine.metrics().better_share_cuts.get(), 0, "who asks for the impossible takes nothing from others");
    let answer = engine.classify(within(&engine, Budget::default(), Some(Duration::from_secs(20))), images).await.unwrap();
    assert_eq!((answer.logits.len(), answer.degraded_from), (64, None));
}

/// An engine whose best child is on record as taking twenty seconds an image, and all others as taking next to nothing.
async fn engine_with_a_slow_best_child(model: &TestModel, cache: &Path) -> Engine {
    let first = engine(model, cache, &[]);
    warm(&first).await;
    let best = first.resolve(&Budget::default()).unwrap().child.id().to_string();
    drop(first);
    crate::common::claim_latencies(cache, |id| if id == best { 20_000.0 } else { 0.01 });
    let second = engine(model, cache, &[]);
    for id in ids(&second) {
        second.classify(id, vec![patch(0)]).await.unwrap();
    }
    second
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tight_deadline_is_kept_by_a_smaller_child_but_not_under_the_floor() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let engine = engine_with_a_slow_best_child(&model, cache.path()).await;
    let room = engine.room(&Budget::default()).unwrap();
    let [best, next] = [0, 1].map(|place| room[place].child.id());
    let deadline = Some(Duration::from_secs(10));
    let answer = engine.classify(within(&engine, Budget::default(), deadline), vec![patch(1)]).await.unwrap();
    assert_eq!((answer.child, answer.degraded_from), (next, Some(best)));
    assert_eq!(engine.metrics().degraded.get(), 1);
    let patient = engine.classify(within(&engine, Budget::default(), Some(Duration::from_secs(600))), vec![patch(1)]).await.unwrap();
    assert_eq!((patient.child, patient.degraded_from), (best, None));
    let floor = Budget { min_accuracy: room[0].accuracy, ..Budget::default() };
    let refused = engine.classify(within(&engine, floor, deadline), vec![patch(1)]).await;
    assert!(matches!(refused, Err(ClassifyError::TooLate)), "{refused:?}");
    // The best child is not even in memory: who is in a hurry is not kept waiting for it, and learns of it.
    drop(engine);
    let cold = self::engine(&model, cache.path(), &[]);
    cold.classify(next, vec![patch(1)]).await.unwrap();
    let answer = cold.classify(within(&cold, Budget::default(), deadline), vec![patch(1)]).await.unwrap();
    assert_eq!((answer.child, answer.degraded_from), (next, Some(best)));
    let engine = cold;
    let named = engine.classify(Request { deadline: Some(Instant::now() + Duration::from_secs(10)), ..best.into() }, vec![patch(1)]).await;
    assert!(matches!(named, Err(ClassifyError::TooLate)), "who names a child gets that child or none: {named:?}");
}

/// Nothing else waits, and there is time: then the best child answers, though only another is in memory.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_time_gets_the_best_child_from_disk() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let first = engine(&model, cache.path(), &[]);
    warm(&first).await;
    let (best, smallest) = (*ids(&first).last().unwrap(), ids(&first)[0]);
    let order: Vec<String> = ids(&first).iter().map(ToString::to_string).collect();
    drop(first);
    crate::common::claim_latencies(cache.path(), |id| 0.1 * (1 + order.iter().position(|other| other == id).unwrap()) as f64);
    // There is memory for one child, and loads have taken a known time before.
    let engine = engine(&model, cache.path(), &["--memory-limit-bytes", "1"]);
    for id in [best, smallest] {
        engine.classify(id, vec![patch(0)]).await.unwrap();
    }
    assert_eq!((states(&engine)[0], states(&engine).last()), (ChildState::Loaded, Some(&ChildState::Disk)));
    let patient = within(&engine, Budget::default(), Some(Duration::from_secs(20)));
    assert_eq!((patient.children[0], patient.children.last()), (best, Some(&smallest)), "either may answer");
    let answer = engine.classify(patient, vec![patch(1)]).await.unwrap();
    assert_eq!((answer.child, answer.degraded_from, answer.source), (best, None, Source::Disk));
}

/// What nobody has measured has fewer or more multiply-adds than others, all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_best_child_that_was_never_measured_leaves_room_for_others() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let engine = engine(&model, cache.path(), &[]);
    let (best, others) = (*ids(&engine).last().unwrap(), ids(&engine).len() - 1);
    for id in &ids(&engine)[..others] {
        engine.classify(*id, vec![patch(0)]).await.unwrap();
    }
    std::fs::remove_file(model.path().join("calibration.safetensors")).unwrap();
    let answer = engine.classify(within(&engine, Budget::default(), None), vec![patch(1)]).await.unwrap();
    assert_eq!((answer.child != best, answer.degraded_from), (true, Some(best)));
}

/// A build that fails is an error to those whom no other child can answer, and to nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn a_best_child_that_cannot_be_built_fails_only_who_names_it() {
    for deadline in [None, Some(Duration::from_secs(20))] {
        let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
        crate::common::measure(&model, cache.path()).await;
        let order: Vec<String> = ids(&engine(&model, cache.path(), &[])).iter().map(ToString::to_string).collect();
        crate::common::claim_latencies(cache.path(), |id| 0.1 * (1 + order.iter().position(|other| other == id).unwrap()) as f64);
        // Loads from disk take a known time, so that who has a deadline waits for one; and memory has no room for any ahead.
        let engine = engine(&model, cache.path(), &["--memory-limit-bytes", "1"]);
        let (best, smallest) = (*ids(&engine).last().unwrap(), ids(&engine)[0]);
        engine.classify(smallest, vec![patch(0)]).await.unwrap();
        std::fs::remove_dir_all(cache.path().join("built")).unwrap();
        let (images, away) = (model.path().join("calibration.safetensors"), model.path().join("away"));
        std::fs::rename(&images, &away).unwrap();
        let failed = || engine.metrics().builds.with_label_values(&["error"]).get();
        // The second does not wait for another attempt.
        for _ in 0..2 {
            let answer = engine.classify(within(&engine, Budget::default(), deadline), vec![patch(1)]).await.unwrap();
            assert_eq!((answer.child, answer.degraded_from, failed()), (smallest, Some(best), 1), "{deadline:?}");
        }
        let named = engine.classify(best, vec![patch(1)]).await;
        assert!(matches!(named, Err(ClassifyError::Build(_))), "{named:?}");
        assert_eq!(failed(), 2, "who has no other child tries again");
        // A load that succeeds ends it, though memory has no room for two.
        std::fs::rename(&away, &images).unwrap();
        for id in [best, smallest] {
            engine.classify(id, vec![patch(0)]).await.unwrap();
        }
        let answer = engine.classify(within(&engine, Budget::default(), deadline), vec![patch(1)]).await.unwrap();
        assert_eq!(answer.child, best, "{deadline:?}");
    }
}
