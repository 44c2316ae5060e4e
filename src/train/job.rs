//! What a training run works on, and what it ends with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use tch::Device;

use super::settings::TrainSettings;
use super::state::Phase;
use crate::checkpoint::Weights;
use crate::data::{Augment, Source};
use crate::space::SearchSpace;

/// What to train, and on what.
#[derive(Debug)]
pub struct Job<'a> {
    /// The search space.
    pub space: &'a SearchSpace,
    /// The training images and how they are changed at random.
    pub train: Arc<Source>,
    /// Images for the accuracy that is reported after each epoch; none, no report.
    pub validation: Option<&'a Source>,
    /// Weights to start from; random ones, if none.
    pub start: Option<Given<'a>>,
    /// Weights whose biggest child, as it is, stands in for the labels; none, the labels do.
    pub teacher: Option<Given<'a>>,
    /// What the model that it ends in is to have.
    pub wanted: Wanted,
    /// The run directory.
    pub directory: &'a Path,
    /// Where to compute.
    pub device: Device,
    /// Cores to compute on.
    pub threads: usize,
    /// Threads that make batches, as [`loader_threads`] says or others.
    pub loader_threads: usize,
    /// Set from elsewhere to save and stop after the current step.
    pub stop: &'a AtomicBool,
}

/// What the model that a run ends in is to have beside its weights. A resumed run still knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Training images that it ships for recalibration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration_images: Option<u32>,
    /// What its classes are called to a person, where their folders have other names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
}

impl Wanted {
    /// Whether nothing was said.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// What is said here, else in `before`.
    #[must_use]
    pub fn or(self, before: Self) -> Self {
        Self {
            name: self.name.or(before.name),
            calibration_images: self.calibration_images.or(before.calibration_images),
            labels: self.labels.or(before.labels),
        }
    }
}

/// Weights that were trained before.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The weights.
    pub weights: &'a Weights,
    /// SHA-256 of their file, which tells them from others.
    pub sha256: &'a str,
}

/// How a run ended, for now or for good.
#[derive(Debug)]
pub enum Outcome {
    /// All epochs are done.
    Finished {
        /// The single-stage model.
        weights: Weights,
        /// How it came about.
        provenance: Box<Provenance>,
    },
    /// The run was stopped and can be resumed.
    Stopped {
        /// The checkpoint it goes on from.
        checkpoint: PathBuf,
    },
}

/// How weights came about, for `model.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// What the run was told, at its end.
    pub settings: TrainSettings,
    /// How training images were changed at random, at its end.
    pub augment: Augment,
    /// What held before, where it was resumed with other settings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Phase>,
    /// SHA-256 of the weights that it started from, where they were not random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_sha256: Option<String>,
    /// SHA-256 of the weights of the teacher, where one stood in for the labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher_sha256: Option<String>,
    /// Updates made.
    pub steps: u64,
    /// Images in the training set that could be read.
    pub images: usize,
    /// Images in the training set that could not be read.
    #[serde(default)]
    pub skipped: usize,
    /// Seconds of training.
    pub seconds: f64,
}

/// Threads that make batches beside `threads` that compute: half as many. What they do costs a few percent of a step on a CPU; a GPU is
/// kept waiting by fewer.
#[must_use]
pub fn loader_threads(threads: usize) -> usize {
    (threads / 2).max(1)
}
