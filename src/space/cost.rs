//! What a child costs: multiply-adds, parameters, memory of its activations.

use serde::{Deserialize, Serialize};

use super::{BlockPlan, ConvPlan, Plan, Role, SqueezeExcitePlan};

/// The cost of one child network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Multiply-adds for one image. Batch norms, activations, pooling and additions are not counted.
    pub macs: Breakdown,
    /// Learned parameters; of a batch norm its scale and shift, not its statistics.
    pub params: Breakdown,
    /// Largest sum of feature maps alive at once, in bytes: float32, one image, layers in order. A convolution, a pool and a gate write
    /// beside their input; batch norms, activations and the addition at a block's end happen in place. Vectors (squeezed, pooled,
    /// logits) are not counted.
    pub peak_activation_bytes: u64,
}

/// A cost by kind of layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breakdown {
    /// First convolution, expansions and projections.
    pub convolution: u64,
    /// Depthwise convolutions.
    pub depthwise: u64,
    /// Both convolutions of every squeeze-excite.
    pub squeeze_excite: u64,
    /// 1×1 convolutions of shortcuts.
    pub shortcut: u64,
    /// Convolutions after the last stage.
    pub head: u64,
    /// The linear classifier.
    pub classifier: u64,
}

impl Breakdown {
    /// The sum over all kinds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.convolution + self.depthwise + self.squeeze_excite + self.shortcut + self.head + self.classifier
    }

    /// The sum over all kinds, in millions.
    #[must_use]
    pub fn millions(&self) -> f64 {
        self.total() as f64 / 1e6
    }

    fn add(&mut self, role: Role, amount: u64) {
        match role {
            Role::Convolution => self.convolution += amount,
            Role::Depthwise => self.depthwise += amount,
            Role::Shortcut => self.shortcut += amount,
            Role::Head => self.head += amount,
        }
    }
}

impl Plan {
    /// Multiply-adds, parameters and activation memory of this child.
    #[must_use]
    pub fn cost(&self) -> Cost {
        let (mut macs, mut params) = (Breakdown::default(), Breakdown::default());
        for conv in self.convs() {
            macs.add(conv.role, conv.macs());
            params.add(conv.role, conv.params());
        }
        for squeeze in self.blocks.iter().filter_map(|block| block.squeeze_excite.as_ref()) {
            macs.squeeze_excite += squeeze.macs();
            params.squeeze_excite += squeeze.macs() + (squeeze.channels + squeeze.reduced) as u64;
        }
        macs.classifier = (self.head.features * self.classes) as u64;
        params.classifier = macs.classifier + self.classes as u64;
        Cost { macs, params, peak_activation_bytes: 4 * self.peak_activation_values() }
    }

    fn peak_activation_values(&self) -> u64 {
        let stem = self.stem.input_values() + self.stem.output_values();
        let blocks = self.blocks.iter().map(BlockPlan::peak_values);
        let head = self.head.conv.input_values() + self.head.conv.output_values();
        blocks.chain([stem, head]).max().unwrap_or(0)
    }
}

impl ConvPlan {
    /// Multiply-adds for one image.
    #[must_use]
    pub fn macs(&self) -> u64 {
        self.weights() * (self.size_out * self.size_out) as u64
    }

    /// Weights, and the scale and shift of the batch norm.
    #[must_use]
    pub fn params(&self) -> u64 {
        self.weights() + if self.norm { 2 * self.c_out as u64 } else { 0 }
    }

    fn weights(&self) -> u64 {
        self.weight_shape().iter().map(|&n| n as u64).product()
    }

    fn input_values(&self) -> u64 {
        (self.c_in * self.size_in * self.size_in) as u64
    }

    fn output_values(&self) -> u64 {
        (self.c_out * self.size_out * self.size_out) as u64
    }
}

impl SqueezeExcitePlan {
    /// Multiply-adds of both convolutions for one image.
    #[must_use]
    pub fn macs(&self) -> u64 {
        2 * (self.channels * self.reduced) as u64
    }
}

impl BlockPlan {
    /// Largest number of values alive inside the block, moment by moment; its input stays alive for the skip connection.
    fn peak_values(&self) -> u64 {
        let input = self.expand.as_ref().unwrap_or(&self.depthwise).input_values();
        let held = if self.skip { input } else { 0 };
        let (filtered, output) = (self.depthwise.output_values(), self.project.output_values());
        let expanding = self.expand.as_ref().map_or(0, |expand| input + expand.output_values());
        // Without an expansion, what is filtered is the input, which is held once.
        let filtering = filtered + if self.expand.is_some() { held + self.depthwise.input_values() } else { input };
        let gating = if self.squeeze_excite.is_some() { held + 2 * filtered } else { 0 };
        let projecting = held + filtered + output;
        // Of the skip connection's moments only its convolution can be the largest: a pool makes no more than the depthwise convolution,
        // and the addition happens in place.
        let adding = self.shortcut.as_ref().map_or(0, |shortcut| shortcut.input_values() + shortcut.output_values() + output);
        [expanding, filtering, gating, projecting, adding].into_iter().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::{Child, Choices, SearchSpace, Shortcut, StageChoices, preset};

    /// The child whose configuration the paper prints, at 256 px.
    fn printed_child(space: &SearchSpace) -> Child {
        let depth = [1, 2, 2, 2, 4, 4, 1];
        let channels = [16, 24, 48, 88, 128, 216, 352];
        let kernel = [3, 3, 5, 3, 5, 5, 3];
        let stages = (0..7).map(|i| StageChoices::uniform(depth[i], channels[i], kernel[i], if i == 0 { 1 } else { 6 })).collect();
        Child::new(space, Choices { resolution: 256, stem: 32, stages, head: 1408 }).unwrap()
    }

    #[test]
    fn table_one_children_cost_what_an_independent_counter_says() {
        // MMACs and millions of parameters, with shortcut convolutions, to the last digit shown.
        let space = preset("bignas").unwrap();
        let cases = [
            ("smallest", space.smallest(), 217.6, 3.84),
            ("biggest", space.biggest(), 1891.5, 11.02),
            ("printed", printed_child(&space), 658.5, 6.69),
        ];
        for (name, child, mmacs, mparams) in cases {
            let cost = Plan::new(&space, &child, 1000).cost();
            assert_eq!(format!("{:.1}", cost.macs.millions()), format!("{mmacs:.1}"), "MMACs of the {name} child");
            assert_eq!(format!("{:.2}", cost.params.millions()), format!("{mparams:.2}"), "parameters of the {name} child");
        }
    }

    #[test]
    fn without_shortcut_convolutions_the_other_convention_holds() {
        let space = preset("bignas").unwrap();
        for (child, mmacs, mparams) in
            [(space.smallest(), 206.7, 3.75), (space.biggest(), 1843.0, 10.89), (printed_child(&space), 636.8, 6.57)]
        {
            let cost = Plan::new(&space, &child, 1000).cost();
            let without = |b: Breakdown| (b.total() - b.shortcut) as f64 / 1e6;
            assert_eq!(format!("{:.1}", without(cost.macs)), format!("{mmacs:.1}"));
            assert_eq!(format!("{:.2}", without(cost.params)), format!("{mparams:.2}"));
        }
    }

    /// EfficientNet-B0 expressed in the same file format, as a control of the counting itself.
    #[test]
    fn efficientnet_b0_costs_what_its_paper_says() {
        let mut space = preset("bignas").unwrap();
        space.shortcut = Shortcut::IdentityOnly;
        space.stem.channels = vec![32];
        space.head.channels = vec![1280];
        let rows = [(16, 1, 3), (24, 2, 3), (40, 2, 5), (80, 3, 3), (112, 3, 5), (192, 4, 5), (320, 1, 3)];
        for (stage, (channels, depth, kernel)) in space.stages.iter_mut().zip(rows) {
            (stage.channels, stage.depth, stage.kernel) = (vec![channels], vec![depth], vec![kernel]);
        }
        (space.resolutions, space.training_resolutions) = (vec![224], vec![224]);
        space.validate().unwrap();
        let cost = Plan::new(&space, &space.smallest(), 1000).cost();
        assert_eq!(format!("{:.1} {:.2}", cost.macs.millions(), cost.params.millions()), "385.8 5.29");
    }

    #[test]
    fn peak_memory_of_the_smallest_child_is_in_its_first_expansion() {
        // Stage 2's first block: input 16×96×96, expanded 96×96×96, depthwise output 96×48×48.
        let space = preset("bignas").unwrap();
        let cost = Plan::new(&space, &space.smallest(), 1000).cost();
        let values = 16 * 96 * 96 + 96 * 96 * 96 + 96 * 48 * 48;
        assert_eq!(cost.peak_activation_bytes, 4 * values);
    }

    /// One block over 8 channels of 8×8 pixels, 64 values each, or 16 behind a stride of 2; each case peaks in another moment.
    #[test]
    fn every_moment_of_a_block_can_be_the_peak() {
        use Shortcut::{IdentityOnly, PoolSame};
        let cases = [
            // Input 512, expanded 1024, filtered 256.
            ("expanding", IdentityOnly, (2, 4, 2), false, 512 + 1024),
            ("filtering", PoolSame, (4, 8, 1), false, 512 + 2048 + 2048),
            // Projecting takes 512 + 512 + 256.
            ("gating", PoolSame, (1, 4, 1), true, 512 + 512 + 512),
            ("projecting", PoolSame, (1, 8, 1), false, 512 + 512 + 512),
            // Projecting takes 512 + 512 + 1024.
            ("adding", PoolSame, (1, 16, 1), false, 512 + 1024 + 1024),
            // The pool has made 128 of the 512 by then; projecting takes 512 + 128 + 1024.
            ("adding behind a pool", PoolSame, (1, 64, 2), false, 128 + 1024 + 1024),
        ];
        for (moment, shortcut, (expansion, channels, stride), gated, expected) in cases {
            let mut space = preset("fashion-mnist").unwrap();
            (space.resolutions, space.training_resolutions, space.shortcut) = (vec![8], vec![8], shortcut);
            space.stem.channels = vec![8];
            space.stages.truncate(1);
            let stage = &mut space.stages[0];
            (stage.expansion, stage.channels, stage.stride) = (vec![expansion], vec![channels], stride);
            stage.squeeze_excite = stage.squeeze_excite.take().filter(|_| gated);
            let plan = Plan::new(&space, &space.smallest(), 10);
            assert_eq!(plan.blocks[0].peak_values(), expected, "{moment}");
        }
    }
}
