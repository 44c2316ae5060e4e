//! What is asked of the engine, and what it answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::build::BuildError;
use super::picture::PictureError;
use crate::checkpoint::AccuracySource;
use crate::runtime::RuntimeError;
use crate::space::{Child, ChildError, ChildId, Cost};

/// Upper bounds that a child must respect, all of them, and a lower bound on its accuracy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// Millions of multiply-adds at most.
    pub mflops: Option<f64>,
    /// Parameters at most.
    pub params: Option<u64>,
    /// Milliseconds at most, by the latency measured on this device at batch 1.
    pub latency_ms: Option<f64>,
    /// Accuracy at least, as a fraction; an unknown accuracy never suffices.
    pub min_accuracy: Option<f64>,
}

/// A child as it stands in this process.
#[derive(Debug, Clone)]
pub struct ChildStatus {
    /// The child.
    pub child: Arc<Child>,
    /// What it costs.
    pub cost: Cost,
    /// Top-1 accuracy as a fraction, where it is known.
    pub accuracy: Option<f64>,
    /// What the accuracy was measured on.
    pub accuracy_source: Option<Arc<AccuracySource>>,
    /// Median time of one image on one thread of this device, in milliseconds, where it was measured.
    pub latency_ms: Option<f64>,
    /// Where it was ready to be run from when this was asked.
    pub state: ChildState,
    /// Whether it was added to the family by a client.
    pub added: bool,
}

/// Where a child is ready to be run from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildState {
    /// In memory.
    Loaded,
    /// On disk, sliced and recalibrated.
    Disk,
    /// Nowhere yet: the first request builds it.
    Unbuilt,
}

/// Where the child that answered came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// It was loaded already.
    Memory,
    /// It was loaded from disk.
    Disk,
    /// Another server had built it: it was loaded from the store that they share.
    Shared,
    /// It was sliced and recalibrated for this request.
    Built,
}

/// What networks run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The execution provider, such as `cpu`.
    pub provider: String,
    /// The provider, which of its devices, and the precision, such as `cuda:0 float32`.
    pub device: String,
    /// What ONNX Runtime says of its build.
    pub runtime: String,
    /// Networks that run side by side.
    pub workers: usize,
    /// Threads that each of them runs on.
    pub threads_per_run: usize,
}

/// Who may answer a classification, and until when.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The children that may, best first. An idle server takes the first; under load the others keep deadlines.
    pub children: Vec<ChildId>,
    /// When the answer must be there, queue and computation included; none waits as long as the server does.
    pub deadline: Option<Instant>,
    /// Whether a floor on accuracy was asked for. Where load alone keeps it from being held in time, the request is refused with
    /// [`ClassifyError::Overloaded`]: it can be answered when there is less to do.
    pub has_floor: bool,
}

impl From<ChildId> for Request {
    fn from(child: ChildId) -> Self {
        Self { children: vec![child], deadline: None, has_floor: false }
    }
}

/// The answer to a classification.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The child that answered.
    pub child: ChildId,
    /// The better child that an idle server would have taken.
    pub degraded_from: Option<ChildId>,
    /// One row of logits an image, `[classes]` each.
    pub logits: Vec<Vec<f32>>,
    /// Where the child came from.
    pub source: Source,
    /// Images of the run, those of other requests with them.
    pub batch: usize,
    /// From acceptance until a worker took the request, without the time that getting the child took.
    pub queue: Duration,
    /// From when a worker took it until all images of the run were decoded and cropped.
    pub decode: Duration,
    /// From then until the logits were there: resizing to the child's resolution and running the network.
    pub inference: Duration,
}

/// No child respects the budget.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ResolveError {
    /// The upper bounds exclude every child.
    #[error("no child is that small: the smallest has {mflops:.2} MFLOPs (multiply-adds in millions) and {params} parameters{}", latency(.latency_ms))]
    Budget {
        /// Multiply-adds of the smallest child, in millions.
        mflops: f64,
        /// Its parameters.
        params: u64,
        /// Lowest latency measured on this device, in milliseconds.
        latency_ms: Option<f64>,
    },
    /// Within the upper bounds, no child is that accurate.
    #[error("no child within the budget has an accuracy of {asked}; the best has {}", best.map_or_else(|| "none that is known".to_owned(), |a| a.to_string()))]
    Accuracy {
        /// The accuracy asked for.
        asked: f64,
        /// The best within the budget.
        best: Option<f64>,
    },
    /// A latency budget, but no latency has been measured yet.
    #[error(
        "no latency on this device has been measured yet: wait until /readyz says yes, or give the budget in mflops, \
         which also measures the child that answers"
    )]
    Unmeasured,
}

fn latency(latency_ms: &Option<f64>) -> String {
    latency_ms.map_or_else(String::new, |ms| format!("; the fastest takes {ms:.3} ms on this device"))
}

/// A child that a client added.
#[derive(Debug, Clone)]
pub struct Added {
    /// How it stands.
    pub status: ChildStatus,
    /// Whether it was unknown before.
    pub is_new: bool,
}

/// A request that was not answered.
#[derive(Debug, Clone, Error)]
pub enum ClassifyError {
    /// There is no such child.
    #[error("there is no child {0}: `GET /children` lists them")]
    Unknown(ChildId),
    /// An image cannot be read.
    #[error("{}{source}", if *of > 1 { format!("image {}: ", index + 1) } else { String::new() })]
    Picture {
        /// Which one, from 0.
        index: usize,
        /// How many the request has.
        of: usize,
        /// What is wrong with it.
        source: Arc<PictureError>,
    },
    /// No child that the request allows can answer in time.
    #[error("no answer is possible before the deadline: give more time, or allow a smaller child with a lower min_accuracy or budget")]
    TooLate,
    /// The queue is full, or too long for a request with a floor.
    #[error(
        "the server has more work than it can do in time; try again in {retry_after_s} s, or allow a smaller child with a lower min_accuracy or budget"
    )]
    Overloaded {
        /// When the queue will have drained at the current pace, in seconds, at least 1.
        retry_after_s: u64,
    },
    /// The server is going down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The child could not be built, and the request allows no other that is in memory.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// ONNX Runtime failed.
    #[error("the network failed to run")]
    Runtime(#[source] Arc<RuntimeError>),
    /// The worker that ran the request panicked.
    #[error("the network stopped in the middle of this request")]
    WorkerLost,
}

/// A child that could not be added.
#[derive(Debug, Clone, Error)]
pub enum AddError {
    /// It is not in the search space.
    #[error(transparent)]
    Outside(#[from] ChildError),
    /// There are as many added children as the server takes.
    #[error("the server already keeps {limit} added children, its limit: remove one first")]
    Full {
        /// The limit.
        limit: usize,
    },
    /// It could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// A child that could not be removed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RemoveError {
    /// There is no such child.
    #[error("there is no child {0}: `GET /children` lists them")]
    Unknown(ChildId),
    /// It belongs to the model.
    #[error("child {0} belongs to the model's family; only added children can be removed")]
    Family(ChildId),
}
