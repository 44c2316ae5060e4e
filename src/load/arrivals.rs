//! Times between requests of an open loop.

use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Gamma};

/// Independent clients: gamma-distributed times between requests.
#[derive(Debug)]
pub struct Arrivals {
    gaps_s: Gamma<f64>,
    rng: ChaCha8Rng,
}

impl Arrivals {
    /// `rate` requests a second on average; `cv2` is the squared coefficient of variation of the times between them: 1 is a Poisson
    /// process, more comes in bursts. None where either is not above 0.
    #[must_use]
    pub fn new(rate: f64, cv2: f64, seed: u64) -> Option<Self> {
        let gaps_s = Gamma::new(1.0 / cv2, cv2 / rate).ok().filter(|_| rate > 0.0 && rate.is_finite() && cv2 > 0.0 && cv2.is_finite())?;
        Some(Self { gaps_s, rng: ChaCha8Rng::seed_from_u64(seed) })
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.gaps_s.sample(&mut self.rng)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_have_the_rate_and_the_variation_asked_for() {
        for (rate, cv2) in [(100.0, 1.0), (50.0, 2.0), (1000.0, 8.0)] {
            let gaps: Vec<f64> = Arrivals::new(rate, cv2, 1).unwrap().take(200_000).map(|gap| gap.as_secs_f64()).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
            assert!((mean * rate - 1.0).abs() < 0.03, "{rate}: {mean}");
            assert!((variance / mean.powi(2) / cv2 - 1.0).abs() < 0.1, "{cv2}: {}", variance / mean.powi(2));
        }
    }

    #[test]
    fn a_seed_gives_the_same_times_and_nonsense_gives_none() {
        let first = |seed| Arrivals::new(10.0, 4.0, seed).unwrap().take(5).collect::<Vec<_>>();
        assert_eq!(first(3), first(3));
        assert_ne!(first(3), first(4));
        for (rate, cv2) in [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (f64::INFINITY, 1.0), (1.0, f64::NAN)] {
            assert!(Arrivals::new(rate, cv2, 0).is_none(), "{rate}, {cv2}");
        }
    }
}
