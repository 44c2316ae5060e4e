//! How long a child's runs take: as measured when it was loaded, corrected by what runs took since.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use crate::runtime::Profile;
use crate::space::ChildId;

/// Weight of the newest run in the correction.
const NEWEST: f64 = 0.1;
/// A run counts as having taken between this share of its profile and the inverse: one that stalled must not make a child look hopeless.
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

    /// Learns what a run of `images` took. Returns what the profile alone says over what it took: predictions follow what runs take,
    /// so that they would hide a device that is no longer as it was measured.
    pub(super) fn learn(&self, images: usize, took: Duration) -> f64 {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let ratio = (took.as_secs_f64() * 1e3).max(1e-6) / known.profile.predict_ms(images).max(1e-6);
        known.correction += NEWEST * (ratio.clamp(LEAST, 1.0 / LEAST) - known.correction);
        1.0 / ratio
    }
}

/// The paces of all children that were ever loaded: what was learned outlives a child's place in memory.
#[derive(Debug, Default)]
pub(super) struct Paces(Mutex<HashMap<ChildId, Arc<Pace>>>);

impl Paces {
    /// The pace of `child`, which begins as `profile` says.
    pub(super) fn of(&self, child: ChildId, profile: impl FnOnce() -> Profile) -> Arc<Pace> {
        Arc::clone(self.lock().entry(child).or_insert_with(|| Arc::new(Pace::new(profile()))))
    }

    /// As [`Pace::set`], of a child that was ever loaded.
    pub(super) fn set(&self, child: ChildId, profile: Profile) {
        if let Some(pace) = self.lock().get(&child) {
            pace.set(profile);
        }
    }

    /// Forgets a child that is no longer known.
    pub(super) fn forget(&self, child: ChildId) {
        self.lock().remove(&child);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ChildId, Arc<Pace>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        pace.learn(1, Duration::from_secs(10));
        assert!((pace.predict(1).as_secs_f64() - 0.022).abs() < 1e-5, "one that stalled counts as four times the profile");
        for _ in 0..200 {
            pace.learn(1, Duration::from_secs(10));
        }
        assert!((pace.predict(1).as_secs_f64() - 0.040).abs() < 1e-9, "and many do");
        let lasting = pace.learn(1, Duration::from_millis(40));
        assert!((lasting - 0.25).abs() < 1e-9, "the profile is still off, however good predictions are: {lasting}");
        pace.set(Profile::of_one_image(1.0));
        assert_eq!(pace.predict(1), Duration::from_millis(1));
    }

    #[test]
    fn what_was_learned_is_kept_until_the_child_is_forgotten() {
        let (paces, child) = (Paces::default(), "0123456789abcdef".parse().unwrap());
        let profile = || Profile::of_one_image(10.0);
        paces.of(child, profile).learn(1, Duration::from_millis(20));
        assert!(paces.of(child, profile).predict(1) > Duration::from_millis(10));
        paces.forget(child);
        assert_eq!(paces.of(child, profile).predict(1), Duration::from_millis(10));
    }
}
