//! Children, as they are listed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ChildChoices, Device};
use crate::checkpoint::{AccuracyKind, AccuracySource};
use crate::engine::{ChildState, ChildStatus};
use crate::space::ChildId;

/// A child in a few numbers.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChildSummary {
    /// 16 hexadecimal digits, derived from the choices.
    #[schema(value_type = String, example = "0123456789abcdef", pattern = "^[0-9a-f]{16}$")]
    pub id: ChildId,
    /// Multiply-adds for one image, in millions.
    #[schema(example = 2.97)]
    pub mflops: f64,
    /// Learned parameters.
    #[schema(example = 41_234)]
    pub params: u64,
    /// Side of the network's input in pixels.
    #[schema(example = 28)]
    pub resolution: usize,
    /// Top-1 accuracy as a fraction; `null` where nobody has measured it.
    #[schema(example = 0.905)]
    pub accuracy: Option<f64>,
    /// What the accuracy was measured on.
    #[schema(value_type = Option<AccuracySourceDoc>)]
    pub accuracy_source: Option<Arc<AccuracySource>>,
    /// Median time of one image on this device, in milliseconds; `null` until it has been measured.
    #[schema(example = 0.21)]
    pub latency_ms: Option<f64>,
}

/// Where an accuracy comes from.
#[derive(ToSchema)]
#[schema(as = AccuracySource)]
#[expect(dead_code, reason = "stands in for a type of the checkpoint, which knows nothing of this API")]
struct AccuracySourceDoc {
    /// Name of the data set.
    #[schema(example = "fashion-mnist")]
    dataset: String,
    /// Its part.
    #[schema(example = "test")]
    split: String,
    /// How many images.
    #[schema(example = 10_000)]
    images: usize,
    /// `measured` with these weights, or `published` by their authors.
    #[schema(value_type = AccuracyKindDoc)]
    kind: AccuracyKind,
}

/// Whether an accuracy was measured or is quoted.
#[derive(ToSchema)]
#[schema(as = AccuracyKind, rename_all = "snake_case")]
#[expect(dead_code, reason = "stands in for a type of the checkpoint, which knows nothing of this API")]
enum AccuracyKindDoc {
    Measured,
    Published,
}

/// The children of the model.
#[derive(Debug, Serialize, ToSchema)]
pub struct Children {
    /// What latencies were measured on, and networks run on.
    pub device: Device,
    /// Cheapest first.
    pub children: Vec<ChildDetails>,
}

/// A child with its choices.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChildDetails {
    /// The child in a few numbers.
    #[serde(flatten)]
    pub summary: ChildSummary,
    /// What makes the child.
    pub choices: ChildChoices,
    /// Where it is ready to be run from.
    pub state: StateName,
    /// Whether a client added it; only then it can be removed.
    pub added: bool,
}

/// Where a child is ready to be run from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = State)]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    /// In memory.
    Loaded,
    /// On disk, sliced and recalibrated.
    Disk,
    /// Nowhere yet: the first request builds it.
    Unbuilt,
}

impl From<&ChildStatus> for ChildSummary {
    fn from(status: &ChildStatus) -> Self {
        Self {
            id: status.child.id(),
            mflops: status.cost.macs.millions(),
            params: status.cost.params.total(),
            resolution: status.child.resolution(),
            accuracy: status.accuracy,
            accuracy_source: status.accuracy_source.clone(),
            latency_ms: status.latency_ms,
        }
    }
}

impl From<&ChildStatus> for ChildDetails {
    fn from(status: &ChildStatus) -> Self {
        let choices = ChildChoices(status.child.choices().clone());
        Self { summary: status.into(), choices, state: status.state.into(), added: status.added }
    }
}

impl From<ChildState> for StateName {
    fn from(state: ChildState) -> Self {
        match state {
            ChildState::Loaded => Self::Loaded,
            ChildState::Disk => Self::Disk,
            ChildState::Unbuilt => Self::Unbuilt,
        }
    }
}
