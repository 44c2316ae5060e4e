//! Images to recalibrate on: pixels, or values that somebody else has normalised.

use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sha2::{Digest, Sha256};

use super::error::DataError;
use super::patch_set::PatchSet;
use crate::files::Staged;
use crate::image::{Preprocessing, ShapeError, resample_normalised};

/// The one tensor in the file.
const TENSOR: &str = "images";

/// Calibration images, in order, all of the model's crop.
#[derive(Debug, Clone, PartialEq)]
pub enum CalibrationSet {
    /// Pixels, to be normalised as the model says.
    Pixels(PatchSet),
    /// Values that are normalised already.
    Normalised(NormalisedSet),
}

/// Normalised square images of one size, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct NormalisedSet {
    /// Side in pixels.
    pub size: u32,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// Number of images, at least 1.
    pub count: usize,
    /// `[count, channels, size, size]`.
    pub data: Vec<f32>,
}

impl From<PatchSet> for CalibrationSet {
    fn from(patches: PatchSet) -> Self {
        Self::Pixels(patches)
    }
}

impl CalibrationSet {
    /// `[count, channels, size, size]`.
    #[must_use]
    pub fn shape(&self) -> [usize; 4] {
        let (count, channels, size) = match self {
            Self::Pixels(set) => (set.count, set.channels, set.size),
            Self::Normalised(set) => (set.count, set.channels, set.size),
        };
        [count, channels, size as usize, size as usize]
    }

    /// Number of images.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shape()[0]
    }

    /// SHA-256 of the shape and the values, as 64 hex digits. It does not depend on how the file is laid out.
    #[must_use]
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        let [count, channels, height, width] = self.shape();
        hash.update(format!("{count}x{channels}x{height}x{width}\n"));
        match self {
            Self::Pixels(set) => hash.update(&set.data),
            Self::Normalised(set) => {
                hash.update("normalised\n");
                set.data.iter().for_each(|value| hash.update(value.to_le_bytes()));
            }
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Writes image `index` to `out`, `[channels, resolution, resolution]`, resampled and normalised.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] for an index beyond the end, or where channels or the length of `out` do not fit.
    pub fn write_input(&self, index: usize, resolution: usize, preprocessing: &Preprocessing, out: &mut [f32]) -> Result<(), ShapeError> {
        let missing = ShapeError { what: "calibration images", actual: self.count(), expected: index + 1 };
        match self {
            Self::Pixels(set) => set.patch(index).ok_or(missing)?.write_input(resolution as u32, preprocessing, out),
            Self::Normalised(set) => {
                let image = set.data.chunks_exact(set.channels * (set.size * set.size) as usize).nth(index).ok_or(missing)?;
                resample_normalised(image, set.channels, set.size as usize, resolution, out)
            }
        }
    }

    /// Writes the set as a safetensors file, atomically.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`]; [`DataError::Format`] if the values do not fit the sizes.
    pub fn write(&self, path: &Path) -> Result<(), DataError> {
        self.stage(path)?.commit().map_err(|source| DataError::Io { path: path.to_owned(), source })
    }

    /// Writes beside `path` the safetensors file that is to replace it.
    ///
    /// # Errors
    ///
    /// As [`Self::write`].
    pub fn stage(&self, path: &Path) -> Result<Staged, DataError> {
        let format = |problem: String| DataError::Format { path: path.to_owned(), problem };
        let shape = self.shape().to_vec();
        let floats: Vec<u8>;
        let view = match self {
            Self::Pixels(set) => TensorView::new(Dtype::U8, shape, &set.data),
            Self::Normalised(set) => {
                floats = set.data.iter().flat_map(|value| value.to_le_bytes()).collect();
                TensorView::new(Dtype::F32, shape, &floats)
            }
        };
        let view = view.map_err(|error| format(error.to_string()))?;
        let bytes = safetensors::serialize([(TENSOR, view)], None).map_err(|error| format(error.to_string()))?;
        Staged::new(path, |temporary| std::fs::write(temporary, bytes)).map_err(|source| DataError::Io { path: path.to_owned(), source })
    }

    /// Reads a file with one tensor, `images`, in the shape `[N, 1 or 3, S, S]`: bytes are pixels, and float32 values are
    /// taken as normalised already.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`]; [`DataError::Format`] if the file is no safetensors file, or its tensor is another one.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let format = |problem: String| DataError::Format { path: path.to_owned(), problem };
        let bytes = fs::read(path).map_err(|source| DataError::Io { path: path.to_owned(), source })?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| format(format!("not a whole safetensors file ({error})")))?;
        let names = tensors.names();
        let [TENSOR] = names[..] else {
            return Err(format(format!("tensors {names:?}; calibration images need one, called {TENSOR:?}")));
        };
        let view = tensors.tensor(TENSOR).map_err(|error| format(error.to_string()))?;
        let shape = view.shape();
        let (&[count, channels @ (1 | 3), height, width], Dtype::U8 | Dtype::F32) = (shape, view.dtype()) else {
            let found = format!("tensor {TENSOR:?} is {:?} {shape:?}", view.dtype());
            return Err(format(format!("{found}; it must be U8 [N, 1 or 3, S, S], or F32 if it is normalised already")));
        };
        let size = u32::try_from(height).ok().filter(|_| height == width && height * count > 0);
        let size = size.ok_or_else(|| format(format!("shape {shape:?}; the images must be square and not empty")))?;
        if view.dtype() == Dtype::U8 {
            return Ok(Self::Pixels(PatchSet { size, channels, count, data: view.data().to_vec() }));
        }
        let data: Vec<f32> = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        if !data.iter().all(|value| value.is_finite()) {
            return Err(format("holds values that are not finite".to_owned()));
        }
        Ok(Self::Normalised(NormalisedSet { size, channels, count, data }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_read_and_hashed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("calibration.safetensors");
        for channels in [1, 3] {
            let data = (0..8 * channels as u8).collect();
            let pixels = CalibrationSet::from(PatchSet { size: 2, channels, count: 2, data });
            let data = (0..8 * channels as u8).map(|value| f32::from(value) - 3.5).collect();
            let normalised = CalibrationSet::Normalised(NormalisedSet { size: 2, channels, count: 2, data });
            for set in [pixels, normalised] {
                set.write(&path).expect("writes");
                assert_eq!(CalibrationSet::read(&path).expect("reads"), set);
            }
        }
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1, "a temporary file stayed behind");

        // printf '1x1x1x1\n\007' | sha256sum
        let one = CalibrationSet::from(PatchSet { size: 1, channels: 1, count: 1, data: vec![7] });
        assert_eq!(one.sha256(), "f730dccc1c2aa0d07aa8214022105e62d90e9e20cbcc7683c0d89826b46f8f2b");
        let reshaped = CalibrationSet::from(PatchSet { size: 1, channels: 1, count: 4, data: vec![0; 4] });
        let square = CalibrationSet::from(PatchSet { size: 2, channels: 1, count: 1, data: vec![0; 4] });
        assert_ne!(reshaped.sha256(), square.sha256());
    }

    #[test]
    fn bad_files_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("calibration.safetensors");
        let file = |name: &str, dtype, shape: &[usize], bytes: usize| {
            let data = vec![0; bytes];
            let view = TensorView::new(dtype, shape.to_vec(), &data).expect("a tensor");
            safetensors::serialize([(name, view)], None).expect("serialises")
        };
        let good = file(TENSOR, Dtype::U8, &[1, 1, 2, 2], 4);
        let cases = [
            (good[..good.len() - 1].to_vec(), "not a whole safetensors file"),
            (vec![], "not a whole safetensors file"),
            (file("pictures", Dtype::U8, &[1, 1, 2, 2], 4), "one, called \"images\""),
            (file(TENSOR, Dtype::I32, &[1, 1, 1, 1], 4), "I32 [1, 1, 1, 1]"),
            (file(TENSOR, Dtype::U8, &[1, 2, 2, 1], 4), "must be U8 [N, 1 or 3, S, S]"),
            (file(TENSOR, Dtype::U8, &[4], 4), "must be U8 [N, 1 or 3, S, S]"),
            (file(TENSOR, Dtype::U8, &[1, 1, 4, 1], 4), "must be square"),
            (file(TENSOR, Dtype::U8, &[0, 1, 2, 2], 0), "must be square and not empty"),
        ];
        for (bytes, expected) in cases {
            fs::write(&path, bytes).expect("writes");
            let message = CalibrationSet::read(&path).expect_err(expected).to_string();
            assert!(message.contains(expected) && message.contains("calibration.safetensors"), "{message}");
        }
        assert!(matches!(CalibrationSet::read(&dir.path().join("none")), Err(DataError::Io { .. })));
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("calibration.safetensors");
        CalibrationSet::Normalised(NormalisedSet { size: 1, channels: 1, count: 1, data: vec![f32::NAN] }).write(&path).expect("writes");
        assert!(CalibrationSet::read(&path).expect_err("NaN").to_string().contains("not finite"));
    }

    /// The same image as pixels and as normalised values gives the same input at every resolution.
    #[test]
    fn pixels_and_normalised_values_agree() {
        let (mean, std) = (vec![0.485, 0.456, 0.406], vec![0.229, 0.224, 0.225]);
        let preprocessing = Preprocessing { resize: None, filter: crate::image::Filter::Bicubic, crop: 9, mean, std, background: [0; 3] };
        let pixels = PatchSet { size: 9, channels: 3, count: 2, data: (0..486u32).map(|i| (i * 7919 % 251) as u8).collect() };
        let normalise = |(i, &value): (usize, &u8)| {
            let channel = i / 81 % 3;
            (f32::from(value) / 255.0 - preprocessing.mean[channel]) / preprocessing.std[channel]
        };
        let data = pixels.data.iter().enumerate().map(normalise).collect();
        let normalised = CalibrationSet::Normalised(NormalisedSet { size: 9, channels: 3, count: 2, data });
        let pixels = CalibrationSet::from(pixels);
        for resolution in [9, 5, 14] {
            let input = |set: &CalibrationSet| {
                let mut out = vec![f32::NAN; 3 * resolution * resolution];
                set.write_input(1, resolution, &preprocessing, &mut out).expect("fits");
                out
            };
            for (a, b) in input(&pixels).iter().zip(input(&normalised)) {
                assert!((a - b).abs() < 1e-4, "{resolution} px: {a} and {b}");
            }
        }
        let beyond = pixels.write_input(2, 9, &preprocessing, &mut [0.0; 243]).expect_err("there are two");
        assert_eq!((beyond.actual, beyond.expected), (2, 3));
    }
}
