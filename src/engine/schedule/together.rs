//! Who runs together: those who wait less so, all waits summed.
//!
//! A batch saves time for everyone behind it, and costs those who are in it: each gets its answer with the last one's. And what one
//! worker takes along, another one that is free a moment later has not.

use std::time::Duration;

use super::{Busy, Predict, Waiting};

/// A run together must save at least this share of the time that the runs would take apart: less can be what a measurement was off by.
const WORTH_BATCHING: f64 = 0.05;

/// What a run takes of the machine beyond its network, which predictions do not know: a worker wakes up for it, and others for its
/// answers. `docs/performance.md` has what came of other values.
const AROUND_A_RUN: Duration = Duration::from_micros(100);

/// A run that is being put together.
#[derive(Debug)]
pub(super) struct Together<C> {
    pub(super) child: C,
    pub(super) images: usize,
    /// How long it takes.
    pub(super) predicted: Duration,
    requests: usize,
    prepare: Duration,
}

/// What else there is to do when a request is asked to run along.
#[derive(Debug)]
pub(super) struct Others<'a> {
    /// What the other workers do.
    pub(super) busy: &'a Busy,
    pub(super) workers: usize,
    /// Requests that are more urgent and wait on, and their work.
    pub(super) passed: (usize, Duration),
    /// Requests that are less urgent.
    pub(super) behind: usize,
}

impl<C: Clone + PartialEq> Together<C> {
    /// One request on `child`.
    pub(super) fn of<T>(child: C, request: &Waiting<C, T>, costs: &impl Predict<C>) -> Self {
        let (images, prepare) = (request.images, request.prepare);
        Self { predicted: prepare + costs.predict(&child, images), child, images, requests: 1, prepare }
    }

    /// The run with one more request, and the time that is saved; none where the request does not allow the child, or little is saved.
    ///
    /// What is predicted may change from one call to the next.
    pub(super) fn with<T>(&self, request: &Waiting<C, T>, costs: &impl Predict<C>) -> Option<(Self, Duration)> {
        if !request.choices.contains(&self.child) {
            return None;
        }
        let apart = costs.predict(&self.child, self.images) + costs.predict(&self.child, request.images);
        let (images, prepare) = (self.images + request.images, self.prepare + request.prepare);
        let both = costs.predict(&self.child, images);
        let saved = (apart + AROUND_A_RUN).saturating_sub(both);
        let pays = saved.as_secs_f64() >= apart.as_secs_f64() * WORTH_BATCHING;
        let joined = || Self { child: self.child.clone(), images, predicted: prepare + both, requests: self.requests + 1, prepare };
        pays.then(|| (joined(), saved))
    }

    /// Whether all wait less, summed, if this run becomes `joined`: those in it wait longer, and so do those who are passed over, if less,
    /// since other workers come to them too; the one that joins and those behind wait less, where so much is saved.
    pub(super) fn should_become(&self, (joined, saved): &(Self, Duration), others: &Others<'_>) -> bool {
        let (passed, before) = others.passed;
        let workers = others.workers as f64;
        let longer = joined.predicted.saturating_sub(self.predicted);
        let alone = others.busy.beside(self.predicted).free_in(others.workers, before) + longer + *saved;
        let delayed_s = longer.as_secs_f64() * (self.requests as f64 + passed as f64 / workers);
        let gained_s = alone.as_secs_f64() - joined.predicted.as_secs_f64();
        delayed_s <= gained_s + saved.as_secs_f64() * others.behind as f64 / workers
    }
}
