//! CIFAR-10 in its official binary form.

use std::fs;
use std::path::Path;

use bignas::data::{DataError, DataOptions, ImageSet, Split};

use crate::{cifar_dir, cifar_record, idx_dir, options};

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
