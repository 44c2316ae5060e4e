//! Getting a child into memory, once however many ask for it at the same time.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::build::{BuildError, Built};
use super::failures::Failures;
use super::load_times::Times;
use super::loaded::{LoadedChild, bytes_in_sessions};
use super::registry::Known;
use super::types::{ClassifyError, Source};
use super::{Engine, Inner};
use crate::process::return_freed_memory;
use crate::runtime::{Full, Profile, Workers};
use crate::space::{Child, ChildId, Plan};

/// What one core does until it was measured, in millions of multiply-adds a millisecond.
const MMACS_PER_MS: f64 = 15.0;

/// What a load ends in; `None` while it goes on.
type Outcome = Option<Result<(Arc<LoadedChild>, Source), BuildError>>;

/// Nothing is loaded ahead while so many children wait for the builder.
const LOADS_AHEAD: usize = 2;

/// The loads that go on, by child, and how long loads take. Whoever asks for the same child waits for the same outcome.
#[derive(Debug, Default)]
pub(super) struct Loading {
    under_way: Mutex<HashMap<ChildId, UnderWay>>,
    times: Mutex<Times>,
    pub(super) failures: Failures,
    /// Held while a child is measured: two would disturb each other, and one may come to be measured from two sides.
    measuring: Mutex<()>,
}

/// A load that goes on.
#[derive(Debug)]
struct UnderWay {
    outcome: watch::Receiver<Outcome>,
    /// When it will be done, as predicted when it began.
    done_by: Option<Instant>,
}

impl Loading {
    fn lock(&self) -> MutexGuard<'_, HashMap<ChildId, UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
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
            None => self.inner.load_once(known.child).await?,
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

    /// Begins to load a known child that a later request will want; where too many wait already, that request will ask again.
    pub(super) fn begin_load(&self, id: ChildId) {
        if let Some(known) = self.inner.registry.get(id) {
            let _ = self.inner.join_or_begin(known.child);
        }
    }

    /// Begins to load what of `smaller`, best first, lies on disk alone, so that a busier time finds it in memory: the smallest where it
    /// fits beside `best`, the rest where they push nobody out. Only a few at a time, since nobody waits for them.
    pub(super) fn begin_loads(&self, best: ChildId, smaller: &[ChildId]) {
        let ahead: Vec<(usize, ChildId)> =
            smaller.iter().rev().copied().enumerate().filter(|(_, id)| self.inner.on_disk_only(*id)).collect();
        // As a rule: this is asked at every request.
        if ahead.is_empty() {
            return;
        }
        let limit = self.inner.options.memory_limit_bytes;
        let needed = |id| self.inner.registry.get(id).map(|known| self.inner.expected_bytes(&known));
        let best_needs = needed(best).unwrap_or(0);
        let mut bytes = self.inner.cache.usage().0 + if self.inner.cache.contains(best) { 0 } else { best_needs };
        for (place, id) in ahead {
            if self.inner.loaders.waiting() >= LOADS_AHEAD {
                return;
            }
            let Some(needed) = needed(id) else { continue };
            bytes += needed;
            if bytes <= limit || (place == 0 && best_needs + needed <= limit) {
                self.begin_load(id);
            }
        }
    }
}

impl Inner {
    /// As [`Engine::load`], of a child that is not in memory, whether or not it is known.
    pub(super) async fn load_once(self: &Arc<Self>, child: Arc<Child>) -> Result<(Arc<LoadedChild>, Source), BuildError> {
        let id = child.id();
        let mut outcome = self.join_or_begin(child)?;
        match outcome.wait_for(Option::is_some).await {
            Ok(done) => done.clone().unwrap_or(Err(BuildError::Lost(id))),
            // The builder dropped its end without an outcome: it panicked.
            Err(_) => Err(BuildError::Lost(id)),
        }
    }

    fn join_or_begin(self: &Arc<Self>, child: Arc<Child>) -> Result<watch::Receiver<Outcome>, BuildError> {
        let id = child.id();
        let mut loading = self.loading.lock();
        if let Some(under_way) = loading.get(&id) {
            return Ok(under_way.outcome.clone());
        }
        let done_by = self.predicted_new_load(id).map(|time| Instant::now() + time);
        let (sender, outcome) = watch::channel(None);
        let inner = Arc::clone(self);
        // Milliseconds do not wait for minutes: what lies on disk goes past all that must be built.
        let on_disk = inner.builder.store.contains(&inner.builder.key(id));
        let job = Box::new(move || {
            let registered = Registered { inner: Arc::clone(&inner), child: id };
            let begin = Instant::now();
            inner.loading.times().way(on_disk).begun = Some(begin);
            let outcome = inner.load_now(&child);
            inner.loading.failures.learn(id, outcome.as_ref().err());
            drop(registered);
            // Everyone who asked may be gone; the child stays loaded for the next.
            let _ = sender.send(Some(outcome));
            inner.measure_loaded(id);
            inner.loading.times().way(on_disk).end(begin.elapsed());
            return_freed_memory();
        });
        self.threads(on_disk).submit(1, job).map_err(|full| self.busy(full, on_disk))?;
        loading.insert(id, UnderWay { outcome: outcome.clone(), done_by });
        Ok(outcome)
    }

    /// Waits until the latency of a loaded child is known.
    pub(super) async fn measure(self: &Arc<Self>, id: ChildId) -> Result<(), BuildError> {
        if self.measured(id) {
            return Ok(());
        }
        let (sender, done) = oneshot::channel();
        let inner = Arc::clone(self);
        // The load measures it too; whoever comes second has nothing left to do.
        let job = Box::new(move || {
            inner.measure_loaded(id);
            let _ = sender.send(());
        });
        self.builders.submit(1, job).map_err(|full| self.busy(full, false))?;
        done.await.map_err(|_| BuildError::Lost(id))
    }

    /// Loads a child on this thread, building it first where need be, and keeps it in memory.
    pub(super) fn load_now(&self, child: &Arc<Child>) -> Result<(Arc<LoadedChild>, Source), BuildError> {
        let id = child.id();
        if let Some(loaded) = self.cache.get(id) {
            return Ok((loaded, Source::Memory));
        }
        if !self.builder.store.contains(&self.builder.key(id)) {
            // What is in memory is never read from disk, and would be the first to make room there for what is built now.
            self.cache.keys().into_iter().for_each(|id| self.builder.store.touch(&self.builder.key(id)));
        }
        let begin = Instant::now();
        let (loaded, source) = self.built_and_loaded(child)?;
        let took = begin.elapsed();
        match source {
            Source::Built => self.loading.times().built.load.learn(took),
            _ => self.loading.times().disk.load.learn(took),
        }
        let bytes = loaded.bytes(self.pool.runs());
        let dropped = self.cache.insert(id, Arc::clone(&loaded), bytes);
        self.metrics.cache_evictions.inc_by(dropped as u64);
        self.record_usage();
        Ok((loaded, source))
    }

    /// A child with its first session. What was built elsewhere or before and does not load is built anew.
    fn built_and_loaded(&self, child: &Arc<Child>) -> Result<(Arc<LoadedChild>, Source), BuildError> {
        let load = |built: Built| {
            let (begin, source) = (Instant::now(), built.source);
            let pace = self.paces.of(child.id(), || self.profile(child));
            let loaded = LoadedChild::new(&self.builder, Arc::clone(child), built, pace);
            self.builder.record("load", begin.elapsed());
            if loaded.is_err() {
                self.metrics.builds.with_label_values(&["error"]).inc();
            }
            loaded.map(|loaded| (Arc::new(loaded), source)).map_err(|error| (error, source))
        };
        load(self.builder.get(child)?).or_else(|(error, source)| {
            if source == Source::Built {
                return Err(error);
            }
            let error = &error as &dyn std::error::Error;
            tracing::warn!(child = %child.id(), error, "what was built before cannot be loaded; building anew");
            load(self.builder.build_anew(child)?).map_err(|(error, _)| error)
        })
    }

    /// What a child takes in memory, before it is there.
    pub(super) fn expected_bytes(&self, known: &Known) -> u64 {
        bytes_in_sessions(known.graph_bytes(), self.pool.runs())
    }

    /// How long it will take to get a child into memory, by what that took before; none before the first time, nor where it takes longer
    /// than predicted.
    pub(super) fn predicted_load(&self, id: ChildId) -> Option<Duration> {
        match self.loading.lock().get(&id) {
            Some(under_way) => under_way.done_by.and_then(|done_by| done_by.checked_duration_since(Instant::now())),
            None => self.predicted_new_load(id),
        }
    }

    /// How long a known child's run of `images` will take, whether or not it is in memory.
    pub(super) fn predicted_run(&self, id: ChildId, images: usize, now: Instant) -> Option<Duration> {
        let known = self.registry.get(id)?;
        Some(self.paces.of(id, || self.profile(&known.child)).predict(images, now))
    }

    /// As [`Inner::predicted_load`], of a load that has not begun, behind the one that goes on and all that wait.
    fn predicted_new_load(&self, id: ChildId) -> Option<Duration> {
        let on_disk = self.builder.store.contains(&self.builder.key(id));
        self.loading.times().way(on_disk).predict(self.threads(on_disk).waiting(), Instant::now())
    }

    /// Where children get into memory that lie on disk, or do not.
    fn threads(&self, on_disk: bool) -> &Workers {
        if on_disk { &self.loaders } else { &self.builders }
    }

    /// What to say where too many wait for such a thread.
    fn busy(&self, full: Full, on_disk: bool) -> BuildError {
        let job = self.loading.times().way(on_disk).job.get().unwrap_or_default();
        BuildError::Busy { waiting: full.waiting, retry_after_s: job.as_secs_f64().ceil().max(1.0) as u64 }
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

    /// Measures what is not known of the times of a child that was loaded. One that was removed meanwhile leaves nothing behind.
    fn measure_loaded(&self, id: ChildId) {
        // Asked before the lock, too: whoever has nothing to measure does not wait for who has.
        if !self.measured(id) {
            let _one_at_a_time = self.loading.measuring.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.measured(id) {
                self.measure_now(id);
            }
        }
        if self.registry.get(id).is_none() {
            self.forget(id);
        }
    }

    /// Measures what is not known of the times of a child in memory; one that was dropped meanwhile stays unmeasured.
    fn measure_now(&self, id: ChildId) {
        // Its load may have been answered, and others used, long ago.
        let Some(loaded) = self.cache.peek(id) else { return };
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
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(child = %id, error, "a latency could not be measured");
                }
            }
        }
    }
}
