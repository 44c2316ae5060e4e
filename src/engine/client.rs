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

#[cfg(test)]
mod tests {
    use super::*;

    /// In whatever order they leave, and whether or not they left before the run began.
    #[test]
    fn a_run_ends_when_the_last_of_its_clients_leaves() {
        for before in 0..=3 {
            let mut clients: Vec<_> = (0..3).map(|_| Presence(Arc::default())).collect();
            let watched: Vec<_> = clients.iter().map(|present| Arc::clone(&present.0)).collect();
            clients.truncate(3 - before);
            let audience = Arc::new(Audience::new(3, Stop::new().unwrap()));
            watched.iter().for_each(|client| client.watch(&audience));
            while clients.pop().is_some() {
                assert_eq!(audience.stop.asked(), clients.is_empty(), "{} of 3 are left, {before} left before", clients.len());
            }
            assert!(audience.stop.asked() && watched.iter().all(|client| client.gone()), "{before} left before");
        }
    }
}
