//! An average of the weights over the steps of a run: smoother than the last ones, at no cost when the model is used.

use tch::Tensor as Torch;

use super::TrainError;
use super::elastic::ElasticNet;
use super::parameters::Parameters;
use crate::checkpoint::Weights;

/// An exponential moving average of all shared weights.
#[derive(Debug)]
pub struct Average {
    decay: f64,
    /// Laid out as [`Parameters::flat`].
    flat: Torch,
}

impl Average {
    /// An average that starts at the weights as they are.
    #[must_use]
    pub fn new(decay: f64, parameters: &Parameters) -> Self {
        Self { decay, flat: parameters.flat().detach().copy() }
    }

    /// An average that goes on from `weights`.
    ///
    /// # Errors
    /// [`TrainError::Layout`] where they are of another model.
    pub fn resume(decay: f64, parameters: &Parameters, weights: &Weights) -> Result<Self, TrainError> {
        Ok(Self { decay, flat: parameters.flatten(weights)? })
    }

    /// Takes the weights after update number `step`, from 0, into the average.
    ///
    /// Early on it forgets faster, as TensorFlow's does with a step count: the first weights are worth little.
    pub fn update(&mut self, parameters: &Parameters, step: u64) {
        let young = (1.0 + step as f64) / (10.0 + step as f64);
        tch::no_grad(|| {
            let _ = self.flat.lerp_(&parameters.flat(), 1.0 - self.decay.min(young));
        });
    }

    /// The averaged weights.
    #[must_use]
    pub fn to_weights(&self, parameters: &Parameters) -> Weights {
        parameters.unflatten(&self.flat)
    }

    /// A network of the averaged weights.
    #[must_use]
    pub fn to_net(&self, parameters: &Parameters) -> ElasticNet {
        ElasticNet::from_weights(&self.to_weights(parameters), parameters.device())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tch::Device;

    use super::*;
    use crate::checkpoint::Tensor;

    fn weights(value: f32) -> Weights {
        Weights::new(BTreeMap::from([("a.weight".to_owned(), Tensor { shape: vec![2], data: vec![value, -value] })]))
    }

    #[test]
    fn it_forgets_fast_at_first_and_slowly_later() {
        tch::set_num_threads(1);
        let parameters = Parameters::new(&weights(1.0), Device::Cpu);
        let mut average = Average::new(0.99, &parameters);
        let mut expected = 1.0;
        for (step, value) in [(0, 2.0), (90, 3.0), (100_000, 5.0)] {
            let moved = Parameters::new(&weights(value), Device::Cpu);
            average.update(&moved, step);
            let decay = f64::min(0.99, (1.0 + step as f64) / (10.0 + step as f64));
            expected = decay * expected + (1.0 - decay) * f64::from(value);
            let found = average.to_weights(&moved).get("a.weight").unwrap().data[0];
            assert!((f64::from(found) - expected).abs() < 1e-6, "step {step}: {found}, not {expected}");
        }
        let resumed = Average::resume(0.99, &parameters, &average.to_weights(&parameters)).unwrap();
        assert_eq!(resumed.to_weights(&parameters), average.to_weights(&parameters));
    }
}
