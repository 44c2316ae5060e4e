//! Shapes, strides and padding of each layer, from the space and the layer's place.

use super::{BlockPlan, ConvPlan, HeadPlan, Pad, PoolPlan, Role, SqueezeExcitePlan};
use crate::space::{HeadKind, Padding, SearchSpace, Shortcut, Stage};

/// What a block needs to know of its place.
pub(super) struct BlockShape {
    pub(super) name: String,
    pub(super) c_in: usize,
    pub(super) c_out: usize,
    pub(super) kernel: usize,
    pub(super) expansion: usize,
    pub(super) stride: usize,
    pub(super) size: usize,
}

/// Makes the layers of children of a space.
pub(super) struct Planner<'a> {
    pub(super) space: &'a SearchSpace,
}

impl Planner<'_> {
    /// A convolution with batch norm and the space's activation.
    pub(super) fn conv(
        &self,
        name: &str,
        role: Role,
        (c_in, c_out): (usize, usize),
        kernel: usize,
        stride: usize,
        size_in: usize,
    ) -> ConvPlan {
        let (pad, size_out) = pad_and_size(self.space.padding, kernel, stride, size_in);
        let activation = Some(self.space.activation);
        ConvPlan { name: name.to_owned(), role, c_in, c_out, kernel, stride, pad, size_in, size_out, norm: true, activation }
    }

    /// The block of `stage` in its place.
    pub(super) fn block(&self, stage: &Stage, shape: BlockShape) -> BlockPlan {
        let BlockShape { name, c_in, c_out, kernel, expansion, stride, size } = shape;
        let expanded = self.space.block_width(c_in, expansion);
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

    /// What follows the last block, which has `c_in` channels of `size` pixels a side.
    pub(super) fn head(&self, c_in: usize, features: usize, size: usize) -> HeadPlan {
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
    use crate::space::{Child, PRESETS, Plan, preset};

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
