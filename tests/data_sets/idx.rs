//! IDX files, plain and compressed.

use std::fs;

use bignas::data::{DataError, DataOptions, ImageSet, Split};

use crate::{gzip, idx, idx_dir, idx_files, options, write_idx};

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
