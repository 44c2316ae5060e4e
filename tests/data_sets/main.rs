//! Data sets on disk, and the batches made of them.

mod batches;
mod cifar;
mod folders;
mod idx;

use std::fs;
use std::io::Write;
use std::path::Path;

use bignas::data::{BatchPlan, DataOptions, Mode};
use bignas::image::{Filter, Preprocessing};
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

fn plan() -> BatchPlan {
    BatchPlan { mode: Mode::Training, batch_size: 8, patches: 1, seed: 1, epoch: 0, skip: 0, threads: 2 }
}
