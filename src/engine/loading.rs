//! Getting a child into memory, once however many ask for it at the same time.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{oneshot, watch};

use super::build::BuildError;
use super::loaded::LoadedChild;
use super::types::{ClassifyError, Source};
use super::{Engine, Inner};
use crate::allocator::return_freed_memory;
use crate::runtime::Profile;
use crate::space::{Child, ChildId, Plan};

/// What one core does until it was measured, in millions of multiply-adds a millisecond.
const MMACS_PER_MS: f64 = 15.0;

/// What a load ends in; `None` while it goes on.
type Outcome = Option<Result<(Arc<LoadedChild>, Source), BuildError>>;

/// The loads that go on, by child. Whoever asks for the same child waits for the same outcome.
#[derive(Debug, Default)]
pub(super) struct Loading(Mutex<HashMap<ChildId, watch::Receiver<Outcome>>>);

impl Loading {
    fn lock(&self) -> MutexGuard<'_, HashMap<ChildId, watch::Receiver<Outcome>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a load when it ends, also by a panic.
struct Registered {
    inner: Arc<Inner>,
    child: ChildId,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.inner.loading.lock().remove(&self.child);
    }
}

impl Engine {
    /// The child `id` in memory, loaded or built first where need be.
    pub(super) async fn load(&self, id: ChildId) -> Result<(Arc<LoadedChild>, Source), ClassifyError> {
        if self.inner.draining.load(Ordering::Acquire) {
            return Err(ClassifyError::ShuttingDown);
        }
        let known = self.inner.registry.get(id).ok_or(ClassifyError::Unknown(id))?;
        let (loaded, source) = match self.inner.cache.get(id) {
            Some(loaded) => (loaded, Source::Memory),
            None => self.load_once(known.child).await?,
        };
        let label = match source {
            Source::Memory => "memory",
            Source::Disk => "disk",
            Source::Shared => "shared",
            Source::Built => "built",
        };
        self.inner.metrics.child_source.with_label_values(&[label]).inc();
        Ok((loaded, source))
    }

    /// As [`Engine::load`], of a child that is not in memory, whether or not it is known.
    pub(super) async fn load_once(&self, child: Arc<Child>) -> Result<(Arc<LoadedChild>, Source), BuildError> {
        let id = child.id();
        let mut outcome = self.join_or_begin(child)?;
        match outcome.wait_for(Option::is_some).await {
            Ok(done) => done.clone().unwrap_or(Err(BuildError::Lost(id))),
            // The builder dropped its end without an outcome: it panicked.
            Err(_) => Err(BuildError::Lost(id)),
        }
    }

    /// Begins to load a known child that a later request will want; where too many wait already, that request will ask again.
    pub(super) fn begin_load(&self, id: ChildId) {
        if let Some(known) = self.inner.registry.get(id) {
            let _ = self.join_or_begin(known.child);
        }
    }

    fn join_or_begin(&self, child: Arc<Child>) -> Result<watch::Receiver<Outcome>, BuildError> {
        let id = child.id();
        let mut loading = self.inner.loading.lock();
        if let Some(outcome) = loading.get(&id) {
            return Ok(outcome.clone());
        }
        let (sender, receiver) = watch::channel(None);
        let inner = Arc::clone(&self.inner);
        let job = Box::new(move || {
            let registered = Registered { inner: Arc::clone(&inner), child: id };
            let outcome = inner.load_now(&child);
            drop(registered);
            // Everyone who asked may be gone; the child stays loaded for the next.
            let _ = sender.send(Some(outcome));
            if !inner.measured(id) {
                inner.measure_now(id);
            }
            return_freed_memory();
        });
        self.inner.builders.submit(1, job).map_err(|full| BuildError::Busy { waiting: full.waiting })?;
        loading.insert(id, receiver.clone());
        Ok(receiver)
    }

    /// Waits until the latency of a loaded child is known.
    pub(super) async fn measure(&self, id: ChildId) -> Result<(), BuildError> {
        if self.inner.measured(id) {
            return Ok(());
        }
        let (sender, done) = oneshot::channel();
        let inner = Arc::clone(&self.inner);
        // The load's own measurement comes before this job in the queue.
        let job = Box::new(move || {
            if !inner.measured(id) {
                inner.measure_now(id);
            }
            let _ = sender.send(());
        });
        self.inner.builders.submit(1, job).map_err(|full| BuildError::Busy { waiting: full.waiting })?;
        done.await.map_err(|_| BuildError::Lost(id))
    }
}

impl Inner {
    /// Loads a child on this thread, building it first where need be, and keeps it in memory.
    pub(super) fn load_now(&self, child: &Arc<Child>) -> Result<(Arc<LoadedChild>, Source), BuildError> {
        let id = child.id();
        if let Some(loaded) = self.cache.get(id) {
            return Ok((loaded, Source::Memory));
        }
        let built = self.builder.get(child)?;
        let source = built.source;
        let begin = Instant::now();
        let loaded = LoadedChild::new(&self.builder, Arc::clone(child), built, self.profile(child));
        self.builder.record("load", begin.elapsed());
        let loaded = Arc::new(loaded?);
        let bytes = loaded.bytes(self.pool.runs());
        let dropped = self.cache.insert(id, Arc::clone(&loaded), bytes);
        self.metrics.cache_evictions.inc_by(dropped as u64);
        self.record_usage();
        Ok((loaded, source))
    }

    /// The child's times as measured, or a guess from its multiply-adds until they are.
    fn profile(&self, child: &Child) -> Profile {
        let guess = || {
            let card = &self.builder.model.card;
            let macs = Plan::new(&card.space, child, card.labels.len()).cost().macs;
            Profile::of_one_image(macs.millions() / MMACS_PER_MS)
        };
        self.table(self.builder.run_threads.load(Ordering::Acquire)).profile(child.id()).unwrap_or_else(guess)
    }

    /// Whether a child's times are known for every number of threads that a run may have.
    pub(super) fn measured(&self, id: ChildId) -> bool {
        self.tables.iter().all(|(_, table)| table.get(id).is_some())
    }

    /// Measures what is not known of the times of a child in memory; one that was dropped meanwhile stays unmeasured.
    pub(super) fn measure_now(&self, id: ChildId) {
        let Some(loaded) = self.cache.get(id) else { return };
        for (threads, table) in self.tables.iter().filter(|(_, table)| table.get(id).is_none()) {
            match loaded.measure(&self.builder, *threads) {
                Ok(profile) => {
                    if *threads == self.builder.run_threads.load(Ordering::Acquire) {
                        loaded.pace.set(profile.clone());
                    }
                    if let Err(error) = table.insert(id, profile) {
                        tracing::warn!(child = %id, %error, "a measured latency cannot be kept on disk");
                    }
                }
                Err(error) => tracing::warn!(child = %id, %error, "a latency could not be measured"),
            }
        }
    }
}
