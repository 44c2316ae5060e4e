//! How long a child's runs take: as measured when it was loaded, corrected by what runs took since.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::runtime::{Device, Profile};
use crate::space::ChildId;

/// Weight of the newest run in the correction.
const NEWEST: f64 = 0.1;
/// A run counts as having taken between this share of its profile and the inverse: one that stalled must not make a child look hopeless.
const LEAST: f64 = 0.25;

/// How long what was learned holds.
const HOLDS: Duration = Duration::from_secs(1);
/// Half of it is forgotten in so many seconds after that, as long as nothing new is learned: a child that looked too slow in bad times
/// would never run again, and never show that they are over.
const HALF_LIFE_S: f64 = 10.0;

/// Predicts one child's runs, and learns from them.
#[derive(Debug)]
pub(super) struct Pace {
    device: Arc<Device>,
    known: RwLock<Known>,
}

#[derive(Debug)]
struct Known {
    profile: Profile,
    /// What runs took over what the profile says, averaged.
    correction: f64,
    /// When the last run ended.
    learned: Instant,
}

impl Known {
    fn new(profile: Profile) -> Self {
        Self { profile, correction: 1.0, learned: Instant::now() }
    }

    fn correction(&self, now: Instant) -> f64 {
        faded(self.correction, now.saturating_duration_since(self.learned))
    }
}

/// What a correction is worth so long after it was learned.
pub(super) fn faded(correction: f64, age: Duration) -> f64 {
    match age.checked_sub(HOLDS) {
        None => correction,
        Some(age) => 1.0 + (correction - 1.0) * 0.5_f64.powf(age.as_secs_f64() / HALF_LIFE_S),
    }
}

impl Pace {
    fn new(profile: Profile, device: &Arc<Device>) -> Self {
        Self { device: Arc::clone(device), known: RwLock::new(Known::new(profile)) }
    }

    /// Takes a new measurement, and forgets the correction of the one before.
    pub(super) fn set(&self, profile: Profile) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Known::new(profile);
    }

    /// Predicted time of a run of `images` that begins about `now`.
    pub(super) fn predict(&self, images: usize, now: Instant) -> Duration {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        Duration::from_secs_f64(known.profile.predict_ms(images, &self.device) * known.correction(now) / 1e3)
    }

    /// Images that a run computes at once at most.
    pub(super) fn batch(&self) -> usize {
        self.known.read().unwrap_or_else(PoisonError::into_inner).profile.best_batch()
    }

    /// Learns what a run of `images` took that ends `now`. Returns what the profile alone says over what it took: predictions follow what runs take,
    /// so that they would hide a device that is no longer as it was measured.
    pub(super) fn learn(&self, images: usize, took: Duration, now: Instant) -> f64 {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let ratio = (took.as_secs_f64() * 1e3).max(1e-6) / known.profile.predict_ms(images, &self.device).max(1e-6);
        let before = known.correction(now);
        known.correction = before + NEWEST * (ratio.clamp(LEAST, 1.0 / LEAST) - before);
        known.learned = now;
        1.0 / ratio
    }
}

/// The paces of all children that were ever loaded: what was learned outlives a child's place in memory.
#[derive(Debug)]
pub(super) struct Paces {
    device: Arc<Device>,
    paces: Mutex<HashMap<ChildId, Arc<Pace>>>,
}

impl Paces {
    /// Of children that run on `device`.
    pub(super) fn new(device: &Device) -> Self {
        Self { device: Arc::new(device.clone()), paces: Mutex::default() }
    }

    /// The pace of `child`, which begins as `profile` says.
    pub(super) fn of(&self, child: ChildId, profile: impl FnOnce() -> Profile) -> Arc<Pace> {
        Arc::clone(self.lock().entry(child).or_insert_with(|| Arc::new(Pace::new(profile(), &self.device))))
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
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_follow_what_runs_take_within_bounds() {
        let (pace, now) = (Pace::new(Profile::of_one_image(10.0), &Arc::default()), Instant::now());
        let learn = |images, ms| pace.learn(images, Duration::from_millis(ms), now);
        let seconds = || pace.predict(1, now).as_secs_f64();
        assert_eq!(pace.predict(3, now), Duration::from_millis(30));
        assert!((learn(1, 20) - 0.5).abs() < 1e-9);
        assert!((seconds() - 0.011).abs() < 1e-9, "a tenth of the way");
        for _ in 0..200 {
            learn(2, 40);
        }
        assert!((seconds() - 0.020).abs() < 1e-5);
        learn(1, 10_000);
        assert!((seconds() - 0.022).abs() < 1e-5, "one that stalled counts as four times the profile");
        for _ in 0..200 {
            learn(1, 10_000);
        }
        assert!((seconds() - 0.040).abs() < 1e-9, "and many do");
        let lasting = learn(1, 40);
        assert!((lasting - 0.25).abs() < 1e-9, "the profile is still off, however good predictions are: {lasting}");
        pace.set(Profile::of_one_image(1.0));
        assert_eq!(pace.predict(1, now), Duration::from_millis(1));
    }

    /// A slow spell ends by itself, also for children that no request dares to ask for meanwhile.
    #[test]
    fn what_was_learned_fades() {
        let (pace, now) = (Pace::new(Profile::of_one_image(10.0), &Arc::default()), Instant::now());
        for _ in 0..200 {
            pace.learn(1, Duration::from_millis(30), now);
        }
        for (after_ms, expected_ms) in [(0, 30.0), (1_000, 30.0), (11_000, 20.0), (21_000, 15.0), (600_000, 10.0)] {
            let predicted_ms = pace.predict(1, now + Duration::from_millis(after_ms)).as_secs_f64() * 1e3;
            assert!((predicted_ms - expected_ms).abs() < 1e-3, "{predicted_ms} ms after {after_ms} ms");
        }
        pace.learn(1, Duration::from_millis(30), now + Duration::from_secs(11));
        let predicted_ms = pace.predict(1, now + Duration::from_secs(11)).as_secs_f64() * 1e3;
        assert!((predicted_ms - 21.0).abs() < 1e-3, "a tenth of the way from where it had come to: {predicted_ms}");
    }

    #[test]
    fn what_was_learned_is_kept_until_the_child_is_forgotten() {
        let (paces, child, now) = (Paces::new(&Device::default()), "0123456789abcdef".parse().unwrap(), Instant::now());
        let profile = || Profile::of_one_image(10.0);
        paces.of(child, profile).learn(1, Duration::from_millis(20), now);
        assert!(paces.of(child, profile).predict(1, now) > Duration::from_millis(10));
        paces.forget(child);
        assert_eq!(paces.of(child, profile).predict(1, now), Duration::from_millis(10));
    }
}
