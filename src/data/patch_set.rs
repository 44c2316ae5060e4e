//! Square patches of one size, in order, and the seeded choice of those that calibrate.

use super::batches::{Source, append_planar};
use super::error::DataError;
use super::rng::{Purpose, rng};
use crate::image::{Patch, ShapeError};

/// `count` different indices below `len` (all of them if there are fewer), in the order that calibration reads them.
pub fn calibration_indices(len: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut rng = rng(Purpose::Calibration, seed, 0, 0);
    rand::seq::index::sample(&mut rng, len, count.min(len)).into_vec()
}

impl Source {
    /// Patches of `count` images drawn under `seed`, changed as recalibration wants them, and the numbers of their classes. An image that
    /// may be skipped is left out.
    ///
    /// # Errors
    /// [`DataError::TooManyCorrupt`], or what is wrong with an image.
    pub fn draw(&self, count: usize, seed: u64) -> Result<(Vec<Patch>, Vec<usize>), DataError> {
        let (mut patches, mut labels) = (Vec::new(), Vec::new());
        for index in calibration_indices(self.images.len(), count, seed) {
            if let (Some(pixels), Some(label)) = (self.images.pixels_or_skip(index)?, self.images.label(index)) {
                patches.push(self.augment.calibration_patch(&pixels, &self.preprocessing, seed, index)?);
                labels.push(label);
            }
        }
        Ok((patches, labels))
    }
}

/// Patches of one size, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatchSet {
    /// Side in pixels.
    pub size: u32,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// Number of patches, at least 1.
    pub count: usize,
    /// `[count, channels, size, size]`: channel by channel, unlike a [`Patch`].
    pub data: Vec<u8>,
}

impl PatchSet {
    /// Collects patches, which must be alike in side and channels.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] for a patch that differs from the first, or if there are none.
    pub fn from_patches(patches: &[Patch]) -> Result<Self, ShapeError> {
        let first = patches.first().ok_or(ShapeError { what: "patches", actual: 0, expected: 1 })?;
        let bytes = first.size as usize * first.size as usize * first.channels;
        let mut data = Vec::with_capacity(bytes * patches.len());
        for patch in patches {
            let checks = [
                ("side of a patch", patch.size as usize, first.size as usize),
                ("channels of a patch", patch.channels, first.channels),
                ("bytes of a patch", patch.data.len(), bytes),
            ];
            if let Some(&(what, actual, expected)) = checks.iter().find(|(_, actual, expected)| actual != expected) {
                return Err(ShapeError { what, actual, expected });
            }
            append_planar(patch, &mut data);
        }
        Ok(Self { size: first.size, channels: first.channels, count: patches.len(), data })
    }

    /// Patch `index`, or `None` beyond the end.
    pub fn patch(&self, index: usize) -> Option<Patch> {
        let plane = self.size as usize * self.size as usize;
        let planar = self.data.chunks_exact((plane * self.channels).max(1)).nth(index)?;
        let mut data = vec![0; planar.len()];
        for (channel, values) in planar.chunks_exact(plane).enumerate() {
            for (target, value) in data.iter_mut().skip(channel).step_by(self.channels).zip(values) {
                *target = *value;
            }
        }
        Some(Patch { size: self.size, channels: self.channels, data })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn set(channels: usize) -> PatchSet {
        let patch = |start: u8| Patch { size: 2, channels, data: (start..start + 4 * channels as u8).collect() };
        PatchSet::from_patches(&[patch(0), patch(100)]).expect("alike")
    }

    #[test]
    fn stored_planar_returned_interleaved() {
        assert_eq!(set(3).data[..12], [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]);
        assert_eq!(set(3).patch(1).map(|patch| patch.data), Some((100..112).collect()));
        assert_eq!(set(3).patch(2), None);
    }

    #[test]
    fn patches_must_be_alike() {
        let patch = Patch { size: 2, channels: 1, data: vec![0; 4] };
        let cases = [
            (vec![], "patches"),
            (vec![patch.clone(), Patch { size: 1, ..patch.clone() }], "side of a patch"),
            (vec![patch.clone(), Patch { channels: 3, ..patch.clone() }], "channels of a patch"),
            (vec![Patch { data: vec![0; 3], ..patch }], "bytes of a patch"),
        ];
        for (patches, what) in cases {
            assert_eq!(PatchSet::from_patches(&patches).expect_err(what).what, what);
        }
    }

    #[test]
    fn calibration_indices_are_seeded_and_distinct() {
        let indices = calibration_indices(1000, 64, 7);
        assert_eq!(indices, calibration_indices(1000, 64, 7));
        assert_ne!(indices, calibration_indices(1000, 64, 8));
        assert!(indices.iter().all(|index| *index < 1000));
        assert_eq!(indices.iter().collect::<HashSet<_>>().len(), 64);
        assert_eq!(calibration_indices(5, 64, 7).len(), 5);
        assert!(calibration_indices(0, 64, 7).is_empty());
    }
}
