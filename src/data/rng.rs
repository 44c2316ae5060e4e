//! Random numbers as a pure function of where they are used.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// What the numbers are for: uses never share a stream.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// The order of an epoch.
    Order = 1,
    /// The augmentation of one image in one epoch.
    Augment = 2,
    /// The choice of calibration images.
    Calibration = 3,
}

/// The generator for one use. The four numbers, side by side, are the 256-bit ChaCha key itself: different numbers
/// are different keys, and the cipher makes the streams of related keys independent. So no hash is needed, and no two
/// uses can collide.
pub(super) fn rng(purpose: Purpose, seed: u64, epoch: u64, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (bytes, word) in key
        .chunks_exact_mut(8)
        .zip([seed, epoch, index, purpose as u64])
    {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::RngExt;

    use super::*;

    #[test]
    fn every_number_counts() {
        let uses = [
            (Purpose::Order, 0, 0, 0),
            (Purpose::Augment, 0, 0, 0),
            (Purpose::Order, 1, 0, 0),
            (Purpose::Order, 0, 1, 0),
            (Purpose::Order, 0, 0, 1),
        ];
        let draw = |(purpose, seed, epoch, index)| rng(purpose, seed, epoch, index).random::<u64>();
        assert_eq!(uses.map(draw), uses.map(draw));
        assert_eq!(
            uses.map(draw).into_iter().collect::<HashSet<_>>().len(),
            uses.len()
        );
    }
}
