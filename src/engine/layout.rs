//! How many runs go side by side, and on how many threads each.
//!
//! On a processor, large children run best side by side on one thread each; where that is not so, measurements say it. All cores
//! together are given the division with which they classify the most images a second.

use std::num::NonZeroUsize;

use crate::runtime::Profile;

/// By how much more threads a run must raise the throughput, so that noise decides nothing.
const WORTH_MORE_THREADS: f64 = 1.02;

/// A division of the cores among runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Runs side by side.
    pub(super) runs: usize,
    /// Threads of each.
    pub(super) threads: usize,
}

impl Layout {
    /// As many runs of `threads` threads as there are cores for.
    pub(super) fn of(threads: usize, cores: usize) -> Self {
        Self { runs: (cores / threads.max(1)).max(1), threads: threads.max(1) }
    }

    /// Threads a run that are worth measuring on so many cores: 1, 2, 4 and so on.
    pub(super) fn candidates(cores: usize) -> Vec<usize> {
        let doubled = |&threads: &usize| Some(threads * 2);
        std::iter::successors(Some(1), doubled).take_while(|&threads| threads <= cores.max(1)).collect()
    }

    /// The layout that classifies the most images a second, each child's throughput weighing alike. `measured` has the profiles of the
    /// same children for each number of threads, fewest threads first.
    pub(super) fn best(cores: usize, measured: &[(usize, Vec<Profile>)]) -> Self {
        let score = |threads: usize, profiles: &[Profile]| {
            let logarithms: f64 = profiles.iter().map(|profile| profile.images_per_ms().ln()).sum();
            let count = NonZeroUsize::new(profiles.len()).map_or(1.0, |count| count.get() as f64);
            (logarithms / count).exp() * Self::of(threads, cores).runs as f64
        };
        let mut best = (Self::of(1, cores), 0.0);
        for (threads, profiles) in measured {
            let found = score(*threads, profiles);
            if found > best.1 * WORTH_MORE_THREADS {
                best = (Self::of(*threads, cores), found);
            }
        }
        best.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_divided_and_never_shared() {
        for (cores, candidates) in [(0, vec![1]), (1, vec![1]), (2, vec![1, 2]), (6, vec![1, 2, 4]), (8, vec![1, 2, 4, 8])] {
            assert_eq!(Layout::candidates(cores), candidates, "{cores} cores");
            for threads in candidates {
                let layout = Layout::of(threads, cores);
                assert!(layout.runs * layout.threads <= cores.max(1), "{layout:?} on {cores} cores");
            }
        }
        assert_eq!(Layout::of(16, 4), Layout { runs: 1, threads: 16 }, "who asks for more than there are gets them");
    }

    #[test]
    fn the_most_images_a_second_win() {
        let one = |latency_ms| vec![Profile::of_one_image(latency_ms), Profile::of_one_image(10.0 * latency_ms)];
        let cases = [
            (vec![(1, one(8.0)), (2, one(5.0)), (4, one(3.0))], 1),
            (vec![(1, one(8.0)), (2, one(3.5)), (4, one(3.0))], 2),
            (vec![(1, one(8.0)), (2, one(3.95)), (4, one(1.9))], 4),
            (vec![(1, one(8.0)), (2, one(3.95))], 1),
            (vec![], 1),
        ];
        for (measured, threads) in cases {
            assert_eq!(Layout::best(4, &measured), Layout::of(threads, 4), "{measured:?}");
        }
    }
}
