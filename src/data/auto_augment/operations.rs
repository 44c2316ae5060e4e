//! What AutoAugment's operations do, value for value as the Python library Pillow does them: its `ImageOps`,
//! `ImageEnhance`, and affine transform to the nearest pixel.

use super::levels::{by_histogram, equalise, map, spread};
use crate::image::{Patch, luma_of};

/// The greatest magnitude.
const HIGHEST: f64 = 9.0;
/// What is seen beyond the image's edge.
const FILL: u8 = 128;

/// A change to an image. Its magnitude, 0 to 9, runs evenly through the range that is given here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Moves rows sideways by 0 to 0.3 of their distance from the top, either way.
    ShearX,
    /// Moves columns by 0 to 0.3 of their distance from the left, up or down.
    ShearY,
    /// Moves the image sideways by 0 to 150/331 of its side, either way.
    TranslateX,
    /// Moves the image up or down by 0 to 150/331 of its side.
    TranslateY,
    /// Turns the image about its centre by 0 to 30 degrees, either way.
    Rotate,
    /// Spreads the values of each channel over the whole range.
    AutoContrast,
    /// Turns bright into dark.
    Invert,
    /// Spreads the values of each channel so that all are about equally frequent.
    Equalize,
    /// Inverts the values from a threshold on: 256 (none) down to 0 (all).
    Solarize,
    /// Keeps the upper 8 down to 4 bits.
    Posterize,
    /// 0.1 (nearly the mean grey) to 1.9 of the difference from the mean.
    Contrast,
    /// 0.1 (nearly grey) to 1.9 of the colour. Grey images have none, and stay.
    Color,
    /// 0.1 (nearly black) to 1.9 of the brightness.
    Brightness,
    /// 0.1 (nearly smoothed) to 1.9 of the difference from the smoothed image.
    Sharpness,
}

/// Where in the source the pixel at column x and row y comes from: `[a, b, c, d, e, f]` says (ax + by + c, dx + ey + f).
type Affine = [f64; 6];

impl Operation {
    /// The operation with the given magnitude, to the other side if `negative` and it has two.
    pub(super) fn apply(self, patch: Patch, magnitude: u8, negative: bool) -> Patch {
        let level = f64::from(magnitude) / HIGHEST;
        let signed = if negative { -level } else { level };
        let moved = signed * f64::from(patch.size) * 150.0 / 331.0;
        let factor = (0.1 + 1.8 * level) as f32;
        match self {
            Self::ShearX => affine(&patch, [1.0, 0.3 * signed, 0.0, 0.0, 1.0, 0.0]),
            Self::ShearY => affine(&patch, [1.0, 0.0, 0.0, 0.3 * signed, 1.0, 0.0]),
            Self::TranslateX => affine(&patch, [1.0, 0.0, moved, 0.0, 1.0, 0.0]),
            Self::TranslateY => affine(&patch, [1.0, 0.0, 0.0, 0.0, 1.0, moved]),
            Self::Rotate => affine(&patch, rotation(30.0 * signed, patch.size)),
            Self::AutoContrast => by_histogram(patch, spread),
            Self::Invert => map(patch, |value| 255 - value),
            Self::Equalize => by_histogram(patch, equalise),
            Self::Solarize => {
                let threshold = 256.0 * (1.0 - level);
                map(patch, |value| if f64::from(value) < threshold { value } else { 255 - value })
            }
            Self::Posterize => {
                let lost = (4.0 * level).round() as u32;
                map(patch, |value| value >> lost << lost)
            }
            Self::Contrast => {
                let mean = mean(&grey(&patch));
                map(patch, |value| blend(mean, value, factor))
            }
            Self::Color if patch.channels == 1 => patch,
            Self::Color => {
                let grey = grey(&patch);
                let channels = patch.channels;
                away_from(grey.into_iter().flat_map(|value| std::iter::repeat_n(value, channels)), patch, factor)
            }
            Self::Brightness => map(patch, |value| blend(0, value, factor)),
            Self::Sharpness => away_from(smooth(&patch).data, patch, factor),
        }
    }
}

/// `factor` of the way from `base` to `value` and beyond, rounded down and kept within 0 to 255.
fn blend(base: u8, value: u8, factor: f32) -> u8 {
    let base = f32::from(base);
    (base + factor * (f32::from(value) - base)) as u8
}

/// Every value of the patch `factor` of the way from its own of `base`.
fn away_from(base: impl IntoIterator<Item = u8>, mut patch: Patch, factor: f32) -> Patch {
    for (value, base) in patch.data.iter_mut().zip(base) {
        *value = blend(base, *value, factor);
    }
    patch
}

/// One luma a pixel.
fn grey(patch: &Patch) -> Vec<u8> {
    if patch.channels == 1 { patch.data.clone() } else { luma_of(&patch.data) }
}

/// The mean, rounded to the nearest value; a half rounds up.
fn mean(values: &[u8]) -> u8 {
    let (sum, count) = (values.iter().map(|value| u64::from(*value)).sum::<u64>(), values.len().max(1) as u64);
    ((2 * sum + count) / (2 * count)) as u8
}

/// The mean of each pixel and its eight neighbours in which the pixel counts five times; the outermost pixels stay.
fn smooth(patch: &Patch) -> Patch {
    let (side, channels) = (patch.size as usize, patch.channels);
    let mut data = patch.data.clone();
    for y in 1..side.saturating_sub(1) {
        for x in channels..(side - 1) * channels {
            let at = |row: usize, column: usize| u32::from(patch.data[row * side * channels + column]);
            let three = |row| at(row, x - channels) + at(row, x) + at(row, x + channels);
            let sum = three(y - 1) + three(y) + three(y + 1) + 4 * at(y, x);
            data[y * side * channels + x] = ((2 * sum + 13) / 26) as u8;
        }
    }
    Patch { data, ..*patch }
}

/// Turns by `degrees` anticlockwise about the centre of a square of `side` pixels.
fn rotation(degrees: f64, side: u32) -> Affine {
    let (sine, cosine) = (-degrees.to_radians()).sin_cos();
    let centre = f64::from(side) / 2.0;
    let across = centre - cosine * centre - sine * centre;
    let down = centre + sine * centre - cosine * centre;
    [cosine, sine, across, -sine, cosine, down]
}

/// The patch whose pixels come from where `transform` says, each from the pixel of the source that its centre falls in.
/// Positions are counted in 65,536ths of a pixel, as Pillow does: a finer count would now and then fall in another pixel.
fn affine(patch: &Patch, transform: Affine) -> Patch {
    let fixed = |value: f64| (value * 65_536.0 + 0.5).floor() as i64;
    let [a, b, c, d, e, f] = transform;
    let (start_x, start_y) = (fixed(c + a * 0.5 + b * 0.5), fixed(f + d * 0.5 + e * 0.5));
    let [a, b, d, e] = [a, b, d, e].map(fixed);
    let (side, channels) = (patch.size as usize, patch.channels);
    let inside = |position: i64| usize::try_from(position >> 16).ok().filter(|pixel| *pixel < side);
    let mut data = vec![FILL; patch.data.len()];
    for (y, row) in (0..).zip(data.chunks_exact_mut((side * channels).max(1))) {
        for (x, pixel) in (0..).zip(row.chunks_exact_mut(channels)) {
            let source = (inside(start_x + a * x + b * y), inside(start_y + d * x + e * y));
            if let (Some(column), Some(row)) = source {
                pixel.copy_from_slice(&patch.data[(row * side + column) * channels..][..channels]);
            }
        }
    }
    Patch { data, ..*patch }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::super::policies::{CIFAR10, IMAGENET};
    use super::*;

    /// What Pillow makes of small images; see the README beside it for how it was made.
    #[derive(Deserialize)]
    struct Golden {
        images: Vec<Image>,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Image {
        image: String,
        size: u32,
        channels: usize,
        data: String,
    }

    #[derive(Deserialize)]
    struct Case {
        operation: String,
        magnitude: u8,
        negative: bool,
        image: String,
        data: String,
    }

    fn bytes(hexadecimal: &str) -> Vec<u8> {
        let pairs = (0..hexadecimal.len()).step_by(2).map(|at| &hexadecimal[at..at + 2]);
        pairs.map(|pair| u8::from_str_radix(pair, 16).expect(pair)).collect()
    }

    /// Every operation; each stands in one of the two policies.
    fn named(name: &str) -> Operation {
        let mut steps = IMAGENET.iter().chain(&CIFAR10).flatten();
        steps.find(|step| format!("{:?}", step.0) == name).expect(name).0
    }

    #[test]
    fn operations_do_what_pillow_does() {
        let golden: Golden = serde_json::from_str(include_str!("../../../tests/data/auto_augment/pillow.json")).expect("valid");
        assert_eq!(golden.cases.len(), 2 * (2 * 13 + 1));
        for case in &golden.cases {
            let image = golden.images.iter().find(|image| image.image == case.image).expect(&case.image);
            let patch = Patch { size: image.size, channels: image.channels, data: bytes(&image.data) };
            let changed = named(&case.operation).apply(patch, case.magnitude, case.negative);
            let (operation, magnitude, image) = (&case.operation, case.magnitude, &case.image);
            assert_eq!(changed.data, bytes(&case.data), "{operation} of magnitude {magnitude} of the {image} image");
        }
    }

    #[test]
    fn ends_of_the_ranges() {
        let patch = Patch { size: 4, channels: 1, data: (0..16).map(|i| i * 17).collect() };
        type Change = fn(u8) -> u8;
        let cases: [(Operation, u8, Change); 8] = [
            (Operation::ShearX, 0, |value| value),
            (Operation::TranslateY, 0, |value| value),
            (Operation::Rotate, 0, |value| value),
            (Operation::Solarize, 0, |value| value),
            (Operation::Solarize, 9, |value| 255 - value),
            (Operation::Posterize, 0, |value| value),
            (Operation::Posterize, 9, |value| value & 0xf0),
            (Operation::Color, 0, |value| value),
        ];
        for (operation, magnitude, expected) in cases {
            let changed = operation.apply(patch.clone(), magnitude, false);
            assert_eq!(changed.data, patch.data.iter().copied().map(expected).collect::<Vec<_>>(), "{operation:?} {magnitude}");
        }
    }

    /// Images of one colour, one pixel or none have no neighbours, no contrast and no histogram to speak of.
    #[test]
    fn degenerate_images_keep_their_size() {
        for (size, channels) in [(0, 1), (0, 3), (1, 1), (1, 3), (2, 3), (20, 3)] {
            let patch = Patch { size, channels, data: vec![77; (size * size) as usize * channels] };
            for (operation, _, magnitude) in IMAGENET.iter().chain(&CIFAR10).flatten() {
                let changed = operation.apply(patch.clone(), *magnitude, true);
                assert_eq!((changed.size, changed.channels, changed.data.len()), (size, channels, patch.data.len()), "{operation:?}");
                let stays = matches!(operation, Operation::AutoContrast | Operation::Equalize | Operation::Sharpness);
                assert!(!stays || changed == patch, "{operation:?} {size}x{size}x{channels}");
            }
        }
    }
}
