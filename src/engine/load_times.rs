//! How long it takes to get a child into memory, learned from the loads before it.

use std::time::{Duration, Instant};

/// Weight of the newest load in what loads take.
const NEWEST: f64 = 0.3;

/// What loads take, averaged.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// Of children that lie on disk.
    pub(super) disk: Way,
    /// Of children that are built first.
    pub(super) built: Way,
}

/// One way into memory, with a thread of its own; each average is none until there was one.
#[derive(Debug, Default)]
pub(super) struct Way {
    /// Into memory.
    pub(super) load: Average,
    /// All that the thread does for one of them, measuring it included.
    pub(super) job: Average,
    /// When the one that goes on began.
    pub(super) begun: Option<Instant>,
}

/// Seconds of something that happens again and again.
#[derive(Debug, Default)]
pub(super) struct Average(Option<f64>);

impl Average {
    /// Takes note of how long it took this time.
    pub(super) fn learn(&mut self, time: Duration) {
        let new = time.as_secs_f64();
        self.0 = Some(self.0.map_or(new, |before| before + NEWEST * (new - before)));
    }

    /// What it takes; none before the first time.
    pub(super) fn get(&self) -> Option<Duration> {
        self.0.map(Duration::from_secs_f64)
    }
}

impl Times {
    /// The way of a child that lies on disk, or does not.
    pub(super) fn way(&mut self, on_disk: bool) -> &mut Way {
        if on_disk { &mut self.disk } else { &mut self.built }
    }
}

impl Way {
    /// Takes note that the one which goes on has ended, and of how long all of it took.
    pub(super) fn end(&mut self, took: Duration) {
        self.job.learn(took);
        self.begun = None;
    }

    /// When a load will be done that comes after the one that goes on at `now`, and so many others.
    pub(super) fn predict(&self, others: usize, now: Instant) -> Option<Duration> {
        let job = self.job.get().unwrap_or_default();
        let rest = self.begun.map_or(Duration::ZERO, |begun| job.saturating_sub(now.saturating_duration_since(begun)));
        Some(rest + job * u32::try_from(others).unwrap_or(u32::MAX) + self.load.get()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_predicted_from_those_before_it_and_those_ahead() {
        let (mut times, now) = (Times::default(), Instant::now());
        assert_eq!(times.built.predict(3, now), None, "nothing is known yet");
        times.built.load.learn(Duration::from_secs(2));
        assert_eq!(times.built.predict(3, now), Some(Duration::from_secs(2)));
        assert_eq!(times.disk.predict(0, now), None);
        times.disk.load.learn(Duration::from_secs(1));
        times.built.end(Duration::from_secs(4));
        assert_eq!(times.built.predict(3, now), Some(Duration::from_secs(14)));
        times.built.begun = Some(now);
        for (after, expected) in [(0, 18), (3, 15), (9, 14)] {
            let then = now + Duration::from_secs(after);
            assert_eq!(times.built.predict(3, then), Some(Duration::from_secs(expected)), "the one that goes on has run for {after} s");
        }
        times.built.end(Duration::from_secs(4));
        assert_eq!(times.built.predict(0, now), Some(Duration::from_secs(2)));
        assert_eq!(times.disk.predict(2, now), Some(Duration::from_secs(1)), "what is built takes another thread's time");
        times.disk.load.learn(Duration::from_secs(2));
        assert_eq!(times.disk.predict(0, now), Some(Duration::from_millis(1300)), "news counts for three tenths");
    }
}
