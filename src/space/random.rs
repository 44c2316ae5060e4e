//! Children chosen by rule or at random: the smallest, the biggest, a random one, a mutation.
//!
//! A random choice is a pure function of its key and its place in the network, so that a resumed training and every replica
//! agree on it without talking.

use super::{Child, Choices, Granularity, SearchSpace, Stage, StageChoices};

/// A source of random choices in which each place has its own fixed answer.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    key: u64,
}

impl Draw {
    /// The source for one `child` of one `step` under `seed`.
    #[must_use]
    pub fn new(seed: u64, step: u64, child: u64) -> Self {
        Self { key: mix(mix(mix(seed) ^ step) ^ child) }
    }

    /// One of `values`, all equally likely; the same for the same place.
    fn pick(self, place: Place, values: &[usize]) -> usize {
        values[(self.bits(place) % values.len() as u64) as usize]
    }

    /// Whether an event of probability `chance` happens at this place.
    fn happens(self, place: Place, chance: f64) -> bool {
        ((self.bits(place) >> 11) as f64) < chance * (1u64 << 53) as f64
    }

    fn bits(self, place: Place) -> u64 {
        mix(self.key ^ mix((place.0 as u64) << 32 | (place.1 as u64) << 8 | place.2 as u64))
    }
}

/// Stage (0 for the whole network), layer, and which choice.
type Place = (usize, usize, Choice);

#[derive(Clone, Copy)]
#[repr(u8)]
enum Choice {
    Resolution,
    Stem,
    Head,
    Depth,
    Channels,
    Kernel,
    Expansion,
    Mutate,
}

/// The finaliser of SplitMix64: every input bit changes every output bit with probability one half.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl SearchSpace {
    /// The smallest child: least of everything, at the lowest training resolution (paper, 3.1).
    #[must_use]
    pub fn smallest(&self) -> Child {
        self.uniform(self.training_resolutions[0], |values| values[0])
    }

    /// The biggest child: most of everything, at the highest training resolution (paper, 3.1).
    #[must_use]
    pub fn biggest(&self) -> Child {
        let last = |values: &[usize]| values[values.len() - 1];
        self.uniform(last(&self.training_resolutions), last)
    }

    /// A child that makes every choice by one rule, such as "the least".
    fn uniform(&self, resolution: usize, choose: impl Fn(&[usize]) -> usize) -> Child {
        let stage = |s: &Stage| StageChoices::uniform(choose(&s.depth), choose(&s.channels), choose(&s.kernel), choose(&s.expansion));
        let stages = self.stages.iter().map(stage).collect();
        self.member(Choices { resolution, stem: choose(&self.stem.channels), stages, head: choose(&self.head.channels) })
    }

    /// A uniformly random child at a random training resolution.
    #[must_use]
    pub fn random(&self, draw: Draw) -> Child {
        let stages = self.stages.iter().enumerate().map(|(index, stage)| random_stage(stage, index + 1, draw)).collect();
        self.member(Choices {
            resolution: draw.pick((0, 0, Choice::Resolution), &self.training_resolutions),
            stem: draw.pick((0, 0, Choice::Stem), &self.stem.channels),
            stages,
            head: draw.pick((0, 0, Choice::Head), &self.head.channels),
        })
    }

    /// `parent` with each of its choices replaced by a random one with probability `chance`; any deployable resolution.
    ///
    /// Source: the fine-grained phase of the paper's 3.2, which mutates resolution, stage depths, channels and kernels.
    #[must_use]
    pub fn mutate(&self, parent: &Child, draw: Draw, chance: f64) -> Child {
        let choices = parent.choices();
        let network = |choice: Choice, layer: usize, old: usize, values: &[usize]| {
            if draw.happens((0, layer, Choice::Mutate), chance) { draw.pick((0, 0, choice), values) } else { old }
        };
        let stages = self.stages.iter().zip(&choices.stages).enumerate();
        self.member(Choices {
            resolution: network(Choice::Resolution, 0, choices.resolution, &self.resolutions),
            stem: network(Choice::Stem, 1, choices.stem, &self.stem.channels),
            stages: stages.map(|(index, (stage, old))| mutate_stage(stage, old, index + 1, draw, chance)).collect(),
            head: network(Choice::Head, 2, choices.head, &self.head.channels),
        })
    }

    fn member(&self, choices: Choices) -> Child {
        Child::new(self, choices).expect("choices drawn from the space lie inside it")
    }
}

fn random_stage(stage: &Stage, index: usize, draw: Draw) -> StageChoices {
    let depth = draw.pick((index, 0, Choice::Depth), &stage.depth);
    let list = |choice: Choice, values: &[usize]| {
        let layer_of = |layer| if stage.granularity == Granularity::Stage { 0 } else { layer };
        (0..depth).map(|layer| draw.pick((index, layer_of(layer), choice), values)).collect()
    };
    StageChoices {
        depth,
        channels: list(Choice::Channels, &stage.channels),
        kernel: list(Choice::Kernel, &stage.kernel),
        expansion: list(Choice::Expansion, &stage.expansion),
    }
}

fn mutate_stage(stage: &Stage, old: &StageChoices, index: usize, draw: Draw, chance: f64) -> StageChoices {
    // Where a list grows with the depth, the new layers copy the last one before they mutate.
    let fresh = random_stage(stage, index, draw);
    let depth = if draw.happens((index, 0, Choice::Mutate), chance) { fresh.depth } else { old.depth };
    let list = |which: usize, choice: Choice, old: &[usize], values: &[usize]| {
        let mutated = (0..depth).map(|layer| {
            let layer_key = if stage.granularity == Granularity::Stage { 0 } else { layer };
            let place = (index, 1 + which + 4 * layer_key, Choice::Mutate);
            let kept = old[layer.min(old.len() - 1)];
            if draw.happens(place, chance) { draw.pick((index, layer_key, choice), values) } else { kept }
        });
        mutated.collect()
    };
    StageChoices {
        depth,
        channels: list(0, Choice::Channels, &old.channels, &stage.channels),
        kernel: list(1, Choice::Kernel, &old.kernel, &stage.kernel),
        expansion: list(2, Choice::Expansion, &old.expansion, &stage.expansion),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::space::{PRESETS, preset};

    #[test]
    fn random_children_are_pure_functions_of_their_key() {
        let space = preset("bignas").unwrap();
        assert_eq!(space.random(Draw::new(1, 2, 3)), space.random(Draw::new(1, 2, 3)));
        let ids: BTreeSet<_> = (0..500).map(|step| space.random(Draw::new(0, step, 0)).id()).collect();
        assert_eq!(ids.len(), 500, "500 steps should draw 500 different children from 10^12");
    }

    #[test]
    fn random_children_reach_every_value_of_every_choice() {
        for name in PRESETS {
            let space = preset(name).unwrap();
            let children: Vec<_> = (0..2000).map(|step| space.random(Draw::new(7, step, 1))).collect();
            let seen = |get: &dyn Fn(&Choices) -> Vec<usize>| children.iter().flat_map(|c| get(c.choices())).collect::<BTreeSet<_>>();
            assert_eq!(seen(&|c| vec![c.resolution]).len(), space.training_resolutions.len());
            for (i, stage) in space.stages.iter().enumerate() {
                assert_eq!(seen(&|c| vec![c.stages[i].depth]).len(), stage.depth.len());
                assert_eq!(seen(&|c| c.stages[i].channels.clone()).len(), stage.channels.len());
                assert_eq!(seen(&|c| c.stages[i].kernel.clone()).len(), stage.kernel.len());
            }
        }
    }

    #[test]
    fn mutation_keeps_what_its_chance_spares() {
        let mut space = preset("bignas").unwrap();
        space.stages[4].granularity = Granularity::Stage;
        let parent = space.random(Draw::new(3, 0, 0));
        assert_eq!(space.mutate(&parent, Draw::new(0, 0, 0), 0.0), parent);
        let mutants: BTreeSet<_> = (0..100).map(|step| space.mutate(&parent, Draw::new(0, step, 0), 0.2).id()).collect();
        assert!(mutants.len() > 95, "only {} different mutants", mutants.len());
    }
}
