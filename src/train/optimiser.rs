//! RMSProp as TensorFlow computes it, which the paper's learning rates assume.
//!
//! libtorch's own differs in three ways that change results: it adds epsilon outside the root, starts the mean square at
//! zero, and applies the learning rate outside the momentum.

use serde::{Deserialize, Serialize};
use tch::Tensor as Torch;

use super::TrainError;
use super::parameters::Parameters;
use crate::checkpoint::Weights;

/// Settings of the optimiser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RmsPropSettings {
    /// Decay of the mean square.
    pub decay: f64,
    /// Momentum.
    pub momentum: f64,
    /// Added to the mean square under the root.
    pub epsilon: f64,
    /// L2 penalty: this times a weight is added to its gradient. Batch norms and biases have none.
    pub weight_decay: f64,
}

impl Default for RmsPropSettings {
    fn default() -> Self {
        Self { decay: 0.9, momentum: 0.9, epsilon: 1e-3, weight_decay: 1e-5 }
    }
}

/// The optimiser and what it remembers, laid out as [`Parameters::flat`].
#[derive(Debug)]
pub struct RmsProp {
    settings: RmsPropSettings,
    mean_square: Torch,
    momentum: Torch,
    /// `weight_decay` where it applies, 0 elsewhere.
    weight_decay: Torch,
}

impl RmsProp {
    /// A fresh optimiser: mean squares at one, momentum at zero.
    #[must_use]
    pub fn new(settings: RmsPropSettings, parameters: &Parameters) -> Self {
        let flat = parameters.flat();
        let weight_decay = parameters.weight_mask() * settings.weight_decay;
        Self { mean_square: flat.ones_like(), momentum: flat.zeros_like(), weight_decay, settings }
    }

    /// An optimiser that goes on from what [`RmsProp::state`] gave.
    ///
    /// # Errors
    /// [`TrainError::Layout`] where the state is of another model.
    pub fn resume(settings: RmsPropSettings, parameters: &Parameters, state: &OptimiserState) -> Result<Self, TrainError> {
        let mean_square = parameters.flatten(&state.mean_square)?;
        let momentum = parameters.flatten(&state.momentum)?;
        Ok(Self { mean_square, momentum, ..Self::new(settings, parameters) })
    }

    /// Applies the summed gradients of `parameters` once, with learning rate `rate`, and forgets them.
    ///
    /// The penalty is added once a step and reaches every weight: the biggest child, the only one that is regularised, has all.
    pub fn update(&mut self, parameters: &mut Parameters, rate: f64) {
        tch::no_grad(|| {
            let mut flat = parameters.flat();
            let mut gradient = parameters.gradient();
            let _ = gradient.addcmul_(&flat, &self.weight_decay);
            let _ = self.mean_square.lerp_(&gradient.square(), 1.0 - self.settings.decay);
            let root = (&self.mean_square + self.settings.epsilon).sqrt_();
            let _ = gradient.g_mul_scalar_(rate).g_div_(&root);
            let _ = self.momentum.g_mul_scalar_(self.settings.momentum).g_add_(&gradient);
            let _ = flat.g_sub_(&self.momentum);
        });
        parameters.zero_gradients();
    }

    /// What has to be kept to go on exactly.
    #[must_use]
    pub fn state(&self, parameters: &Parameters) -> OptimiserState {
        OptimiserState { mean_square: parameters.unflatten(&self.mean_square), momentum: parameters.unflatten(&self.momentum) }
    }
}

/// What the optimiser remembers, by the names of the weights.
#[derive(Debug, Clone, PartialEq)]
pub struct OptimiserState {
    /// Decaying mean of the squared gradients.
    pub mean_square: Weights,
    /// Momentum, the learning rate included.
    pub momentum: Weights,
}
