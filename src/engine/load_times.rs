//! How long it takes to get a child into memory, learned from the loads before it.

use std::time::Duration;

/// Weight of the newest load in what loads take.
const NEWEST: f64 = 0.3;

/// What loads take, averaged; each none until there was one.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// From disk into memory.
    pub(super) disk: Average,
    /// Building and into memory.
    pub(super) built: Average,
    /// All that the builder does for one of them, measuring it included.
    pub(super) job: Average,
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
    /// When a load will be done that comes after so many others.
    pub(super) fn predict(&self, built: bool, others: usize) -> Option<Duration> {
        let own = if built { &self.built } else { &self.disk };
        Some(Duration::from_secs_f64(own.0? + others as f64 * self.job.0.unwrap_or(0.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_predicted_from_those_before_it_and_those_ahead() {
        let mut times = Times::default();
        assert_eq!(times.predict(true, 3), None, "nothing is known yet");
        times.built.learn(Duration::from_secs(2));
        assert_eq!(times.predict(true, 3), Some(Duration::from_secs(2)));
        assert_eq!(times.predict(false, 0), None);
        times.disk.learn(Duration::from_secs(1));
        times.job.learn(Duration::from_secs(4));
        assert_eq!(times.predict(true, 3), Some(Duration::from_secs(14)));
        assert_eq!(times.predict(false, 2), Some(Duration::from_secs(9)));
        times.disk.learn(Duration::from_secs(2));
        assert_eq!(times.predict(false, 0), Some(Duration::from_millis(1300)), "news counts for three tenths");
    }
}
