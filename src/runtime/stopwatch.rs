//! How long a run takes, whatever else goes on beside it.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Times one run. A run that computes on its caller's thread alone is timed by that thread's processor time, which other work on
/// the same cores does not lengthen; any other by the time that passes.
#[derive(Debug)]
pub(super) enum Stopwatch {
    Passed(Instant),
    Computed(Duration),
}

impl Stopwatch {
    pub(super) fn start(on_this_thread: bool) -> Self {
        if on_this_thread { Self::Computed(thread_time()) } else { Self::Passed(Instant::now()) }
    }

    pub(super) fn elapsed(&self) -> Duration {
        match self {
            Self::Passed(begin) => begin.elapsed(),
            Self::Computed(begin) => thread_time().saturating_sub(*begin),
        }
    }

    pub(super) fn elapsed_ms(&self) -> f64 {
        self.elapsed().as_secs_f64() * 1e3
    }
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // The clock starts at zero and only rises.
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_time_that_passes_and_no_computation() {
        let watches = [Stopwatch::start(true), Stopwatch::start(false)];
        std::thread::sleep(Duration::from_millis(50));
        let [computed_ms, passed_ms] = watches.map(|watch| watch.elapsed_ms());
        assert!(computed_ms < 25.0 && passed_ms >= 50.0, "{computed_ms} computed, {passed_ms} passed");
    }

    #[test]
    fn computation_is_both() {
        let (watch, begin) = (Stopwatch::start(true), Instant::now());
        let mut sum = 0_u64;
        while watch.elapsed_ms() < 5.0 && begin.elapsed() < Duration::from_secs(20) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(watch.elapsed_ms() >= 5.0);
    }
}
