//! What happens between start and readiness: the family is built and its latencies are measured, as far as they are not yet.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::build::BuildError;
use super::layout::Layout;
use super::options::cores;
use super::registry::Known;
use super::{Engine, Inner};
use crate::runtime::{LatencyTable, Profile};

/// How long to wait before asking again where clients fill the build queue.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

impl Engine {
    /// Starts the warm-up on a thread of its own; without anything to build or measure, the engine is ready at once.
    pub(super) fn start_warm_up(&self) -> std::io::Result<()> {
        let warm = self.inner.registry.all().iter().all(|known| self.inner.is_warm(known));
        if warm || !self.inner.options.warm_up {
            self.inner.ready.store(true, Ordering::Release);
            return Ok(());
        }
        // The thread only waits for the builder; it needs no more than a place to wait in. It holds no handle: an engine that is let go of
        // before its warm-up has ended is stopped all the same.
        let waiting = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let inner = Arc::clone(&self.inner);
        std::thread::Builder::new().name("warm-up".to_owned()).spawn(move || waiting.block_on(inner.warm_up())).map(drop)
    }

    /// Gets the family into memory, cheapest children first, as far as the limit of memory goes; nothing where there is no warm-up.
    ///
    /// # Errors
    /// [`BuildError`] of the first child that cannot be built or loaded.
    pub async fn load_family(&self) -> Result<(), BuildError> {
        let family = self.inner.registry.all().into_iter().filter(|known| !known.added && self.inner.options.warm_up);
        for known in family {
            let bytes = self.inner.cache.usage().0 + self.inner.expected_bytes(&known);
            if bytes > self.inner.options.memory_limit_bytes && !self.inner.cache.contains(known.child.id()) {
                break;
            }
            self.inner.load_once(known.child).await?;
        }
        Ok(())
    }
}

impl Inner {
    /// Whether a child is measured, and built as far as there is room for it on disk: to build at every start what has to make room for
    /// others is work for nothing.
    fn is_warm(&self, known: &Known) -> bool {
        let id = known.child.id();
        let is_built = || self.cache.contains(id) || self.on_disk_only(id);
        self.measured(id) && (is_built() || !self.builder.store.has_room(known.graph_bytes()))
    }

    async fn warm_up(self: Arc<Self>) {
        let begin = Instant::now();
        let children = self.registry.all();
        for known in &children {
            // A load that fails says so; who names the child gets the error, and the others are served.
            let _ = self.warm_up_child(known).await;
            if self.draining.load(Ordering::Acquire) {
                return;
            }
        }
        self.divide_cores();
        self.ready.store(true, Ordering::Release);
        tracing::info!(children = children.len(), seconds = begin.elapsed().as_secs_f64(), "the family is built and measured");
    }

    async fn warm_up_child(self: &Arc<Self>, known: &Known) -> Result<(), BuildError> {
        let child = &known.child;
        if self.is_warm(known) {
            return Ok(());
        }
        loop {
            let built = async {
                self.load_once(Arc::clone(child)).await?;
                self.measure(child.id()).await
            };
            match built.await {
                Err(BuildError::Busy { .. }) if !self.draining.load(Ordering::Acquire) => tokio::time::sleep(BUSY_PAUSE).await,
                outcome => return outcome,
            }
        }
    }

    /// Divides the cores among runs as the measurements say, unless a flag has.
    pub(super) fn divide_cores(&self) {
        let known = self.registry.all();
        let profiles = |table: &LatencyTable| known.iter().filter_map(|known| table.profile(known.child.id())).collect();
        let measured: Vec<(usize, Vec<Profile>)> = self.tables.iter().map(|(threads, table)| (*threads, profiles(table))).collect();
        let complete = measured.iter().all(|(_, profiles)| profiles.len() == known.len());
        if self.options.layout().is_some() || !complete {
            return;
        }
        let layout = Layout::best(cores(), &measured);
        self.builder.run_threads.store(layout.threads, Ordering::Release);
        self.pool.set_runs(layout.runs);
        self.record_workers();
        for known in &known {
            let id = known.child.id();
            if let Some(profile) = self.table(layout.threads).profile(id) {
                self.paces.set(id, profile);
            }
        }
        // What is in memory already was counted for as many runs as there were.
        let dropped = self.cache.recount(|loaded| loaded.bytes(layout.runs));
        self.metrics.cache_evictions.inc_by(dropped as u64);
        self.record_usage();
        tracing::info!(runs = layout.runs, threads_per_run = layout.threads, "the cores are divided");
    }
}
