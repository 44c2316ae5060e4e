//! Folders of images.

use std::fs;
use std::sync::Arc;

use bignas::data::{Augment, BatchPlan, Batches, DataError, DataOptions, ImageSet, Mode, Source, Split, image_files};

use crate::{folder_dir, options, plan, preprocessing};

#[test]
fn folders_are_classes_in_order() {
    let dir = folder_dir();
    let train = ImageSet::open(dir.path(), Split::Train, options()).expect("opens");
    assert_eq!(train.classes(), ["apple", "pear"]);
    let labels: Vec<_> = (0..train.len()).filter_map(|i| train.label(i)).collect();
    assert_eq!(labels, [0, 0, 0, 1, 1, 1]);
    assert_eq!(train.pixels(5).expect("decodes").data, [2; 30]);

    // The only test folder keeps the label that training gave it.
    let test = ImageSet::open(dir.path(), Split::Test, options()).expect("opens");
    assert_eq!((test.len(), test.label(0), test.classes().len()), (1, Some(1), 2));

    fs::create_dir(dir.path().join("test/plum")).expect("creates");
    let error = ImageSet::open(dir.path(), Split::Test, options()).expect_err("a new class").to_string();
    assert!(error.contains("test/plum") && error.contains("class plum is not among the 2 classes"), "{error}");

    let empty = tempfile::tempdir().expect("a directory");
    fs::create_dir_all(empty.path().join("train/apple")).expect("creates");
    assert!(matches!(ImageSet::open(empty.path(), Split::Train, options()), Err(DataError::Layout { .. })));
}

/// ImageNet comes with a `test` that holds pictures without labels, beside its `val`.
#[test]
fn test_images_without_labels_do_not_hide_those_with() {
    let dir = folder_dir();
    let (test, val) = (dir.path().join("test"), dir.path().join("val"));
    fs::rename(&test, &val).expect("renames");
    fs::create_dir(&test).expect("creates");
    for unlabelled in [test.join("0.png"), test.join("images/0.png")] {
        fs::create_dir_all(unlabelled.parent().expect("a folder")).expect("creates");
        fs::copy(val.join("pear/0.png"), unlabelled).expect("copies");
        let set = ImageSet::open(dir.path(), Split::Test, options()).expect("opens");
        assert_eq!((set.len(), set.label(0)), (1, Some(1)));
    }
    fs::remove_dir_all(test.join("images")).expect("removes");
    fs::remove_dir_all(val).expect("removes");
    assert!(matches!(ImageSet::open(dir.path(), Split::Test, options()), Err(DataError::Layout { .. })));
}

#[test]
fn names_that_do_not_fit_the_images_come_to_light() {
    let dir = folder_dir();
    let open = |names: &[&str]| {
        let class_names = Some(names.iter().map(|&name| name.to_owned()).collect());
        ImageSet::open(dir.path(), Split::Train, DataOptions { class_names, ..options() })
    };
    assert!(open(&["apple", "pear"]).expect("opens").classes_without_images().is_empty());
    assert_eq!(open(&["fruit", "apple", "nut", "pear"]).expect("opens").classes_without_images(), ["fruit", "nut"]);
    let error = open(&["apple", "pear", "apple"]).expect_err("named twice").to_string();
    assert!(error.contains("two classes are called apple"), "{error}");
}

/// ImageNet's validation images lie in folders of classes, with no `train` or `val` above them.
#[test]
fn the_folders_of_one_split_are_a_test_set_but_nothing_to_train_on() {
    let dir = folder_dir();
    let classes = vec!["plum".to_owned(), "pear".to_owned(), "apple".to_owned()];
    let named = DataOptions { class_names: Some(classes), ..options() };
    let split = dir.path().join("train");
    let test = ImageSet::open(&split, Split::Test, named.clone()).expect("opens");
    let labels: Vec<_> = (0..test.len()).filter_map(|i| test.label(i)).collect();
    assert_eq!(labels, [1, 1, 1, 2, 2, 2], "labels are those of the given classes");
    assert!(matches!(ImageSet::open(&split, Split::Train, named), Err(DataError::Layout { .. })));
}

#[test]
fn image_files_are_found_at_any_depth_and_sorted() {
    let dir = folder_dir();
    fs::write(dir.path().join("train/notes.txt"), "not an image").expect("writes");
    fs::write(dir.path().join("train/UPPER.JPEG"), "an image by its name").expect("writes");
    let files = image_files(dir.path()).expect("finds");
    let names: Vec<_> = files.iter().map(|path| path.strip_prefix(dir.path()).expect("inside").to_string_lossy()).collect();
    let expected =
        ["test/pear/0", "train/UPPER", "train/apple/0", "train/apple/1", "train/apple/2", "train/pear/0", "train/pear/1", "train/pear/2"];
    let stems: Vec<_> = names.iter().map(|name| name.rsplit_once('.').expect("an ending").0).collect();
    assert_eq!(stems, expected);
    fs::remove_dir_all(dir.path().join("train")).expect("removes");
    fs::remove_dir_all(dir.path().join("test")).expect("removes");
    assert!(image_files(dir.path()).expect_err("empty").to_string().contains("holds no image file"));
}

#[test]
fn what_is_held_out_is_seen_by_nobody_else() {
    let dir = folder_dir();
    let open = || ImageSet::open(dir.path(), Split::Train, options()).expect("opens");
    let pixels = |set: &ImageSet| (0..set.len()).map(|index| set.pixels(index).expect("decodes").data).collect::<Vec<_>>();
    let all = pixels(&open());
    let mut choices = Vec::new();
    for seed in 0..4 {
        let (rest, held) = (pixels(&open().without_held_out(2, seed)), pixels(&open().held_out(2, seed)));
        assert_eq!((rest.len(), held.len()), (all.len() - 2, 2), "seed {seed}");
        let mut together = [rest, held.clone()].concat();
        let mut expected = all.clone();
        together.sort();
        expected.sort();
        assert_eq!(together, expected, "seed {seed}: no image is lost, and none is in both");
        choices.push(held);
    }
    choices.dedup();
    assert!(choices.len() > 1, "the seed decides");
}

#[test]
fn corrupt_files_are_skipped_up_to_the_limit() {
    let dir = folder_dir();
    for name in ["train/apple/1.png", "train/pear/2.png"] {
        let path = dir.path().join(name);
        let bytes = fs::read(&path).expect("reads");
        fs::write(&path, &bytes[..bytes.len() / 2]).expect("writes");
    }
    let open = |max_corrupt| ImageSet::open(dir.path(), Split::Train, DataOptions { max_corrupt, ..options() }).expect("opens");
    let set = open(2);
    assert!(matches!(set.pixels(1), Err(DataError::Decode { path, .. }) if path.ends_with("apple/1.png")));
    for _ in 0..2 {
        let read: Vec<bool> = (0..6).map(|i| set.pixels_or_skip(i).expect("within the limit").is_some()).collect();
        assert_eq!(read, [true, false, true, true, true, false]);
    }
    assert_eq!(set.skipped().len(), 2);
    assert!(set.skipped()[0].ends_with("apple/1.png"));
    // What cannot be read at all counts as what cannot be decoded.
    std::os::unix::fs::symlink("nowhere", dir.path().join("train/apple/9.png")).expect("links");
    let linked = open(3);
    assert!(linked.len() == 7 && linked.pixels_or_skip(3).expect("within the limit").is_none());
    assert!(linked.skipped()[0].ends_with("apple/9.png"));
    fs::remove_file(dir.path().join("train/apple/9.png")).expect("removes");

    let strict = open(1);
    assert!(strict.pixels_or_skip(1).expect("one is fine").is_none());
    let message = strict.pixels_or_skip(5).expect_err("two are not").to_string();
    assert!(message.starts_with("2 image files cannot be read, 1 may be skipped"), "{message}");
    assert!(message.contains("apple/1.png"), "{message}");

    // Training replaces the skipped images by the next; evaluation leaves them out.
    for (mode, expected) in [(Mode::Training, 6), (Mode::Evaluation, 4)] {
        let source = Arc::new(Source { images: open(2), preprocessing: preprocessing(), augment: Augment::NONE });
        let batches = Batches::start(source, BatchPlan { mode, batch_size: 3, ..plan() }).expect("starts");
        let labels: usize = batches.map(|batch| batch.expect("within the limit").labels.len()).sum();
        assert_eq!(labels, expected, "{mode:?}");
    }
    let source = Arc::new(Source { images: open(0), preprocessing: preprocessing(), augment: Augment::NONE });
    let mut batches = Batches::start(source, BatchPlan { batch_size: 3, ..plan() }).expect("starts");
    assert!(batches.any(|batch| matches!(batch, Err(DataError::TooManyCorrupt { .. }))));
    assert!(batches.next().is_none(), "an error ends the epoch");
}
