//! The metrics that say how an engine stands.
//!
//! Where a model is being replaced, two engines share all metrics, and these are to be those of the one that serves: an engine keeps
//! silent until it is told to speak. What the disk holds is the same for both, and the depth of the queue is that of both together.

use std::sync::atomic::Ordering;

use super::{Engine, Inner};

impl Engine {
    /// Says how this engine stands, and goes on saying it.
    pub fn publish(&self) {
        self.inner.published.store(true, Ordering::Release);
        self.inner.metrics.disk_bytes.set(self.inner.builder.store.bytes() as i64);
        self.inner.record_workers();
        self.inner.record_usage();
    }

    /// Leaves it to another engine to say how it stands.
    pub fn withdraw(&self) {
        self.inner.published.store(false, Ordering::Release);
    }
}

impl Inner {
    pub(super) fn record_workers(&self) {
        if self.published.load(Ordering::Acquire) {
            self.metrics.workers.set(self.pool.runs() as i64);
        }
    }

    pub(super) fn record_usage(&self) {
        if self.published.load(Ordering::Acquire) {
            let (bytes, children) = self.cache.usage();
            self.metrics.cache_bytes.set(bytes as i64);
            self.metrics.loaded_children.set(children as i64);
        }
    }
}
