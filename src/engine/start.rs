//! Starting an engine: its stores, its threads, and the warm-up behind them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use thiserror::Error;

use super::artefacts::{ArtefactError, Artefacts};
use super::build::Builder;
use super::fault::Fault;
use super::layout::Layout;
use super::loading::Loading;
use super::options::{EngineOptions, cores};
use super::pace::Paces;
use super::picture::Decoder;
use super::pool::{Pool, Resources};
use super::registry::Registry;
use super::store::Store;
use super::{Engine, Handles, Inner};
use crate::checkpoint::Model;
use crate::data::CalibrationSet;
use crate::image::DecodeLimits;
use crate::metrics::Metrics;
use crate::runtime::{LatencyTable, MemoryCache, Provider, Runtime, Workers};

/// A server that cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The model has no children to serve.
    #[error("model {0} has no family: run `bignas search` first")]
    NoFamily(String),
    /// The store that servers share cannot be used.
    #[error(transparent)]
    Artefacts(#[from] ArtefactError),
    /// The system gives no thread.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

impl Engine {
    /// Starts worker and builder threads for `model`, and the warm-up behind them. `calibration`, images and the size of their
    /// batches, is used instead of the model's own images.
    ///
    /// # Errors
    /// [`StartError`] where there is nothing to serve or no thread to serve it.
    pub fn start(
        model: Model,
        runtime: Runtime,
        metrics: Arc<Metrics>,
        options: EngineOptions,
        calibration: Option<(CalibrationSet, usize)>,
    ) -> Result<Self, StartError> {
        if model.family.members.is_empty() {
            return Err(StartError::NoFamily(model.card.name.clone()));
        }
        let directory = options.cache_dir();
        let store = Store::open(&directory.join("built"), options.disk_limit_bytes);
        metrics.disk_bytes.set(store.bytes() as i64);
        let (build_threads, limit) = (options.build_threads(), Duration::from_millis(options.queue_limit_ms));
        let registry = Registry::open(&model, &directory.join("added"), options.max_added_children);
        let layout = options.layout();
        let mut threads = layout.map_or_else(|| Layout::candidates(cores()), |layout| vec![1, layout.threads]);
        threads.dedup();
        let table = |threads| LatencyTable::open(&directory.join("latency"), &model.card.weights_sha256, &runtime, threads);
        let tables = threads.into_iter().map(|threads| (threads, table(threads))).collect();
        let layout = layout.unwrap_or(Layout::of(1, cores()));
        if runtime.device().provider == Provider::Cpu && layout.runs * layout.threads > cores() {
            tracing::warn!(
                runs = layout.runs,
                threads_per_run = layout.threads,
                cores = cores(),
                "more threads than cores: runs slow each other"
            );
        }
        let artefacts = options.artefact_store.as_ref().map(|url| Artefacts::open(url, Arc::clone(&metrics))).transpose()?;
        let builder = Builder::new(Arc::new(model), runtime, store, artefacts, Arc::clone(&metrics), build_threads, calibration);
        let builder = Arc::new(builder);
        let decoder = Decoder::new(DecodeLimits { max_pixels: options.max_pixels }, builder.model.card.preprocessing.clone());
        let fault = options.inject_panic_every_ms.map(|every_ms| Fault::new(Duration::from_millis(every_ms)));
        let resources = Resources { builder: Arc::clone(&builder), decoder, fault, metrics: Arc::clone(&metrics) };
        builder.run_threads.store(layout.threads, Ordering::Release);
        let pool = Pool::start(layout.runs, limit, options.queue_limit_images, resources);
        let in_order = |name| {
            let panicked = Arc::clone(&metrics);
            Workers::start(name, 1, options.build_queue_limit, move || {
                panicked.panics.inc();
                panicked.builds.with_label_values(&["error"]).inc();
            })
        };
        let (builders, loaders) = (in_order("build"), in_order("load"));
        let inner = Inner {
            registry,
            cache: MemoryCache::new(options.memory_limit_bytes),
            loading: Loading::default(),
            waits_for_best: tokio::sync::Mutex::default(),
            paces: Paces::new(builder.runtime.device()),
            tables,
            pool: pool.map_err(StartError::Thread)?,
            builders: builders.map_err(StartError::Thread)?,
            loaders: loaders.map_err(StartError::Thread)?,
            builder,
            metrics,
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            published: AtomicBool::new(false),
            options,
        };
        let inner = Arc::new(inner);
        let engine = Self { _handles: Arc::new(Handles(Arc::clone(&inner))), inner };
        engine.inner.divide_cores();
        engine.start_warm_up().map_err(StartError::Thread)?;
        Ok(engine)
    }
}
