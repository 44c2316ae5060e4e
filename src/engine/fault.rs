//! Faults on purpose, so that an operator can see what one costs: a worker panics in the middle of a run every so often.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Panics in whoever strikes first after each period.
#[derive(Debug)]
pub(super) struct Fault {
    every: Duration,
    next: Mutex<Instant>,
}

impl Fault {
    pub(super) fn new(every: Duration) -> Self {
        Self { every, next: Mutex::new(Instant::now() + every) }
    }

    /// Panics where a fault is due.
    pub(super) fn strike(&self) {
        let due = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let due = now >= *next;
            if due {
                *next = now + self.every;
            }
            due
        };
        assert!(!due, "a fault that was asked for (--inject-panic-every-ms)");
    }
}
