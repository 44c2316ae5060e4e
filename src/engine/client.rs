//! Whether anybody still waits for a request, and what to stop where nobody does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::runtime::Stop;

/// The clients of one run; the run ends where the last of them leaves.
#[derive(Debug)]
pub(super) struct Audience {
    present: AtomicUsize,
    pub(super) stop: Stop,
}

impl Audience {
    pub(super) fn new(clients: usize, stop: Stop) -> Self {
        Self { present: AtomicUsize::new(clients), stop }
    }

    fn leave(&self) {
        if self.present.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.stop.now();
        }
    }
}

/// One request's client.
#[derive(Debug, Default)]
pub(super) struct Client(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    /// It waits in the queue.
    #[default]
    Waiting,
    /// It waits for this run.
    Watching(Arc<Audience>),
    /// It has left.
    Gone,
}

impl Client {
    /// Its request runs now.
    pub(super) fn watch(&self, audience: &Arc<Audience>) {
        let mut state = self.lock();
        match *state {
            State::Gone => audience.leave(),
            _ => *state = State::Watching(Arc::clone(audience)),
        }
    }

    pub(super) fn gone(&self) -> bool {
        matches!(*self.lock(), State::Gone)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held by whoever waits for the answer; dropping it is leaving.
#[derive(Debug)]
pub(super) struct Presence(pub(super) Arc<Client>);

impl Drop for Presence {
    fn drop(&mut self) {
        if let State::Watching(audience) = std::mem::replace(&mut *self.0.lock(), State::Gone) {
            audience.leave();
        }
    }
}
