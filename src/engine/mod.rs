//! The engine: from a budget to a child, and from images to logits.
//!
//! It knows the children of one model, builds one when it is first asked for, keeps built ones on disk and loaded ones in
//! memory, each up to a limit, and runs them on worker threads behind a bounded queue. It knows nothing of HTTP.

mod artefacts;
mod background;
mod build;
mod classify;
mod client;
mod cores;
mod failures;
mod fault;
mod gauges;
mod layout;
mod load_times;
mod loaded;
mod loading;
mod options;
mod pace;
mod picture;
mod pool;
mod registry;
mod resolve;
mod schedule;
mod spare;
mod start;
mod store;
mod types;
mod warm_up;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use artefacts::ArtefactError;
pub use build::BuildError;
pub use options::{DeviceError, EngineOptions};
pub use picture::{Picture, PictureError};
pub use start::StartError;
pub use types::{
    AddError, Added, Answer, Budget, ChildState, ChildStatus, ClassifyError, DeviceInfo, RemoveError, Request, ResolveError, Source,
};

use build::Builder;
use loaded::LoadedChild;
use loading::Loading;
use pace::Paces;
use pool::Pool;
use registry::{Known, Registry};

use crate::checkpoint::{Example, ModelCard};
use crate::metrics::Metrics;
use crate::runtime::{LatencyTable, MemoryCache, Workers};
use crate::space::{ChildId, Choices};

/// How long an engine that is not wanted any more may take to end what still runs.
pub const LAST_WAIT: Duration = Duration::from_secs(5);

/// Serves the children of one model. Clones share everything; dropping the last one stops all threads.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
    _handles: Arc<Handles>,
}

/// Ends the work when the last handle goes: a network that still runs when the process ends takes ONNX Runtime down with it.
#[derive(Debug)]
struct Handles(Arc<Inner>);

impl Drop for Handles {
    fn drop(&mut self) {
        self.0.stop(LAST_WAIT);
    }
}

#[derive(Debug)]
struct Inner {
    builder: Arc<Builder>,
    registry: Registry,
    cache: MemoryCache<ChildId, LoadedChild>,
    loading: Loading,
    /// Held by the request that waits for a better child than those in memory.
    waits_for_best: tokio::sync::Mutex<()>,
    paces: Paces,
    /// Measured times by threads of a run, fewest first: one thread, and others that a run may have.
    tables: Vec<(usize, LatencyTable)>,
    metrics: Arc<Metrics>,
    options: EngineOptions,
    /// Where networks run.
    pool: Pool,
    /// Where children are built, one after another.
    builders: Workers,
    /// Where children that lie on disk are loaded, one after another.
    loaders: Workers,
    ready: AtomicBool,
    draining: AtomicBool,
    /// Whether the metrics that say how an engine stands are those of this one.
    published: AtomicBool,
}

impl Engine {
    /// Ends everything that runs: waiting work is dropped, a recalibration stops before its next batch. Waits until `limit` for it.
    pub fn stop(&self, limit: Duration) {
        self.inner.stop(limit);
    }

    /// What the model says of itself.
    #[must_use]
    pub fn card(&self) -> &ModelCard {
        &self.inner.builder.model.card
    }

    /// Pictures to try the model with.
    #[must_use]
    pub fn examples(&self) -> &[Example] {
        &self.inner.builder.model.examples
    }

    /// The metrics that the engine keeps.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.metrics
    }

    /// What networks run on.
    #[must_use]
    pub fn device(&self) -> DeviceInfo {
        let runtime = &self.inner.builder.runtime;
        let (provider, device) = (runtime.device().provider.to_string(), runtime.device().to_string());
        DeviceInfo {
            provider,
            device,
            runtime: runtime.build_info().to_owned(),
            workers: self.inner.pool.runs(),
            threads_per_run: self.inner.builder.run_threads.load(Ordering::Acquire),
        }
    }

    /// Whether every child that can be built and measured at start has been.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.inner.ready.load(Ordering::Acquire)
    }

    /// A child of the family that the warm-up could not measure; none where it did not try.
    #[must_use]
    pub fn unmeasured(&self) -> Option<ChildId> {
        let family = self.inner.registry.all().into_iter().filter(|known| !known.added && self.inner.options.warm_up);
        family.map(|known| known.child.id()).find(|&id| !self.inner.measured(id))
    }

    /// Whether both are handles of one engine.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Refuses new work from now on; what was accepted is finished.
    pub fn drain(&self) {
        self.inner.draining.store(true, Ordering::Release);
    }

    /// All children, cheapest first.
    #[must_use]
    pub fn children(&self) -> Vec<ChildStatus> {
        let status = |known| self.with_state(self.status(known));
        self.inner.registry.all().into_iter().map(status).collect()
    }

    /// The child called `id`.
    #[must_use]
    pub fn child(&self, id: ChildId) -> Option<ChildStatus> {
        self.inner.registry.get(id).map(|known| self.with_state(self.status(known)))
    }

    /// The most accurate child within `budget`; without upper bounds, within the server's default.
    ///
    /// # Errors
    /// [`ResolveError`] says what the smallest child costs, or how accurate the best is.
    pub fn resolve(&self, budget: &Budget) -> Result<ChildStatus, ResolveError> {
        resolve::resolve(&self.statuses(), &self.effective(budget)).cloned()
    }

    /// The budget with the server's default where it has no upper bound.
    fn effective(&self, budget: &Budget) -> Budget {
        let unbounded = budget.mflops.is_none() && budget.params.is_none() && budget.latency_ms.is_none();
        Budget { mflops: if unbounded { self.inner.options.default_mflops } else { budget.mflops }, ..*budget }
    }

    fn statuses(&self) -> Vec<ChildStatus> {
        self.inner.registry.all().into_iter().map(|known| self.status(known)).collect()
    }

    /// The deployable graph of the child `id`, built first where need be.
    ///
    /// # Errors
    /// [`ClassifyError`].
    pub async fn onnx(&self, id: ChildId) -> Result<Arc<Vec<u8>>, ClassifyError> {
        let (loaded, _) = self.load(id).await?;
        let inner = Arc::clone(&self.inner);
        let graph = tokio::task::spawn_blocking(move || loaded.graph(&inner.builder)).await;
        Ok(graph.map_err(|_| BuildError::Lost(id))??)
    }

    /// Adds a child: it is sliced, recalibrated, measured and listed. One that is known already is returned as it is; one that is being
    /// added, once that has come to its end.
    ///
    /// # Errors
    /// [`AddError`]; a child that cannot be built is not added.
    pub async fn add(&self, choices: Choices) -> Result<Added, AddError> {
        let child = self.inner.registry.check(choices)?;
        let id = child.id();
        // Listed first, so that the limit holds however many are added at once.
        let is_new = self.inner.registry.insert(child, false)?;
        if self.inner.registry.get(id).is_some_and(|known| !known.settled) {
            let built = match self.load(id).await {
                Ok(_) => self.inner.measure(id).await,
                Err(ClassifyError::Build(error)) => Err(error),
                Err(_) => Err(BuildError::Lost(id)),
            };
            if let Err(error) = built {
                if is_new {
                    // It may have been removed by its client meanwhile.
                    let _ = self.inner.registry.remove(id);
                }
                return Err(error.into());
            }
            self.inner.registry.settle(id);
            self.inner.registry.save();
        }
        let status = self.child(id).ok_or(AddError::Build(BuildError::Lost(id)))?;
        Ok(Added { status, is_new })
    }

    /// Removes an added child, from memory and disk too.
    ///
    /// # Errors
    /// [`RemoveError`] where it is unknown or belongs to the family.
    pub fn remove(&self, id: ChildId) -> Result<(), RemoveError> {
        self.inner.registry.remove(id)?;
        self.inner.registry.save();
        self.inner.forget(id);
        Ok(())
    }

    fn status(&self, known: Known) -> ChildStatus {
        let latency_ms = self.inner.tables[0].1.get(known.child.id());
        ChildStatus {
            child: known.child,
            cost: known.cost,
            accuracy: known.accuracy,
            accuracy_source: known.accuracy_source,
            latency_ms,
            state: ChildState::Unbuilt,
            added: known.added,
        }
    }

    fn with_state(&self, mut status: ChildStatus) -> ChildStatus {
        let id = status.child.id();
        if self.inner.cache.contains(id) {
            status.state = ChildState::Loaded;
        } else if self.inner.builder.store.contains(&self.inner.builder.key(id)) {
            status.state = ChildState::Disk;
        }
        status
    }
}

impl Inner {
    /// The times of children whose runs have so many threads.
    fn table(&self, threads: usize) -> &LatencyTable {
        let found = self.tables.iter().find(|(of, _)| *of == threads);
        &found.unwrap_or(&self.tables[0]).1
    }

    fn stop(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        self.draining.store(true, Ordering::Release);
        self.builder.stop.store(true, Ordering::Release);
        let left = || deadline.saturating_duration_since(Instant::now());
        if !(self.builders.stop(left()) & self.loaders.stop(left()) & self.pool.stop(left())) {
            tracing::warn!("work still runs and is cut off");
        }
    }

    /// Whether a child lies on disk, and not in memory.
    fn on_disk_only(&self, id: ChildId) -> bool {
        !self.cache.contains(id) && self.builder.store.contains(&self.builder.key(id))
    }

    /// Drops all that is kept of a child which is no longer known.
    fn forget(&self, id: ChildId) {
        self.cache.remove(id);
        self.paces.forget(id);
        for (_, table) in &self.tables {
            if let Err(error) = table.remove(id) {
                tracing::warn!(child = %id, %error, "the child's latency stays on disk");
            }
        }
        self.builder.store.remove(&self.builder.key(id));
        self.metrics.disk_bytes.set(self.builder.store.bytes() as i64);
        self.record_usage();
    }
}
