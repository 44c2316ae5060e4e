//! From a patch to a network's input: bicubic resampling and normalisation in one go.
//!
//! The resampling is PyTorch's `upsample_bicubic2d` with `align_corners=False`, the one that training uses: half-pixel
//! centres, A = -0.75, four taps also when shrinking (no antialiasing), edges repeated.

use super::patch::{Patch, ShapeError};
use super::preprocessing::Preprocessing;

/// Taps of the cubic along one axis.
const TAPS: usize = 4;
/// Keys' parameter, as PyTorch has it.
const A: f32 = -0.75;

/// What one output position reads along one axis.
#[derive(Debug, Clone, Copy)]
struct Tap {
    /// Source positions, clamped to the axis.
    index: [usize; TAPS],
    /// Their weights; they sum to 1.
    weight: [f32; TAPS],
}

impl Patch {
    /// Resamples the patch to `resolution` pixels a side, subtracts the mean, divides by the deviation, and writes the
    /// result to `out`, `[channels, resolution, resolution]`. Without resampling where the resolution is the patch's.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] if the channels of patch and `preprocessing`, the patch's bytes or the length of `out` do not
    /// fit.
    pub fn write_input(&self, resolution: u32, preprocessing: &Preprocessing, out: &mut [f32]) -> Result<(), ShapeError> {
        let (side, size) = (resolution as usize, self.size as usize);
        let checks = [
            ("channels of the preprocessing", preprocessing.channels(), self.channels),
            ("values of std", preprocessing.std.len(), self.channels),
            ("bytes of the patch", self.data.len(), size * size * self.channels),
            ("values of the input", out.len(), side * side * self.channels),
        ];
        if let Some(&(what, actual, expected)) = checks.iter().find(|(_, actual, expected)| actual != expected) {
            return Err(ShapeError { what, actual, expected });
        }
        if out.is_empty() || self.data.is_empty() {
            return Ok(());
        }
        // (v / 255 - mean) / std = v * factor + offset
        let affine: Vec<(f32, f32)> =
            preprocessing.mean.iter().zip(&preprocessing.std).map(|(mean, std)| (1.0 / (255.0 * std), -mean / std)).collect();
        if side == size {
            self.copy_planes(&affine, out);
        } else {
            self.resample_planes(side, &affine, out);
        }
        Ok(())
    }

    fn copy_planes(&self, affine: &[(f32, f32)], out: &mut [f32]) {
        for (channel, (plane, (factor, offset))) in out.chunks_exact_mut(out.len() / self.channels).zip(affine).enumerate() {
            let values = self.data.iter().skip(channel).step_by(self.channels);
            for (value, source) in plane.iter_mut().zip(values) {
                *value = f32::from(*source) * factor + offset;
            }
        }
    }

    fn resample_planes(&self, side: usize, affine: &[(f32, f32)], out: &mut [f32]) {
        let row_length = self.size as usize * self.channels;
        let taps = taps(self.size as usize, side);
        let mut row = vec![0.0; row_length];
        for (y, vertical) in taps.iter().enumerate() {
            let source = vertical.index.map(|line| &self.data[line * row_length..(line + 1) * row_length]);
            blend_rows(source, vertical.weight, &mut row);
            for (channel, (factor, offset)) in affine.iter().enumerate() {
                let start = (channel * side + y) * side;
                for (value, horizontal) in out[start..start + side].iter_mut().zip(&taps) {
                    let read = |tap: usize| row[horizontal.index[tap] * self.channels + channel] * horizontal.weight[tap];
                    *value = (read(0) + read(1) + read(2) + read(3)) * factor + offset;
                }
            }
        }
    }
}

/// Resamples a normalised image `[channels, size, size]` to `out`, `[channels, resolution, resolution]`, as
/// [`Patch::write_input`] does with pixels.
///
/// # Errors
///
/// [`ShapeError`] if the lengths do not fit the sizes.
pub fn resample_normalised(image: &[f32], channels: usize, size: usize, resolution: usize, out: &mut [f32]) -> Result<(), ShapeError> {
    let checks = [
        ("values of the image", image.len(), channels * size * size),
        ("values of the input", out.len(), channels * resolution * resolution),
    ];
    if let Some(&(what, actual, expected)) = checks.iter().find(|(_, actual, expected)| actual != expected) {
        return Err(ShapeError { what, actual, expected });
    }
    if size == resolution {
        out.copy_from_slice(image);
        return Ok(());
    }
    let taps = taps(size, resolution);
    let mut row = vec![0.0; size];
    for (plane, target) in image.chunks_exact(size * size).zip(out.chunks_exact_mut(resolution * resolution)) {
        for (vertical, line) in taps.iter().zip(target.chunks_exact_mut(resolution)) {
            blend_rows(vertical.index.map(|y| &plane[y * size..(y + 1) * size]), vertical.weight, &mut row);
            for (value, horizontal) in line.iter_mut().zip(&taps) {
                *value = (0..TAPS).map(|tap| row[horizontal.index[tap]] * horizontal.weight[tap]).sum();
            }
        }
    }
    Ok(())
}

/// The weighted sum of four rows. Kept apart so that it compiles to vector instructions.
fn blend_rows<T: Copy + Into<f32>>(source: [&[T]; TAPS], weight: [f32; TAPS], row: &mut [f32]) {
    let [first, second, third, fourth] = source;
    let rows = first.iter().zip(second).zip(third).zip(fourth);
    for (value, (((&a, &b), &c), &d)) in row.iter_mut().zip(rows) {
        *value = a.into() * weight[0] + b.into() * weight[1] + c.into() * weight[2] + d.into() * weight[3];
    }
}

/// The taps of every output position when an axis of `from` pixels becomes one of `to`; in `f32` like PyTorch's, so
/// that both round alike.
fn taps(from: usize, to: usize) -> Vec<Tap> {
    let scale = from as f32 / to as f32;
    let last = from as i64 - 1;
    (0..to)
        .map(|position| {
            let centre = scale * (position as f32 + 0.5) - 0.5;
            let base = centre.floor();
            let t = centre - base;
            Tap {
                index: [-1, 0, 1, 2].map(|step| (base as i64 + step).clamp(0, last) as usize),
                weight: [outer(t + 1.0), inner(t), inner(1.0 - t), outer(2.0 - t)],
            }
        })
        .collect()
}

/// The cubic for distances up to 1.
fn inner(x: f32) -> f32 {
    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
}

/// The cubic for distances from 1 to 2.
fn outer(x: f32) -> f32 {
    ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
}

#[cfg(test)]
mod tests {
    use super::super::preprocessing::Filter;
    use super::*;

    fn preprocessing(channels: usize, crop: u32) -> Preprocessing {
        Preprocessing {
            resize: None,
            filter: Filter::Bilinear,
            crop,
            mean: [0.485, 0.456, 0.406][..channels].to_vec(),
            std: [0.229, 0.224, 0.225][..channels].to_vec(),
            background: [0; 3],
        }
    }

    fn plain(channels: usize) -> Preprocessing {
        Preprocessing { mean: vec![0.0; channels], std: vec![1.0 / 255.0; channels], ..preprocessing(channels, 1) }
    }

    fn patch(size: u32, channels: usize) -> Patch {
        let count = size as usize * size as usize * channels;
        Patch { size, channels, data: (0..count).map(|i| (i * 7919 % 251) as u8).collect() }
    }

    /// The definition, as a double loop over all sixteen taps, in f64 and without shared code.
    fn naive(patch: &Patch, side: u32, channel: usize, y: u32, x: u32) -> f64 {
        let cubic = |distance: f64| {
            let (d, a) = (distance.abs(), -0.75);
            match d {
                d if d <= 1.0 => (a + 2.0) * d.powi(3) - (a + 3.0) * d.powi(2) + 1.0,
                d if d < 2.0 => a * d.powi(3) - 5.0 * a * d.powi(2) + 8.0 * a * d - 4.0 * a,
                _ => 0.0,
            }
        };
        let scale = f64::from(patch.size) / f64::from(side);
        let centre = |position: u32| (f64::from(position) + 0.5) * scale - 0.5;
        let mut sum = 0.0;
        for row in centre(y).floor() as i64 - 1..=centre(y).floor() as i64 + 2 {
            for column in centre(x).floor() as i64 - 1..=centre(x).floor() as i64 + 2 {
                let clamp = |position: i64| position.clamp(0, i64::from(patch.size) - 1) as usize;
                let at = (clamp(row) * patch.size as usize + clamp(column)) * patch.channels + channel;
                sum += f64::from(patch.data[at]) * cubic(centre(y) - row as f64) * cubic(centre(x) - column as f64);
            }
        }
        sum
    }

    #[test]
    fn agrees_with_the_definition() {
        for (size, side, channels) in [(28, 20, 1), (28, 32, 1), (32, 24, 3), (33, 36, 3), (5, 64, 3), (64, 3, 1), (1, 4, 3)] {
            let (patch, preprocessing) = (patch(size, channels), preprocessing(channels, size));
            let mut out = vec![f32::NAN; channels * (side * side) as usize];
            patch.write_input(side, &preprocessing, &mut out).expect("fits");
            for (i, value) in out.iter().enumerate() {
                let (channel, rest) = (i / (side * side) as usize, i as u32 % (side * side));
                let raw = naive(&patch, side, channel, rest / side, rest % side);
                let mean = f64::from(preprocessing.mean[channel]);
                let expected = (raw / 255.0 - mean) / f64::from(preprocessing.std[channel]);
                assert!((f64::from(*value) - expected).abs() < 1e-4, "{size} to {side}, {i}: {value}, not {expected}");
            }
        }
    }

    /// Worked by hand. Halving reads with t = 0.5: weights (-3, 19, 19, -3) / 32. Doubling reads with t = 0.75 or 0.25:
    /// (-9, 67, 225, -27) / 256, from the cubic at the distances 1.75, 0.75, 0.25 and 1.25, or the same mirrored.
    #[test]
    fn golden_values() {
        let ramp: Vec<u8> = [0, 10, 20, 30].repeat(4);
        let step: Vec<u8> = [0, 128].repeat(2);
        // Ramp, left: clamped taps (0, 0, 10, 20) give (190 - 60) / 32; by symmetry 30 minus that on the right.
        let halved = [130.0 / 32.0, 30.0 - 130.0 / 32.0].repeat(2);
        // Step: taps (0, 0, 0, 128), (0, 0, 128, 128), mirrored.
        let first = 128.0 * -27.0 / 256.0;
        let second = 128.0 * (67.0 - 9.0) / 256.0;
        let doubled = [first, second, 128.0 - second, 128.0 - first].repeat(4);
        for (data, size, side, expected) in [(ramp, 4, 2, halved), (step, 2, 4, doubled)] {
            let mut out = vec![f32::NAN; expected.len()];
            Patch { size, channels: 1, data }.write_input(side, &plain(1), &mut out).expect("fits");
            for (value, expected) in out.iter().zip(&expected) {
                assert!((value - expected).abs() < 1e-4, "{size} to {side}: {out:?}, not {expected:?}");
            }
        }
    }

    #[test]
    fn own_resolution_is_normalised_planar_and_exact() {
        let patch = Patch { size: 1, channels: 3, data: vec![0, 51, 255] };
        let preprocessing = Preprocessing { mean: vec![0.5, 0.2, 0.0], std: vec![0.5, 1.0, 2.0], ..preprocessing(3, 1) };
        let mut out = [f32::NAN; 3];
        patch.write_input(1, &preprocessing, &mut out).expect("fits");
        for (value, expected) in out.iter().zip([-1.0, 0.0, 0.5]) {
            assert!((value - expected).abs() < 1e-6, "{out:?}");
        }
        let patch = Patch { size: 2, channels: 3, data: (0..12).collect() };
        let mut out = [f32::NAN; 12];
        patch.write_input(2, &plain(3), &mut out).expect("fits");
        let rounded: Vec<u8> = out.iter().map(|value| value.round() as u8).collect();
        assert_eq!(rounded, [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let cases = [
            (patch(4, 3), 1, 4, 16, "channels of the preprocessing"),
            (patch(4, 1), 1, 4, 15, "values of the input"),
            (Patch { data: vec![0; 3], ..patch(4, 1) }, 1, 4, 16, "bytes of the patch"),
        ];
        for (patch, channels, resolution, length, what) in cases {
            let error = patch.write_input(resolution, &plain(channels), &mut vec![0.0; length]).expect_err(what);
            assert_eq!(error.what, what);
        }
    }
}
