//! What a checkpoint knows beside its tensors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::TrainError;
use super::job::{Job, Wanted};
use super::settings::TrainSettings;
use crate::checkpoint::CLASSES;
use crate::data::{Augment, DataError};
use crate::image::Preprocessing;
use crate::space::SearchSpace;

/// What a checkpoint knows beside its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// Updates done.
    pub step: u64,
    /// Training images.
    #[serde(default)]
    pub images: usize,
    /// Of them, unreadable ones: as many as the session found that met the most.
    #[serde(default)]
    pub skipped: usize,
    /// Updates an epoch.
    pub steps_per_epoch: u64,
    /// Seconds of training so far, over all sessions.
    pub seconds: f64,
    /// What the run was told.
    pub settings: TrainSettings,
    /// The search space.
    pub space: SearchSpace,
    /// What the network expects of its input images.
    pub preprocessing: Preprocessing,
    /// How training images are changed at random.
    pub augment: Augment,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Whether a teacher stands in for the labels.
    #[serde(default)]
    pub taught: bool,
    /// SHA-256 of the weights that it started from, where they were not random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_sha256: Option<String>,
    /// SHA-256 of the teacher's weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher_sha256: Option<String>,
    /// What held before, where a resumed run was told otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Phase>,
    /// What the model that the run ends in is to have, where somebody said.
    #[serde(default, skip_serializing_if = "Wanted::is_nothing")]
    pub wanted: Wanted,
    /// SHA-256 of every file of the checkpoint.
    #[serde(default)]
    pub sha256: BTreeMap<String, String>,
}

/// A part of a run, from the end of the one before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Updates done at its end.
    pub until_step: u64,
    /// What it was told.
    pub settings: TrainSettings,
    /// How it changed training images at random.
    pub augment: Augment,
}

impl RunState {
    /// The state of a run of `job` before its first step, where its images can be trained on.
    pub(super) fn first(job: &Job<'_>, settings: &TrainSettings) -> Result<Self, TrainError> {
        let (images, space) = (job.train.preprocessing.channels(), job.space.input_channels);
        if images != space {
            return Err(TrainError::Channels { images, space });
        }
        let count = job.train.images.classes().len();
        if !CLASSES.contains(&count) {
            return Err(TrainError::Classes { count });
        }
        let (len, batch_size) = (job.train.images.len(), settings.batch_size);
        if len < batch_size {
            return Err(DataError::TooFew { len, batch_size }.into());
        }
        Ok(Self {
            step: 0,
            images: len,
            skipped: 0,
            steps_per_epoch: (len / batch_size) as u64,
            seconds: 0.0,
            settings: settings.clone(),
            space: job.space.clone(),
            preprocessing: job.train.preprocessing.clone(),
            augment: job.train.augment.clone(),
            classes: job.train.images.classes().to_vec(),
            taught: job.teacher.is_some(),
            start_sha256: job.start.map(|given| given.sha256.to_owned()),
            teacher_sha256: job.teacher.map(|given| given.sha256.to_owned()),
            history: Vec::new(),
            wanted: job.wanted.clone(),
            sha256: Default::default(),
        })
    }

    /// What is wrong with a state that nobody could have trained to, if anything.
    pub(super) fn problem(&self) -> Option<String> {
        let (images, batch, steps) = (self.images, self.settings.batch_size, self.steps_per_epoch);
        // States from before the number of images was kept say nothing of it.
        let epoch = images.checked_div(batch).filter(|_| images > 0).map_or(steps, |steps| steps as u64);
        if steps == 0 || steps != epoch {
            return Some(format!("{images} images in batches of {batch} do not make {steps} steps an epoch"));
        }
        let space = self.space.validate().err().map(|error| error.to_string());
        space.or_else(|| self.preprocessing.validate().err().map(|error| error.to_string()))
    }
}
