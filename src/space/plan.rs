//! A child made concrete: every layer with its shapes, strides and padding, computed once and read by all that follows.

mod planner;

use self::planner::{BlockShape, Planner};
use super::{Activation, Child, Gate, SearchSpace};

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
