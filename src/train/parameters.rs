//! The shared weights as libtorch tensors: one flat buffer, in which every named tensor is a window.
//!
//! An update then is a handful of operations on one long vector instead of several on each of a hundred short ones.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tch::{Device, Kind, Tensor as Torch};

use super::TrainError;
use crate::checkpoint::{Tensor, Weights};

/// All shared tensors of a single-stage model, ready to be differentiated.
#[derive(Debug)]
pub struct Parameters {
    /// Every value, tensor after tensor in the order of `slots`; shares its memory with `leaves`.
    flat: Torch,
    slots: Vec<Slot>,
    leaves: HashMap<String, Torch>,
}

/// Where a tensor lies.
#[derive(Debug, Clone)]
struct Slot {
    name: String,
    shape: Vec<usize>,
}

impl Slot {
    fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Parameters {
    /// Copies `weights` into a flat buffer on `device`.
    #[must_use]
    pub fn new(weights: &Weights, device: Device) -> Self {
        let slots = weights.iter().map(|(name, t)| Slot { name: name.to_owned(), shape: t.shape.clone() }).collect();
        Self::over(flat(weights).to_device(device), slots)
    }

    /// The same values in the same memory, with gradients of their own.
    #[must_use]
    pub fn replica(&self) -> Self {
        Self::over(self.flat(), self.slots.clone())
    }

    fn over(flat: Torch, slots: Vec<Slot>) -> Self {
        let mut leaves = HashMap::new();
        let mut start = 0;
        for slot in &slots {
            let shape: Vec<i64> = slot.shape.iter().map(|&n| n as i64).collect();
            let window = flat.narrow(0, start, slot.len() as i64).view(shape.as_slice());
            leaves.insert(slot.name.clone(), window.detach().set_requires_grad(true));
            start += slot.len() as i64;
        }
        Self { flat, slots, leaves }
    }

    /// Where the values lie.
    #[must_use]
    pub fn device(&self) -> Device {
        self.flat.device()
    }

    /// The tensor called `name`, at its largest size.
    ///
    /// # Panics
    /// Where there is none: a plan and the weights that it runs on come from the same space.
    pub fn get(&self, name: &str) -> &Torch {
        &self.leaves[name]
    }

    /// Every value in one vector; writing into it changes the tensors.
    pub fn flat(&self) -> Torch {
        self.flat.shallow_clone()
    }

    /// The sum of all gradients so far, laid out as [`Parameters::flat`]; zero where a tensor had none.
    pub fn gradient(&self) -> Torch {
        let parts: Vec<Torch> = self
            .slots
            .iter()
            .map(|slot| {
                let gradient = self.leaves[&slot.name].grad();
                if gradient.defined() {
                    gradient.reshape([-1])
                } else {
                    Torch::zeros([slot.len() as i64], (Kind::Float, self.flat.device()))
                }
            })
            .collect();
        Torch::cat(&parts, 0)
    }

    /// One where a value belongs to one of the tensors `names`, zero elsewhere.
    pub fn mask(&self, names: &BTreeSet<String>) -> Torch {
        let value = |slot: &Slot| if names.contains(&slot.name) { 1.0 } else { 0.0 };
        let values: Vec<f32> = self.slots.iter().flat_map(|slot| std::iter::repeat_n(value(slot), slot.len())).collect();
        Torch::from_slice(&values).to_device(self.device())
    }

    /// The tensors as they are now.
    #[must_use]
    pub fn to_weights(&self) -> Weights {
        self.unflatten(&self.flat)
    }

    /// Cuts a vector laid out as [`Parameters::flat`] into named tensors.
    #[must_use]
    pub fn unflatten(&self, flat: &Torch) -> Weights {
        let values = to_vec(flat);
        let mut rest = values.as_slice();
        let mut tensors = BTreeMap::new();
        for slot in &self.slots {
            let (data, after) = rest.split_at(slot.len());
            tensors.insert(slot.name.clone(), Tensor { shape: slot.shape.clone(), data: data.to_vec() });
            rest = after;
        }
        Weights::new(tensors)
    }

    /// Replaces every value.
    ///
    /// # Errors
    /// [`TrainError::Layout`] where `weights` does not have exactly the tensors of this model.
    pub fn assign(&self, weights: &Weights) -> Result<(), TrainError> {
        let values = self.flatten(weights)?;
        tch::no_grad(|| self.flat().copy_(&values));
        Ok(())
    }

    /// The inverse of [`Parameters::unflatten`].
    ///
    /// # Errors
    /// [`TrainError::Layout`] where `tensors` does not have exactly the tensors of this model.
    pub fn flatten(&self, tensors: &Weights) -> Result<Torch, TrainError> {
        let same = tensors.iter().map(|(name, t)| (name, &t.shape)).eq(self.slots.iter().map(|slot| (slot.name.as_str(), &slot.shape)));
        if !same {
            return Err(TrainError::Layout);
        }
        Ok(flat(tensors).to_device(self.device()))
    }
}

/// All values, tensor after tensor.
fn flat(weights: &Weights) -> Torch {
    let values: Vec<f32> = weights.iter().flat_map(|(_, t)| t.data.iter().copied()).collect();
    Torch::from_slice(&values)
}

/// The values of a float32 tensor in row-major order.
pub(super) fn to_vec(tensor: &Torch) -> Vec<f32> {
    let contiguous = tensor.contiguous().to_device(Device::Cpu);
    let mut values = vec![0.0; contiguous.numel()];
    contiguous.copy_data(&mut values, contiguous.numel());
    values
}
