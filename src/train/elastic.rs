//! The elastic network: any child's forward pass over the shared weights.
//!
//! A child uses the lowest-index channels of every layer, the lowest-index layers of every stage, and the centre of every
//! larger depthwise kernel. Which these are, and every padding, stands in its [`Plan`]; nothing is decided here.

use std::collections::BTreeSet;

use tch::{Device, IndexOp, Tensor as Torch};

use super::norm::Norm;
use super::parameters::Parameters;
use crate::checkpoint::Weights;
use crate::space::{Activation, BlockPlan, ConvPlan, Gate, HeadPlan, Pad, Plan, PoolPlan, SqueezeExcitePlan};

/// The single-stage model in libtorch: the shared weights, and the forward pass of every child.
#[derive(Debug)]
pub struct ElasticNet {
    /// The shared weights.
    pub parameters: Parameters,
}

impl ElasticNet {
    /// Takes the weights of a single-stage model to `device`.
    #[must_use]
    pub fn from_weights(weights: &Weights, device: Device) -> Self {
        Self { parameters: Parameters::new(weights, device) }
    }

    /// A network of the same weights, in the same memory, that gathers gradients of its own: for one thread of several.
    #[must_use]
    pub fn replica(&self) -> Self {
        Self { parameters: self.parameters.replica() }
    }

    /// The weights as they are now.
    #[must_use]
    pub fn to_weights(&self) -> Weights {
        self.parameters.to_weights()
    }

    /// Logits `[N, classes]` of the child of `plan` for normalised `images`, `[N, C, R, R]` at the child's resolution.
    ///
    /// `dropout` is what the features before the classifier are multiplied with, `[N, features]`; none outside training.
    pub fn forward(&self, plan: &Plan, images: &Torch, norm: &mut Norm<'_>, dropout: Option<&Torch>) -> Torch {
        let mut pass = Pass { parameters: &self.parameters, norm, eps: plan.bn_eps };
        let mut x = pass.conv(&plan.stem, &channels_last(images));
        for block in &plan.blocks {
            x = pass.block(block, &x);
        }
        let features = pass.head(&plan.head, &x);
        let features = dropout.map_or_else(|| features.shallow_clone(), |factors| &features * factors);
        let weight = self.parameters.get("classifier.weight").narrow(1, 0, plan.head.features as i64);
        features.linear(&weight, Some(self.parameters.get("classifier.bias")))
    }

    /// Sum of the squares of all weights that the child of `plan` has; batch norms and biases do not count.
    pub fn squared_weights(&self, plan: &Plan) -> Torch {
        let square = |weight: Torch| weight.square().sum(tch::Kind::Float);
        let convs =
            plan.convs().map(|conv| square(slice_kernel(self.parameters.get(&format!("{}.weight", conv.name)), conv.weight_shape())));
        let squeezes = plan.blocks.iter().filter_map(|block| block.squeeze_excite.as_ref()).flat_map(|squeeze| {
            let (reduced, channels) = (squeeze.reduced as i64, squeeze.channels as i64);
            [("reduce", [reduced, channels]), ("expand", [channels, reduced])].map(|(layer, [c_out, c_in])| {
                square(self.parameters.get(&format!("{}.{layer}.weight", squeeze.name)).narrow(0, 0, c_out).narrow(1, 0, c_in))
            })
        });
        let classifier = square(self.parameters.get("classifier.weight").narrow(1, 0, plan.head.features as i64));
        convs.chain(squeezes).fold(classifier, |sum, square| sum + square)
    }
}

/// The names of the weights that the child of `plan` has: of convolutions and linear layers, without batch norms and biases.
#[must_use]
pub fn weight_names(plan: &Plan) -> BTreeSet<String> {
    let squeezes = plan.blocks.iter().filter_map(|block| block.squeeze_excite.as_ref());
    let squeezes = squeezes.flat_map(|squeeze| ["reduce", "expand"].map(|layer| format!("{}.{layer}.weight", squeeze.name)));
    plan.convs().map(|conv| format!("{}.weight", conv.name)).chain(squeezes).chain(["classifier.weight".to_owned()]).collect()
}

/// The same values with the channels innermost in memory, the layout in which these networks run fastest on a CPU.
///
/// Every later layer keeps the layout of its input.
fn channels_last(x: &Torch) -> Torch {
    let (n, c, h, w) = x.size4().expect("images are [N, C, H, W]");
    // The strides are set, not left to `contiguous`: a grey image lies the same in both layouts, and libtorch would infer the other.
    x.permute([0, 2, 3, 1]).contiguous().as_strided([n, c, h, w], [h * w * c, 1, w * c, c], None)
}

/// One forward pass.
struct Pass<'a, 'n, 's> {
    parameters: &'a Parameters,
    norm: &'n mut Norm<'s>,
    eps: f64,
}

impl Pass<'_, '_, '_> {
    /// Convolution, batch norm, activation, as far as `plan` has them.
    fn conv(&mut self, plan: &ConvPlan, x: &Torch) -> Torch {
        let weight = slice_kernel(self.parameters.get(&format!("{}.weight", plan.name)), plan.weight_shape());
        let x = convolve(plan, x, &weight);
        let x = if plan.norm { self.batch_norm(plan, &x) } else { x };
        plan.activation.map_or_else(|| x.shallow_clone(), |activation| activate(activation, &x))
    }

    fn batch_norm(&mut self, plan: &ConvPlan, x: &Torch) -> Torch {
        let first = |part: &str| self.parameters.get(&format!("{}.bn.{part}", plan.name)).narrow(0, 0, plan.c_out as i64);
        self.norm.apply(&plan.name, x, &first("weight"), &first("bias"), self.eps)
    }

    fn block(&mut self, plan: &BlockPlan, input: &Torch) -> Torch {
        let expanded = plan.expand.as_ref().map(|conv| self.conv(conv, input));
        let mut x = self.conv(&plan.depthwise, expanded.as_ref().unwrap_or(input));
        if let Some(squeeze) = &plan.squeeze_excite {
            x = self.squeeze_excite(squeeze, &x);
        }
        let x = self.conv(&plan.project, &x);
        if plan.skip { x + self.shortcut(plan, input) } else { x }
    }

    fn shortcut(&mut self, plan: &BlockPlan, input: &Torch) -> Torch {
        let pooled = plan.pool.as_ref().map_or_else(|| input.shallow_clone(), |plan| average_pool(plan, input));
        plan.shortcut.as_ref().map_or_else(|| pooled.shallow_clone(), |conv| self.conv(conv, &pooled))
    }

    /// Gates the channels of `x` by its global mean; the two 1×1 convolutions are linear layers of that mean.
    fn squeeze_excite(&mut self, plan: &SqueezeExcitePlan, x: &Torch) -> Torch {
        let (reduced, channels) = (plan.reduced as i64, plan.channels as i64);
        let linear = |layer: &str, x: &Torch, [c_out, c_in]: [i64; 2]| {
            let weight = self.parameters.get(&format!("{}.{layer}.weight", plan.name));
            let bias = self.parameters.get(&format!("{}.{layer}.bias", plan.name)).narrow(0, 0, c_out);
            x.linear(&weight.narrow(0, 0, c_out).narrow(1, 0, c_in).reshape([c_out, c_in]), Some(bias))
        };
        let squeezed = activate(plan.activation, &linear("reduce", &global_mean(x), [reduced, channels]));
        let excited = linear("expand", &squeezed, [channels, reduced]);
        let gate = match plan.gate {
            Gate::Sigmoid => excited.sigmoid(),
            Gate::HardSigmoid => excited.hardsigmoid(),
        };
        x * gate.reshape([-1, channels, 1, 1])
    }

    /// The classifier's input, `[N, features]`.
    fn head(&mut self, plan: &HeadPlan, x: &Torch) -> Torch {
        let pooled = global_mean(&self.conv(&plan.conv, x));
        let Some(mix) = &plan.mix else { return pooled };
        let mixed = self.conv(mix, &pooled.unsqueeze(-1).unsqueeze(-1));
        mixed.i((.., .., 0, 0))
    }
}

/// The first `c_out` and `c_in` channels and the centre of the kernel.
fn slice_kernel(weight: &Torch, [c_out, c_in, kernel, _]: [usize; 4]) -> Torch {
    let (kernel, whole) = (kernel as i64, weight.size()[2]);
    let start = (whole - kernel) / 2;
    let slice = weight.narrow(0, 0, c_out as i64).narrow(1, 0, c_in as i64);
    if kernel == whole { slice } else { slice.narrow(2, start, kernel).narrow(3, start, kernel) }
}

/// The convolution of `plan` alone.
///
/// libtorch pads both sides alike. Where they are not alike, more padding than either needs moves the result by whole pixels, and what
/// is too much is cut off: that copies the output, where padding beforehand would copy the largest map of a block.
fn convolve(plan: &ConvPlan, x: &Torch, weight: &Torch) -> Torch {
    let Pad { begin, end } = plan.pad;
    let moved = end.saturating_sub(begin).div_ceil(plan.stride);
    let padding = (begin + moved * plan.stride) as i64;
    let groups = if plan.depthwise() { plan.c_in as i64 } else { 1 };
    let y = x.conv2d(weight, None::<Torch>, [plan.stride as i64; 2], [padding; 2], [1, 1], groups);
    if begin == end {
        return y;
    }
    let (moved, side) = (moved as i64, plan.size_out as i64);
    let y = y.narrow(2, moved, side).narrow(3, moved, side);
    // Dense again, with the channels still innermost: batch norm is slow on anything else.
    y.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

fn average_pool(plan: &PoolPlan, x: &Torch) -> Torch {
    // In libtorch what lies beyond the edge in ceiling mode is not counted, but explicit padding is.
    let (x, ceil) = if plan.count_padding {
        let (begin, end) = (plan.pad.begin as i64, plan.pad.end as i64);
        (x.constant_pad_nd([begin, end, begin, end]), false)
    } else {
        (x.shallow_clone(), true)
    };
    x.avg_pool2d([2, 2], [2, 2], [0, 0], ceil, false, None)
}

/// Mean over both spatial dimensions, `[N, C]`.
///
/// Not `mean_dim`: its gradient divides a whole map, where this divides one value a channel.
fn global_mean(x: &Torch) -> Torch {
    let pixels = x.size()[2..].iter().product::<i64>() as f64;
    x.sum_dim_intlist([2i64, 3].as_slice(), false, x.kind()) / pixels
}

fn activate(activation: Activation, x: &Torch) -> Torch {
    match activation {
        Activation::Swish => x.silu(),
        Activation::Relu => x.relu(),
        Activation::HardSwish => x.hardswish(),
    }
}
