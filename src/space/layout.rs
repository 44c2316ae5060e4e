//! The tensors of a single-stage model: every shared weight at its largest size.

use super::{Granularity, HeadKind, SearchSpace, Stage};

/// Name and shape of one shared tensor, and how it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the weights file, such as `stages.2.0.expand.weight`.
    pub name: String,
    /// Shape; a convolution's is `[c_out, c_in or 1, kernel, kernel]`.
    pub shape: Vec<usize>,
    /// How the tensor is initialised.
    pub init: Init,
}

/// How a tensor starts before training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// Convolution weight `[c_out, c_in, k, k]`: normal with variance 2 / (k² · c_out) (EfficientNet).
    Convolution,
    /// Depthwise convolution weight `[c, 1, k, k]`: normal with variance 2 / k² (EfficientNet).
    Depthwise,
    /// Linear weight: uniform within ±1/√outputs (EfficientNet).
    Linear,
    /// Scale of a batch norm.
    Gamma,
    /// Scale of the last batch norm of a residual block; zero under the paper's initialisation.
    LastGamma,
    /// Anything that is added: zero.
    Shift,
}

/// All tensors of the single-stage model of `space` with a classifier for `classes` classes, in network order.
#[must_use]
pub fn layout(space: &SearchSpace, classes: usize) -> Vec<TensorSpec> {
    let mut tensors = Layout(Vec::new());
    let most = |values: &[usize]| values.iter().copied().max().unwrap_or(0);
    tensors.conv_norm("stem", [most(&space.stem.channels), space.input_channels, space.stem.kernel], Init::Gamma);
    let mut inputs: &[usize] = &space.stem.channels;
    for (s, stage) in space.stages.iter().enumerate() {
        for layer in 0..most(&stage.depth) {
            tensors.block(space, stage, &format!("stages.{s}.{layer}"), inputs, layer);
            inputs = &stage.channels;
        }
    }
    let features = most(&space.head.channels);
    match space.head.kind {
        HeadKind::Conv => tensors.conv_norm("head.conv", [features, most(inputs), 1], Init::Gamma),
        HeadKind::FeatureMix { expansion } => {
            let width = space.expanded(most(inputs), expansion);
            tensors.conv_norm("head.conv", [width, most(inputs), 1], Init::Gamma);
            tensors.push("head.mix.weight", &[features, width, 1, 1], Init::Convolution);
        }
    }
    tensors.push("classifier.weight", &[classes, features], Init::Linear);
    tensors.push("classifier.bias", &[classes], Init::Shift);
    tensors.0
}

struct Layout(Vec<TensorSpec>);

impl Layout {
    fn push(&mut self, name: &str, shape: &[usize], init: Init) {
        self.0.push(TensorSpec { name: name.to_owned(), shape: shape.to_vec(), init });
    }

    fn conv_norm(&mut self, name: &str, [c_out, c_in, kernel]: [usize; 3], gamma: Init) {
        self.push(&format!("{name}.weight"), &[c_out, c_in, kernel, kernel], Init::Convolution);
        self.norm(name, c_out, gamma);
    }

    fn norm(&mut self, name: &str, channels: usize, gamma: Init) {
        self.push(&format!("{name}.bn.weight"), &[channels], gamma);
        self.push(&format!("{name}.bn.bias"), &[channels], Init::Shift);
    }

    fn block(&mut self, space: &SearchSpace, stage: &Stage, name: &str, inputs: &[usize], layer: usize) {
        let most = |values: &[usize]| values.iter().copied().max().unwrap_or(0);
        let (c_in, c_out) = (most(inputs), most(&stage.channels));
        let expanded = space.block_width(c_in, most(&stage.expansion));
        if most(&stage.expansion) > 1 {
            self.conv_norm(&format!("{name}.expand"), [expanded, c_in, 1], Init::Gamma);
        }
        let kernel = most(&stage.kernel);
        self.push(&format!("{name}.depthwise.weight"), &[expanded, 1, kernel, kernel], Init::Depthwise);
        self.norm(&format!("{name}.depthwise"), expanded, Init::Gamma);
        if let Some(squeeze) = &stage.squeeze_excite {
            let reduced = squeeze.reduced(c_in, expanded);
            self.push(&format!("{name}.se.reduce.weight"), &[reduced, expanded, 1, 1], Init::Convolution);
            self.push(&format!("{name}.se.reduce.bias"), &[reduced], Init::Shift);
            self.push(&format!("{name}.se.expand.weight"), &[expanded, reduced, 1, 1], Init::Convolution);
            self.push(&format!("{name}.se.expand.bias"), &[expanded], Init::Shift);
        }
        // Without a skip at transitions, the last batch norm of a block that only sometimes has a skip must not start at
        // zero: the block would be constant.
        let keeps_shape = layer > 0 || (stage.stride == 1 && inputs == stage.channels.as_slice());
        let always_skips = space.skips_transitions() || (keeps_shape && !can_differ(stage, inputs, layer));
        let last_gamma = if always_skips { Init::LastGamma } else { Init::Gamma };
        self.conv_norm(&format!("{name}.project"), [c_out, expanded, 1], last_gamma);
        if space.skips_transitions() && can_differ(stage, inputs, layer) {
            self.push(&format!("{name}.shortcut.weight"), &[c_out, c_in, 1, 1], Init::Convolution);
        }
    }
}

/// Whether some child has a block here whose input and output channels differ.
fn can_differ(stage: &Stage, inputs: &[usize], layer: usize) -> bool {
    let tied = layer > 0 && stage.granularity == Granularity::Stage;
    !tied && (inputs.len() > 1 || stage.channels.len() > 1 || inputs != stage.channels.as_slice())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::space::{Draw, PRESETS, Plan, Shortcut, preset};

    /// Every tensor that a child's plan names exists in the layout and is at least as large in every dimension.
    #[test]
    fn the_layout_covers_every_child() {
        for name in PRESETS {
            for shortcut in [Shortcut::PoolSame, Shortcut::IdentityOnly] {
                let mut space = preset(name).unwrap();
                space.shortcut = shortcut;
                let shapes: BTreeMap<_, _> = layout(&space, 10).into_iter().map(|t| (t.name, t.shape)).collect();
                let random = (0..200).map(|step| space.random(Draw::new(0, step, 0)));
                for child in random.chain([space.smallest(), space.biggest()]) {
                    for conv in Plan::new(&space, &child, 10).convs() {
                        let full = &shapes[&format!("{}.weight", conv.name)];
                        let fits = conv.weight_shape().iter().zip(full).all(|(part, whole)| part <= whole);
                        assert!(fits, "{name}: {} needs {:?} of {full:?}", conv.name, conv.weight_shape());
                    }
                }
            }
        }
    }

    #[test]
    fn the_biggest_child_uses_all_weights_but_unused_shortcuts() {
        let space = preset("bignas").unwrap();
        let total: usize = layout(&space, 1000).iter().map(|t| t.shape.iter().product::<usize>()).sum();
        let unused: usize = layout(&space, 1000)
            .iter()
            .filter(|t| t.name.ends_with("shortcut.weight") && !t.name.contains(".0.shortcut"))
            .map(|t| t.shape.iter().product::<usize>())
            .sum();
        let biggest = Plan::new(&space, &space.biggest(), 1000).cost().params.total();
        assert_eq!((total - unused) as u64, biggest);
    }
}
