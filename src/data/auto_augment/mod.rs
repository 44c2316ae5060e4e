//! AutoAugment: pairs of changes to training images that a search found to help (Cubuk et al., "AutoAugment: Learning
//! Augmentation Strategies from Data", 2019, <https://arxiv.org/abs/1805.09501>).

mod levels;
mod operations;
mod policies;

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use self::operations::Operation;
use crate::image::Patch;

/// Which data set the changes were searched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// ImageNet: mostly changes of colour, and rotations.
    ImageNet,
    /// CIFAR-10: mostly changes of colour, and shifts.
    Cifar10,
}

/// An operation, how likely it is, and its magnitude, 0 to 9.
type Step = (Operation, f64, u8);
/// Two operations, one after the other.
type SubPolicy = [Step; 2];

impl Policy {
    /// One of the policy's pairs, drawn at random, applied to `patch`. What is drawn
    /// depends on nothing but the state of `rng`.
    pub(super) fn apply(self, patch: Patch, rng: &mut impl Rng) -> Patch {
        let table = self.table();
        let pair = table[rng.random_range(0..table.len())];
        pair.into_iter().fold(patch, |patch, (operation, probability, magnitude)| {
            let (happens, negative) = (rng.random::<f64>() < probability, rng.random::<bool>());
            if happens { operation.apply(patch, magnitude, negative) } else { patch }
        })
    }

    fn table(self) -> &'static [SubPolicy; 25] {
        match self {
            Self::ImageNet => &policies::IMAGENET,
            Self::Cifar10 => &policies::CIFAR10,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    const POLICIES: [Policy; 2] = [Policy::ImageNet, Policy::Cifar10];

    /// As another transcription has them; some operations have no magnitude, whatever the paper lists.
    #[test]
    fn tables_are_the_papers() {
        #[derive(Deserialize)]
        struct Golden {
            imagenet: Vec<[(String, f64, Option<u8>); 2]>,
            cifar10: Vec<[(String, f64, Option<u8>); 2]>,
        }
        let golden: Golden = serde_json::from_str(include_str!("../../../tests/data/auto_augment/policies.json")).expect("valid");
        for (policy, expected) in [(Policy::ImageNet, golden.imagenet), (Policy::Cifar10, golden.cifar10)] {
            let (steps, expected) = (policy.table().as_flattened(), expected.as_flattened());
            assert_eq!(steps.len(), expected.len());
            for ((operation, probability, magnitude), expected) in steps.iter().zip(expected) {
                let found = (format!("{operation:?}"), *probability, expected.2.map(|_| *magnitude));
                assert_eq!(found, *expected, "{policy:?}");
                assert!(*magnitude <= 9, "{operation:?} {magnitude}");
            }
        }
    }

    /// How often a patch changes is known where every operation that happens changes it, and what one changed no other
    /// restores: the share of draws in which at least one of the pair happens.
    #[test]
    fn pairs_are_drawn_alike_and_operations_by_their_probabilities() {
        let noise = |i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8;
        let patch = Patch { size: 32, channels: 3, data: (0..32 * 32 * 3).map(|i| noise(i) / 2 + 30).collect() };
        const DRAWS: u32 = 4000;
        for policy in POLICIES {
            let changes = |(operation, _, magnitude): Step| operation.apply(patch.clone(), magnitude, false) != patch;
            let expected = policy.table().iter().map(|pair| {
                let stays = pair.iter().map(|step| if changes(*step) { 1.0 - step.1 } else { 1.0 });
                (1.0 - stays.product::<f64>()) / 25.0
            });
            let expected = expected.sum::<f64>();
            let mut rng = ChaCha8Rng::seed_from_u64(7);
            let changed = (0..DRAWS).filter(|_| policy.apply(patch.clone(), &mut rng) != patch).count();
            let share = changed as f64 / f64::from(DRAWS);
            assert!((share - expected).abs() < 0.03, "{policy:?}: {share:.3} of the patches changed, {expected:.3} should");
        }
    }

    #[test]
    fn same_state_same_patch_and_both_signs_are_drawn() {
        let grey = Patch { size: 16, channels: 1, data: (0..=255).collect() };
        for policy in POLICIES {
            let mut outcomes = Vec::new();
            for seed in 0..600 {
                let draw = || policy.apply(grey.clone(), &mut ChaCha8Rng::seed_from_u64(seed));
                let patch = draw();
                assert_eq!(patch, draw());
                assert_eq!((patch.size, patch.channels, patch.data.len()), (16, 1, 256));
                outcomes.push((ChaCha8Rng::seed_from_u64(seed).random_range(0..25_usize), patch));
            }
            // The second pair of CIFAR-10's and the sixth of ImageNet's turn the image, either way.
            let turning = if policy == Policy::ImageNet { 5 } else { 1 };
            let mut seen: Vec<_> = outcomes.into_iter().filter(|(pair, _)| *pair == turning).map(|(_, patch)| patch.data).collect();
            seen.sort_unstable();
            seen.dedup();
            assert!(seen.len() >= 3, "{policy:?}: {} different outcomes", seen.len());
        }
    }
}
