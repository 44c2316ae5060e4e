//! The search space: which networks live inside one single-stage model.
//!
//! A space is data. It is read from a file, checked once by [`SearchSpace::validate`], and never changed afterwards. This
//! module and its children know no tensors and do no I/O; everything that has to know a layer's shape asks [`Plan`].

mod by_stage;
mod child;
mod cost;
mod error;
mod layout;
mod part;
mod plan;
mod presets;
mod random;
mod validate;

pub use by_stage::ByStage;
pub use child::{Child, ChildId, Choices, ParseChildIdError, StageChoices};
pub use cost::{Breakdown, Cost};
pub use error::{ChildError, SpaceError};
pub use layout::{Init, TensorSpec, layout};
pub use part::Part;
pub use plan::{BlockPlan, ConvPlan, HeadPlan, Pad, Plan, PoolPlan, Role, SqueezeExcitePlan};
pub use presets::{PRESETS, preset};
pub use random::Draw;

use serde::{Deserialize, Serialize};

use crate::files::sha256;

/// A search space: the choices that a child network may make, and the block options that all children share.
///
/// Source: BigNAS, Table 1, for the choices; the block options also cover the relatives whose weights are public.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchSpace {
    /// A short name, such as `bignas`.
    pub name: String,
    /// Channels of the input image: 1 for grey, 3 for colour.
    pub input_channels: usize,
    /// Side lengths in pixels at which a child may be deployed, ascending.
    pub resolutions: Vec<usize>,
    /// The subset of `resolutions` seen in training, ascending.
    pub training_resolutions: Vec<usize>,
    /// How convolutions pad.
    pub padding: Padding,
    /// Activation after every batch norm but a block's last.
    pub activation: Activation,
    /// Epsilon added to the variance in every batch norm.
    pub bn_eps: f64,
    /// Expanded widths are rounded to a multiple of this; 1 keeps them exact.
    #[serde(default = "one")]
    pub expansion_divisor: usize,
    /// The rule for skip connections.
    pub shortcut: Shortcut,
    /// The first convolution.
    pub stem: Stem,
    /// The stages of inverted residual blocks, in order.
    pub stages: Vec<Stage>,
    /// What follows the last stage.
    pub head: Head,
}

/// The first convolution, with batch norm and activation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stem {
    /// Output channels to choose from, ascending.
    pub channels: Vec<usize>,
    /// Kernel side in pixels, odd.
    pub kernel: usize,
    /// Stride, 1 or 2.
    pub stride: usize,
}

/// One stage: a stack of inverted residual blocks, the first of which may reduce the resolution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Output channels to choose from, ascending.
    pub channels: Vec<usize>,
    /// Numbers of blocks to choose from, ascending.
    pub depth: Vec<usize>,
    /// Depthwise kernel sides to choose from, odd, ascending.
    pub kernel: Vec<usize>,
    /// Expansion ratios to choose from, ascending; `[1]` means that the blocks have no expansion convolution.
    pub expansion: Vec<usize>,
    /// Stride of the first block, 1 or 2.
    pub stride: usize,
    /// Squeeze-excite of every block of this stage, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub squeeze_excite: Option<SqueezeExcite>,
    /// Whether channels, kernel and expansion are chosen for each layer or once for the stage.
    #[serde(default)]
    pub granularity: Granularity,
}

/// Whether a stage's layers choose for themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// Every layer has its own channels, kernel and expansion (BigNAS).
    #[default]
    Layer,
    /// All layers of the stage share one choice (AttentiveNAS, AlphaNet).
    Stage,
}

/// Squeeze-excite: global mean, 1×1 convolution down, activation, 1×1 convolution up, gate, multiply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqueezeExcite {
    /// Reduced width as a fraction of the width named by `of`.
    pub ratio: f64,
    /// The width that `ratio` is a fraction of.
    pub of: SqueezeBase,
    /// The reduced width is rounded to a multiple of this; 1 rounds down to a whole number.
    #[serde(default = "one")]
    pub divisor: usize,
    /// Activation of the reduced vector.
    pub activation: Activation,
    /// Gate of the expanded vector.
    pub gate: Gate,
}

/// The width that a squeeze-excite ratio refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SqueezeBase {
    /// The block's input channels (EfficientNet, BigNAS).
    Input,
    /// The expanded channels (MobileNetV3, AttentiveNAS).
    Expanded,
}

/// How a convolution pads its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// TensorFlow's SAME: output ⌈n/stride⌉, the odd pixel of padding at the end.
    Same,
    /// ⌊kernel/2⌋ on every side.
    Symmetric,
}

/// An elementwise activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x · sigmoid(x), also called SiLU.
    Swish,
    /// max(x, 0).
    Relu,
    /// x · relu6(x + 3) / 6.
    HardSwish,
}

/// The gate of a squeeze-excite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// 1 / (1 + e⁻ˣ).
    Sigmoid,
    /// relu6(x + 3) / 6.
    HardSigmoid,
}

/// The rule for skip connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shortcut {
    /// Only where a block keeps shape (MobileNetV2; the paper's naive network).
    IdentityOnly,
    /// In every block: a 2×2 average pool where the stride is 2, then a 1×1 convolution where the channels differ. An odd
    /// size is padded by one at the end, and the padding is not counted in the average (TensorFlow's SAME).
    PoolSame,
    /// As `PoolSame`, but an odd size is padded by one at the start, and the zeros are counted.
    PoolZeros,
}

/// What follows the last stage, up to the classifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Width of the classifier's input to choose from, ascending.
    pub channels: Vec<usize>,
    /// How the last stage's output becomes that vector.
    pub kind: HeadKind,
    /// Probability of dropping a feature before the classifier; applied in training to whoever is regularised: by default the
    /// biggest child alone.
    pub dropout: f64,
}

/// How the last stage's output becomes the classifier's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadKind {
    /// 1×1 convolution, batch norm, activation, global average pool (EfficientNet, BigNAS).
    Conv,
    /// 1×1 convolution to `expansion` × the last stage's width, batch norm, activation, global average pool, then a 1×1
    /// convolution without bias or batch norm, and the activation (MobileNetV3, AttentiveNAS).
    FeatureMix {
        /// Width of the first convolution as a multiple of the last stage's width.
        expansion: usize,
    },
}

fn one() -> usize {
    1
}

/// Rounds `value` to the nearest multiple of `divisor`, but never below 90 % of it.
///
/// The rounding of MobileNet's successors; with divisor 1 it rounds half up. The result is at least `divisor`.
pub(crate) fn make_divisible(value: f64, divisor: usize) -> usize {
    let rounded = ((value + divisor as f64 / 2.0) as usize / divisor * divisor).max(divisor);
    if (rounded as f64) < 0.9 * value { rounded + divisor } else { rounded }
}

impl SearchSpace {
    /// SHA-256 of the space as JSON: a space may change under its name.
    #[must_use]
    pub fn sha256(&self) -> String {
        // A space holds numbers, texts and lists, all of which JSON can write.
        sha256(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// Width of a convolution that expands `channels` input channels.
    pub(crate) fn expanded(&self, channels: usize, expansion: usize) -> usize {
        make_divisible((channels * expansion) as f64, self.expansion_divisor)
    }

    /// Width of a block after its expansion. With a ratio of 1 it has none, so that no divisor rounds it.
    pub(crate) fn block_width(&self, channels: usize, expansion: usize) -> usize {
        if expansion > 1 { self.expanded(channels, expansion) } else { channels }
    }

    /// Whether the shortcut rule gives every block a skip connection.
    pub(crate) fn skips_transitions(&self) -> bool {
        self.shortcut != Shortcut::IdentityOnly
    }
}

impl SqueezeExcite {
    /// Reduced width of a block with `input` input channels and `expanded` channels after the expansion.
    pub(crate) fn reduced(&self, input: usize, expanded: usize) -> usize {
        let base = match self.of {
            SqueezeBase::Input => input,
            SqueezeBase::Expanded => expanded,
        };
        make_divisible((base as f64 * self.ratio).floor(), self.divisor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn make_divisible_rounds_to_nearest_but_not_under_nine_tenths() {
        let cases = [(64.0, 8, 64), (67.0, 8, 64), (68.0, 8, 72), (10.0, 8, 16), (11.0, 8, 16), (3.0, 8, 8), (0.0, 1, 1), (7.0, 1, 7)];
        for (value, divisor, expected) in cases {
            assert_eq!(make_divisible(value, divisor), expected, "make_divisible({value}, {divisor})");
        }
    }

    #[test]
    fn squeeze_excite_reduces_either_width() {
        let of_input =
            SqueezeExcite { ratio: 0.25, of: SqueezeBase::Input, divisor: 1, activation: Activation::Swish, gate: Gate::Sigmoid };
        assert_eq!(of_input.reduced(24, 144), 6);
        assert_eq!(of_input.reduced(3, 18), 1);
        let of_expanded = SqueezeExcite { of: SqueezeBase::Expanded, divisor: 8, ..of_input };
        assert_eq!(of_expanded.reduced(32, 192), 48);
        assert_eq!(of_expanded.reduced(24, 120), 32);
    }
}
