//! From the pictures of a request to patches: on the worker that then runs the network, right before it.
//!
//! Decoding is work like any other. It waits in the same queue, is predicted, and is done once it is certain that the answer is
//! wanted and in time; no thread decodes what is refused later, and no more threads compute than there are workers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::types::ClassifyError;
use crate::image::{DecodeError, DecodeLimits, Patch, Preprocessing, ShapeError, check_header, decode};

/// What decoding takes until it was measured: a fixed part, and one for each byte of the file.
const BASE: Duration = Duration::from_micros(10);
const PER_BYTE: Duration = Duration::from_nanos(15);
/// Weight of the newest request in the correction.
const NEWEST: f64 = 0.05;
/// The correction stays between this and its inverse.
const LEAST: f64 = 0.05;

/// An image as it was handed to the engine.
#[derive(Debug, Clone)]
pub enum Picture {
    /// The bytes of an image file, from anywhere.
    File(Bytes),
    /// A square cut from one already.
    Patch(Patch),
}

impl From<Bytes> for Picture {
    fn from(file: Bytes) -> Self {
        Self::File(file)
    }
}

impl From<Patch> for Picture {
    fn from(patch: Patch) -> Self {
        Self::Patch(patch)
    }
}

/// An image that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The bytes are no image that the server reads.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The model's preprocessing and the image do not fit, which is no fault of the image.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

/// Decodes and crops, and predicts how long that takes.
#[derive(Debug)]
pub(super) struct Decoder {
    limits: DecodeLimits,
    preprocessing: Preprocessing,
    /// What decoding took over what the constants say, averaged.
    correction: Mutex<f64>,
}

impl Decoder {
    pub(super) fn new(limits: DecodeLimits, preprocessing: Preprocessing) -> Self {
        Self { limits, preprocessing, correction: Mutex::new(1.0) }
    }

    /// Refuses what its first bytes show to be no image within the limits; takes no time.
    pub(super) fn check(&self, pictures: &[Picture]) -> Result<(), ClassifyError> {
        for (index, picture) in pictures.iter().enumerate() {
            if let Picture::File(bytes) = picture {
                check_header(bytes, &self.limits).map_err(|error| refused(error, index, pictures.len()))?;
            }
        }
        Ok(())
    }

    /// Predicted time of [`Decoder::decode`].
    pub(super) fn predict(&self, pictures: &[Picture]) -> Duration {
        let correction = *self.correction.lock().unwrap_or_else(PoisonError::into_inner);
        expected(pictures).mul_f64(correction)
    }

    /// The patches of all pictures, decoded one after another, so that only one image is large at a time.
    ///
    /// # Errors
    /// [`ClassifyError::Picture`] for the first that cannot be read.
    pub(super) fn decode(&self, pictures: Vec<Picture>) -> Result<Vec<Patch>, ClassifyError> {
        let (begin, expected, of) = (Instant::now(), expected(&pictures), pictures.len());
        let one = |(index, picture)| match picture {
            Picture::Patch(patch) => Ok(patch),
            Picture::File(bytes) => self.decode_one(&bytes).map_err(|error| refused(error, index, of)),
        };
        let patches = pictures.into_iter().enumerate().map(one).collect::<Result<_, _>>()?;
        if !expected.is_zero() {
            let ratio = begin.elapsed().as_secs_f64() / expected.as_secs_f64();
            let mut correction = self.correction.lock().unwrap_or_else(PoisonError::into_inner);
            *correction = (*correction + NEWEST * (ratio - *correction)).clamp(LEAST, 1.0 / LEAST);
        }
        Ok(patches)
    }

    fn decode_one(&self, bytes: &[u8]) -> Result<Patch, PictureError> {
        let pixels = decode(bytes, &self.limits, self.preprocessing.channels(), self.preprocessing.background)?;
        Ok(pixels.centre_crop(&self.preprocessing)?)
    }
}

fn expected(pictures: &[Picture]) -> Duration {
    let one = |picture: &Picture| match picture {
        Picture::File(bytes) => BASE + PER_BYTE * u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        Picture::Patch(_) => Duration::ZERO,
    };
    pictures.iter().map(one).sum()
}

fn refused(error: impl Into<PictureError>, index: usize, of: usize) -> ClassifyError {
    ClassifyError::Picture { index, of, source: Arc::new(error.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Filter;

    fn decoder() -> Decoder {
        let preprocessing =
            Preprocessing { resize: None, filter: Filter::Bilinear, crop: 4, mean: vec![0.5], std: vec![0.5], background: [0; 3] };
        Decoder::new(DecodeLimits { max_pixels: 16 }, preprocessing)
    }

    /// A grey PNG of `side` pixels a side.
    fn png(side: u32) -> Picture {
        let mut file = Vec::new();
        image::GrayImage::from_pixel(side, side, image::Luma([7]))
            .write_to(&mut std::io::Cursor::new(&mut file), image::ImageFormat::Png)
            .unwrap();
        Picture::File(file.into())
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let cut = |picture: Picture| match picture {
            Picture::File(bytes) => Picture::File(bytes.slice(..bytes.len() - 20)),
            patch => patch,
        };
        for (second, at_once) in [(png(5), true), (Picture::File(Bytes::from_static(b"text")), true), (cut(png(4)), false)] {
            let pictures = vec![png(4), second];
            let found = decoder().check(&pictures);
            assert_eq!(found.is_err(), at_once, "{found:?}");
            let error = decoder().decode(pictures).unwrap_err();
            assert!(matches!(error, ClassifyError::Picture { index: 1, of: 2, .. }), "{error:?}");
        }
    }

    #[test]
    fn predictions_follow_what_decoding_takes() {
        let decoder = decoder();
        let patch = Patch { size: 4, channels: 1, data: vec![0; 16] };
        assert_eq!(decoder.predict(&[patch.clone().into()]), Duration::ZERO);
        let before = decoder.predict(&[png(4)]);
        assert_eq!(before, expected(&[png(4)]));
        for _ in 0..300 {
            assert_eq!(decoder.decode(vec![png(4), patch.clone().into()]).unwrap().len(), 2);
        }
        assert_ne!(decoder.predict(&[png(4)]), before);
    }
}
