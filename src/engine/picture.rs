//! From the pictures of a request to patches: on the worker that then runs the network, right before it.
//!
//! Decoding is work like any other. It waits in the same queue, is predicted, and is done once it is certain that the answer is
//! wanted and in time; no thread decodes what is refused later, and no more threads compute than there are workers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::pace::faded;
use super::types::ClassifyError;
use crate::image::{DecodeError, DecodeLimits, Patch, Preprocessing, ShapeError, check_header, decode};

/// What decoding takes until it was measured: a fixed part, and one for each byte of the file and each pixel that its header claims.
const BASE: Duration = Duration::from_micros(10);
const NS_PER_BYTE: u64 = 10;
const NS_PER_PIXEL: u64 = 5;
/// Weight of the newest request in the correction.
const NEWEST: f64 = 0.05;
/// A request counts as having taken between this share of what the constants say and the inverse: one odd file must not make all look
/// hopeless.
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
    /// What decoding took over what the constants say, averaged, and when the last ended.
    correction: Mutex<(f64, Instant)>,
}

impl Decoder {
    pub(super) fn new(limits: DecodeLimits, preprocessing: Preprocessing) -> Self {
        Self { limits, preprocessing, correction: Mutex::new((1.0, Instant::now())) }
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

    /// Predicted time of [`Decoder::decode`] that begins about `now`.
    pub(super) fn predict(&self, pictures: &[Picture], now: Instant) -> Duration {
        let (correction, learned) = *self.correction.lock().unwrap_or_else(PoisonError::into_inner);
        self.expected(pictures).mul_f64(faded(correction, now.saturating_duration_since(learned)))
    }

    /// The patches of all pictures, decoded one after another, so that only one image is large at a time; none as soon as nobody wants
    /// them any more.
    ///
    /// # Errors
    /// [`ClassifyError::Picture`] for the first that cannot be read.
    pub(super) fn decode(&self, pictures: Vec<Picture>, gone: impl Fn() -> bool) -> Result<Option<Vec<Patch>>, ClassifyError> {
        let (begin, expected, of) = (Instant::now(), self.expected(&pictures), pictures.len());
        let mut patches = Vec::with_capacity(of);
        for (index, picture) in pictures.into_iter().enumerate() {
            if gone() {
                return Ok(None);
            }
            patches.push(match picture {
                Picture::Patch(patch) => patch,
                Picture::File(bytes) => self.decode_one(&bytes).map_err(|error| refused(error, index, of))?,
            });
        }
        if !expected.is_zero() {
            let now = Instant::now();
            let ratio = (now - begin).as_secs_f64() / expected.as_secs_f64();
            let mut known = self.correction.lock().unwrap_or_else(PoisonError::into_inner);
            let before = faded(known.0, now.saturating_duration_since(known.1));
            *known = (before + NEWEST * (ratio.clamp(LEAST, 1.0 / LEAST) - before), now);
        }
        Ok(Some(patches))
    }

    /// What the constants say.
    fn expected(&self, pictures: &[Picture]) -> Duration {
        let one = |picture: &Picture| match picture {
            Picture::File(bytes) => {
                let pixels = check_header(bytes, &self.limits).ok().and_then(|header| header.pixels).unwrap_or(0);
                BASE + Duration::from_nanos(NS_PER_BYTE * bytes.len() as u64 + NS_PER_PIXEL * pixels)
            }
            Picture::Patch(_) => Duration::ZERO,
        };
        pictures.iter().map(one).sum()
    }

    fn decode_one(&self, bytes: &[u8]) -> Result<Patch, PictureError> {
        let pixels = decode(bytes, &self.limits, self.preprocessing.channels(), self.preprocessing.background)?;
        Ok(pixels.centre_crop(&self.preprocessing)?)
    }
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
            let error = decoder().decode(pictures, || false).unwrap_err();
            assert!(matches!(error, ClassifyError::Picture { index: 1, of: 2, .. }), "{error:?}");
        }
    }

    #[test]
    fn predictions_follow_what_decoding_takes() {
        let decoder = decoder();
        let patch = Patch { size: 4, channels: 1, data: vec![0; 16] };
        assert_eq!(decoder.predict(&[patch.clone().into()], Instant::now()), Duration::ZERO);
        let before = decoder.predict(&[png(4)], Instant::now());
        assert_eq!(before, decoder.expected(&[png(4)]));
        for _ in 0..300 {
            assert_eq!(decoder.decode(vec![png(4), patch.clone().into()], || false).unwrap().unwrap().len(), 2);
        }
        assert_ne!(decoder.predict(&[png(4)], Instant::now()), before);
    }

    /// A file of a few bytes may hold many pixels.
    #[test]
    fn pixels_count_and_not_bytes_alone() {
        let decoder = Decoder::new(DecodeLimits::default(), decoder().preprocessing);
        let [small, large] = [png(4), png(2000)].map(|picture| decoder.predict(&[picture], Instant::now()));
        assert!(large > 100 * small && large > Duration::from_millis(10), "{small:?}, {large:?}");
    }

    #[test]
    fn decoding_ends_when_nobody_waits_any_more() {
        let (decoder, asked) = (decoder(), std::cell::Cell::new(0));
        let gone = || asked.replace(asked.get() + 1) == 1;
        assert_eq!(decoder.decode(vec![png(4), png(4), png(4)], gone).unwrap(), None);
        assert_eq!(asked.get(), 2, "the second is not decoded, and the third not asked for");
    }
}
