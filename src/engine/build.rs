//! Building a child: slice, recalibrate, export; and loading what was built.

use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;

use super::store::{Receipt, Store};
use crate::calibrate::{Batches, CalibrateError, recalibrate};
use crate::checkpoint::{Model, ModelError, StatisticsError};
use crate::files::sha256;
use crate::metrics::Metrics;
use crate::onnx::{self, EXPORTER_VERSION, Metadata};
use crate::runtime::{Runtime, RuntimeError};
use crate::slice::{SliceError, slice};
use crate::space::{Child, ChildId, Plan};

/// A child that could not be built.
#[derive(Debug, Clone, Error)]
pub enum BuildError {
    /// The weights do not hold the child.
    #[error(transparent)]
    Slice(#[from] SliceError),
    /// There are no images to recalibrate on.
    #[error("model {0} ships no calibration images, so only children built before can be served")]
    NoCalibration(String),
    /// The calibration images are unreadable.
    #[error("the calibration images cannot be read")]
    Images(#[source] Arc<ModelError>),
    /// Recalibration failed.
    #[error("child {child} could not be recalibrated")]
    Calibrate {
        /// The child.
        child: ChildId,
        /// What failed.
        #[source]
        source: Arc<CalibrateError>,
    },
    /// The measured statistics do not fit.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
    /// ONNX Runtime refused the built graph.
    #[error("child {child} could not be loaded")]
    Load {
        /// The child.
        child: ChildId,
        /// What ONNX Runtime said.
        #[source]
        source: Arc<RuntimeError>,
    },
    /// Too many children wait to be built.
    #[error("{waiting} children already wait to be built, the limit; try again shortly")]
    Busy {
        /// How many wait.
        waiting: usize,
    },
    /// The thread that built it is gone.
    #[error("building child {0} stopped unexpectedly; ask again to build it anew")]
    Lost(ChildId),
}

/// A child's deployable graph, and whether it came from disk.
pub(super) struct Built {
    pub(super) onnx: Arc<Vec<u8>>,
    pub(super) from_disk: bool,
}

/// Builds children of one model.
#[derive(Debug)]
pub(super) struct Builder {
    pub(super) model: Arc<Model>,
    pub(super) runtime: Runtime,
    pub(super) store: Store,
    pub(super) metrics: Arc<Metrics>,
    /// Threads that one recalibration computes on.
    pub(super) threads: usize,
    /// Hash of everything that all built children of this process depend on.
    common: String,
}

impl Builder {
    pub(super) fn new(model: Arc<Model>, runtime: Runtime, store: Store, metrics: Arc<Metrics>, threads: usize) -> Self {
        let common = common_key(&model, &runtime);
        Self { model, runtime, store, metrics, threads, common }
    }

    /// The key under which a built child is kept.
    pub(super) fn key(&self, child: ChildId) -> String {
        sha256(format!("{}\n{child}", self.common).as_bytes())
    }

    /// The child's deployable graph: from disk where it lies, else built and kept there.
    pub(super) fn get(&self, child: &Child) -> Result<Built, BuildError> {
        let key = self.key(child.id());
        if let Some((onnx, _)) = self.store.read(&key) {
            return Ok(Built { onnx: Arc::new(onnx), from_disk: true });
        }
        let result = self.build(child);
        self.metrics.builds.with_label_values(&[if result.is_ok() { "ok" } else { "error" }]).inc();
        let (onnx, receipt) = result?;
        self.store.write(&key, &onnx, &receipt);
        self.metrics.disk_bytes.set(self.store.bytes() as i64);
        Ok(Built { onnx: Arc::new(onnx), from_disk: false })
    }

    fn build(&self, child: &Child) -> Result<(Vec<u8>, Receipt), BuildError> {
        let card = &self.model.card;
        let id = child.id();
        let begin = Instant::now();
        let plan = Plan::new(&card.space, child, card.labels.len());
        let net = self.timed("slice", || slice(&self.model.weights, &plan))?;
        let stats = self.timed("calibrate", || {
            let images = self.model.calibration_images().map_err(|error| BuildError::Images(Arc::new(error)))?;
            let (Some(images), Some(calibration)) = (images, &card.calibration) else {
                return Err(BuildError::NoCalibration(card.name.clone()));
            };
            recalibrate(&self.runtime, &net, &images, &card.preprocessing, Batches::of(calibration.batch), self.threads)
                .map_err(|source| BuildError::Calibrate { child: id, source: Arc::new(source) })
        })?;
        let metadata =
            Metadata { model: &card.name, weights_sha256: &card.weights_sha256, labels: &card.labels, preprocessing: &card.preprocessing };
        let onnx = self.timed("export", || onnx::deployable(&net, &stats, metadata))?;
        let receipt = Receipt { onnx_sha256: sha256(&onnx), statistics_sha256: stats.checksum(), calibration_images: stats.images() };
        tracing::info!(
            child = %id,
            mflops = plan.cost().macs.millions(),
            calibration_images = receipt.calibration_images,
            statistics_sha256 = receipt.statistics_sha256,
            seconds = begin.elapsed().as_secs_f64(),
            "built"
        );
        Ok((onnx, receipt))
    }

    /// Runs one stage and records its time.
    pub(super) fn timed<T>(&self, stage: &str, run: impl FnOnce() -> T) -> T {
        let _records_when_dropped = self.metrics.build_seconds.with_label_values(&[stage]).start_timer();
        run()
    }
}

/// Weights, space, labels, preprocessing and calibration through the model's card; the exporter; ONNX Runtime; precision and
/// provider.
fn common_key(model: &Model, runtime: &Runtime) -> String {
    let card = serde_json::to_string(&model.card).unwrap_or_default();
    sha256(format!("{card}\nexporter {EXPORTER_VERSION}\n{}\nfloat32\ncpu", runtime.build_info()).as_bytes())
}
