//! Slicing: the weights of one child, cut out of the single-stage model.
//!
//! Weights and a plan in, a sliced network out: the lowest-index channels of every layer, the lowest-index layers of every
//! stage, the centre of every larger depthwise kernel (paper, 3.1 and 4.1). Nothing is trained, rescaled or read from disk.
//! Refused are weights that lack a tensor of the plan, or hold it smaller than the plan needs.

use std::collections::BTreeMap;
use std::ops::Range;

use thiserror::Error;

use crate::checkpoint::{Tensor, Weights};
use crate::space::{ConvPlan, Part, Plan, SqueezeExcitePlan};

/// One child with its own weights, each of exactly the shape that its plan gives. Its batch norms have no statistics yet.
#[derive(Debug, Clone)]
pub struct SlicedNet {
    plan: Plan,
    tensors: BTreeMap<String, Tensor>,
}

/// Some parts of one child, side by side, with their weights.
#[derive(Debug, Clone)]
pub struct SlicedSegment {
    /// The plan of the whole child; of its tensors, only those of `parts`.
    layers: SlicedNet,
    parts: Range<usize>,
}

/// Weights that do not hold the child.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SliceError {
    /// A tensor of the plan is absent.
    #[error("the weights lack {name}: they belong to another search space")]
    Missing {
        /// Name of the tensor.
        name: String,
    },
    /// A tensor is smaller than the child needs.
    #[error("{name} has shape {available:?}, but the child needs {asked:?}: the weights belong to another search space")]
    Small {
        /// Name of the tensor.
        name: String,
        /// Shape that the plan asks for.
        asked: Vec<usize>,
        /// Shape in the weights.
        available: Vec<usize>,
    },
}

/// Cuts the child of `plan` out of `weights`.
///
/// A convolution `[c_out, c_in, k, k]` gives its first output and input channels and the centre of its kernel; a vector `[c]`
/// its first entries.
///
/// # Errors
/// [`SliceError`] where a tensor is missing or too small.
pub fn slice(weights: &Weights, plan: &Plan) -> Result<SlicedNet, SliceError> {
    let parts = 0..plan.parts().count();
    Ok(slice_segment(weights, plan, parts)?.layers)
}

/// Cuts the `parts` of the child of `plan` out of `weights`, in the numbering of [`Plan::parts`].
///
/// # Errors
/// As [`slice()`].
pub fn slice_segment(weights: &Weights, plan: &Plan, parts: Range<usize>) -> Result<SlicedSegment, SliceError> {
    let mut cut = Cut { weights, tensors: BTreeMap::new() };
    for part in plan.parts().skip(parts.start).take(parts.len()) {
        cut.part(part)?;
    }
    Ok(SlicedSegment { layers: SlicedNet { plan: plan.clone(), tensors: cut.tensors }, parts })
}

impl SlicedSegment {
    /// The whole child's plan with the tensors of the segment.
    pub(crate) fn layers(&self) -> &SlicedNet {
        &self.layers
    }

    /// The parts of the segment, in the order in which they run.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        self.layers.plan.parts().skip(self.parts.start).take(self.parts.len())
    }
}

impl SlicedNet {
    /// The plan that the weights follow.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The sliced tensor called `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }
}

struct Cut<'a> {
    weights: &'a Weights,
    tensors: BTreeMap<String, Tensor>,
}

impl Cut<'_> {
    fn part(&mut self, part: Part<'_>) -> Result<(), SliceError> {
        for conv in part.convs() {
            self.conv(conv)?;
        }
        match part {
            Part::Stem(_) => Ok(()),
            Part::Block(block) => block.squeeze_excite.as_ref().map_or(Ok(()), |squeeze| self.squeeze_excite(squeeze)),
            Part::Head { head, classes } => {
                self.tensor("classifier.weight", &[classes, head.features])?;
                self.tensor("classifier.bias", &[classes])
            }
        }
    }

    fn conv(&mut self, conv: &ConvPlan) -> Result<(), SliceError> {
        self.tensor(&format!("{}.weight", conv.name), &conv.weight_shape())?;
        if conv.norm {
            self.tensor(&format!("{}.bn.weight", conv.name), &[conv.c_out])?;
            self.tensor(&format!("{}.bn.bias", conv.name), &[conv.c_out])?;
        }
        Ok(())
    }

    fn squeeze_excite(&mut self, squeeze: &SqueezeExcitePlan) -> Result<(), SliceError> {
        let SqueezeExcitePlan { name, channels, reduced, .. } = squeeze;
        self.tensor(&format!("{name}.reduce.weight"), &[*reduced, *channels, 1, 1])?;
        self.tensor(&format!("{name}.reduce.bias"), &[*reduced])?;
        self.tensor(&format!("{name}.expand.weight"), &[*channels, *reduced, 1, 1])?;
        self.tensor(&format!("{name}.expand.bias"), &[*channels])
    }

    fn tensor(&mut self, name: &str, asked: &[usize]) -> Result<(), SliceError> {
        let full = self.weights.get(name).ok_or_else(|| SliceError::Missing { name: name.to_owned() })?;
        let fits = full.shape.len() == asked.len() && full.shape.iter().zip(asked).all(|(have, need)| have >= need);
        if !fits {
            return Err(SliceError::Small { name: name.to_owned(), asked: asked.to_vec(), available: full.shape.clone() });
        }
        self.tensors.insert(name.to_owned(), corner_and_centre(full, asked));
        Ok(())
    }
}

/// The first entries along the channel dimensions, the centre along the two of the kernel.
fn corner_and_centre(full: &Tensor, asked: &[usize]) -> Tensor {
    if full.shape == asked {
        return full.clone();
    }
    // Every tensor is seen as [c_out, c_in, kernel, kernel]; a vector is [c, 1, 1, 1].
    let four = |shape: &[usize]| -> [usize; 4] { std::array::from_fn(|i| shape.get(i).copied().unwrap_or(1)) };
    let (whole, part) = (four(&full.shape), four(asked));
    let offset = [(whole[2] - part[2]) / 2, (whole[3] - part[3]) / 2];
    let mut data = Vec::with_capacity(part.iter().product());
    for o in 0..part[0] {
        for i in 0..part[1] {
            for y in 0..part[2] {
                let row = ((o * whole[1] + i) * whole[2] + y + offset[0]) * whole[3] + offset[1];
                data.extend_from_slice(&full.data[row..row + part[3]]);
            }
        }
    }
    Tensor { shape: asked.to_vec(), data }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checkpoint::GammaInit;
    use crate::space::{Draw, PRESETS, layout, preset};

    #[test]
    fn a_small_kernel_is_the_centre_of_the_large_one() {
        let full = Tensor { shape: vec![2, 1, 5, 5], data: (0..50).map(|v| v as f32).collect() };
        let cut = corner_and_centre(&full, &[1, 1, 3, 3]);
        assert_eq!(cut.data, [6., 7., 8., 11., 12., 13., 16., 17., 18.]);
    }

    #[test]
    fn channels_come_from_the_front() {
        let full = Tensor { shape: vec![3, 2, 1, 1], data: vec![0., 1., 10., 11., 20., 21.] };
        assert_eq!(corner_and_centre(&full, &[2, 1, 1, 1]).data, [0., 10.]);
        let vector = Tensor { shape: vec![3], data: vec![5., 6., 7.] };
        assert_eq!(corner_and_centre(&vector, &[2]).data, [5., 6.]);
        let matrix = Tensor { shape: vec![2, 3], data: vec![0., 1., 2., 3., 4., 5.] };
        assert_eq!(corner_and_centre(&matrix, &[2, 2]).data, [0., 1., 3., 4.]);
    }

    #[test]
    fn weights_of_another_space_are_refused() {
        let (small, large) = (preset("fashion-mnist").unwrap(), preset("bignas").unwrap());
        let weights = Weights::random(&layout(&small, 10), 0, GammaInit::One);
        let plan = Plan::new(&large, &large.smallest(), 10);
        let message = slice(&weights, &plan).unwrap_err().to_string();
        assert!(message.contains("stem.weight has shape [12, 1, 3, 3], but the child needs [32, 3, 3, 3]"), "{message}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Every value of a sliced tensor is the value at the same channel and the same distance from the kernel's centre.
        #[test]
        fn every_value_comes_from_its_own_place(seed in any::<u64>(), preset_index in 0..PRESETS.len()) {
            let space = preset(PRESETS[preset_index]).unwrap();
            let weights = Weights::random(&layout(&space, 10), 1, GammaInit::Random);
            let plan = Plan::new(&space, &space.random(Draw::new(seed, 0, 0)), 10);
            let net = slice(&weights, &plan).unwrap();
            for conv in plan.convs() {
                let name = format!("{}.weight", conv.name);
                let (part, whole) = (net.get(&name).unwrap(), weights.get(&name).unwrap());
                let shape = conv.weight_shape();
                prop_assert_eq!(&part.shape, &shape.to_vec());
                let margin = (whole.shape[2] - conv.kernel) / 2;
                let last = [shape[0] - 1, shape[1] - 1, shape[2] - 1, shape[3] - 1];
                for [o, i, y, x] in [[0; 4], last, [last[0] / 2, last[1] / 2, last[2], 0]] {
                    let at = |t: &Tensor, y: usize, x: usize| t.data[((o * t.shape[1] + i) * t.shape[2] + y) * t.shape[3] + x];
                    prop_assert_eq!(at(part, y, x), at(whole, y + margin, x + margin));
                }
            }
        }
    }
}
