//! Children are built once, found again on disk, and kept within limits.

use std::sync::Arc;

use bignas::engine::{ChildState, Engine, Source};
use bignas::metrics::Metrics;
use clap::Parser;

use crate::common::{Flags, TestModel, engine, ids, patch, runtime};
use crate::{builds, states};

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
    let mut choices = crate::common::space().smallest().choices().clone();
    choices.resolution = 22;
    let refused = family_only.add(choices.clone()).await.unwrap_err().to_string();
    assert!(refused.contains("test ships no calibration images") && refused.contains("--calibration DIR"), "{refused}");

    let images = (crate::common::noise(48, 28, 1).into(), 16);
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
