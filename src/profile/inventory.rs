//! What there is to measure: every distinct part of a space's children, and whole children.

use std::collections::{BTreeMap, BTreeSet};

use crate::space::{Child, Choices, Draw, Granularity, Plan, SearchSpace, Stage, StageChoices};

/// Where a part occurs: in which child, and as which of [`Plan::parts`].
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// A child that has the part.
    pub child: Child,
    /// The part's number, counted from 0.
    pub index: usize,
}

/// Every distinct part of every child of `space`, by its key, with one place where it occurs.
///
/// A part depends on the resolution, on its own choices, and on its input channels, which are the choice of the layer before it:
/// each of these children makes one combination of them, and is the smallest otherwise.
#[must_use]
pub fn inventory(space: &SearchSpace, classes: usize) -> BTreeMap<String, Place> {
    let mut found = Inventory { space, classes, parts: BTreeMap::new() };
    let smallest = space.smallest().choices().clone();
    for &resolution in &space.resolutions {
        let base = Choices { resolution, ..smallest.clone() };
        for stem in &space.stem.channels {
            found.add(Choices { stem: *stem, ..base.clone() }, 0);
        }
        for stage in 0..space.stages.len() {
            found.first_blocks(&base, stage);
            found.later_blocks(&base, stage);
        }
        found.heads(&base);
    }
    found.parts
}

struct Inventory<'a> {
    space: &'a SearchSpace,
    classes: usize,
    parts: BTreeMap<String, Place>,
}

impl Inventory<'_> {
    fn add(&mut self, choices: Choices, index: usize) {
        let child = Child::new(self.space, choices).expect("choices taken from the space lie inside it");
        let plan = Plan::new(self.space, &child, self.classes);
        if let Some(part) = plan.parts().nth(index) {
            self.parts.entry(part.key()).or_insert(Place { child, index });
        }
    }

    /// The first block of a stage, whose input is the stage before or the stem.
    fn first_blocks(&mut self, base: &Choices, stage: usize) {
        let depths = base.stages[..stage].iter().map(|stage| stage.depth);
        let index = 1 + depths.sum::<usize>();
        let inputs = stage.checked_sub(1).map_or(&self.space.stem.channels, |before| &self.space.stages[before].channels);
        for &input in inputs {
            for chosen in uniform(&self.space.stages[stage], base.stages[stage].depth) {
                let mut choices = base.clone();
                match stage.checked_sub(1) {
                    None => choices.stem = input,
                    Some(before) => choices.stages[before].channels.fill(input),
                }
                choices.stages[stage] = chosen;
                self.add(choices, index);
            }
        }
    }

    /// The blocks behind a stage's first, which differ in nothing but their choices and those of the block before.
    fn later_blocks(&mut self, base: &Choices, stage: usize) {
        let rules = &self.space.stages[stage];
        let Some(&depth) = rules.depth.iter().find(|&&depth| depth > 1) else { return };
        let index = 2 + base.stages[..stage].iter().map(|stage| stage.depth).sum::<usize>();
        for chosen in uniform(rules, depth) {
            let inputs = match rules.granularity {
                Granularity::Layer => &rules.channels[..],
                Granularity::Stage => &chosen.channels[..1],
            };
            for &input in inputs {
                let mut choices = base.clone();
                choices.stages[stage] = chosen.clone();
                choices.stages[stage].channels[0] = input;
                self.add(choices, index);
            }
        }
    }

    fn heads(&mut self, base: &Choices) {
        let last = base.stages.len() - 1;
        let index = 1 + base.stages.iter().map(|stage| stage.depth).sum::<usize>();
        for &channels in &self.space.stages[last].channels {
            for &head in &self.space.head.channels {
                let mut choices = Choices { head, ..base.clone() };
                choices.stages[last].channels.fill(channels);
                self.add(choices, index);
            }
        }
    }
}

/// Every stage of this depth whose layers all make the same choice.
fn uniform(stage: &Stage, depth: usize) -> Vec<StageChoices> {
    let mut all = Vec::new();
    for &channels in &stage.channels {
        for &kernel in &stage.kernel {
            all.extend(stage.expansion.iter().map(|&expansion| StageChoices::uniform(depth, channels, kernel, expansion)));
        }
    }
    all
}

/// At most `count` different children at any deployable resolution: the smallest, the biggest, and seeded random ones. Fewer where
/// the space has hardly more.
#[must_use]
pub fn sample(space: &SearchSpace, count: usize, seed: u64) -> Vec<Child> {
    let random = |step: u64| space.mutate(&space.random(Draw::new(seed, step, 0)), Draw::new(seed, step, 1), 1.0);
    let attempts = 20 * count as u64;
    let mut seen = BTreeSet::new();
    let drawn = [space.smallest(), space.biggest()].into_iter().chain((0..attempts).map(random));
    drawn.filter(|child| seen.insert(child.id())).take(count).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::space::{PRESETS, Shortcut, preset};

    /// So few that all of them are measured, and none has to be guessed from others.
    #[test]
    fn a_preset_has_a_few_thousand_parts_at_most() {
        let counts = PRESETS.map(|name| (name, inventory(&preset(name).unwrap(), 10).len()));
        assert_eq!(counts, [("attentivenas", 1484), ("bignas", 2282), ("cifar10", 355), ("fashion-mnist", 402)]);
    }

    #[test]
    fn a_place_holds_its_part() {
        let space = preset("cifar10").unwrap();
        for (key, place) in inventory(&space, 10) {
            let plan = Plan::new(&space, &place.child, 10);
            assert_eq!(plan.parts().nth(place.index).unwrap().key(), key);
        }
    }

    #[test]
    fn a_sample_has_different_children_from_end_to_end() {
        let space = preset("fashion-mnist").unwrap();
        let children = sample(&space, 60, 1);
        let ids: BTreeSet<_> = children.iter().map(Child::id).collect();
        assert_eq!((children.len(), ids.len()), (60, 60));
        assert_eq!((&children[0], &children[1]), (&space.smallest(), &space.biggest()));
        let resolutions: BTreeSet<_> = children.iter().map(Child::resolution).collect();
        assert_eq!(resolutions.len(), space.resolutions.len(), "also those unseen in training: {resolutions:?}");
        assert_eq!(sample(&space, 60, 1), children);
        assert_ne!(sample(&space, 60, 2), children);
    }

    #[test]
    fn a_space_of_one_child_has_a_sample_of_one() {
        let mut space = preset("fashion-mnist").unwrap();
        (space.resolutions, space.training_resolutions) = (vec![20], vec![20]);
        (space.stem.channels, space.head.channels) = (vec![8], vec![128]);
        for stage in &mut space.stages {
            (stage.channels, stage.depth, stage.kernel) = (vec![8], vec![1], vec![3]);
        }
        assert_eq!(sample(&space, 60, 1), [space.smallest()]);
        assert_eq!(inventory(&space, 10).len(), Plan::new(&space, &space.smallest(), 10).parts().count());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn the_parts_of_any_child_are_in_the_inventory(seed in any::<u64>(), preset_index in 0..PRESETS.len(), identity_only: bool) {
            let mut space = preset(PRESETS[preset_index]).unwrap();
            if identity_only {
                space.shortcut = Shortcut::IdentityOnly;
            }
            let parts = inventory(&space, 10);
            for child in sample(&space, 30, seed) {
                for part in Plan::new(&space, &child, 10).parts() {
                    prop_assert!(parts.contains_key(&part.key()), "{} of {} at {} px", part.key(), space.name, child.resolution());
                }
            }
        }
    }
}
