//! RMSProp as TensorFlow computes it, which the paper's learning rates assume; and SGD with Nesterov's momentum.
//!
//! libtorch's own RMSProp differs in three ways that change results: it adds epsilon outside the root, starts the mean square
//! at zero, and applies the learning rate outside the momentum.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tch::Tensor as Torch;

use super::TrainError;
use super::parameters::Parameters;
use crate::checkpoint::Weights;

/// Settings of the optimiser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimiserSettings {
    /// Which rule.
    pub kind: OptimiserKind,
    /// Decay of the mean square; RMSProp's.
    pub decay: f64,
    /// Momentum.
    pub momentum: f64,
    /// Added to the mean square under the root; RMSProp's.
    pub epsilon: f64,
    /// L2 penalty: this times a weight is added to its gradient. Batch norms and biases have none, nor have weights that only
    /// children without regularisation use.
    pub weight_decay: f64,
}

/// How gradients become updates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimiserKind {
    /// RMSProp with momentum, as TensorFlow has it.
    #[default]
    RmsProp,
    /// Stochastic gradient descent with Nesterov's momentum.
    Sgd,
}

impl Default for OptimiserSettings {
    fn default() -> Self {
        Self { kind: OptimiserKind::RmsProp, decay: 0.9, momentum: 0.9, epsilon: 1e-3, weight_decay: 1e-5 }
    }
}

/// The optimiser and what it remembers, laid out as [`Parameters::flat`].
#[derive(Debug)]
pub struct Optimiser {
    settings: OptimiserSettings,
    mean_square: Torch,
    momentum: Torch,
    /// `weight_decay` where it applies, 0 elsewhere.
    weight_decay: Torch,
}

impl Optimiser {
    /// A fresh optimiser: mean squares at one, momentum at zero. Weight decay reaches the tensors `decayed`.
    #[must_use]
    pub fn new(settings: OptimiserSettings, parameters: &Parameters, decayed: &BTreeSet<String>) -> Self {
        let flat = parameters.flat();
        let weight_decay = parameters.mask(decayed) * settings.weight_decay;
        Self { mean_square: flat.ones_like(), momentum: flat.zeros_like(), weight_decay, settings }
    }

    /// An optimiser that goes on from what [`Optimiser::state`] gave.
    ///
    /// # Errors
    /// [`TrainError::Layout`] where the state is of another model.
    pub fn resume(
        settings: OptimiserSettings,
        parameters: &Parameters,
        decayed: &BTreeSet<String>,
        state: &OptimiserState,
    ) -> Result<Self, TrainError> {
        let mean_square = parameters.flatten(&state.mean_square)?;
        let momentum = parameters.flatten(&state.momentum)?;
        Ok(Self { mean_square, momentum, ..Self::new(settings, parameters, decayed) })
    }

    /// Applies `gradient`, laid out as [`Parameters::flat`], to `parameters` with learning rate `rate`.
    ///
    /// The penalty is added once a step: only one child, the biggest, is regularised.
    pub fn update(&mut self, parameters: &Parameters, gradient: &Torch, rate: f64) {
        tch::no_grad(|| {
            let mut flat = parameters.flat();
            let mut gradient = gradient.addcmul(&flat, &self.weight_decay);
            match self.settings.kind {
                OptimiserKind::RmsProp => {
                    let _ = self.mean_square.lerp_(&gradient.square(), 1.0 - self.settings.decay);
                    let root = (&self.mean_square + self.settings.epsilon).sqrt_();
                    let _ = gradient.g_mul_scalar_(rate).g_div_(&root);
                    let _ = self.momentum.g_mul_scalar_(self.settings.momentum).g_add_(&gradient);
                    let _ = flat.g_sub_(&self.momentum);
                }
                OptimiserKind::Sgd => {
                    let _ = self.momentum.g_mul_scalar_(self.settings.momentum).g_add_(&gradient);
                    let _ = gradient.g_add_(&(&self.momentum * self.settings.momentum));
                    let _ = flat.g_sub_(&(gradient * rate));
                }
            }
        });
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
    /// Momentum; RMSProp's includes the learning rate.
    pub momentum: Weights,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tch::Device;

    use super::*;
    use crate::checkpoint::Tensor;

    const WEIGHT: [f32; 4] = [0.5, -1.0, 2.0, 0.25];
    const GAMMA: [f32; 2] = [1.0, -0.5];

    fn parameters() -> Parameters {
        tch::set_num_threads(1);
        let tensors = [
            ("a.weight", Tensor { shape: vec![2, 2], data: WEIGHT.to_vec() }),
            ("a.bn.weight", Tensor { shape: vec![2], data: GAMMA.to_vec() }),
        ];
        Parameters::new(&Weights::new(BTreeMap::from(tensors.map(|(name, tensor)| (name.to_owned(), tensor)))), Device::Cpu)
    }

    fn decayed() -> BTreeSet<String> {
        BTreeSet::from(["a.weight".to_owned()])
    }

    /// A gradient that has the given values for some tensors, and zero for the others.
    fn given_all(parameters: &Parameters, values: &[(&str, &[f32])]) -> Torch {
        let replica = parameters.replica();
        for (name, values) in values {
            let factors = Torch::from_slice(values).view_as(replica.get(name));
            (replica.get(name) * factors).sum(tch::Kind::Float).backward();
        }
        replica.gradient()
    }

    fn given(parameters: &Parameters, weight: &[f32]) -> Torch {
        given_all(parameters, &[("a.weight", weight)])
    }

    /// TensorFlow's RMSProp with momentum, as its documentation states it, for one value and in double precision.
    struct ByHand {
        value: f64,
        mean_square: f64,
        momentum: f64,
    }

    impl ByHand {
        fn new(value: f32) -> Self {
            Self { value: f64::from(value), mean_square: 1.0, momentum: 0.0 }
        }

        fn update(&mut self, gradient: f64, rate: f64) {
            self.mean_square = 0.9 * self.mean_square + 0.1 * gradient * gradient;
            self.momentum = 0.9 * self.momentum + rate * gradient / (self.mean_square + 0.001).sqrt();
            self.value -= self.momentum;
        }
    }

    #[test]
    fn updates_are_tensorflows() {
        let parameters = parameters();
        let mut optimiser =
            Optimiser::new(OptimiserSettings { weight_decay: 0.01, ..OptimiserSettings::default() }, &parameters, &decayed());
        let (mut weights, mut gammas) = (WEIGHT.map(ByHand::new), GAMMA.map(ByHand::new));
        for (step, rate) in [0.1, 0.05, 0.2, 0.0].into_iter().enumerate() {
            let gradient = [0.3, -2.0, 0.0, 1e-3].map(|g: f32| g * (1.0 - 0.7 * step as f32));
            let both: [(&str, &[f32]); 2] = [("a.weight", &gradient), ("a.bn.weight", &gradient[..2])];
            optimiser.update(&parameters, &given_all(&parameters, &both), rate);
            weights.iter_mut().zip(gradient).for_each(|(w, g)| w.update(f64::from(g) + 0.01 * w.value, rate));
            gammas.iter_mut().zip(gradient).for_each(|(w, g)| w.update(f64::from(g), rate));
        }
        let found = parameters.to_weights();
        for (name, expected) in [("a.weight", &weights[..]), ("a.bn.weight", &gammas[..])] {
            for (value, expected) in found.get(name).unwrap().data.iter().zip(expected) {
                assert!((f64::from(*value) - expected.value).abs() < 1e-6, "{name}: {value}, not {}", expected.value);
            }
        }
    }

    /// Nesterov's rule as PyTorch's documentation states it, by hand.
    #[test]
    fn sgd_is_nesterovs() {
        let parameters = parameters();
        let settings = OptimiserSettings { kind: OptimiserKind::Sgd, weight_decay: 0.01, ..OptimiserSettings::default() };
        let mut optimiser = Optimiser::new(settings, &parameters, &decayed());
        let (mut value, mut momentum) = (f64::from(WEIGHT[0]), 0.0);
        for (gradient, rate) in [(0.3, 0.1), (-2.0, 0.05), (1.0, 0.2)] {
            optimiser.update(&parameters, &given(&parameters, &[gradient as f32, 0.0, 0.0, 0.0]), rate);
            let gradient = gradient + 0.01 * value;
            momentum = 0.9 * momentum + gradient;
            value -= rate * (gradient + 0.9 * momentum);
        }
        let found = parameters.to_weights().get("a.weight").unwrap().data[0];
        assert!((f64::from(found) - value).abs() < 1e-6, "{found}, not {value}");
    }

    #[test]
    fn the_penalty_reaches_weights_but_no_batch_norm() {
        let parameters = parameters();
        let mut optimiser =
            Optimiser::new(OptimiserSettings { weight_decay: 0.1, ..OptimiserSettings::default() }, &parameters, &decayed());
        optimiser.update(&parameters, &given(&parameters, &[0.0; 4]), 0.1);
        let found = parameters.to_weights();
        assert_eq!(found.get("a.bn.weight").unwrap().data, GAMMA);
        for (value, before) in found.get("a.weight").unwrap().data.iter().zip(WEIGHT) {
            assert!(value.abs() < before.abs(), "{before} became {value}");
        }
    }

    #[test]
    fn a_resumed_optimiser_computes_what_the_first_would() {
        let (first, settings) = (parameters(), OptimiserSettings::default());
        let mut optimiser = Optimiser::new(settings.clone(), &first, &decayed());
        optimiser.update(&first, &given(&first, &[1.0, 2.0, 3.0, 4.0]), 0.1);
        let second = Parameters::new(&first.to_weights(), Device::Cpu);
        let mut resumed = Optimiser::resume(settings, &second, &decayed(), &optimiser.state(&first)).unwrap();
        for (parameters, optimiser) in [(&first, &mut optimiser), (&second, &mut resumed)] {
            optimiser.update(parameters, &given(parameters, &[-1.0, 0.5, 0.0, 1.0]), 0.1);
        }
        assert_eq!(first.to_weights(), second.to_weights());
    }
}
