//! How fast background threads make batches of training images: reading, decoding, cropping, mirroring and AutoAugment, from folders of
//! JPEG files, small as CIFAR-10's and as large as ImageNet's. A training waits for images where its own images a second come near.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bignas::data::{Augment, BatchPlan, Batches, DataOptions, ImageSet, Mode, Policy, RandomCrop, Source, Split};
use bignas::image::{Filter, Preprocessing};
use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};

const BATCH: usize = 64;
const ROUNDS: u64 = 3;

fn main() {
    let small = Augment { crop: RandomCrop::Pad { pad: 4 }, flip: true, auto_augment: Some(Policy::Cifar10) };
    let resized = RandomCrop::Resized { scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] };
    let large = Augment { crop: resized, flip: true, auto_augment: Some(Policy::ImageNet) };
    measure("32 x 32 px", (32, 32), 4096, &preprocessing(32, 32), &small);
    measure("500 x 375 px to 224", (500, 375), 512, &preprocessing(256, 224), &large);
}

fn preprocessing(resize: u32, crop: u32) -> Preprocessing {
    let (mean, std) = (vec![0.485, 0.456, 0.406], vec![0.229, 0.224, 0.225]);
    Preprocessing { resize: Some(resize), filter: Filter::Bicubic, crop, mean, std, background: [0; 3] }
}

/// Epochs of `count` images on one thread and on two, in turn; the files lie in the system's cache.
fn measure(name: &str, (width, height): (u32, u32), count: u32, preprocessing: &Preprocessing, augment: &Augment) {
    let directory = tempfile::tempdir().expect("a directory");
    write_images(&directory.path().join("train"), (width, height), count);
    let images = ImageSet::open(directory.path(), Split::Train, DataOptions::new(preprocessing)).expect("a data set");
    let source = Arc::new(Source { images, preprocessing: preprocessing.clone(), augment: augment.clone() });
    let mut fastest = [0.0f64; 2];
    for epoch in 0..ROUNDS {
        for (fastest, threads) in fastest.iter_mut().zip([1, 2]) {
            let plan = BatchPlan { mode: Mode::Training, batch_size: BATCH, patches: 1, seed: 0, epoch, skip: 0, threads };
            let start = Instant::now();
            let batches = Batches::start(Arc::clone(&source), plan).expect("enough images");
            let made: usize = batches.map(|batch| batch.expect("readable").labels.len()).sum();
            *fastest = fastest.max(made as f64 / start.elapsed().as_secs_f64());
        }
    }
    println!("{name}: {:.0} images/s on one thread, {:.0} on two; the fastest of {ROUNDS} epochs", fastest[0], fastest[1]);
}

/// Smooth shapes and a little noise, of which files of photographs are about as large, in two classes.
fn write_images(folder: &Path, (width, height): (u32, u32), count: u32) {
    let mut noise = 1u32;
    for number in 0..count {
        let class = folder.join(if number % 2 == 0 { "even" } else { "odd" });
        fs::create_dir_all(&class).expect("a folder");
        let phase = number as f32;
        let picture = RgbImage::from_fn(width, height, |x, y| {
            let (x, y) = (x as f32 / width as f32, y as f32 / height as f32);
            let mut channel = |shift: f32| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let shapes = (9.0 * x + phase + shift).sin() * (7.0 * y + shift).cos() + 0.5 * (40.0 * x * y + phase).sin();
                (128.0 + 70.0 * shapes + (noise >> 29) as f32) as u8
            };
            Rgb([channel(0.0), channel(1.0), channel(2.0)])
        });
        let file = fs::File::create(class.join(format!("{number}.jpg"))).expect("a file");
        JpegEncoder::new_with_quality(file, 90).encode_image(&picture).expect("it can be encoded");
    }
}
