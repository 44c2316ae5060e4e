//! Random changes to training images.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::auto_augment::Policy;
use super::rng::{Purpose, rng};
use crate::image::{Patch, Pixels, Preprocessing, Region, ShapeError};

/// How often a random region is drawn before the centre is taken.
const TRIES: usize = 10;
/// The widest padding in pixels.
const MAX_PAD: u32 = 512;

/// How a training image becomes a patch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Which square is cut.
    pub crop: RandomCrop,
    /// Whether every second image, by chance, is mirrored left to right.
    pub flip: bool,
    /// Which changes follow that were searched for; none, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_augment: Option<Policy>,
}

/// Which square of an image is cut.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RandomCrop {
    /// The centre, as when serving.
    Centre,
    /// The centre, surrounded by zeros, and from that a square of the same side at a random place.
    Pad {
        /// Width in pixels of the zeros on each side.
        pad: u32,
    },
    /// A random rectangle, resized to the patch.
    Resized {
        /// Least and greatest fraction of the image's area.
        scale: [f64; 2],
        /// Least and greatest ratio of width to height.
        ratio: [f64; 2],
    },
}

/// Why an [`Augment`] cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AugmentError {
    /// The padding is too wide.
    #[error("augment: pad is {0} px; it must lie in 0..={MAX_PAD}")]
    Pad(u32),
    /// A range that is empty or not positive.
    #[error("augment: {name} {range:?} must rise from above 0 to at most {highest}")]
    Range {
        /// `scale` or `ratio`.
        name: &'static str,
        /// The offending range.
        range: [f64; 2],
        /// The greatest value allowed.
        highest: f64,
    },
}

impl Augment {
    /// The centre crop alone, as when serving.
    pub const NONE: Self = Self { crop: RandomCrop::Centre, flip: false, auto_augment: None };

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), AugmentError> {
        let rising = |name, range: [f64; 2], highest| {
            let [low, high] = range;
            if low > 0.0 && low <= high && high <= highest { Ok(()) } else { Err(AugmentError::Range { name, range, highest }) }
        };
        match self.crop {
            RandomCrop::Centre => Ok(()),
            RandomCrop::Pad { pad } if pad > MAX_PAD => Err(AugmentError::Pad(pad)),
            RandomCrop::Pad { .. } => Ok(()),
            RandomCrop::Resized { scale, ratio } => rising("scale", scale, 1.0).and_then(|()| rising("ratio", ratio, 100.0)),
        }
    }

    /// Image `index` as recalibration wants it: changed at random as in training, each time the same under one seed.
    ///
    /// Batch norms must be measured on what they were trained on. A black edge that every random crop has, for one, is all that some
    /// channels tell: measured on images without, their variance is next to nothing, and what they say is noise.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] if the pixels' bytes do not fit their sizes.
    pub fn calibration_patch(&self, pixels: &Pixels, preprocessing: &Preprocessing, seed: u64, index: usize) -> Result<Patch, ShapeError> {
        self.apply(pixels, preprocessing, &mut rng(Purpose::Calibration, seed, 1, index as u64))
    }

    /// A patch of `preprocessing.crop` pixels a side. What is drawn depends on nothing but the state of `rng`.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] if the pixels' bytes do not fit their sizes.
    pub fn apply(&self, pixels: &Pixels, preprocessing: &Preprocessing, rng: &mut impl Rng) -> Result<Patch, ShapeError> {
        let mut patch = match self.crop {
            RandomCrop::Centre => pixels.centre_crop(preprocessing)?,
            RandomCrop::Pad { pad } => {
                let (right, down) = (rng.random_range(0..=2 * pad), rng.random_range(0..=2 * pad));
                shift(&pixels.centre_crop(preprocessing)?, i64::from(right) - i64::from(pad), i64::from(down) - i64::from(pad))
            }
            RandomCrop::Resized { scale, ratio } => {
                let region = random_region(pixels, scale, ratio, rng);
                pixels.resample(region, preprocessing.crop, preprocessing.filter)?
            }
        };
        if self.flip && rng.random::<bool>() {
            mirror(&mut patch);
        }
        Ok(match self.auto_augment {
            Some(policy) => policy.apply(patch, rng),
            None => patch,
        })
    }
}

/// The patch seen through a window moved by (`right`, `down`) pixels; zero where it looks beyond the edge.
fn shift(patch: &Patch, right: i64, down: i64) -> Patch {
    let (side, channels) = (i64::from(patch.size), patch.channels);
    let mut data = vec![0; patch.data.len()];
    let row_bytes = patch.size as usize * channels;
    // The columns of the window that look at the patch.
    let first = (-right).clamp(0, side);
    let last = (side - right).clamp(first, side);
    for (y, row) in (0..).zip(data.chunks_exact_mut(row_bytes.max(1))) {
        let source_y = y + down;
        if (0..side).contains(&source_y) && first < last {
            let source = &patch.data[source_y as usize * row_bytes..][..row_bytes];
            let bytes = |column: i64| column as usize * channels;
            row[bytes(first)..bytes(last)].copy_from_slice(&source[bytes(first + right)..bytes(last + right)]);
        }
    }
    Patch { size: patch.size, channels, data }
}

fn mirror(patch: &mut Patch) {
    for row in patch.data.chunks_exact_mut((patch.size as usize * patch.channels).max(1)) {
        row.reverse();
        // Reversing also turned the channels of each pixel around.
        row.chunks_exact_mut(patch.channels).for_each(<[u8]>::reverse);
    }
}

/// A rectangle of random area and shape at a random place; after [`TRIES`] that do not fit, the largest one of an
/// allowed shape at the centre. Ratios are drawn on a logarithmic scale, so that wide and tall are equally likely.
fn random_region(pixels: &Pixels, scale: [f64; 2], ratio: [f64; 2], rng: &mut impl Rng) -> Region {
    let (full_width, full_height) = (f64::from(pixels.width), f64::from(pixels.height));
    let between = |rng: &mut _, [low, high]: [f64; 2]| low + (high - low) * RngExt::random::<f64>(rng);
    for _ in 0..TRIES {
        let area = full_width * full_height * between(rng, scale);
        let shape = between(rng, ratio.map(f64::ln)).exp();
        let (width, height) = ((area * shape).sqrt().round(), (area / shape).sqrt().round());
        if (1.0..=full_width).contains(&width) && (1.0..=full_height).contains(&height) {
            let left = f64::from(rng.random_range(0..=pixels.width - width as u32));
            let top = f64::from(rng.random_range(0..=pixels.height - height as u32));
            return Region { left, top, width, height };
        }
    }
    let shape = (full_width / full_height).clamp(ratio[0], ratio[1]);
    let width = full_width.min(full_height * shape).round().max(1.0);
    let height = full_height.min(full_width / shape).round().max(1.0);
    Region { left: ((full_width - width) / 2.0).floor(), top: ((full_height - height) / 2.0).floor(), width, height }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::image::Filter;

    fn preprocessing(crop: u32) -> Preprocessing {
        Preprocessing { resize: None, filter: Filter::Bilinear, crop, mean: vec![0.0], std: vec![1.0], background: [0; 3] }
    }

    fn patch(channels: usize) -> Patch {
        Patch { size: 3, channels, data: (1..=9 * channels as u8).collect() }
    }

    #[test]
    fn recalibration_sees_what_training_does_each_time_the_same() {
        let pixels = Pixels { width: 8, height: 8, channels: 1, data: (1..=64).collect() };
        let augment = Augment { crop: RandomCrop::Pad { pad: 2 }, flip: true, auto_augment: None };
        let at = |augment: &Augment, seed, index| augment.calibration_patch(&pixels, &preprocessing(8), seed, index).unwrap();
        assert_eq!(at(&augment, 3, 5), at(&augment, 3, 5));
        let drawn: Vec<Patch> = (0..20).map(|index| at(&augment, 3, index)).collect();
        let edges = drawn.iter().filter(|patch| patch.data.contains(&0)).count();
        assert!(edges > 15 && drawn.windows(2).any(|pair| pair[0] != pair[1]), "{edges} of 20 have a black edge");
        assert!((0..20).any(|index| at(&augment, 4, index) != drawn[index]), "the seed decides");
        assert_eq!(at(&Augment::NONE, 3, 5), pixels.centre_crop(&preprocessing(8)).unwrap());
    }

    #[test]
    fn shifts_fill_with_zeros() {
        let cases = [
            ((0, 0), [1, 2, 3, 4, 5, 6, 7, 8, 9]),
            ((1, 0), [2, 3, 0, 5, 6, 0, 8, 9, 0]),
            ((-2, 0), [0, 0, 1, 0, 0, 4, 0, 0, 7]),
            ((0, 2), [7, 8, 9, 0, 0, 0, 0, 0, 0]),
            ((-1, -1), [0, 0, 0, 0, 1, 2, 0, 4, 5]),
            ((5, 0), [0; 9]),
            ((0, -5), [0; 9]),
        ];
        for ((right, down), expected) in cases {
            assert_eq!(shift(&patch(1), right, down).data, expected, "({right}, {down})");
        }
        assert_eq!(shift(&patch(3), 1, 2).data[..9], [22, 23, 24, 25, 26, 27, 0, 0, 0]);
    }

    #[test]
    fn mirroring_keeps_the_channels() {
        let mut mirrored = patch(3);
        mirror(&mut mirrored);
        assert_eq!(mirrored.data[..9], [7, 8, 9, 4, 5, 6, 1, 2, 3]);
        mirror(&mut mirrored);
        assert_eq!(mirrored, patch(3));
    }

    #[test]
    fn regions_lie_inside_and_keep_their_ranges() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for (width, height) in [(1, 1), (40, 30), (1, 500), (500, 1), (33, 64)] {
            let pixels = Pixels { width, height, channels: 1, data: vec![9; (width * height) as usize] };
            for _ in 0..200 {
                let region = random_region(&pixels, [0.2, 0.9], [0.75, 4.0 / 3.0], &mut rng);
                assert!(region.left >= 0.0 && region.left + region.width <= f64::from(width), "{region:?}");
                assert!(region.top >= 0.0 && region.top + region.height <= f64::from(height), "{region:?}");
                if width.min(height) >= 30 {
                    let fraction = region.width * region.height / f64::from(width * height);
                    assert!((0.15..0.95).contains(&fraction), "{region:?}");
                    assert!((0.65..1.5).contains(&(region.width / region.height)), "{region:?}");
                }
                let augment =
                    Augment { crop: RandomCrop::Resized { scale: [0.2, 0.9], ratio: [0.75, 1.3] }, flip: true, auto_augment: None };
                let patch = augment.apply(&pixels, &preprocessing(8), &mut rng).expect("fits");
                assert_eq!(patch.data, [9; 64]);
            }
        }
    }

    #[test]
    fn same_state_same_patch_and_flips_happen() {
        let pixels = Pixels { width: 8, height: 8, channels: 1, data: (0..64).collect() };
        let augment = Augment { crop: RandomCrop::Pad { pad: 2 }, flip: true, auto_augment: None };
        let draw = |seed| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            augment.apply(&pixels, &preprocessing(8), &mut rng).expect("fits")
        };
        let patches: Vec<Patch> = (0..64).map(draw).collect();
        assert_eq!(patches, (0..64).map(draw).collect::<Vec<_>>());
        let mirrored = patches.iter().filter(|patch| patch.data[8 * 4 + 3] > patch.data[8 * 4 + 4]).count();
        assert!((16..48).contains(&mirrored), "{mirrored} of 64 mirrored");
    }

    #[test]
    fn file_form_and_validation() {
        let cases = [
            (r#"{"crop":{"kind":"centre"},"flip":false}"#, true),
            (r#"{"crop":{"kind":"pad","pad":4},"flip":true}"#, true),
            (r#"{"crop":{"kind":"resized","scale":[0.08,1.0],"ratio":[0.75,1.25]},"flip":true}"#, true),
            (r#"{"crop":{"kind":"centre"},"flip":false,"auto_augment":"imagenet"}"#, true),
            (r#"{"crop":{"kind":"pad","pad":2},"flip":true,"auto_augment":"cifar10"}"#, true),
            (r#"{"crop":{"kind":"pad","pad":4000},"flip":true}"#, false),
            (r#"{"crop":{"kind":"resized","scale":[0.0,1.0],"ratio":[0.75,1.25]},"flip":true}"#, false),
            (r#"{"crop":{"kind":"resized","scale":[0.5,1.5],"ratio":[0.75,1.25]},"flip":true}"#, false),
            (r#"{"crop":{"kind":"resized","scale":[0.5,1.0],"ratio":[1.25,0.75]},"flip":true}"#, false),
        ];
        for (text, valid) in cases {
            let augment: Augment = serde_json::from_str(text).expect(text);
            assert_eq!(augment.validate().is_ok(), valid, "{text}");
            assert_eq!(serde_json::to_string(&augment).expect("serialises"), text);
        }
        for more in [r#""x":1"#, r#""auto_augment":"svhn""#] {
            let text = format!(r#"{{"crop":{{"kind":"centre"}},"flip":false,{more}}}"#);
            assert!(serde_json::from_str::<Augment>(&text).is_err(), "{text}");
        }
    }
}
