//! `model.json`: what a model says of itself.

use std::ops::RangeInclusive;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::ModelError;
use crate::data::Augment;
use crate::image::Preprocessing;
use crate::space::SearchSpace;

/// Version of the directory's layout.
pub(super) const FORMAT: u32 = 1;
/// How many classes a model may tell apart.
pub(crate) const CLASSES: RangeInclusive<usize> = 2..=100_000;

/// `model.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelCard {
    /// Version of the directory's layout.
    pub format: u32,
    /// Name of the model.
    pub name: String,
    /// Names of the classes, in the classifier's order.
    pub labels: Vec<String>,
    /// Names of the classes' folders in image data sets, where they are not the labels, as with ImageNet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_folders: Option<Vec<String>>,
    /// From an image to a child's input.
    pub preprocessing: Preprocessing,
    /// The search space.
    pub space: SearchSpace,
    /// SHA-256 of `weights.safetensors`.
    pub weights_sha256: String,
    /// The calibration set that ships with the model, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// The statistics that ship with the family, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<ShippedStatistics>,
    /// How the weights came about; free-form, but for `augment`, the changes to images that recalibration repeats, and for what tells held-out
    /// images from those trained on: `images`, `skipped`, and `held_out` and `seed` of `settings`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<serde_json::Value>,
}

/// Which images a model is recalibrated on, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// How many images.
    pub images: usize,
    /// In batches of how many.
    pub batch: usize,
    /// Seed under which they were drawn from the training images.
    pub seed: u64,
    /// SHA-256 of the images in `calibration.safetensors`, as [`crate::data::CalibrationSet::sha256`] gives it.
    pub sha256: String,
}

/// Batch-norm statistics of the family's children: with them the images that they were measured on need not ship.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShippedStatistics {
    /// On how many images.
    pub images: usize,
    /// In batches of how many.
    pub batch: usize,
    /// Seed under which they were drawn.
    pub seed: u64,
    /// SHA-256 of the images.
    pub images_sha256: String,
    /// SHA-256 of `statistics.safetensors`.
    pub sha256: String,
}

impl ModelCard {
    /// Whether `other` is of a network that computes the same, so that what was measured of the one is true of the other.
    pub(super) fn computes_as(&self, other: &Self) -> bool {
        (&self.weights_sha256, &self.space, &self.labels, &self.preprocessing)
            == (&other.weights_sha256, &other.space, &other.labels, &other.preprocessing)
    }

    /// How training changed its images at random, not at all where the card does not say.
    #[must_use]
    pub fn augment(&self) -> Augment {
        self.told_augment().unwrap_or(Augment::NONE)
    }

    /// The same, none where the card does not say: random and imported weights.
    #[must_use]
    pub fn told_augment(&self) -> Option<Augment> {
        serde_json::from_value(self.training.as_ref()?.get("augment")?.clone()).ok()
    }

    pub(super) fn check(&self, path: &Path) -> Result<(), ModelError> {
        let path = path.to_owned();
        let problem = |problem: String| Err(ModelError::Card { path: path.clone(), problem });
        if self.format != FORMAT {
            return problem(format!("format {} is not supported; this program reads format {FORMAT}", self.format));
        }
        if !CLASSES.contains(&self.labels.len()) {
            return problem(format!("{} labels; a model has between {} and {}", self.labels.len(), CLASSES.start(), CLASSES.end()));
        }
        if let Some(folders) = self.class_folders.as_ref().filter(|folders| folders.len() != self.labels.len()) {
            return problem(format!("{} class_folders for {} labels", folders.len(), self.labels.len()));
        }
        self.space.validate().map_err(|source| ModelError::Space { path: path.clone(), source })?;
        self.preprocessing.validate().map_err(|source| ModelError::Preprocessing { path: path.clone(), source })?;
        if self.preprocessing.channels() != self.space.input_channels {
            let (given, needed) = (self.preprocessing.channels(), self.space.input_channels);
            return problem(format!("preprocessing makes {given} channels, but the search space takes {needed}"));
        }
        if let Some(augment) = self.training.as_ref().and_then(|training| training.get("augment")) {
            let checked = serde_json::from_value::<Augment>(augment.clone()).map_err(|error| format!("training.augment: {error}"));
            if let Err(wrong) = checked.and_then(|augment| augment.validate().map_err(|error| error.to_string())) {
                return problem(wrong);
            }
        }
        match &self.calibration {
            Some(c) if c.batch == 0 || c.batch > c.images => {
                problem(format!("calibration in batches of {} from {} images is impossible", c.batch, c.images))
            }
            _ => Ok(()),
        }
    }
}
