//! How much of a deadline may go to better children: less after a deadline was missed, more again with every minute that keeps all.
//!
//! Time that better children take before a burst is missing in it. How much bursts need is not known beforehand: it depends on those
//! who send, and on what else runs on the machine. So it is found as TCP finds its window: halved at a miss, and grown steadily.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// While others wait or run, an answer by a better child than the smallest must be there within at most this share of the time until the
/// deadline. The rest is for bursts, which only the smallest child takes in, and for what lies outside of the engine: reading requests
/// and writing answers. With all of that time spent on better children, every answer comes at its deadline, and half of them after it.
const MOST: f64 = 0.25;
/// How long it takes to grow from nothing to [`MOST`].
const GROWTH: Duration = Duration::from_secs(60);
/// Misses that follow each other this closely are of one burst, and count as one.
const ONE_BURST: Duration = Duration::from_millis(250);

/// The share of the time until a deadline within which a better child may answer.
#[derive(Debug)]
pub(super) struct Spare(Mutex<Cut>);

#[derive(Debug)]
struct Cut {
    /// The share right after the last miss, and when that was.
    share: f64,
    at: Instant,
    /// The last miss, whether or not it began a burst.
    missed: Option<Instant>,
}

impl Spare {
    /// Nothing is missed yet.
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(Cut { share: MOST, at: now, missed: None }))
    }

    /// The share at the moment.
    pub(super) fn share(&self, now: Instant) -> f64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).share(now)
    }

    /// Takes note of a deadline that was missed, or of a request that was refused for want of time. Says whether the share is smaller
    /// for it.
    pub(super) fn missed(&self, now: Instant) -> bool {
        let mut cut = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = cut.missed.replace(now).is_some_and(|before| now.saturating_duration_since(before) < ONE_BURST);
        if !same {
            (cut.share, cut.at) = (cut.share(now) / 2.0, now);
        }
        !same
    }
}

impl Cut {
    fn share(&self, now: Instant) -> f64 {
        let grown = now.saturating_duration_since(self.at).as_secs_f64() / GROWTH.as_secs_f64();
        (self.share + MOST * grown).min(MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misses_halve_it_and_time_gives_it_back() {
        let start = Instant::now();
        let spare = Spare::new(start);
        let share = |ms| spare.share(start + Duration::from_millis(ms));
        let missed = |ms| spare.missed(start + Duration::from_millis(ms));
        assert_eq!(share(1_000_000), MOST, "it grows no further");
        assert!(missed(1_000) && !(1..10).any(|index| missed(1_000 + 200 * index)));
        assert!((share(1_000) - 0.125).abs() < 1e-9, "one burst, however long, is one miss: {}", share(1_000));
        assert!((share(16_000) - 0.1875).abs() < 1e-9, "a quarter of a minute gives back a quarter: {}", share(16_000));
        assert!(missed(16_000) && missed(17_000));
        assert!(share(17_000) < 0.05, "{}", share(17_000));
        assert_eq!(share(90_000), MOST);
    }
}
