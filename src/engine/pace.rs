//! How long a child's runs take: as measured when it was loaded, corrected by what runs took since.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use crate::runtime::Profile;

/// Weight of the newest run in the correction.
const NEWEST: f64 = 0.1;
/// The correction stays between this and its inverse: one stalled run must not make a child look hopeless.
const LEAST: f64 = 0.25;

/// Predicts one child's runs, and learns from them.
#[derive(Debug)]
pub(super) struct Pace(RwLock<Known>);

#[derive(Debug)]
struct Known {
    profile: Profile,
    /// What runs took over what the profile says, averaged.
    correction: f64,
}

impl Pace {
    pub(super) fn new(profile: Profile) -> Self {
        Self(RwLock::new(Known { profile, correction: 1.0 }))
    }

    /// Takes a new measurement, and forgets the correction of the one before.
    pub(super) fn set(&self, profile: Profile) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Known { profile, correction: 1.0 };
    }

    /// Predicted time of a run of `images`.
    pub(super) fn predict(&self, images: usize) -> Duration {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Duration::from_secs_f64(known.profile.predict_ms(images) * known.correction / 1e3)
    }

    /// Learns what a run of `images` took. Returns what was predicted over what it took.
    pub(super) fn learn(&self, images: usize, took: Duration) -> f64 {
        let predicted = self.predict(images);
        let took_ms = (took.as_secs_f64() * 1e3).max(1e-6);
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let ratio = took_ms / known.profile.predict_ms(images).max(1e-6);
        known.correction = (known.correction + NEWEST * (ratio - known.correction)).clamp(LEAST, 1.0 / LEAST);
        predicted.as_secs_f64() * 1e3 / took_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_follow_what_runs_take_within_bounds() {
        let pace = Pace::new(Profile::of_one_image(10.0));
        assert_eq!(pace.predict(3), Duration::from_millis(30));
        assert!((pace.learn(1, Duration::from_millis(20)) - 0.5).abs() < 1e-9);
        assert!((pace.predict(1).as_secs_f64() - 0.011).abs() < 1e-9, "a tenth of the way");
        for _ in 0..200 {
            pace.learn(2, Duration::from_millis(40));
        }
        assert!((pace.predict(1).as_secs_f64() - 0.020).abs() < 1e-5);
        for _ in 0..200 {
            pace.learn(1, Duration::from_secs(10));
        }
        assert!((pace.predict(1).as_secs_f64() - 0.040).abs() < 1e-9, "four times the profile at most");
        pace.set(Profile::of_one_image(1.0));
        assert_eq!(pace.predict(1), Duration::from_millis(1));
    }
}
