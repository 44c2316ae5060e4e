//! From a model and a child to the child's deployable graph: plan, slice, recalibrate, export.

use std::time::{Duration, Instant};

use thiserror::Error;

use crate::calibrate::{CalibrateError, Calibrator, recalibrate};
use crate::checkpoint::{BnStats, Model, StatisticsError};
use crate::onnx::{self, Input, Metadata};
use crate::slice::{SliceError, slice};
use crate::space::{Child, Plan};

/// A child ready to be loaded.
#[derive(Debug)]
pub struct Deployed {
    /// The model file.
    pub onnx: Vec<u8>,
    /// The statistics folded into it.
    pub stats: BnStats,
    /// How long each stage took.
    pub times: StageTimes,
}

/// Where a child's batch-norm statistics come from.
#[derive(Debug, Clone, Copy)]
pub enum Statistics<'a> {
    /// They are measured now.
    Measured(&'a Calibrator<'a>),
    /// They were measured before, and ship with the model.
    Known(&'a BnStats),
}

/// How long the stages of making a child deployable took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageTimes {
    /// Cutting the weights.
    pub slice: Duration,
    /// Measuring the batch-norm statistics, or none where they are known.
    pub calibrate: Duration,
    /// Folding and writing the graph.
    pub export: Duration,
}

/// A child that could not be made deployable.
#[derive(Debug, Error)]
pub enum DeployError {
    /// The weights do not hold the child.
    #[error(transparent)]
    Slice(#[from] SliceError),
    /// Recalibration failed.
    #[error(transparent)]
    Calibrate(#[from] CalibrateError),
    /// The measured statistics do not fit.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
}

/// Makes `child` deployable with `statistics`; the graph takes `input`.
///
/// # Errors
/// [`DeployError`].
pub fn deploy(model: &Model, child: &Child, statistics: Statistics<'_>, input: Input) -> Result<Deployed, DeployError> {
    let card = &model.card;
    let plan = Plan::new(&card.space, child, card.labels.len());
    let begin = Instant::now();
    let net = slice(&model.weights, &plan)?;
    let sliced = Instant::now();
    let stats = match statistics {
        Statistics::Measured(calibrator) => recalibrate(&net, &card.preprocessing, calibrator)?,
        Statistics::Known(stats) => stats.clone(),
    };
    let calibrated = Instant::now();
    let (model, weights_sha256) = (card.name.as_str(), card.weights_sha256.as_str());
    let metadata = Metadata { model, weights_sha256, labels: &card.labels, preprocessing: &card.preprocessing, input };
    let onnx = onnx::deployable(&net, &stats, metadata)?;
    let times = StageTimes { slice: sliced - begin, calibrate: calibrated - sliced, export: calibrated.elapsed() };
    Ok(Deployed { onnx, stats, times })
}
