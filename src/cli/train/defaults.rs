//! What suits the images, where the flags do not say: the search space and the preprocessing.

use std::path::Path;

use anyhow::{Context, Result};

use crate::cli::init::default_crop;
use crate::data::{DataOptions, ImageSet, Split};
use crate::image::{DecodeLimits, Filter, Preprocessing};
use crate::space::SearchSpace;

/// Images that the defaults are chosen by.
const LOOKED_AT: usize = 32;

/// The preset for images like the first ones. A data set of colour images may well begin with some that show none.
pub(super) fn default_space(data: &Path) -> Result<&'static str> {
    let options =
        DataOptions { class_names: None, channels: 3, background: [0; 3], limits: DecodeLimits::default(), max_corrupt: LOOKED_AT };
    let images = ImageSet::open(data, Split::Train, options)?;
    let mut side = 0;
    for index in 0..images.len().min(LOOKED_AT) {
        let Some(pixels) = images.pixels_or_skip(index)? else { continue };
        side = side.max(pixels.width.min(pixels.height));
        if pixels.data.chunks_exact(3).any(|rgb| rgb[0] != rgb[1] || rgb[1] != rgb[2]) {
            return Ok(if side <= 64 { "cifar10" } else { "bignas" });
        }
    }
    Ok("fashion-mnist")
}

/// The statistics of Fashion-MNIST for grey images and of ImageNet for colour. Small images are taken whole, in the largest size that the
/// space trains at and the first one has; and so is whatever a client sends later, a photograph included.
pub(super) fn default_preprocessing(space: &SearchSpace, data: &Path) -> Result<Preprocessing> {
    let (mean, std) =
        if space.input_channels == 1 { (vec![0.286], vec![0.353]) } else { (vec![0.485, 0.456, 0.406], vec![0.229, 0.224, 0.225]) };
    let (resize, crop) = default_crop(space);
    let mut preprocessing = Preprocessing { resize: Some(resize), filter: Filter::Bicubic, crop, mean, std, background: [0; 3] };
    if resize == crop {
        let images = ImageSet::open(data, Split::Train, DataOptions { max_corrupt: LOOKED_AT, ..DataOptions::new(&preprocessing) })?;
        let mut readable = (0..images.len().min(LOOKED_AT)).filter_map(|index| images.pixels_or_skip(index).transpose());
        let first = readable.next().context("none of the first images can be read")??;
        let fits = |resolution: &&usize| **resolution <= first.width.min(first.height) as usize;
        let resolutions = &space.training_resolutions;
        preprocessing.crop = resolutions.iter().filter(fits).max().or(resolutions.iter().min()).map_or(crop, |&side| side as u32);
        preprocessing.resize = Some(preprocessing.crop);
    }
    Ok(preprocessing)
}
