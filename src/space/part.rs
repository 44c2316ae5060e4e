//! The parts of a child that are timed on their own: stem, blocks, and what follows the last block.

use super::{Activation, BlockPlan, ConvPlan, Gate, HeadPlan, Plan, SqueezeExcitePlan};

/// One part of a plan. A child's parts, one after the other, are the child.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Part<'a> {
    /// The first convolution.
    Stem(&'a ConvPlan),
    /// An inverted residual block.
    Block(&'a BlockPlan),
    /// From the last block to the logits of `classes` classes.
    Head {
        /// The layers before the classifier.
        head: &'a HeadPlan,
        /// Number of classes.
        classes: usize,
    },
}

impl Plan {
    /// The child's parts in the order in which they run; never fewer than two.
    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let head = Part::Head { head: &self.head, classes: self.classes };
        std::iter::once(Part::Stem(&self.stem)).chain(self.blocks.iter().map(Part::Block)).chain([head])
    }
}

impl<'a> Part<'a> {
    /// The part's convolutions but those of a squeeze-excite, a block's shortcut first.
    #[must_use]
    pub fn convs(self) -> Vec<&'a ConvPlan> {
        match self {
            Part::Stem(conv) => vec![conv],
            Part::Block(block) => block.convs().collect(),
            Part::Head { head, .. } => std::iter::once(&head.conv).chain(&head.mix).collect(),
        }
    }

    /// Shape of the part's input for one image: channels, height, width.
    #[must_use]
    pub fn input_shape(self) -> [usize; 3] {
        let first = match self {
            Part::Stem(conv) => conv,
            Part::Block(block) => block.expand.as_ref().unwrap_or(&block.depthwise),
            Part::Head { head, .. } => &head.conv,
        };
        [first.c_in, first.size_in, first.size_in]
    }

    /// Shape of the part's output for one image: channels, height, width; of the head, the classes.
    #[must_use]
    pub fn output_shape(self) -> Vec<usize> {
        let last = match self {
            Part::Stem(conv) => conv,
            Part::Block(block) => &block.project,
            Part::Head { classes, .. } => return vec![classes],
        };
        vec![last.c_out, last.size_out, last.size_out]
    }

    /// All that the part's time depends on within one search space, as a short text; the place in the network is no part of it.
    ///
    /// `block 12@14>16@7 k3 s2 w48 se3.swish.sigmoid skip` reads 12 channels of 14×14 pixels to 16 of 7×7, depthwise kernel 3,
    /// stride 2, 48 expanded channels, squeeze-excite of width 3 with its activation and gate, shortcut.
    #[must_use]
    pub fn key(self) -> String {
        match self {
            Part::Stem(conv) => format!("stem {} k{} s{}", ends(conv, conv), conv.kernel, conv.stride),
            Part::Block(block) => block_key(block),
            Part::Head { head, classes } => {
                let mix = if head.mix.is_some() { " mix" } else { "" };
                format!("head {}{mix} f{} c{classes}", ends(&head.conv, &head.conv), head.features)
            }
        }
    }
}

fn block_key(block: &BlockPlan) -> String {
    let depthwise = &block.depthwise;
    let expand = if block.expand.is_some() { format!(" w{}", depthwise.c_in) } else { String::new() };
    let squeeze = block.squeeze_excite.as_ref().map(squeeze_key).unwrap_or_default();
    let skip = if block.skip { " skip" } else { "" };
    let first = block.expand.as_ref().unwrap_or(depthwise);
    format!("block {} k{} s{}{expand}{squeeze}{skip}", ends(first, &block.project), depthwise.kernel, depthwise.stride)
}

fn squeeze_key(squeeze: &SqueezeExcitePlan) -> String {
    let activation = match squeeze.activation {
        Activation::Swish => "swish",
        Activation::Relu => "relu",
        Activation::HardSwish => "hard_swish",
    };
    let gate = match squeeze.gate {
        Gate::Sigmoid => "sigmoid",
        Gate::HardSigmoid => "hard_sigmoid",
    };
    format!(" se{}.{activation}.{gate}", squeeze.reduced)
}

fn ends(first: &ConvPlan, last: &ConvPlan) -> String {
    format!("{}@{}>{}@{}", first.c_in, first.size_in, last.c_out, last.size_out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::{Draw, PRESETS, Role, SearchSpace, preset};

    #[test]
    fn each_part_takes_what_the_one_before_it_gives() {
        let rounded = SearchSpace { expansion_divisor: 8, ..preset("fashion-mnist").unwrap() };
        rounded.validate().unwrap();
        let presets = PRESETS.iter().map(|name| (*name, preset(name).unwrap()));
        for (name, space) in presets.chain([("fashion-mnist, expanded to multiples of 8", rounded)]) {
            for step in 0..20 {
                let plan = Plan::new(&space, &space.random(Draw::new(0, step, 0)), 10);
                let parts: Vec<Part<'_>> = plan.parts().collect();
                assert_eq!(parts.len(), plan.blocks.len() + 2);
                for pair in parts.windows(2) {
                    assert_eq!(pair[0].output_shape(), pair[1].input_shape(), "{name}: {} then {}", pair[0].key(), pair[1].key());
                }
                for part in &parts {
                    let in_a_row: Vec<&ConvPlan> = part.convs().into_iter().filter(|conv| conv.role != Role::Shortcut).collect();
                    for pair in in_a_row.windows(2) {
                        assert_eq!(pair[0].c_out, pair[1].c_in, "{name}: {} then {}", pair[0].name, pair[1].name);
                    }
                }
                assert_eq!(parts[parts.len() - 1].output_shape(), [10]);
                let convs: Vec<&ConvPlan> = parts.iter().flat_map(|part| part.convs()).collect();
                assert_eq!(convs, plan.convs().collect::<Vec<_>>());
            }
        }
    }

    /// Of two blocks, the keys are equal where all but the names is equal, and only there.
    #[test]
    fn keys_tell_apart_what_differs_and_nothing_else() {
        let nameless = |mut block: BlockPlan| {
            block.name.clear();
            let convs = [&mut block.expand, &mut block.shortcut].into_iter().flatten().chain([&mut block.depthwise, &mut block.project]);
            convs.for_each(|conv| conv.name.clear());
            block.squeeze_excite.iter_mut().for_each(|squeeze| squeeze.name.clear());
            block
        };
        for name in PRESETS {
            let space = preset(name).unwrap();
            let plans = (0..6).map(|step| Plan::new(&space, &space.random(Draw::new(3, step, 0)), 10));
            let blocks: Vec<_> = plans.flat_map(|plan| plan.blocks).map(|block| (Part::Block(&block).key(), nameless(block))).collect();
            for (key, block) in &blocks {
                for (other_key, other) in &blocks {
                    assert_eq!(key == other_key, block == other, "{name}: {key} and {other_key}");
                }
            }
        }
    }

    #[test]
    fn keys_read_as_documented() {
        let space = preset("fashion-mnist").unwrap();
        let plan = Plan::new(&space, &space.smallest(), 10);
        let keys: Vec<String> = plan.parts().map(Part::key).collect();
        let expected = [
            "stem 1@20>8@20 k3 s1",
            "block 8@20>8@20 k3 s1 se2.swish.sigmoid skip",
            "block 8@20>12@10 k3 s2 w32 se2.swish.sigmoid skip",
            "block 12@10>20@10 k3 s1 w48 se3.swish.sigmoid skip",
            "block 20@10>32@5 k3 s2 w80 se5.swish.sigmoid skip",
            "head 32@5>128@5 f128 c10",
        ];
        assert_eq!(keys, expected);
    }
}
