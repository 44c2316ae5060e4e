//! The supernet's forward pass as its papers and public code describe it, for one child at a time, in plain libtorch.
//!
//! It shares nothing with the program that it examines, and is written to be checked by eye: every layer is sliced where it
//! is used, and multiply-adds are counted from the tensors that were in fact multiplied. Tensors are `[N, C, H, W]`.

use std::collections::BTreeMap;

use serde::Serialize;
use tch::{IndexOp, Kind, Tensor};

/// Tensors by their names in the checkpoint.
pub type Weights = BTreeMap<String, Tensor>;

/// Mean and variance of every batch norm, by its layer's name.
pub type Statistics = BTreeMap<String, (Tensor, Tensor)>;

/// A child as the public repositories write it: widths of stem, stages and last layer; the rest by stage.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    pub resolution: i64,
    pub width: [i64; 9],
    pub depth: [i64; 7],
    pub kernel_size: [i64; 7],
    pub expand_ratio: [i64; 7],
}

/// Of each stage: the most blocks it can have, its stride, and whether it squeezes.
const STAGES: [(i64, i64, bool); 7] = [(2, 1, false), (5, 2, false), (6, 2, true), (6, 2, false), (8, 1, true), (8, 2, true), (2, 1, true)];

const EPSILON: f64 = 1e-5;

/// `crops` at the child's resolution: bicubic with A = -0.75 at half-pixel centres, without antialiasing.
pub fn resize(crops: &Tensor, resolution: i64) -> Tensor {
    crops.upsample_bicubic2d([resolution, resolution], false, None, None)
}

/// The child's statistics: means over `batches` of the batches' means and unbiased variances, each batch normalised by itself.
pub fn recalibrate(weights: &Weights, child: &Config, batches: &[Tensor]) -> Statistics {
    let mut kept = Statistics::new();
    for (index, crops) in batches.iter().enumerate() {
        let mut pass = Pass { weights, statistics: None, seen: Statistics::new(), macs: 0 };
        _ = pass.logits(child, &resize(crops, child.resolution));
        for (name, (mean, variance)) in pass.seen {
            let before = index as f64;
            let update = |old: &Tensor, new: &Tensor| (old * before + new) / (before + 1.0);
            let next = match kept.get(&name) {
                Some((old_mean, old_variance)) => (update(old_mean, &mean), update(old_variance, &variance)),
                None => (mean, variance),
            };
            kept.insert(name, next);
        }
    }
    kept
}

/// Logits `[N, 1000]` of `crops` with the child's `statistics`.
pub fn logits(weights: &Weights, child: &Config, statistics: &Statistics, crops: &Tensor) -> Tensor {
    let mut pass = Pass { weights, statistics: Some(statistics), seen: Statistics::new(), macs: 0 };
    pass.logits(child, &resize(crops, child.resolution))
}

/// Multiply-adds of the child for one image.
pub fn macs(weights: &Weights, child: &Config) -> i64 {
    let side = child.resolution;
    let image = Tensor::zeros([1, 3, side, side], (Kind::Float, tch::Device::Cpu));
    let mut pass = Pass { weights, statistics: None, seen: Statistics::new(), macs: 0 };
    _ = pass.logits(child, &image);
    pass.macs
}

/// One run of a child.
struct Pass<'a> {
    weights: &'a Weights,
    /// What to normalise by; the batch itself, if there is nothing.
    statistics: Option<&'a Statistics>,
    /// What was normalised by, with the unbiased variance.
    seen: Statistics,
    macs: i64,
}

impl Pass<'_> {
    fn logits(&mut self, child: &Config, images: &Tensor) -> Tensor {
        let x = self.conv("first_conv", images, child.width[0], 3, 2, 1);
        let mut x = self.norm("first_conv", &x).silu();
        let mut first = 0;
        for (stage, (most, stride, squeeze)) in STAGES.into_iter().enumerate() {
            for block in 0..child.depth[stage] {
                let layer = Layer {
                    name: format!("blocks.{}", first + block),
                    width: child.width[stage + 1],
                    kernel: child.kernel_size[stage],
                    expansion: child.expand_ratio[stage],
                    stride: if block == 0 { stride } else { 1 },
                    squeeze,
                };
                x = self.block(&layer, &x);
            }
            first += most;
        }
        let x = self.conv("last_conv.final_expand_layer", &x, 6 * child.width[7], 1, 1, 1);
        let x = self.norm("last_conv.final_expand_layer", &x).silu();
        let x = mean_of_maps(&x);
        let x = self.conv("last_conv.feature_mix_layer", &x, child.width[8], 1, 1, 1).silu();
        let x = x.flatten(1, 3);
        let weight = self.weight("classifier.linear.linear.weight").narrow(1, 0, x.size()[1]);
        self.macs += weight.numel() as i64;
        x.matmul(&weight.tr()) + self.weight("classifier.linear.linear.bias")
    }

    fn block(&mut self, layer: &Layer, input: &Tensor) -> Tensor {
        let conv = format!("{}.mobile_inverted_conv", layer.name);
        let channels = input.size()[1];
        let expanded = match layer.expansion {
            1 => channels,
            times => make_divisible(channels * times, 8),
        };
        let mut x = input.shallow_clone();
        if layer.expansion != 1 {
            let name = format!("{conv}.inverted_bottleneck");
            x = self.conv(&name, &x, expanded, 1, 1, 1);
            x = self.norm(&name, &x).silu();
        }
        let name = format!("{conv}.depth_conv");
        x = self.conv(&name, &x, expanded, layer.kernel, layer.stride, expanded);
        x = self.norm(&name, &x).silu();
        if layer.squeeze {
            x = self.squeeze_excite(&format!("{name}.se.fc"), &x);
        }
        let name = format!("{conv}.point_linear");
        x = self.conv(&name, &x, layer.width, 1, 1, 1);
        x = self.norm(&name, &x);
        x + self.shortcut(layer, input)
    }

    fn shortcut(&mut self, layer: &Layer, input: &Tensor) -> Tensor {
        let mut x = input.shallow_clone();
        if layer.stride == 2 {
            let padding = x.size()[2] % 2;
            x = x.avg_pool2d([2, 2], [2, 2], [padding, padding], false, true, None);
        }
        if x.size()[1] != layer.width {
            x = self.conv(&format!("{}.shortcut", layer.name), &x, layer.width, 1, 1, 1);
        }
        x
    }

    fn squeeze_excite(&mut self, name: &str, x: &Tensor) -> Tensor {
        let expanded = x.size()[1];
        let reduced = make_divisible(expanded / 4, 8);
        let pooled = mean_of_maps(x);
        let squeezed = self.dense(&format!("{name}.reduce"), &pooled, reduced).relu();
        let gate = self.dense(&format!("{name}.expand"), &squeezed, expanded);
        x * ((gate + 3.0).clamp(0.0, 6.0) / 6.0)
    }

    /// A 1×1 convolution with a bias, to the lowest `outputs` channels.
    fn dense(&mut self, name: &str, x: &Tensor, outputs: i64) -> Tensor {
        let bias = self.weight(&format!("{name}.bias")).narrow(0, 0, outputs);
        let weight = self.weight(&format!("{name}.weight")).narrow(0, 0, outputs).narrow(1, 0, x.size()[1]);
        self.convolve(x, &weight, 1, 1) + bias.view([1, -1, 1, 1])
    }

    /// The lowest `outputs` channels from the lowest that `x` has, with the centre of the kernel.
    fn conv(&mut self, name: &str, x: &Tensor, outputs: i64, kernel: i64, stride: i64, groups: i64) -> Tensor {
        let weight = self.weight(&format!("{name}.conv.conv.weight"));
        let margin = (weight.size()[3] - kernel) / 2;
        let centre = weight.narrow(2, margin, kernel).narrow(3, margin, kernel);
        let weight = centre.narrow(0, 0, outputs).narrow(1, 0, x.size()[1] / groups);
        self.convolve(x, &weight, stride, groups)
    }

    fn convolve(&mut self, x: &Tensor, weight: &Tensor, stride: i64, groups: i64) -> Tensor {
        let padding = weight.size()[3] / 2;
        let out = x.conv2d::<&Tensor>(weight, None, [stride, stride], [padding, padding], [1, 1], groups);
        let (_, _, height, width) = out.size4().expect("maps");
        self.macs += weight.numel() as i64 * height * width;
        out
    }

    fn norm(&mut self, name: &str, x: &Tensor) -> Tensor {
        let channels = x.size()[1];
        let per_map = |tensor: &Tensor| tensor.view([1, -1, 1, 1]);
        let (mean, variance) = match self.statistics {
            Some(statistics) => {
                let (mean, variance) = &statistics[name];
                (per_map(mean), per_map(variance))
            }
            None => {
                let mean = x.mean_dim([0i64, 2, 3].as_slice(), true, Kind::Float);
                let biased = (x - &mean).square().mean_dim([0i64, 2, 3].as_slice(), true, Kind::Float);
                let values = x.numel() as f64 / channels as f64;
                let unbiased = &biased * (values / (values - 1.0));
                self.seen.insert(name.to_owned(), (mean.view([-1]), unbiased.view([-1])));
                (mean, biased)
            }
        };
        let scale = per_map(&self.weight(&format!("{name}.bn.bn.weight")).i(..channels));
        let shift = per_map(&self.weight(&format!("{name}.bn.bn.bias")).i(..channels));
        (x - mean) / (variance + EPSILON).sqrt() * scale + shift
    }

    fn weight(&self, name: &str) -> &Tensor {
        &self.weights[name]
    }
}

/// One block of a child.
struct Layer {
    name: String,
    width: i64,
    kernel: i64,
    expansion: i64,
    stride: i64,
    squeeze: bool,
}

/// The multiple of `divisor` nearest to `value`, but no less than nine tenths of it.
fn make_divisible(value: i64, divisor: i64) -> i64 {
    let nearest = ((value + divisor / 2) / divisor * divisor).max(1);
    if (nearest as f64) < 0.9 * value as f64 { nearest + divisor } else { nearest }
}

fn mean_of_maps(x: &Tensor) -> Tensor {
    x.mean_dim([2i64, 3].as_slice(), true, Kind::Float)
}
