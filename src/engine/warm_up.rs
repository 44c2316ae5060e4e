//! What happens between start and readiness: the family is built and its latencies are measured, where they are unknown.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Engine;
use super::build::BuildError;
use crate::space::Child;

/// How long to wait before asking again where clients fill the build queue.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

impl Engine {
    /// Starts the warm-up on a thread of its own; without anything to measure, the engine is ready at once.
    pub(super) fn start_warm_up(&self) -> std::io::Result<()> {
        let measured = self.inner.registry.all().iter().all(|known| self.inner.latencies.get(known.child.id()).is_some());
        if measured || !self.inner.options.warm_up {
            self.inner.ready.store(true, Ordering::Release);
            return Ok(());
        }
        // The thread only waits for the builder; it needs no more than a place to wait in.
        let waiting = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let engine = self.clone();
        std::thread::Builder::new().name("warm-up".to_owned()).spawn(move || waiting.block_on(engine.warm_up())).map(drop)
    }

    async fn warm_up(&self) {
        let begin = Instant::now();
        let children = self.inner.registry.all();
        for known in &children {
            let outcome = self.warm_up_child(&known.child).await;
            if self.inner.draining.load(Ordering::Acquire) {
                return;
            }
            if let Err(error) = outcome {
                // The child answers its requests with the same error; the others are served.
                let error = &error as &dyn std::error::Error;
                tracing::error!(child = %known.child.id(), error, "cannot build a child of the family");
            }
        }
        self.inner.ready.store(true, Ordering::Release);
        tracing::info!(children = children.len(), seconds = begin.elapsed().as_secs_f64(), "the family is built and measured");
    }

    async fn warm_up_child(&self, child: &Arc<Child>) -> Result<(), BuildError> {
        if self.inner.latencies.get(child.id()).is_some() {
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
