//! Decoded images and the square patches cut from them.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::preprocessing::{Filter, Preprocessing};

/// A decoded image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// `[height, width, channels]`, row by row.
    pub data: Vec<u8>,
}

/// A square image: what calibration sets store and batches hold, before it is resampled to a child's resolution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// Side in pixels.
    pub size: u32,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// `[size, size, channels]`, row by row.
    pub data: Vec<u8>,
}

/// Sizes that do not fit each other. It shows a mistake in the calling code, never one in a client's image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {actual} does not fit; expected {expected}")]
pub struct ShapeError {
    /// What has the wrong size.
    pub what: &'static str,
    /// The size it has.
    pub actual: usize,
    /// The size it needs.
    pub expected: usize,
}

/// A rectangle of an image, in pixels; it may lie between them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Region {
    /// Distance of the left edge from the image's.
    pub left: f64,
    /// Distance of the top edge from the image's.
    pub top: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

impl Pixels {
    /// Resizes the shorter side as `preprocessing` says and cuts the square at the centre, rounding as torchvision's
    /// `Resize` and `CenterCrop` do. Only what the crop shows is resampled, so that the work and the memory do not
    /// depend on how long the longer side is.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] if `data` does not fit the sizes or the crop is empty.
    pub fn centre_crop(&self, preprocessing: &Preprocessing) -> Result<Patch, ShapeError> {
        let crop = preprocessing.crop;
        let shorter = self.width.min(self.height);
        let target = preprocessing.resize.unwrap_or(shorter).max(crop);
        let (left, scale_x, fits_x) = centre(self.width, shorter, target, crop);
        let (top, scale_y, fits_y) = centre(self.height, shorter, target, crop);
        if fits_x && fits_y {
            return self.cut(left as usize, top as usize, crop);
        }
        let side = f64::from(crop);
        let region = Region { left: left * scale_x, top: top * scale_y, width: side * scale_x, height: side * scale_y };
        self.resample(region, crop, preprocessing.filter)
    }

    /// The same image in grey, by Rec. 601 luma; a grey one as it is.
    #[must_use]
    pub fn to_grey(self) -> Self {
        if self.channels == 1 {
            return self;
        }
        Self { channels: 1, data: super::colour::luma_of(&self.data), ..self }
    }

    /// Resamples `region`, which must lie inside the image, to a square of `size` pixels a side; antialiased where it
    /// shrinks.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] if `data` does not fit the sizes, or the region or `size` is empty or outside.
    pub fn resample(&self, region: Region, size: u32, filter: Filter) -> Result<Patch, ShapeError> {
        self.check(size)?;
        let filter = match filter {
            Filter::Bilinear => FilterType::Bilinear,
            Filter::Bicubic => FilterType::CatmullRom,
        };
        let pixel_type = if self.channels == 1 { PixelType::U8 } else { PixelType::U8x3 };
        let outside = || ShapeError { what: "side of the crop", actual: size as usize, expected: self.width as usize };
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)).use_alpha(false).crop(
            region.left,
            region.top,
            region.width.min(f64::from(self.width) - region.left),
            region.height.min(f64::from(self.height) - region.top),
        );
        let source = ImageRef::new(self.width, self.height, &self.data, pixel_type).map_err(|_| outside())?;
        let mut target = Image::new(size, size, pixel_type);
        Resizer::new().resize(&source, &mut target, &options).map_err(|_| outside())?;
        Ok(Patch { size, channels: self.channels, data: target.into_vec() })
    }

    /// Copies a square of `size` pixels a side whose upper left corner is at (`left`, `top`).
    ///
    /// # Errors
    ///
    /// [`ShapeError`] if `data` does not fit the sizes or the square reaches outside.
    pub fn cut(&self, left: usize, top: usize, size: u32) -> Result<Patch, ShapeError> {
        self.check(size)?;
        let side = size as usize;
        for (what, start, available) in [("right edge of the crop", left, self.width), ("lower edge of the crop", top, self.height)] {
            if start.saturating_add(side) > available as usize {
                return Err(ShapeError { what, actual: start.saturating_add(side), expected: available as usize });
            }
        }
        let row_bytes = self.width as usize * self.channels;
        let mut data = Vec::with_capacity(side * side * self.channels);
        for row in self.data.chunks_exact(row_bytes).skip(top).take(side) {
            data.extend_from_slice(&row[left * self.channels..(left + side) * self.channels]);
        }
        Ok(Patch { size, channels: self.channels, data })
    }

    /// Checks that the bytes fit the sizes, and that a patch of `size` is not empty.
    fn check(&self, size: u32) -> Result<(), ShapeError> {
        if !matches!(self.channels, 1 | 3) {
            return Err(ShapeError { what: "channels", actual: self.channels, expected: 3 });
        }
        if size == 0 {
            return Err(ShapeError { what: "side of the crop", actual: 0, expected: 1 });
        }
        let expected = self.width as usize * self.height as usize * self.channels;
        if self.data.len() != expected || expected == 0 {
            return Err(ShapeError { what: "bytes of pixels", actual: self.data.len(), expected });
        }
        Ok(())
    }
}

/// Along one axis of `length` pixels, when the image's `shorter` side becomes `target`: where in the resized image
/// the centre crop starts, how many source pixels one resized pixel spans, and whether nothing is resized at all.
fn centre(length: u32, shorter: u32, target: u32, crop: u32) -> (f64, f64, bool) {
    let resized = u64::from(length) * u64::from(target) / u64::from(shorter.max(1));
    let margin = resized.saturating_sub(u64::from(crop));
    // Python's round(): a half goes to the even neighbour.
    let start = (margin as f64 / 2.0).round_ties_even();
    (start, f64::from(length) / resized.max(1) as f64, resized == u64::from(length))
}
