//! What happens between start and readiness: the family is built and its latencies are measured, where they are unknown.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::build::BuildError;
use super::layout::Layout;
use super::options::cores;
use super::{Engine, Inner};
use crate::runtime::{LatencyTable, Profile};
use crate::space::Child;

/// How long to wait before asking again where clients fill the build queue.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

impl Engine {
    /// Starts the warm-up on a thread of its own; without anything to measure, the engine is ready at once.
    pub(super) fn start_warm_up(&self) -> std::io::Result<()> {
        let measured = self.inner.registry.all().iter().all(|known| self.inner.measured(known.child.id()));
        if measured || !self.inner.options.warm_up {
            self.inner.ready.store(true, Ordering::Release);
            return Ok(());
        }
        // The thread only waits for the builder; it needs no more than a place to wait in.
        let waiting = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let engine = self.clone();
        std::thread::Builder::new().name("warm-up".to_owned()).spawn(move || waiting.block_on(engine.warm_up())).map(drop)
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
            self.load_once(known.child).await?;
        }
        Ok(())
    }

    async fn warm_up(&self) {
        let begin = Instant::now();
        let children = self.inner.registry.all();
        for known in &children {
            // A load that fails says so; who names the child gets the error, and the others are served.
            let _ = self.warm_up_child(&known.child).await;
            if self.inner.draining.load(Ordering::Acquire) {
                return;
            }
        }
        self.inner.divide_cores();
        self.inner.ready.store(true, Ordering::Release);
        tracing::info!(children = children.len(), seconds = begin.elapsed().as_secs_f64(), "the family is built and measured");
    }

    async fn warm_up_child(&self, child: &Arc<Child>) -> Result<(), BuildError> {
        if self.inner.measured(child.id()) {
            return Ok(());
        }
        loop {
            let built = async {
                self.load_once(Arc::clone(child)).await?;
                self.measure(child.id()).await
            };
            match built.await {
                Err(BuildError::Busy { .. }) if !self.inner.draining.load(Ordering::Acquire) => tokio::time::sleep(BUSY_PAUSE).await,
                outcome => return outcome,
            }
        }
    }
}

impl Inner {
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
        self.metrics.workers.set(layout.runs as i64);
        for known in &known {
            let id = known.child.id();
            if let Some(profile) = self.table(layout.threads).profile(id) {
                self.paces.set(id, profile);
            }
        }
        tracing::info!(runs = layout.runs, threads_per_run = layout.threads, "the cores are divided");
    }
}
