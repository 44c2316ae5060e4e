//! What it takes from an image file to a network's input: decoding JPEG, PNG and WebP, cropping to 224 pixels, and resampling to a child's
//! 192, beside the `image` crate's own ways of doing the first two.
//!
//! The picture has 500 × 375 pixels of smooth shapes and a little noise, which files of photographs are about as large as.

use std::hint::black_box;
use std::io::Cursor;
use std::time::Duration;

use bignas::image::{DecodeLimits, Filter, Pixels, Preprocessing, decode};
use criterion::{BenchmarkId, Criterion};
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

const CROP: u32 = 224;
const RESOLUTION: u32 = 192;

fn main() {
    let mut criterion = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3)).configure_from_args();
    let picture = DynamicImage::from(picture(500, 375));
    decoding(&mut criterion, &picture);
    cropping(&mut criterion, &picture);
    criterion.final_summary();
}

fn decoding(criterion: &mut Criterion, picture: &DynamicImage) {
    let mut group = criterion.benchmark_group("decode");
    for (name, file) in
        [("jpeg", jpeg(picture)), ("png", lossless(picture, ImageFormat::Png)), ("webp", lossless(picture, ImageFormat::WebP))]
    {
        println!("{name}: {} bytes", file.len());
        let limits = DecodeLimits::default();
        group.bench_function(BenchmarkId::new("bignas", name), |b| b.iter(|| decode(&file, &limits, 3, [0; 3])));
        group.bench_function(BenchmarkId::new("image", name), |b| b.iter(|| image::load_from_memory(&file).map(|image| image.into_rgb8())));
    }
    group.finish();
}

fn cropping(criterion: &mut Criterion, picture: &DynamicImage) {
    let preprocessing = Preprocessing {
        resize: Some(256),
        filter: Filter::Bicubic,
        crop: CROP,
        mean: vec![0.485, 0.456, 0.406],
        std: vec![0.229, 0.224, 0.225],
        background: [0; 3],
    };
    let pixels = Pixels { width: picture.width(), height: picture.height(), channels: 3, data: picture.to_rgb8().into_raw() };
    let mut group = criterion.benchmark_group("to 224 px");
    group.bench_function("bignas", |b| b.iter(|| pixels.centre_crop(&preprocessing)));
    // The part of the picture that the crop shows.
    let side = 375 * CROP / 256;
    let (left, top) = ((500 - side) / 2, (375 - side) / 2);
    group.bench_function("image", |b| {
        b.iter(|| imageops::resize(&picture.crop_imm(left, top, side, side), CROP, CROP, FilterType::CatmullRom))
    });
    group.finish();
    let patch = pixels.centre_crop(&preprocessing).expect("it is large enough");
    let mut input = vec![0.0; 3 * (RESOLUTION * RESOLUTION) as usize];
    criterion
        .bench_function("224 to 192 px, normalised", |b| b.iter(|| patch.write_input(RESOLUTION, &preprocessing, black_box(&mut input))));
}

fn picture(width: u32, height: u32) -> RgbImage {
    let mut noise = 1u32;
    RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = (x as f32 / width as f32, y as f32 / height as f32);
        let mut channel = |phase: f32| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let shapes = (9.0 * x + phase).sin() * (7.0 * y + phase).cos() + 0.5 * (40.0 * x * y + phase).sin();
            (128.0 + 70.0 * shapes + (noise >> 29) as f32) as u8
        };
        Rgb([channel(0.0), channel(1.0), channel(2.0)])
    })
}

fn jpeg(picture: &DynamicImage) -> Vec<u8> {
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, 90).encode_image(picture).expect("it can be encoded");
    file
}

fn lossless(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, format).expect("it can be encoded");
    file.into_inner()
}
