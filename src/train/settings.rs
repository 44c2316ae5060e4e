//! What a training run is told.

use serde::{Deserialize, Serialize};

use super::optimiser::RmsPropSettings;
use super::schedule::Schedule;
use crate::checkpoint::GammaInit;

/// Settings of a training run. The defaults are the paper's, but for the length and the batch, which suit two CPU cores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSettings {
    /// Passes over the training images.
    pub epochs: u64,
    /// Images a step.
    pub batch_size: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Random children a step, beside the smallest and the biggest.
    pub random_children: u64,
    /// Share of the biggest child's target that is spread over all classes.
    pub label_smoothing: f64,
    /// Whether the last batch norm of every residual block starts at zero (paper, 3.1) or, naively, at one.
    pub zero_gamma: bool,
    /// The learning rate.
    pub schedule: Schedule,
    /// The optimiser.
    pub optimiser: RmsPropSettings,
}

impl Default for TrainSettings {
    fn default() -> Self {
        Self {
            epochs: 8,
            batch_size: 128,
            seed: 0,
            random_children: 2,
            label_smoothing: 0.1,
            zero_gamma: true,
            schedule: Schedule::default(),
            optimiser: RmsPropSettings::default(),
        }
    }
}

impl TrainSettings {
    pub(super) fn gamma(&self) -> GammaInit {
        if self.zero_gamma { GammaInit::ZeroLast } else { GammaInit::One }
    }
}
