//! Recalibration: the batch-norm statistics of one child, measured on images (paper, 3.1).
//!
//! A single-stage model keeps no statistics: what a batch norm sees depends on the child around it. So each child gets its
//! own, from forward passes that normalise by the batch. One rule holds everywhere: batches in order, a partial last one
//! dropped; kept are the equal-weight mean of the batch means and of the unbiased batch variances.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;

use crate::checkpoint::{BnStats, LayerStats, StatisticsError};
use crate::data::CalibrationSet;
use crate::image::{Preprocessing, ShapeError};
use crate::onnx;
use crate::runtime::{Network, Runtime, RuntimeError};
use crate::slice::SlicedNet;
use crate::space::ChildId;

/// How images are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batches {
    size: usize,
}

impl Batches {
    /// Batches of `size` images.
    #[must_use]
    pub fn of(size: usize) -> Self {
        Self { size }
    }

    /// How many images form a batch.
    #[must_use]
    pub fn size(self) -> usize {
        self.size
    }
}

/// What recalibrates children.
#[derive(Debug, Clone, Copy)]
pub struct Calibrator<'a> {
    /// ONNX Runtime.
    pub runtime: &'a Runtime,
    /// The images.
    pub images: &'a CalibrationSet,
    /// How they are grouped.
    pub batches: Batches,
    /// On how many threads to compute.
    pub threads: usize,
    /// Where set, a recalibration ends with [`CalibrateError::Stopped`] before its next batch.
    pub stop: Option<&'a AtomicBool>,
}

/// A child that could not be recalibrated.
#[derive(Debug, Error)]
pub enum CalibrateError {
    /// There are too few images for one batch.
    #[error("{images} calibration images do not fill one batch of {batch}: give more images, or a smaller batch of at least 1")]
    TooFew {
        /// Images given.
        images: usize,
        /// Images in a batch.
        batch: usize,
    },
    /// The images have other channels or bytes than the model's input.
    #[error("the calibration images do not fit the model")]
    Shape(#[from] ShapeError),
    /// ONNX Runtime failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Somebody wanted it to stop.
    #[error("the recalibration was stopped")]
    Stopped,
    /// The measured statistics are unusable: not finite.
    #[error("these images bring the network beyond what float32 holds: use images like those it was trained on, or train it again")]
    Statistics(#[from] StatisticsError),
}

/// Measures the statistics of every batch norm of `net`, whose input `preprocessing` describes.
///
/// # Errors
/// [`CalibrateError`]; nothing is kept of a measurement that fails.
pub fn recalibrate(net: &SlicedNet, preprocessing: &Preprocessing, calibrator: &Calibrator<'_>) -> Result<BnStats, CalibrateError> {
    let plan = net.plan();
    let Calibrator { images, batches, threads, .. } = *calibrator;
    let batch_count = images.count().checked_div(batches.size).unwrap_or(0);
    if batch_count == 0 {
        return Err(CalibrateError::TooFew { images: images.count(), batch: batches.size });
    }
    let graph = onnx::calibration(net);
    let job = Job { calibrator, graph: &graph, resolution: plan.child.resolution(), child: plan.child.id(), preprocessing };
    let mut sums: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, values) in job.run(batch_count, threads.clamp(1, batch_count))? {
        let sum = sums.entry(name).or_insert_with(|| vec![0.0; values.len()]);
        sum.iter_mut().zip(&values).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    let mean_of = |name: String, factor: f64| -> Vec<f32> {
        let sum = sums.get(&name).map(Vec::as_slice).unwrap_or_default();
        sum.iter().map(|sum| (sum / batch_count as f64 * factor) as f32).collect()
    };
    let layers = plan.norms().map(|conv| {
        let values = (batches.size * conv.size_out * conv.size_out) as f64;
        // A batch of one value has no variance to correct; its biased variance is zero.
        let unbias = values / (values - 1.0).max(1.0);
        let stats =
            LayerStats { mean: mean_of(format!("{}.mean", conv.name), 1.0), variance: mean_of(format!("{}.variance", conv.name), unbias) };
        (conv.name.clone(), stats)
    });
    Ok(BnStats::new(plan, layers.collect(), batch_count * batches.size, batches.size)?)
}

/// Outputs of the calibration graph by name.
type Outputs = Vec<(String, Vec<f32>)>;

/// What every thread of a recalibration reads.
struct Job<'a> {
    calibrator: &'a Calibrator<'a>,
    graph: &'a [u8],
    resolution: usize,
    child: ChildId,
    preprocessing: &'a Preprocessing,
}

impl Job<'_> {
    /// The outputs of all batches, one batch after the other.
    ///
    /// Batches do not depend on each other, and one on each thread is faster than all threads on one: ONNX Runtime normalises
    /// by the batch on a single thread.
    fn run(&self, batch_count: usize, threads: usize) -> Result<Outputs, CalibrateError> {
        let results: Vec<Result<Vec<Outputs>, CalibrateError>> = std::thread::scope(|scope| {
            let start = |thread| scope.spawn(move || self.run_every(thread, threads, batch_count));
            let running: Vec<_> = (0..threads).map(start).collect();
            running.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let mut by_thread = results.into_iter().map(|r| r.map(Vec::into_iter)).collect::<Result<Vec<_>, _>>()?;
        let in_order = (0..batch_count).filter_map(|batch| by_thread[batch % threads].next());
        Ok(in_order.flatten().collect())
    }

    /// The outputs of every `step`-th batch from `first` on.
    fn run_every(&self, first: usize, step: usize, batch_count: usize) -> Result<Vec<Outputs>, CalibrateError> {
        let what = format!("the calibration of child {}", self.child);
        let Calibrator { runtime, images, batches: Batches { size }, stop, .. } = *self.calibrator;
        let mut network = Network::load_for_few_runs(&runtime.on_cpu(), self.graph, &what, 1)?;
        let mut input = vec![0.0; size * network.input_shape().iter().product::<usize>()];
        let run = |batch| {
            if stop.is_some_and(|stop| stop.load(Ordering::Acquire)) {
                return Err(CalibrateError::Stopped);
            }
            fill(&mut input, images, batch * size, self.resolution, self.preprocessing)?;
            Ok(network.run_all(&input, size)?)
        };
        (first..batch_count).step_by(step).map(run).collect()
    }
}

/// Writes the patches from `first` on into `input`, as many as it holds.
fn fill(
    input: &mut [f32],
    images: &CalibrationSet,
    first: usize,
    resolution: usize,
    preprocessing: &Preprocessing,
) -> Result<(), ShapeError> {
    let per_image = preprocessing.channels() * resolution * resolution;
    let mut inputs = input.chunks_exact_mut(per_image).enumerate();
    inputs.try_for_each(|(offset, out)| images.write_input(first + offset, resolution, preprocessing, out))
}
