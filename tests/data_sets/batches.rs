//! Batches for training and evaluation.

use std::fs;
use std::sync::Arc;

use bignas::data::{Augment, Batch, BatchPlan, Batches, DataError, DataOptions, ImageSet, Mode, Policy, RandomCrop, Source, Split};
use bignas::image::{DecodeLimits, Preprocessing};

use crate::{idx_dir, options, plan, preprocessing};

fn source(count: u8, augment: Augment) -> Arc<Source> {
    let dir = idx_dir(count);
    let images = ImageSet::open(dir.path(), Split::Train, options()).expect("opens");
    Arc::new(Source { images, preprocessing: preprocessing(), augment })
}

fn collect(source: &Arc<Source>, plan: BatchPlan) -> Vec<Batch> {
    let batches = Batches::start(Arc::clone(source), plan).expect("starts");
    let expected = batches.len();
    let batches: Vec<Batch> = batches.collect::<Result<_, _>>().expect("reads");
    assert_eq!(batches.len(), expected);
    batches
}

#[test]
fn batches_depend_on_seed_and_epoch_alone() {
    let shifted = Augment { crop: RandomCrop::Pad { pad: 2 }, flip: true, auto_augment: None };
    let plain = collect(&source(100, shifted.clone()), plan());
    let source = source(100, Augment { auto_augment: Some(Policy::Cifar10), ..shifted });
    let reference = collect(&source, BatchPlan { threads: 1, ..plan() });
    assert_ne!(reference, plain);
    assert_eq!(reference.len(), 12, "the last four images are dropped");
    assert!(reference.iter().all(|batch| batch.labels.len() == 8 && batch.images.len() == 8 * 16));
    for threads in [0, 2, 3, 50] {
        assert_eq!(collect(&source, BatchPlan { threads, ..plan() }), reference, "{threads} threads");
    }
    for skip in [0, 1, 5, 12, 100] {
        let resumed = collect(&source, BatchPlan { skip, ..plan() });
        assert_eq!(resumed, reference[skip.min(12)..], "after {skip} batches");
    }
    assert_ne!(collect(&source, BatchPlan { epoch: 1, ..plan() }), reference);
    assert_ne!(collect(&source, BatchPlan { seed: 2, ..plan() }), reference);
}

#[test]
fn further_patches_of_an_image_are_changed_on_their_own() {
    let source = source(16, Augment { crop: RandomCrop::Pad { pad: 2 }, flip: true, auto_augment: None });
    let (one, three) = (collect(&source, plan()), collect(&source, BatchPlan { patches: 3, ..plan() }));
    for (one, three) in one.iter().zip(&three) {
        assert_eq!((&one.labels, three.images.len()), (&three.labels, 3 * one.images.len()));
        let of_images = || three.images.chunks_exact(3 * 16);
        assert_eq!(one.images, of_images().flat_map(|patches| &patches[..16]).copied().collect::<Vec<u8>>());
        assert!(of_images().any(|patches| patches[..16] != patches[16..32] && patches[16..32] != patches[32..]));
    }
}

#[test]
fn an_epoch_shows_every_image_once_with_its_label() {
    let source = source(96, Augment::NONE);
    let batches = collect(&source, plan());
    let mut seen: Vec<u8> = Vec::new();
    for batch in &batches {
        for (image, label) in batch.images.chunks_exact(16).zip(&batch.labels) {
            assert_eq!(i64::from(image[1] % 3), *label);
            seen.push(image[1]);
        }
    }
    assert!(!seen.is_sorted(), "training is shuffled");
    seen.sort_unstable();
    assert_eq!(seen, (0..96).collect::<Vec<u8>>());
}

#[test]
fn evaluation_is_in_order_and_complete() {
    let source = source(20, Augment { crop: RandomCrop::Pad { pad: 2 }, flip: true, auto_augment: None });
    let batches = collect(&source, BatchPlan { mode: Mode::Evaluation, threads: 3, ..plan() });
    assert_eq!(batches.iter().map(|batch| batch.labels.len()).collect::<Vec<_>>(), [8, 8, 4]);
    let images: Vec<u8> = batches.iter().flat_map(|batch| batch.images.clone()).collect();
    assert_eq!(images, (0..20).flat_map(|i| [255, i, i, i].repeat(4)).collect::<Vec<u8>>());
}

#[test]
fn colour_batches_are_planar() {
    let dir = tempfile::tempdir().expect("a directory");
    let folder = dir.path().join("train/red");
    fs::create_dir_all(&folder).expect("creates");
    image::RgbImage::from_pixel(4, 4, image::Rgb([200, 100, 50])).save(folder.join("a.png")).expect("saves");
    let preprocessing = Preprocessing { mean: vec![0.5; 3], std: vec![0.5; 3], ..preprocessing() };
    let options = DataOptions { limits: DecodeLimits { max_pixels: 16 }, ..DataOptions::new(&preprocessing) };
    let images = ImageSet::open(dir.path(), Split::Train, options).expect("opens");
    let source = Arc::new(Source { images, preprocessing, augment: Augment::NONE });
    let batches = collect(&source, BatchPlan { batch_size: 1, ..plan() });
    assert_eq!(batches[0].images, [[200; 16], [100; 16], [50; 16]].concat());
}

#[test]
fn too_few_images_are_an_error_and_dropping_early_ends() {
    let source = source(10, Augment::NONE);
    for (mode, batch_size) in [(Mode::Training, 11), (Mode::Training, 0), (Mode::Evaluation, 0)] {
        let batches = Batches::start(Arc::clone(&source), BatchPlan { mode, batch_size, ..plan() });
        assert!(matches!(batches, Err(DataError::TooFew { len: 10, .. })), "{mode:?} {batch_size}");
    }
    let mut batches = Batches::start(source, BatchPlan { batch_size: 1, ..plan() }).expect("starts");
    assert!(batches.next().is_some());
    drop(batches);
}

/// A sample is without repetition, the same for the same seed, and keeps each image's label.
#[test]
fn a_sample_of_a_data_set_keeps_images_and_labels_together() {
    let dir = idx_dir(9);
    let open = || ImageSet::open(dir.path(), Split::Train, options()).unwrap();
    let whole = open();
    let all: Vec<_> = (0..9).map(|index| (whole.pixels(index).unwrap().data, whole.label(index))).collect();
    let sample = |count, seed| {
        let set = open().sample(count, seed);
        assert!(set.label(set.len()).is_none() && set.pixels(set.len()).is_err());
        (0..set.len()).map(|index| (set.pixels(index).unwrap().data, set.label(index))).collect::<Vec<_>>()
    };
    let first = sample(4, 1);
    let places: Vec<_> = first.iter().map(|image| all.iter().position(|other| other == image).unwrap()).collect();
    assert!(places.len() == 4 && places.iter().collect::<std::collections::BTreeSet<_>>().len() == 4, "{places:?}");
    assert_eq!(sample(4, 1), first);
    assert_ne!(sample(4, 2), first);
    assert_eq!(sample(100, 1).len(), 9);
}
