//! The engine: children are built once, kept within limits, found again, and never block each other.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bignas::engine::{AddError, Budget, ChildState, ClassifyError, Engine, RemoveError, Request, Source};
use bignas::metrics::Metrics;
use clap::Parser;
use common::{Flags, TestModel, engine, ids, patch, runtime};

fn states(engine: &Engine) -> Vec<ChildState> {
    engine.children().iter().map(|status| status.state).collect()
}

fn builds(engine: &Engine) -> u64 {
    engine.metrics().builds.with_label_values(&["ok"]).get()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_first_requests_build_a_child_once() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let engine = engine(&model, cache.path(), &[]);
    let id = ids(&engine)[1];
    let requests: Vec<_> = (0..50)
        .map(|i| {
            let engine = engine.clone();
            tokio::spawn(async move { engine.classify(id, vec![patch(i)]).await })
        })
        .collect();
    for request in requests {
        let answer = request.await.unwrap().unwrap();
        assert_eq!((answer.logits.len(), answer.logits[0].len()), (1, 10));
    }
    assert_eq!(builds(&engine), 1);
    let again = engine.classify(id, vec![patch(0), patch(1)]).await.unwrap();
    assert_eq!((again.source, again.logits.len()), (Source::Memory, 2));
}

#[tokio::test]
async fn built_children_are_found_again_and_answer_alike() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let first = engine(&model, cache.path(), &[]);
    let id = ids(&first)[0];
    let built = first.classify(id, vec![patch(7)]).await.unwrap();
    assert_eq!(built.source, Source::Built);
    drop(first);
    let second = engine(&model, cache.path(), &[]);
    assert_eq!(states(&second)[..2], [ChildState::Disk, ChildState::Unbuilt]);
    let loaded = second.classify(id, vec![patch(7)]).await.unwrap();
    assert_eq!((loaded.source, loaded.logits), (Source::Disk, built.logits));
    assert_eq!(builds(&second), 0);
}

#[tokio::test]
async fn a_damaged_built_child_is_built_again() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let first = engine(&model, cache.path(), &[]);
    let id = ids(&first)[0];
    let built = first.classify(id, vec![patch(7)]).await.unwrap();
    drop(first);
    // The second time with its checksum: what cannot be loaded is of no use, however whole it is.
    for whole in [false, true] {
        for file in std::fs::read_dir(cache.path().join("built")).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "onnx") {
                std::fs::write(path, b"not a model").unwrap();
            } else if whole {
                let mut receipt: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                receipt["onnx_sha256"] = bignas::files::sha256(b"not a model").into();
                std::fs::write(path, receipt.to_string()).unwrap();
            }
        }
        let next = engine(&model, cache.path(), &[]);
        let again = next.classify(id, vec![patch(7)]).await.unwrap();
        assert_eq!((again.source, &again.logits), (Source::Built, &built.logits), "whole: {whole}");
    }
}

/// A model whose images may not ship: its family comes with statistics, other children need images from elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_family_with_statistics_needs_no_images() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let with_images = engine(&model, &cache.path().join("a"), &[]);
    let id = ids(&with_images)[2];
    let expected = with_images.classify(id, vec![patch(7)]).await.unwrap().logits;
    model.ship_statistics_instead_of_images();

    let family_only = engine(&model, &cache.path().join("b"), &[]);
    assert_eq!(family_only.classify(id, vec![patch(7)]).await.unwrap().logits, expected);
    let mut choices = common::space().smallest().choices().clone();
    choices.resolution = 22;
    let refused = family_only.add(choices.clone()).await.unwrap_err().to_string();
    assert!(refused.contains("test ships no calibration images") && refused.contains("--calibration DIR"), "{refused}");

    let images = (common::noise(48, 28, 1).into(), 16);
    let flags = ["test", "--cache-dir", cache.path().to_str().unwrap(), "--warm-up", "false"];
    let options = Flags::parse_from(flags).options;
    let given = Engine::start(model.open(), runtime(), Arc::new(Metrics::new().unwrap()), options, Some(images)).unwrap();
    assert_eq!(given.classify(id, vec![patch(7)]).await.unwrap().logits, expected, "the family keeps its statistics");
    assert!(given.add(choices).await.unwrap().status.added);
}

/// A loaded child's graph lies on disk alone. Whoever empties the cache directory makes it slow, not wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_loaded_child_survives_the_loss_of_its_file() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let engine = engine(&model, cache.path(), &[]);
    let id = ids(&engine)[0];
    let before = engine.classify(id, vec![patch(7)]).await.unwrap();
    let graph = engine.onnx(id).await.unwrap();
    std::fs::remove_dir_all(cache.path().join("built")).unwrap();
    assert_eq!(engine.onnx(id).await.unwrap(), graph, "the same graph, built again");
    std::fs::remove_dir_all(cache.path().join("built")).unwrap();
    // Two at once need a second session, and that its graph.
    let (one, other) = tokio::join!(engine.classify(id, vec![patch(7)]), engine.classify(id, vec![patch(7)]));
    assert_eq!((one.unwrap().logits, other.unwrap().logits), (before.logits.clone(), before.logits));
}

#[tokio::test]
async fn memory_keeps_to_its_limit_and_what_went_comes_back_from_disk() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let engine = engine(&model, cache.path(), &["--memory-limit-bytes", "1"]);
    let ids = ids(&engine);
    engine.classify(ids[0], vec![patch(1)]).await.unwrap();
    engine.classify(ids[1], vec![patch(1)]).await.unwrap();
    assert_eq!(states(&engine)[..2], [ChildState::Disk, ChildState::Loaded]);
    let back = engine.classify(ids[0], vec![patch(1)]).await.unwrap();
    assert_eq!(back.source, Source::Disk);
}

#[tokio::test]
async fn the_disk_keeps_to_its_limit() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let engine = engine(&model, cache.path(), &["--disk-limit-bytes", "400000"]);
    for id in ids(&engine) {
        engine.classify(id, vec![patch(1)]).await.unwrap();
    }
    let bytes: u64 = std::fs::read_dir(cache.path().join("built")).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= 404_000, "{bytes} bytes of children and receipts");
    assert!(bytes > 100_000, "some children are kept");
}

/// A child in memory is not read from disk any more; its file makes no room for all that.
#[tokio::test]
async fn what_is_used_in_memory_stays_on_disk() {
    let (model, measured, cache) = (TestModel::new(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let unbounded = engine(&model, measured.path(), &[]);
    let ids = ids(&unbounded);
    let mut sizes = [0; 3];
    for (index, id) in ids[..3].iter().enumerate() {
        unbounded.classify(*id, vec![patch(1)]).await.unwrap();
        sizes[index] = unbounded.metrics().disk_bytes.get() - sizes.iter().sum::<i64>();
    }
    let limit = (sizes[0] + sizes[2]).to_string();
    let bounded = engine(&model, cache.path(), &["--disk-limit-bytes", &limit]);
    // The disk has room for the first and the third; the second is newer than the first, and less recently used.
    for index in [0, 1, 0, 2] {
        bounded.classify(ids[index], vec![patch(1)]).await.unwrap();
    }
    drop(bounded);
    let next = engine(&model, cache.path(), &["--disk-limit-bytes", &limit]);
    assert_eq!(states(&next)[..3], [ChildState::Disk, ChildState::Unbuilt, ChildState::Disk]);
}

/// Loading takes milliseconds, and building may take minutes.
#[tokio::test(flavor = "multi_thread")]
async fn what_lies_on_disk_does_not_wait_for_what_is_built() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let first = engine(&model, cache.path(), &[]);
    let ids = ids(&first);
    first.classify(ids[0], vec![patch(1)]).await.unwrap();
    drop(first);
    let engine = engine(&model, cache.path(), &[]);
    let building: Vec<_> = ids[1..]
        .iter()
        .map(|&id| {
            let engine = engine.clone();
            tokio::spawn(async move { engine.classify(id, vec![patch(1)]).await.map(|answer| answer.source) })
        })
        .collect();
    while engine.metrics().build_seconds.with_label_values(&["slice"]).get_sample_count() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(engine.classify(ids[0], vec![patch(1)]).await.unwrap().source, Source::Disk);
    assert!(builds(&engine) < building.len() as u64, "it came after {} builds of {}", builds(&engine), building.len());
    for built in building {
        assert_eq!(built.await.unwrap().unwrap(), Source::Built);
    }
}

#[tokio::test]
async fn an_unwritable_cache_is_served_from_memory() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let blocked = cache.path().join("file");
    std::fs::write(&blocked, b"").unwrap();
    let engine = engine(&model, &blocked, &[]);
    let id = ids(&engine)[0];
    assert_eq!(engine.classify(id, vec![patch(1)]).await.unwrap().source, Source::Built);
    assert_eq!(engine.classify(id, vec![patch(1)]).await.unwrap().source, Source::Memory);
}

#[tokio::test]
async fn added_children_are_measured_listed_bounded_and_remembered() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let space = common::space();
    let choices = |depth: usize| {
        let mut choices = space.smallest().choices().clone();
        choices.stages[2] = bignas::space::StageChoices::uniform(depth, 20, 3, 4);
        choices
    };
    let first = engine(&model, cache.path(), &["--max-added-children", "1"]);
    let before = first.children().len();
    let added = first.add(choices(2)).await.unwrap().status;
    assert!(added.added && added.latency_ms.is_some() && added.accuracy.is_none());
    assert_eq!(added.state, ChildState::Loaded);
    let again = first.add(choices(2)).await.unwrap();
    assert_eq!((again.status.child, again.is_new), (Arc::clone(&added.child), false), "adding it again changes nothing");
    assert!(matches!(first.add(choices(3)).await, Err(AddError::Full { limit: 1 })));
    let mut outside = choices(2);
    outside.resolution = 21;
    assert!(matches!(first.add(outside).await, Err(AddError::Outside(_))));
    let costs: Vec<u64> = first.children().iter().map(|status| status.cost.macs.total()).collect();
    assert!(costs.is_sorted() && costs.len() == before + 1);
    drop(first);
    let second = engine(&model, cache.path(), &[]);
    let id = added.child.id();
    assert_eq!(second.child(id).unwrap().state, ChildState::Disk);
    let is_measured = || {
        let mut tables = std::fs::read_dir(cache.path().join("latency")).unwrap();
        tables.any(|file| std::fs::read_to_string(file.unwrap().path()).unwrap().contains(&id.to_string()))
    };
    assert!(is_measured());
    second.remove(id).unwrap();
    assert!(!is_measured(), "who is removed leaves no time behind");
    assert_eq!(second.remove(id), Err(RemoveError::Unknown(id)));
    assert_eq!(second.children().len(), before);
    let family = ids(&second)[0];
    assert_eq!(second.remove(family), Err(RemoveError::Family(family)));
    assert!(matches!(second.classify(id, vec![patch(1)]).await, Err(ClassifyError::Unknown(_))));
}

/// Two clients that add the same child wait for the same end.
#[tokio::test(flavor = "multi_thread")]
async fn who_adds_what_is_being_added_waits_for_it() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let engine = engine(&model, cache.path(), &[]);
    let mut choices = common::space().smallest().choices().clone();
    choices.stages[2] = bignas::space::StageChoices::uniform(2, 20, 3, 4);
    let (images, away) = (model.path().join("calibration.safetensors"), model.path().join("away"));
    std::fs::rename(&images, &away).unwrap();
    let (one, other) = tokio::join!(engine.add(choices.clone()), engine.add(choices.clone()));
    assert!(matches!((&one, &other), (Err(AddError::Build(_)), Err(AddError::Build(_)))), "{one:?} and {other:?}");
    std::fs::rename(&away, &images).unwrap();
    let (one, other) = tokio::join!(engine.add(choices.clone()), engine.add(choices));
    let both = [one.unwrap(), other.unwrap()];
    assert!(both.iter().all(|added| added.status.latency_ms.is_some()), "{both:?}");
    assert_eq!(both.map(|added| added.is_new), [true, false]);
}

/// Another change to the list, saved while a child is being built, does not keep it beyond its failure.
#[tokio::test(flavor = "multi_thread")]
async fn who_could_not_be_built_is_not_remembered() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let first = engine(&model, cache.path(), &[]);
    let before = ids(&first).len();
    let choices = |depth: usize| {
        let mut choices = common::space().smallest().choices().clone();
        choices.stages[2] = bignas::space::StageChoices::uniform(depth, 20, 3, 4);
        choices
    };
    let removed = first.add(choices(2)).await.unwrap().status.child.id();
    std::fs::remove_file(model.path().join("calibration.safetensors")).unwrap();
    let (added, gone) = tokio::join!(first.add(choices(3)), async { first.remove(removed) });
    assert!(matches!(added, Err(AddError::Build(_))) && gone.is_ok(), "{added:?}, {gone:?}");
    drop(first);
    assert_eq!(ids(&engine(&model, cache.path(), &[])).len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_removed_while_it_is_loaded_leaves_nothing_behind() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let engine = engine(&model, cache.path(), &[]);
    let mut choices = common::space().smallest().choices().clone();
    choices.stages[2] = bignas::space::StageChoices::uniform(2, 20, 3, 4);
    let id = bignas::space::Child::new(&common::space(), choices.clone()).unwrap().id();
    let adding = tokio::spawn({
        let engine = engine.clone();
        async move { engine.add(choices).await }
    });
    let removed = async {
        while engine.remove(id).is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), removed).await.unwrap();
    // Whether or not it was there before it was removed, it is loaded by now.
    let _ = adding.await.unwrap();
    let metrics = engine.metrics();
    let nothing = async {
        while metrics.loaded_children.get() + metrics.cache_bytes.get() + metrics.disk_bytes.get() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), nothing).await.expect("it stays in memory or on disk");
    assert!(engine.child(id).is_none());
}

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
    common::claim_latencies(cache, |id| if id == best { 20_000.0 } else { 0.01 });
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
    common::claim_latencies(cache.path(), |id| 0.1 * (1 + order.iter().position(|other| other == id).unwrap()) as f64);
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
        common::measure(&model, cache.path()).await;
        let order: Vec<String> = ids(&engine(&model, cache.path(), &[])).iter().map(ToString::to_string).collect();
        common::claim_latencies(cache.path(), |id| 0.1 * (1 + order.iter().position(|other| other == id).unwrap()) as f64);
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
