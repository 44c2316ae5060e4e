//! Loads that failed a short time ago: whoever can do without such a child does not wait for the next attempt to fail too.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::build::BuildError;
use crate::space::ChildId;

/// For so long after a failed load, requests that others can answer do not try again.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// When loads last failed, by child.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<HashMap<ChildId, Instant>>);

impl Failures {
    fn lock(&self) -> MutexGuard<'_, HashMap<ChildId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a load has come to: a failure is said, and remembered for a while or until a load succeeds.
    pub(super) fn learn(&self, child: ChildId, failure: Option<&BuildError>) {
        let mut failures = self.lock();
        failures.retain(|&other, when| other != child && when.elapsed() < TRY_AGAIN_AFTER);
        if let Some(error) = failure {
            failures.insert(child, Instant::now());
            let error = error as &dyn Error;
            tracing::error!(%child, error, "the child cannot be built or loaded");
        }
    }

    /// Whether it was too short a time ago to try again without need.
    pub(super) fn lately(&self, child: ChildId) -> bool {
        self.lock().get(&child).is_some_and(|when| when.elapsed() < TRY_AGAIN_AFTER)
    }
}
