//! Children that clients add and remove, also while they are built or loaded.

use std::sync::Arc;
use std::time::Duration;

use bignas::engine::{AddError, ChildState, ClassifyError, RemoveError};

use crate::common::{TestModel, engine, ids, patch};

#[tokio::test]
async fn added_children_are_measured_listed_bounded_and_remembered() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let space = crate::common::space();
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
    let mut choices = crate::common::space().smallest().choices().clone();
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
        let mut choices = crate::common::space().smallest().choices().clone();
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
    engine.publish();
    let mut choices = crate::common::space().smallest().choices().clone();
    choices.stages[2] = bignas::space::StageChoices::uniform(2, 20, 3, 4);
    let id = bignas::space::Child::new(&crate::common::space(), choices.clone()).unwrap().id();
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
