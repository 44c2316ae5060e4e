//! Building a child: slice, recalibrate, export; and loading what was built.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use thiserror::Error;

use super::artefacts::Artefacts;
use super::background::{is_crowded, step_back};
use super::cores::keep_to_last;
use super::store::{Receipt, Store};
use super::types::Source;
use crate::calibrate::{Batches, Calibrator};
use crate::checkpoint::{Model, ModelError};
use crate::data::CalibrationSet;
use crate::deploy::{DeployError, Deployed, Statistics, deploy};
use crate::files::sha256;
use crate::metrics::Metrics;
use crate::onnx::{EXPORTER_VERSION, Input};
use crate::runtime::{Provider, Runtime, RuntimeError};
use crate::space::{Child, ChildId, Plan};

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
    /// Too many children wait to be built or loaded.
    #[error("the queue of children to be built or loaded is full ({waiting}); try again in {retry_after_s} s")]
    Busy {
        /// How many wait.
        waiting: usize,
        /// When the first of them will be done, by what they took before, in seconds; at least 1.
        retry_after_s: u64,
    },
    /// The thread that built it is gone.
    #[error("building child {0} stopped unexpectedly; ask again to build it anew")]
    Lost(ChildId),
}

/// A child's deployable graph.
pub(super) struct Built {
    pub(super) onnx: Arc<Vec<u8>>,
    /// Where it came from.
    pub(super) source: Source,
    /// Whether it lies on disk now.
    pub(super) on_disk: bool,
}

/// Builds children of one model.
#[derive(Debug)]
pub(super) struct Builder {
    pub(super) model: Arc<Model>,
    pub(super) runtime: Runtime,
    pub(super) store: Store,
    /// What other servers have built, and learn of what is built here.
    artefacts: Option<Artefacts>,
    pub(super) metrics: Arc<Metrics>,
    /// Threads that one recalibration computes on.
    pub(super) threads: usize,
    /// Threads that one run of a built child computes on.
    pub(super) run_threads: AtomicUsize,
    /// Images to recalibrate on instead of the model's own, and the size of their batches.
    calibration: Option<(CalibrationSet, usize)>,
    /// Whether a running recalibration is to end early.
    pub(super) stop: AtomicBool,
    /// How much is done behind the workers' backs at the moment.
    in_background: AtomicUsize,
    common: CommonKeys,
}

/// Hashes of everything that all built children of this process depend on, but for the child.
#[derive(Debug)]
struct CommonKeys {
    /// What their statistics depend on.
    statistics: String,
    /// What their graphs depend on beside that.
    graph: String,
}

impl Builder {
    pub(super) fn new(
        model: Arc<Model>,
        runtime: Runtime,
        store: Store,
        artefacts: Option<Artefacts>,
        metrics: Arc<Metrics>,
        threads: usize,
        calibration: Option<(CalibrationSet, usize)>,
    ) -> Self {
        let common = CommonKeys::of(&model, &runtime, calibration.as_ref());
        let run_threads = AtomicUsize::new(1);
        let (stop, in_background) = (AtomicBool::new(false), AtomicUsize::new(0));
        Self { model, runtime, store, artefacts, metrics, threads, run_threads, calibration, stop, in_background, common }
    }

    /// The key under which a built child is kept.
    pub(super) fn key(&self, child: ChildId) -> String {
        sha256(format!("{}\n{child}", self.common.graph).as_bytes())
    }

    /// The child's deployable graph: from disk where it lies, else from what servers share, else built; and kept on disk.
    pub(super) fn get(&self, child: &Child) -> Result<Built, BuildError> {
        let key = self.key(child.id());
        if let Some((onnx, _)) = self.store.read(&key) {
            return Ok(Built { onnx: Arc::new(onnx), source: Source::Disk, on_disk: true });
        }
        if let Some((onnx, receipt)) = self.artefacts.as_ref().and_then(|artefacts| artefacts.read(&key)) {
            return Ok(self.keep(&key, Arc::new(onnx), &receipt, Source::Shared));
        }
        self.build_anew(child)
    }

    /// The child's deployable graph, built whatever lies elsewhere, and kept on disk.
    pub(super) fn build_anew(&self, child: &Child) -> Result<Built, BuildError> {
        let key = self.key(child.id());
        let result = self.in_background(self.threads, || self.build(child, &key));
        self.metrics.builds.with_label_values(&[if result.is_ok() { "ok" } else { "error" }]).inc();
        let (onnx, receipt) = result?;
        let onnx = Arc::new(onnx);
        if let Some(artefacts) = &self.artefacts {
            artefacts.write(&key, Arc::clone(&onnx), &receipt);
        }
        Ok(self.keep(&key, onnx, &receipt, Source::Built))
    }

    fn keep(&self, key: &str, onnx: Arc<Vec<u8>>, receipt: &Receipt, source: Source) -> Built {
        self.store.write(key, &onnx, receipt);
        self.metrics.disk_bytes.set(self.store.bytes() as i64);
        Built { onnx, source, on_disk: self.store.contains(key) }
    }

    fn build(&self, child: &Child, key: &str) -> Result<(Vec<u8>, Receipt), BuildError> {
        let deployed = match self.model.statistics.get(&child.id()) {
            Some(known) => deploy(&self.model, child, Statistics::Known(known), Input::Resolution),
            None => self.with_shared_statistics(child)?,
        };
        let deployed = deployed.map_err(|source| BuildError::Deploy { child: child.id(), source: Arc::new(source) })?;
        self.record("slice", deployed.times.slice);
        self.record("calibrate", deployed.times.calibrate);
        self.record("export", deployed.times.export);
        let receipt = Receipt {
            key: key.to_owned(),
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

    /// The child with the statistics that servers share, else with its own, which are shared from now on.
    fn with_shared_statistics(&self, child: &Child) -> Result<Result<Deployed, DeployError>, BuildError> {
        let Some(artefacts) = &self.artefacts else { return self.recalibrated(child) };
        let key = sha256(format!("{}\n{}", self.common.statistics, child.id()).as_bytes());
        let plan = Plan::new(&self.model.card.space, child, self.model.card.labels.len());
        if let Some(shared) = artefacts.read_statistics(&key, &plan) {
            return Ok(deploy(&self.model, child, Statistics::Known(&shared), Input::Resolution));
        }
        let deployed = self.recalibrated(child)?;
        if let Ok(deployed) = &deployed {
            artefacts.write_statistics(&key, &deployed.stats);
        }
        Ok(deployed)
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

    /// Whether workers share their cores with a child that is being built, and have one thread each to bind to a core.
    pub(super) fn crowds_workers(&self) -> bool {
        let on_processor = self.runtime.device().provider == Provider::Cpu;
        on_processor && self.in_background.load(Ordering::Relaxed) > 0 && self.run_threads.load(Ordering::Relaxed) == 1
    }

    /// Runs `work`, which computes on so many threads, on a thread that leaves running networks alone, and waits for it. Threads that
    /// it starts are like it, and stay so.
    pub(super) fn in_background<T: Send>(&self, threads: usize, work: impl FnOnce() -> T + Send) -> T {
        self.in_background.fetch_add(1, Ordering::Relaxed);
        let outcome = std::thread::scope(|scope| {
            let patient = scope.spawn(|| {
                keep_to_last(threads);
                step_back(is_crowded());
                work()
            });
            patient.join()
        });
        self.in_background.fetch_sub(1, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Records the time of one stage.
    pub(super) fn record(&self, stage: &str, time: Duration) {
        self.metrics.build_seconds.with_label_values(&[stage]).observe(time.as_secs_f64());
    }
}

impl CommonKeys {
    /// Statistics depend on weights, space, labels, preprocessing and calibration through the model's card, and on calibration images
    /// given to the server; graphs on the exporter, ONNX Runtime, precision and provider beside.
    fn of(model: &Model, runtime: &Runtime, calibration: Option<&(CalibrationSet, usize)>) -> Self {
        let card = serde_json::to_string(&model.card).unwrap_or_default();
        let given = calibration.map_or_else(String::new, |(images, batch)| format!("{} in batches of {batch}", images.sha256()));
        let statistics = sha256(format!("{card}\n{given}").as_bytes());
        let graph = format!("{statistics}\nexporter {EXPORTER_VERSION}\n{}\nfloat32\ncpu", runtime.build_info());
        Self { graph: sha256(graph.as_bytes()), statistics }
    }
}
