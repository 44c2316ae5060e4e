//! A child made concrete: every layer with its shapes, strides and padding, computed once and read by all that follows.

use super::{Activation, Child, Gate, HeadKind, Padding, SearchSpace, Shortcut, Stage};

/// Every layer of one child network, in the order in which they run.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The child that this plan makes concrete.
    pub child: Child,
    /// Channels of the input image.
    pub input_channels: usize,
    /// Number of classes that the classifier tells apart.
    pub classes: usize,
    /// Epsilon of every batch norm.
    pub bn_eps: f64,
    /// The first convolution.
    pub stem: ConvPlan,
    /// The inverted residual blocks, stage after stage.
    pub blocks: Vec<BlockPlan>,
    /// From the last block to the logits.
    pub head: HeadPlan,
}

/// What a convolution is for; the cost breakdown sums by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The first convolution, a block's expansion or its projection.
    Convolution,
    /// A depthwise convolution.
    Depthwise,
    /// The 1×1 convolution of a shortcut.
    Shortcut,
    /// A convolution of the head.
    Head,
}

/// A square convolution and, where `norm` is set, its batch norm.
///
/// Input `[N, c_in, size_in, size_in]`, output `[N, c_out, size_out, size_out]`; weight `[c_out, c_in, kernel, kernel]`, or
/// `[c_out, 1, kernel, kernel]` where depthwise.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvPlan {
    /// Name of the layer; its weight is `NAME.weight`, its batch norm's `NAME.bn.weight` and `NAME.bn.bias`.
    pub name: String,
    /// What the convolution is for.
    pub role: Role,
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Kernel side in pixels.
    pub kernel: usize,
    /// Stride in both directions.
    pub stride: usize,
    /// Padding in both directions.
    pub pad: Pad,
    /// Side of the input in pixels.
    pub size_in: usize,
    /// Side of the output in pixels.
    pub size_out: usize,
    /// Whether a batch norm follows.
    pub norm: bool,
    /// The activation that comes last.
    pub activation: Option<Activation>,
}

/// Pixels of padding before and after, in both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pad {
    /// Above and to the left.
    pub begin: usize,
    /// Below and to the right.
    pub end: usize,
}

/// An inverted residual block: expand, depthwise, squeeze-excite, project, add.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockPlan {
    /// Name of the block, such as `stages.2.0`.
    pub name: String,
    /// 1×1 expansion; none where the ratio is 1.
    pub expand: Option<ConvPlan>,
    /// Depthwise convolution.
    pub depthwise: ConvPlan,
    /// Squeeze-excite on the depthwise output.
    pub squeeze_excite: Option<SqueezeExcitePlan>,
    /// 1×1 projection, without activation.
    pub project: ConvPlan,
    /// Whether the block's input is added to its output, through `pool` and `shortcut` where they are set.
    pub skip: bool,
    /// The shortcut's pool, where the block reduces the resolution.
    pub pool: Option<PoolPlan>,
    /// The shortcut's 1×1 convolution, where the channels differ.
    pub shortcut: Option<ConvPlan>,
}

/// Squeeze-excite: weights `NAME.reduce.{weight,bias}` and `NAME.expand.{weight,bias}`.
#[derive(Debug, Clone, PartialEq)]
pub struct SqueezeExcitePlan {
    /// Name, such as `stages.2.0.se`.
    pub name: String,
    /// Channels that are gated.
    pub channels: usize,
    /// Width between the two convolutions.
    pub reduced: usize,
    /// Side of the gated map in pixels.
    pub size: usize,
    /// Activation of the reduced vector.
    pub activation: Activation,
    /// The gate.
    pub gate: Gate,
}

/// A 2×2 average pool of stride 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolPlan {
    /// Padding, non-zero at odd sizes.
    pub pad: Pad,
    /// Whether the padding's zeros count in the average.
    pub count_padding: bool,
    /// Side of the input in pixels.
    pub size_in: usize,
    /// Side of the output in pixels.
    pub size_out: usize,
}

/// Convolution, global average pool, optional feature mix, dropout, linear classifier.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadPlan {
    /// 1×1 convolution with batch norm.
    pub conv: ConvPlan,
    /// 1×1 convolution of the pooled vector.
    pub mix: Option<ConvPlan>,
    /// Width of the classifier's input.
    pub features: usize,
    /// Probability of dropping a feature in training.
    pub dropout: f64,
}

impl Plan {
    /// The plan of `child`, a member of `space`, with a classifier for `classes` classes.
    #[must_use]
    pub fn new(space: &SearchSpace, child: &Child, classes: usize) -> Self {
        let choices = child.choices();
        let stem = Planner { space }.conv(
            "stem",
            Role::Convolution,
            (space.input_channels, choices.stem),
            space.stem.kernel,
            space.stem.stride,
            choices.resolution,
        );
        let mut blocks = Vec::new();
        let (mut channels, mut size) = (stem.c_out, stem.size_out);
        for (s, (stage, chosen)) in space.stages.iter().zip(&choices.stages).enumerate() {
            for layer in 0..chosen.depth {
                let shape = BlockShape {
                    name: format!("stages.{s}.{layer}"),
                    c_in: channels,
                    c_out: chosen.channels[layer],
                    kernel: chosen.kernel[layer],
                    expansion: chosen.expansion[layer],
                    stride: if layer == 0 { stage.stride } else { 1 },
                    size,
                };
                let block = Planner { space }.block(stage, shape);
                (channels, size) = (block.project.c_out, block.project.size_out);
                blocks.push(block);
            }
        }
        let head = Planner { space }.head(channels, choices.head, size);
        Self { child: child.clone(), input_channels: space.input_channels, classes, bn_eps: space.bn_eps, stem, blocks, head }
    }

    /// Every convolution in the order in which they run, shortcuts before the block's own.
    pub fn convs(&self) -> impl Iterator<Item = &ConvPlan> {
        std::iter::once(&self.stem)
            .chain(self.blocks.iter().flat_map(BlockPlan::convs))
            .chain(std::iter::once(&self.head.conv))
            .chain(&self.head.mix)
    }

    /// Every convolution that a batch norm follows: the layers whose statistics recalibration measures.
    pub fn norms(&self) -> impl Iterator<Item = &ConvPlan> {
        self.convs().filter(|conv| conv.norm)
    }
}

impl BlockPlan {
    /// The block's convolutions, the shortcut's first.
    pub fn convs(&self) -> impl Iterator<Item = &ConvPlan> {
        self.shortcut.iter().chain(&self.expand).chain([&self.depthwise, &self.project])
    }
}

impl ConvPlan {
    /// Whether every channel is convolved alone.
    #[must_use]
    pub fn depthwise(&self) -> bool {
        self.role == Role::Depthwise
    }

    /// Shape of the weight, `[c_out, c_in or 1, kernel, kernel]`.
    #[must_use]
    pub fn weight_shape(&self) -> [usize; 4] {
        [self.c_out, if self.depthwise() { 1 } else { self.c_in }, self.kernel, self.kernel]
    }
}

/// What a block needs to know of its place.
struct BlockShape {
    name: String,
    c_in: usize,
    c_out: usize,
    kernel: usize,
    expansion: usize,
    stride: usize,
    size: usize,
}

struct Planner<'a> {
    space: &'a SearchSpace,
}

impl Planner<'_> {
    /// A convolution with batch norm and the space's activation.
    fn conv(&self, name: &str, role: Role, (c_in, c_out): (usize, usize), kernel: usize, stride: usize, size_in: usize) -> ConvPlan {
        let (pad, size_out) = pad_and_size(self.space.padding, kernel, stride, size_in);
        let activation = Some(self.space.activation);
        ConvPlan { name: name.to_owned(), role, c_in, c_out, kernel, stride, pad, size_in, size_out, norm: true, activation }
    }

    fn block(&self, stage: &Stage, shape: BlockShape) -> BlockPlan {
        let BlockShape { name, c_in, c_out, kernel, expansion, stride, size } = shape;
        let expanded = self.space.expanded(c_in, expansion);
        let expand = (expansion > 1).then(|| self.conv(&format!("{name}.expand"), Role::Convolution, (c_in, expanded), 1, 1, size));
        let depthwise = self.conv(&format!("{name}.depthwise"), Role::Depthwise, (expanded, expanded), kernel, stride, size);
        let project = self.conv(&format!("{name}.project"), Role::Convolution, (expanded, c_out), 1, 1, depthwise.size_out);
        let keeps_shape = c_in == c_out && stride == 1;
        let skip = keeps_shape || self.space.skips_transitions();
        let pool = (skip && stride == 2).then(|| pool(self.space.shortcut, size));
        let shortcut = (skip && c_in != c_out).then(|| ConvPlan {
            norm: false,
            activation: None,
            ..self.conv(&format!("{name}.shortcut"), Role::Shortcut, (c_in, c_out), 1, 1, project.size_out)
        });
        let squeeze_excite = stage.squeeze_excite.as_ref().map(|se| SqueezeExcitePlan {
            name: format!("{name}.se"),
            channels: expanded,
            reduced: se.reduced(c_in, expanded),
            size: depthwise.size_out,
            activation: se.activation,
            gate: se.gate,
        });
        BlockPlan { name, expand, depthwise, squeeze_excite, project: ConvPlan { activation: None, ..project }, skip, pool, shortcut }
    }

    fn head(&self, c_in: usize, features: usize, size: usize) -> HeadPlan {
        let (conv_out, mixes) = match self.space.head.kind {
            HeadKind::Conv => (features, false),
            HeadKind::FeatureMix { expansion } => (self.space.expanded(c_in, expansion), true),
        };
        let conv = self.conv("head.conv", Role::Head, (c_in, conv_out), 1, 1, size);
        let mix = mixes.then(|| ConvPlan { norm: false, ..self.conv("head.mix", Role::Head, (conv_out, features), 1, 1, 1) });
        HeadPlan { conv, mix, features, dropout: self.space.head.dropout }
    }
}

/// Padding and output size of a convolution over `size` pixels.
fn pad_and_size(padding: Padding, kernel: usize, stride: usize, size: usize) -> (Pad, usize) {
    match padding {
        Padding::Same => {
            let size_out = size.div_ceil(stride);
            let total = ((size_out - 1) * stride + kernel).saturating_sub(size);
            (Pad { begin: total / 2, end: total - total / 2 }, size_out)
        }
        Padding::Symmetric => {
            let pad = kernel / 2;
            (Pad { begin: pad, end: pad }, (size + 2 * pad - kernel) / stride + 1)
        }
    }
}

/// The 2×2 pool of a shortcut over `size` pixels; both rules round an odd size up.
fn pool(rule: Shortcut, size: usize) -> PoolPlan {
    let odd = size % 2;
    let count_padding = rule == Shortcut::PoolZeros;
    let pad = if count_padding { Pad { begin: odd, end: 0 } } else { Pad { begin: 0, end: odd } };
    PoolPlan { pad, count_padding, size_in: size, size_out: size.div_ceil(2) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::{PRESETS, preset};

    #[test]
    fn same_padding_is_tensorflows() {
        // kernel, stride, size -> begin, end, size_out; by hand from the definition of SAME.
        let cases = [
            (3, 1, 10, 1, 1, 10),
            (3, 2, 10, 0, 1, 5),
            (3, 2, 11, 1, 1, 6),
            (5, 2, 10, 1, 2, 5),
            (5, 2, 13, 2, 2, 7),
            (1, 2, 10, 0, 0, 5),
            (5, 1, 4, 2, 2, 4),
        ];
        for (kernel, stride, size, begin, end, size_out) in cases {
            let found = pad_and_size(Padding::Same, kernel, stride, size);
            assert_eq!(found, (Pad { begin, end }, size_out), "kernel {kernel}, stride {stride}, size {size}");
        }
    }

    #[test]
    fn a_shortcut_ends_at_its_blocks_size_in_every_space_and_resolution() {
        for name in PRESETS {
            for padding in [Padding::Same, Padding::Symmetric] {
                for shortcut in [Shortcut::PoolSame, Shortcut::PoolZeros] {
                    let mut space = preset(name).unwrap();
                    (space.padding, space.shortcut) = (padding, shortcut);
                    for &resolution in &space.resolutions {
                        let mut choices = space.biggest().choices().clone();
                        choices.resolution = resolution;
                        let plan = Plan::new(&space, &Child::new(&space, choices).unwrap(), 10);
                        for block in &plan.blocks {
                            let pooled = block.pool.map_or(block.depthwise.size_in, |pool| pool.size_out);
                            assert_eq!(pooled, block.project.size_out, "{name} at {resolution} px, {}", block.name);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn identity_only_leaves_transitions_without_skip() {
        let mut space = preset("bignas").unwrap();
        space.shortcut = Shortcut::IdentityOnly;
        let plan = Plan::new(&space, &space.smallest(), 1000);
        let skips: Vec<bool> = plan.blocks.iter().map(|block| block.skip).collect();
        assert!(!skips[0] && skips[2], "stage 1 changes channels, the second layer of stage 2 keeps its shape");
        assert!(plan.blocks.iter().all(|block| block.pool.is_none() && block.shortcut.is_none()));
    }
}
