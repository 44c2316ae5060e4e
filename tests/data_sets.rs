//! Data sets on disk, and the batches made of them.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use bignas::data::{
    Augment, Batch, BatchPlan, Batches, DataError, DataOptions, ImageSet, Mode, Policy, RandomCrop, Source, Split, image_files,
};
use bignas::image::{DecodeLimits, Filter, Preprocessing};
use flate2::Compression;
use flate2::write::GzEncoder;
use image::{GrayImage, Luma};
use tempfile::TempDir;

fn preprocessing() -> Preprocessing {
    Preprocessing { resize: None, filter: Filter::Bilinear, crop: 4, mean: vec![0.5], std: vec![0.5], background: [0; 3] }
}

fn options() -> DataOptions {
    DataOptions::new(&preprocessing())
}

fn idx(dimensions: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dimensions.len() as u8];
    bytes.extend(dimensions.iter().flat_map(|dimension| dimension.to_be_bytes()));
    bytes.extend(data);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("compresses");
    encoder.finish().expect("compresses")
}

/// `count` training images of 4x4 pixels; image i is i everywhere, except its first column, and of class i mod 3.
fn idx_files(count: u8) -> (Vec<u8>, Vec<u8>) {
    let pixels: Vec<u8> = (0..count).flat_map(|i| [255, i, i, i].repeat(4)).collect();
    let labels: Vec<u8> = (0..count).map(|i| i % 3).collect();
    (idx(&[u32::from(count), 4, 4], &pixels), idx(&[u32::from(count)], &labels))
}

fn write_idx(dir: &Path, images: &[u8], labels: &[u8]) {
    fs::write(dir.join("train-images-idx3-ubyte"), images).expect("writes");
    fs::write(dir.join("train-labels-idx1-ubyte"), labels).expect("writes");
}

fn idx_dir(count: u8) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let (images, labels) = idx_files(count);
    write_idx(dir.path(), &images, &labels);
    dir
}

#[test]
fn idx_files_plain_and_gzipped() {
    let dir = idx_dir(5);
    let (images, labels) = idx_files(7);
    fs::write(dir.path().join("t10k-images-idx3-ubyte.gz"), gzip(&images)).expect("writes");
    fs::write(dir.path().join("t10k-labels-idx1-ubyte.gz"), gzip(&labels)).expect("writes");

    let names = ["shirt", "coat", "bag"].map(str::to_owned).to_vec();
    for (split, len, class_names, channels) in [(Split::Train, 5, None, 1), (Split::Test, 7, Some(names), 3)] {
        let options = DataOptions { class_names: class_names.clone(), channels, ..options() };
        let set = ImageSet::open(dir.path(), split, options).expect("opens");
        assert_eq!((set.len(), set.is_empty()), (len, false));
        assert_eq!(set.classes(), class_names.unwrap_or_else(|| ["0", "1", "2"].map(str::to_owned).to_vec()));
        assert_eq!((set.label(4), set.label(len)), (Some(1), None));
        let pixels = set.pixels(4).expect("reads");
        assert_eq!((pixels.width, pixels.height, pixels.channels), (4, 4, channels));
        let expected: Vec<u8> = [255, 4, 4, 4].repeat(4).into_iter().flat_map(|v| vec![v; channels]).collect();
        assert_eq!(pixels.data, expected);
        assert!(matches!(set.pixels(len), Err(DataError::OutOfRange { .. })));
    }
}

#[test]
fn bad_idx_files_are_named() {
    let (images, labels) = idx_files(5);
    let dir = tempfile::tempdir().expect("a directory");
    let too_long = [&images[..], b"x"].concat();
    let huge = idx(&[u32::MAX; 3], &[0; 16]);
    let (images_name, labels_name) = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte");
    let cases: [(&[u8], &[u8], &str, &str); 10] = [
        (&labels, &labels, images_name, "magic number [00, 00, 08, 01]"),
        (&images, &images, labels_name, "magic number [00, 00, 08, 03]"),
        (b"\x89PNG", &labels, images_name, "magic number"),
        (b"", &labels, images_name, "truncated"),
        (&images[..10], &labels, images_name, "truncated"),
        (&images[..images.len() - 1], &labels, images_name, "truncated: its header [5, 4, 4] says 80 bytes"),
        (&too_long, &labels, images_name, "too long"),
        (&huge, &labels, images_name, "dimensions [4294967295"),
        (&images, &idx(&[4], &[0; 4]), labels_name, "4 labels for the 5 images"),
        (&images, &idx(&[5], &[0, 1, 2, 3, 4]), labels_name, "class 4 is not among the 3 classes"),
    ];
    for (images, labels, file, problem) in cases {
        write_idx(dir.path(), images, labels);
        let class_names = Some(["a", "b", "c"].map(str::to_owned).to_vec());
        let error = ImageSet::open(dir.path(), Split::Train, DataOptions { class_names, ..options() });
        let message = error.expect_err(problem).to_string();
        assert!(message.contains(file) && message.contains(problem), "{message:?} lacks {file} or {problem:?}");
    }
}

#[test]
fn damaged_gzip_and_missing_files_are_named() {
    let (images, _) = idx_files(5);
    let gzipped = gzip(&images);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("train-images-idx3-ubyte.gz");
    fs::write(dir.path().join("train-labels-idx1-ubyte"), idx(&[5], &[0; 5])).expect("writes");
    for bytes in [&gzipped[..gzipped.len() / 2], b"not gzip at all"] {
        fs::write(&path, bytes).expect("writes");
        let error = ImageSet::open(dir.path(), Split::Train, options()).expect_err("damaged");
        assert!(matches!(&error, DataError::Format { path: named, .. } if *named == path), "{error:?}");
    }
    let error = ImageSet::open(dir.path(), Split::Test, options()).expect_err("no test files").to_string();
    assert!(error.contains("t10k-images-idx3-ubyte[.gz]") && error.contains("test/CLASS/"), "{error}");
}

/// A record of CIFAR-10's binary form: red is the label times ten, green its row, blue its column.
fn cifar_record(label: u8) -> Vec<u8> {
    let plane = |value: fn(usize) -> u8| (0..1024).map(value).collect::<Vec<u8>>();
    [vec![label], vec![label * 10; 1024], plane(|i| (i / 32) as u8), plane(|i| (i % 32) as u8)].concat()
}

/// Two images a training batch, three to test on, in the folder that the official archive unpacks to.
fn cifar_dir() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let folder = dir.path().join("cifar-10-batches-bin");
    fs::create_dir(&folder).expect("creates");
    for batch in 1..=5 {
        let records = [cifar_record(batch), cifar_record(batch + 4)].concat();
        fs::write(folder.join(format!("data_batch_{batch}.bin")), records).expect("writes");
    }
    fs::write(folder.join("test_batch.bin"), [cifar_record(0), cifar_record(9), cifar_record(3)].concat()).expect("writes");
    fs::write(folder.join("batches.meta.txt"), "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n").expect("writes");
    dir
}

#[test]
fn cifars_binary_batches_are_read_in_order() {
    let dir = cifar_dir();
    let colour = DataOptions { channels: 3, ..options() };
    let train = ImageSet::open(dir.path(), Split::Train, colour.clone()).expect("opens");
    let labels: Vec<_> = (0..train.len()).filter_map(|i| train.label(i)).collect();
    assert_eq!(labels, [1, 5, 2, 6, 3, 7, 4, 8, 5, 9]);
    assert_eq!(train.classes()[9], "j");
    let pixels = train.pixels(1).expect("is there");
    assert_eq!((pixels.width, pixels.height, pixels.channels), (32, 32, 3));
    assert_eq!(pixels.data[(2 * 32 + 7) * 3..][..3], [50, 2, 7]);

    let folder = dir.path().join("cifar-10-batches-bin");
    let grey = ImageSet::open(&folder, Split::Test, options()).expect("opens the folder itself");
    let expected = (0.299 * 90.0 + 0.587 * 31.0 + 0.114 * 31.0_f64).round() as u8;
    assert_eq!(grey.pixels(1).expect("is there").data.last(), Some(&expected));
    assert!(matches!(grey.pixels(3), Err(DataError::OutOfRange { index: 3, len: 3 })));
    let ten = |name: fn(u8) -> String| (0..10).map(name).collect::<Vec<_>>();
    let named = DataOptions { class_names: Some(ten(|i| format!("class {i}"))), ..options() };
    assert_eq!(ImageSet::open(&folder, Split::Test, named).expect("opens").classes(), ten(|i| format!("class {i}")));
    for count in [2, 11] {
        let names = (0..count).map(|i| format!("class {i}")).collect();
        let error = ImageSet::open(&folder, Split::Test, DataOptions { class_names: Some(names), ..options() }).expect_err("not ten");
        assert!(error.to_string().contains(&format!("{count} names of classes are given; CIFAR-10 has 10 classes")), "{error}");
    }
    fs::remove_file(folder.join("batches.meta.txt")).expect("removes");
    assert_eq!(ImageSet::open(&folder, Split::Test, options()).expect("opens").classes(), ten(|i| i.to_string()));
}

/// Training needs no test images, whatever else lies beside those that it has.
#[test]
fn test_images_that_are_not_there_are_said_to_be_missing() {
    let (idx, cifar) = (idx_dir(5), cifar_dir());
    fs::create_dir_all(idx.path().join("run/checkpoints")).expect("creates");
    fs::remove_file(cifar.path().join("cifar-10-batches-bin/test_batch.bin")).expect("removes");
    let three = Some(["0", "1", "2"].map(str::to_owned).to_vec());
    for (dir, class_names) in [(&idx, three), (&cifar, None)] {
        let opened = ImageSet::open(dir.path(), Split::Test, DataOptions { class_names, ..options() });
        assert!(matches!(opened, Err(DataError::Layout { .. })), "{opened:?}");
        assert!(ImageSet::open(dir.path(), Split::Train, options()).is_ok());
    }
}

#[test]
fn bad_cifar_batches_are_named() {
    type Break = fn(&Path);
    let cases: [(Break, &str); 6] = [
        (|d| fs::remove_file(d.join("data_batch_4.bin")).expect("removes"), "data_batch_4.bin"),
        (|d| fs::write(d.join("data_batch_2.bin"), &cifar_record(1)[..3072]).expect("writes"), "3072 bytes are not whole records of 3073"),
        (|d| fs::write(d.join("data_batch_5.bin"), "").expect("writes"), "data_batch_5.bin: 0 bytes"),
        (|d| fs::write(d.join("data_batch_3.bin"), cifar_record(10)).expect("writes"), "image 0 has label 10; labels lie below 10"),
        (|d| fs::write(d.join("batches.meta.txt"), "cat\ndog\n").expect("writes"), "batches.meta.txt: 2 names; CIFAR-10 has 10 classes"),
        (|d| fs::write(d.join("batches.meta.txt"), b"\xff\n").expect("writes"), "batches.meta.txt: cannot be read"),
    ];
    for (break_it, expected) in cases {
        let dir = cifar_dir();
        break_it(&dir.path().join("cifar-10-batches-bin"));
        let error = ImageSet::open(dir.path(), Split::Train, DataOptions { channels: 3, ..options() }).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error:?} should contain {expected:?}");
    }
}

/// `train/{apple,pear}` with 3 images each, `test/pear` with one; image i of a class is grey i everywhere.
fn folder_dir() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for (folder, count) in [("train/pear", 3_u8), ("train/apple", 3), ("test/pear", 1)] {
        let folder = dir.path().join(folder);
        fs::create_dir_all(&folder).expect("creates");
        fs::write(folder.join(".hidden"), b"x").expect("writes");
        for i in 0..count {
            GrayImage::from_pixel(6, 5, Luma([i])).save(folder.join(format!("{i}.png"))).expect("saves");
        }
    }
    dir
}

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

fn plan() -> BatchPlan {
    BatchPlan { mode: Mode::Training, batch_size: 8, patches: 1, seed: 1, epoch: 0, skip: 0, threads: 2 }
}

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
