//! From files of every kind to pixels and patches.

use std::io::Cursor;

use bignas::image::{DecodeError, DecodeLimits, Filter, Patch, Pixels, Preprocessing, check_header, decode};
use image::codecs::gif::GifEncoder;
use image::{DynamicImage, Frame, GrayImage, ImageFormat, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use proptest::prelude::*;

const RED: [u8; 3] = [230, 30, 30];
const GREEN: [u8; 3] = [30, 200, 40];
const BLUE: [u8; 3] = [30, 40, 220];
const GREY: [u8; 3] = [60, 60, 60];
const BLACK: [u8; 3] = [0; 3];
const WHITE: [u8; 3] = [255; 3];

fn golden(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/data/images/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn rgb(bytes: &[u8]) -> Result<Pixels, DecodeError> {
    decode(bytes, &DecodeLimits::default(), 3, BLACK)
}

fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("encodes");
    bytes.into_inner()
}

/// 32x32 in four quadrants.
fn quadrants() -> RgbImage {
    RgbImage::from_fn(32, 32, |x, y| {
        Rgb(match (x < 16, y < 16) {
            (true, true) => RED,
            (false, true) => GREEN,
            (true, false) => BLUE,
            (false, false) => GREY,
        })
    })
}

fn noise(width: u32, height: u32) -> DynamicImage {
    RgbImage::from_fn(width, height, |x, y| {
        let hash = (x * 73_856_093) ^ (y * 19_349_663);
        Rgb([hash as u8, (hash >> 8) as u8, (hash >> 16) as u8])
    })
    .into()
}

fn at(pixels: &Pixels, x: usize, y: usize) -> &[u8] {
    let start = (y * pixels.width as usize + x) * pixels.channels;
    &pixels.data[start..start + pixels.channels]
}

fn assert_near(actual: &[u8], expected: &[u8], tolerance: u8, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!(a.abs_diff(*e) <= tolerance, "{what}, byte {i}: {a}, not {e}");
    }
}

/// A JPEG with an EXIF segment that holds nothing but the orientation.
fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut exif = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    [&jpeg[..2], &exif, &jpeg[2..]].concat()
}

fn animated_gif() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    let later = RgbaImage::from_pixel(32, 32, Rgba([255, 255, 255, 255]));
    let frames = [DynamicImage::from(quadrants()).into_rgba8(), later].map(Frame::new);
    encoder.encode_frames(frames).expect("encodes");
    drop(encoder);
    bytes
}

#[test]
fn every_kind_of_file_looks_as_expected() {
    let colour = DynamicImage::from(quadrants());
    let deep = DynamicImage::from(colour.to_rgb16());
    let mut see_through = colour.to_rgba8();
    for (x, y, pixel) in see_through.enumerate_pixels_mut() {
        if x >= 16 && y >= 16 {
            pixel.0[3] = 0;
        }
    }
    let grey = decode(&encode(&colour, ImageFormat::Png), &DecodeLimits::default(), 1, BLACK).expect("decodes");
    let grey = DynamicImage::from(GrayImage::from_raw(32, 32, grey.data).expect("fits"));
    let plain = [RED, GREEN, BLUE, GREY];
    let luma = [90, 131, 58, 60].map(|value| [value; 3]);
    let cases = [
        ("jpeg", encode(&colour, ImageFormat::Jpeg), plain, 8),
        ("grey jpeg", encode(&grey, ImageFormat::Jpeg), luma, 8),
        ("png", encode(&colour, ImageFormat::Png), plain, 0),
        ("grey png", encode(&grey, ImageFormat::Png), luma, 1),
        ("16-bit png", encode(&deep, ImageFormat::Png), plain, 0),
        ("16-bit grey png", encode(&grey.to_luma16().into(), ImageFormat::Png), luma, 1),
        ("grey + alpha png", encode(&grey.to_luma_alpha8().into(), ImageFormat::Png), luma, 1),
        ("rgba png", encode(&see_through.clone().into(), ImageFormat::Png), [RED, GREEN, BLUE, BLACK], 0),
        ("rgba webp", encode(&see_through.into(), ImageFormat::WebP), [RED, GREEN, BLUE, BLACK], 0),
        ("bmp", encode(&colour, ImageFormat::Bmp), plain, 0),
        ("animated gif", animated_gif(), plain, 8),
        ("cmyk jpeg", golden("cmyk.jpg"), plain, 3),
        ("ycck jpeg", golden("ycck.jpg"), plain, 3),
        ("progressive jpeg", golden("progressive.jpg"), plain, 3),
        ("lossy webp", golden("lossy.webp"), plain, 4),
        ("palette png", golden("palette.png"), [RED, GREEN, BLUE, BLACK], 0),
        ("one-bit png", golden("one_bit.png"), [WHITE, WHITE, BLACK, BLACK], 0),
    ];
    for (name, bytes, expected, tolerance) in cases {
        let pixels = rgb(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((pixels.width, pixels.height, pixels.channels, pixels.data.len()), (32, 32, 3, 3072), "{name}");
        for ((x, y), expected) in [(5, 5), (25, 5), (5, 25), (25, 25)].into_iter().zip(expected) {
            assert_near(at(&pixels, x, y), &expected, tolerance, name);
        }
        let grey = decode(&bytes, &DecodeLimits::default(), 1, BLACK).expect(name);
        assert_eq!((grey.channels, grey.data.len()), (1, 1024), "{name}");
        let [red, green, blue] = expected[0].map(f32::from);
        assert_near(at(&grey, 5, 5), &[(0.299 * red + 0.587 * green + 0.114 * blue) as u8], tolerance + 1, name);
    }
}

#[test]
fn exif_orientation_is_applied() {
    // 32x16: red left, blue right. Where red lies once upright, and the size then.
    let image = RgbImage::from_fn(32, 16, |x, y| Rgb(if x < 16 && y < 8 { RED } else { BLUE }));
    let jpeg = encode(&image.into(), ImageFormat::Jpeg);
    let cases = [
        (1, (32, 16), (3, 3)),
        (2, (32, 16), (28, 3)),
        (3, (32, 16), (28, 12)),
        (4, (32, 16), (3, 12)),
        (5, (16, 32), (3, 3)),
        (6, (16, 32), (12, 3)),
        (7, (16, 32), (12, 28)),
        (8, (16, 32), (3, 28)),
        (9, (32, 16), (3, 3)),
    ];
    for (orientation, size, (x, y)) in cases {
        let pixels = rgb(&with_orientation(&jpeg, orientation)).expect("decodes");
        assert_eq!((pixels.width, pixels.height), size, "orientation {orientation}");
        assert_near(at(&pixels, x, y), &RED, 10, &format!("orientation {orientation}"));
        let opposite = (pixels.width as usize - 1 - x, pixels.height as usize - 1 - y);
        assert_near(at(&pixels, opposite.0, opposite.1), &BLUE, 10, &format!("orientation {orientation}"));
    }
}

/// A file of each format, with content that compresses badly.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let noise = noise(40, 30);
    vec![
        ("jpeg", encode(&noise, ImageFormat::Jpeg)),
        ("png", encode(&noise, ImageFormat::Png)),
        ("webp", encode(&noise, ImageFormat::WebP)),
        ("gif", encode(&noise, ImageFormat::Gif)),
        ("bmp", encode(&noise, ImageFormat::Bmp)),
        ("cmyk", golden("cmyk.jpg")),
        ("progressive", golden("progressive.jpg")),
        ("lossy webp", golden("lossy.webp")),
    ]
}

#[test]
fn truncated_files_are_errors() {
    for (name, bytes) in files() {
        rgb(&bytes).unwrap_or_else(|error| panic!("{name} whole: {error}"));
        for length in [bytes.len() - 30, bytes.len() * 9 / 10, bytes.len() / 2, bytes.len() / 10, 12] {
            let error = rgb(&bytes[..length]).err().unwrap_or_else(|| panic!("{name}: {length} bytes decode"));
            let expected = matches!(error, DecodeError::Truncated { .. } | DecodeError::Corrupt { .. });
            assert!(expected, "{name}, {length} bytes: {error:?}");
        }
    }
}

/// The header of a PNG or JPEG, whole or cut off right behind it, that claims 60000x60000 pixels.
#[test]
fn huge_claims_are_refused_from_the_header() {
    let side = 60_000_u32;
    let mut png = encode(&noise(8, 8), ImageFormat::Png);
    png[16..20].copy_from_slice(&side.to_be_bytes());
    png[20..24].copy_from_slice(&side.to_be_bytes());
    let mut jpeg = encode(&noise(8, 8), ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a frame header");
    jpeg[frame + 5..frame + 7].copy_from_slice(&(side as u16).to_be_bytes());
    jpeg[frame + 7..frame + 9].copy_from_slice(&(side as u16).to_be_bytes());
    let mut gif = encode(&noise(8, 8), ImageFormat::Gif);
    gif[6..8].copy_from_slice(&(side as u16).to_le_bytes());
    gif[8..10].copy_from_slice(&(side as u16).to_le_bytes());
    let mut bmp = encode(&noise(8, 8), ImageFormat::Bmp);
    bmp[18..22].copy_from_slice(&side.to_le_bytes());
    bmp[22..26].copy_from_slice(&side.to_le_bytes());
    let (bare_png, bare_jpeg) = (png[..33].to_vec(), jpeg[..frame + 9].to_vec());
    for bytes in [png, jpeg, gif, bmp, bare_png, bare_jpeg] {
        let error = rgb(&bytes).expect_err("too large");
        assert!(matches!(error, DecodeError::TooLarge { .. }), "{error:?}");
        let message = error.to_string();
        assert!(message.contains("60000x60000 = 3600000000 pixels"), "{message}");
        assert!(message.contains("33554432"), "{message}");
    }
}

/// A file that two readers of its header read in two ways: one takes the marker of a restart for a segment, which hides a comment that
/// spans the frame header; the other finds another one inside a comment.
#[test]
fn no_second_reading_of_a_header_gets_past_the_limit() {
    let jpeg = encode(&noise(8, 8), ImageFormat::Jpeg);
    let at = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a frame header");
    let end = at + 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
    let (small, mut huge) = (jpeg[at..end].to_vec(), jpeg[at..end].to_vec());
    huge[5..9].fill(0xff);
    let length = |bytes: usize| (bytes as u16).to_be_bytes();
    let hides = [&[0xff, 0xd0, 0, 6, 0xff, 0xfe][..], &length(2 + huge.len() + 4)].concat();
    let comment = [&[0xff, 0xfe][..], &length(2 + small.len()), &small].concat();
    let crafted = [&jpeg[..at], &hides, &huge, &comment, &jpeg[end..]].concat();
    assert!(check_header(&crafted, &DecodeLimits::default()).is_ok(), "the first reading sees 8x8 pixels");
    let error = rgb(&crafted).expect_err("too large");
    assert!(matches!(error, DecodeError::TooLarge { width: 65535, height: 65535, .. }), "{error:?}");
}

#[test]
fn the_limit_is_inclusive() {
    let png = encode(&noise(8, 6), ImageFormat::Png);
    assert!(decode(&png, &DecodeLimits { max_pixels: 48 }, 3, BLACK).is_ok());
    assert!(decode(&png, &DecodeLimits { max_pixels: 47 }, 3, BLACK).is_err());
}

#[test]
fn what_is_no_image_is_named_so() {
    assert!(matches!(rgb(b""), Err(DecodeError::Empty)));
    assert!(matches!(rgb(b"hello, world"), Err(DecodeError::UnknownFormat)));
    let mut empty_png = encode(&noise(8, 8), ImageFormat::Png);
    empty_png[16..20].fill(0);
    assert!(matches!(rgb(&empty_png), Err(DecodeError::NoPixels { .. })));
}

fn preprocessing(resize: Option<u32>, filter: Filter, crop: u32) -> Preprocessing {
    Preprocessing { resize, filter, crop, mean: vec![0.0; 3], std: vec![1.0; 3], background: BLACK }
}

#[test]
fn resize_and_crop_are_pillows() {
    let pattern = rgb(&golden("pattern.png")).expect("decodes");
    for (name, filter, resize, crop) in
        [("bilinear", Filter::Bilinear, 24, 20), ("bicubic", Filter::Bicubic, 24, 20), ("bicubic", Filter::Bicubic, 80, 63)]
    {
        let file = format!("pattern_{name}_{resize}_{crop}.png");
        let expected = rgb(&golden(&file)).expect("decodes");
        let patch = pattern.centre_crop(&preprocessing(Some(resize), filter, crop)).expect("crops");
        assert_eq!((patch.size, patch.channels), (crop, 3));
        assert_near(&patch.data, &expected.data, 1, &file);
    }
}

#[test]
fn crop_without_resize_copies_the_centre() {
    let data: Vec<u8> = (0..35).collect();
    let grey = Pixels { width: 7, height: 5, channels: 1, data };
    let cases = [(None, 3, vec![9, 10, 11, 16, 17, 18, 23, 24, 25]), (Some(5), 1, vec![17])];
    for (resize, crop, expected) in cases {
        let patch = grey.centre_crop(&preprocessing(resize, Filter::Bilinear, crop)).expect("crops");
        assert_eq!(patch, Patch { size: crop, channels: 1, data: expected });
    }
}

#[test]
fn small_and_extreme_images_cover_the_crop() {
    for (width, height, channels) in [(1, 10_000, 1), (10_000, 1, 3), (1, 1, 3), (3, 2, 1), (300, 223, 3)] {
        let data = vec![200; width as usize * height as usize * channels];
        let pixels = Pixels { width, height, channels, data };
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            let patch = pixels.centre_crop(&preprocessing(None, filter, 224)).expect("crops");
            assert_eq!((patch.size, patch.data.len()), (224, 224 * 224 * channels));
            assert!(patch.data.iter().all(|value| *value == 200), "{width}x{height}");
        }
    }
}

#[test]
fn crops_of_inconsistent_pixels_are_errors() {
    let good = Pixels { width: 4, height: 4, channels: 3, data: vec![0; 48] };
    let cases = [
        (Pixels { data: vec![0; 47], ..good.clone() }, 4),
        (Pixels { channels: 2, ..good.clone() }, 4),
        (Pixels { width: 0, data: vec![], ..good.clone() }, 4),
        (good, 0),
    ];
    for (pixels, crop) in cases {
        for resize in [None, Some(9)] {
            let patch = pixels.centre_crop(&preprocessing(resize, Filter::Bilinear, crop));
            assert!(patch.is_err(), "crop {crop} of {pixels:?}");
        }
    }
}

#[test]
fn deep_grey_keeps_its_scale() {
    let image = DynamicImage::from(image::ImageBuffer::from_pixel(2, 2, Luma([0x8080_u16])));
    let pixels = rgb(&encode(&image, ImageFormat::Png)).expect("decodes");
    assert!(pixels.data.iter().all(|value| *value == 128), "{pixels:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(kind in 0..8_usize, tail in proptest::collection::vec(any::<u8>(), 0..400)) {
        let head = files()[kind].1[..16].to_vec();
        let _ = rgb(&tail);
        let _ = rgb(&[head, tail].concat());
    }

    #[test]
    fn flipped_bits_never_panic(kind in 0..8_usize, flips in proptest::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 1..6)) {
        let mut bytes = files()[kind].1.clone();
        for (position, bit) in flips {
            let position = position.index(bytes.len());
            bytes[position] ^= 1 << bit;
        }
        let limits = DecodeLimits { max_pixels: 1 << 20 };
        if let Ok(pixels) = decode(&bytes, &limits, 3, BLACK) {
            prop_assert_eq!(pixels.data.len(), pixels.width as usize * pixels.height as usize * 3);
            prop_assert!(u64::from(pixels.width) * u64::from(pixels.height) <= limits.max_pixels);
        }
    }
}
