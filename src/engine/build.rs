//! Building a child: slice, recalibrate, export; and loading what was built.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use thiserror::Error;

use super::store::{Receipt, Store};
use crate::calibrate::{Batches, Calibrator};
use crate::checkpoint::{Model, ModelError};
use crate::data::CalibrationSet;
use crate::deploy::{DeployError, Deployed, Statistics, deploy};
use crate::files::sha256;
use crate::metrics::Metrics;
use crate::onnx::{EXPORTER_VERSION, Input};
use crate::runtime::{Runtime, RuntimeError};
use crate::space::{Child, ChildId};

/// A child that could not be built.
#[derive(Debug, Clone, Error)]
pub enum BuildError {
    /// There are no images to recalibrate on.
    #[error("model {0} ships no calibration images: other children than its family's need a server started with --calibration DIR")]
    NoCalibration(String),
    /// The calibration images are unreadable.
    #[error("the calibration images cannot be read")]
    Images(#[source] Arc<ModelError>),
    /// Slicing, recalibration or export failed.
    #[error("child {child} could not be built")]
    Deploy {
        /// The child.
        child: ChildId,
        /// What failed.
        #[source]
        source: Arc<DeployError>,
    },
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

/// A child's deployable graph.
pub(super) struct Built {
    pub(super) onnx: Arc<Vec<u8>>,
    /// Whether it came from disk.
    pub(super) from_disk: bool,
    /// Whether it lies on disk now.
    pub(super) on_disk: bool,
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
    /// Threads that one run of a built child computes on.
    pub(super) run_threads: AtomicUsize,
    /// Images to recalibrate on instead of the model's own, and the size of their batches.
    calibration: Option<(CalibrationSet, usize)>,
    /// Whether a running recalibration is to end early.
    pub(super) stop: AtomicBool,
    /// Hash of everything that all built children of this process depend on.
    common: String,
}

impl Builder {
    pub(super) fn new(
        model: Arc<Model>,
        runtime: Runtime,
        store: Store,
        metrics: Arc<Metrics>,
        threads: usize,
        calibration: Option<(CalibrationSet, usize)>,
    ) -> Self {
        let common = common_key(&model, &runtime, calibration.as_ref());
        let run_threads = AtomicUsize::new(1);
        Self { model, runtime, store, metrics, threads, run_threads, calibration, stop: AtomicBool::new(false), common }
    }

    /// The key under which a built child is kept.
    pub(super) fn key(&self, child: ChildId) -> String {
        sha256(format!("{}\n{child}", self.common).as_bytes())
    }

    /// The child's deployable graph: from disk where it lies, else built and kept there.
    pub(super) fn get(&self, child: &Child) -> Result<Built, BuildError> {
        let key = self.key(child.id());
        if let Some((onnx, _)) = self.store.read(&key) {
            return Ok(Built { onnx: Arc::new(onnx), from_disk: true, on_disk: true });
        }
        let result = in_background(|| self.build(child));
        self.metrics.builds.with_label_values(&[if result.is_ok() { "ok" } else { "error" }]).inc();
        let (onnx, receipt) = result?;
        self.store.write(&key, &onnx, &receipt);
        self.metrics.disk_bytes.set(self.store.bytes() as i64);
        Ok(Built { onnx: Arc::new(onnx), from_disk: false, on_disk: self.store.contains(&key) })
    }

    fn build(&self, child: &Child) -> Result<(Vec<u8>, Receipt), BuildError> {
        let deployed = match self.model.statistics.get(&child.id()) {
            Some(known) => deploy(&self.model, child, Statistics::Known(known), Input::Resolution),
            None => self.recalibrated(child)?,
        };
        let deployed = deployed.map_err(|source| BuildError::Deploy { child: child.id(), source: Arc::new(source) })?;
        self.record("slice", deployed.times.slice);
        self.record("calibrate", deployed.times.calibrate);
        self.record("export", deployed.times.export);
        let receipt = Receipt {
            onnx_sha256: sha256(&deployed.onnx),
            statistics_sha256: deployed.stats.checksum(),
            calibration_images: deployed.stats.images(),
        };
        tracing::info!(
            child = %child.id(),
            calibration_images = receipt.calibration_images,
            statistics_sha256 = receipt.statistics_sha256,
            calibrate_seconds = deployed.times.calibrate.as_secs_f64(),
            "built"
        );
        Ok((deployed.onnx, receipt))
    }

    /// The child with statistics measured now: on the images that the server was given, else on the model's own.
    fn recalibrated(&self, child: &Child) -> Result<Result<Deployed, DeployError>, BuildError> {
        let card = &self.model.card;
        let own: CalibrationSet;
        let (images, batch) = match (&self.calibration, &card.calibration) {
            (Some((images, batch)), _) => (images, *batch),
            (None, Some(calibration)) => {
                let images = self.model.calibration_images().map_err(|error| BuildError::Images(Arc::new(error)))?;
                own = images.ok_or_else(|| BuildError::NoCalibration(card.name.clone()))?;
                (&own, calibration.batch)
            }
            (None, None) => return Err(BuildError::NoCalibration(card.name.clone())),
        };
        let (runtime, batches, stop) = (&self.runtime, Batches::of(batch), Some(&self.stop));
        let calibrator = Calibrator { runtime, images, batches, threads: self.threads, stop };
        Ok(deploy(&self.model, child, Statistics::Measured(&calibrator), Input::Resolution))
    }

    /// Records the time of one stage.
    pub(super) fn record(&self, stage: &str, time: Duration) {
        self.metrics.build_seconds.with_label_values(&[stage]).observe(time.as_secs_f64());
    }
}

/// How much a build steps back behind running networks, as `nice` counts: a tenth of the share of time that they get.
const NICENESS: i32 = 10;

/// Runs `work` on a thread of low priority, and waits for it.
fn in_background<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let outcome = std::thread::scope(|scope| {
        let patient = scope.spawn(|| {
            // Where the system does not let it step back, it works as everyone else does.
            if let Err(error) = rustix::process::nice(NICENESS) {
                tracing::debug!(%error, "building at full priority");
            }
            work()
        });
        patient.join()
    });
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Weights, space, labels, preprocessing, statistics and calibration through the model's card; calibration images given to the
/// server; the exporter; ONNX Runtime; precision and provider.
fn common_key(model: &Model, runtime: &Runtime, calibration: Option<&(CalibrationSet, usize)>) -> String {
    let card = serde_json::to_string(&model.card).unwrap_or_default();
    let given = calibration.map_or_else(String::new, |(images, batch)| format!("{} in batches of {batch}", images.sha256()));
    sha256(format!("{card}\n{given}\nexporter {EXPORTER_VERSION}\n{}\nfloat32\ncpu", runtime.build_info()).as_bytes())
}
