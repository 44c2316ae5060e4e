//! The answer to a classification.

use serde::Serialize;
use utoipa::ToSchema;

use super::ChildSummary;
use crate::engine::{Budget, Source};
use crate::space::ChildId;

/// The answer to a classification.
#[derive(Debug, Serialize, ToSchema)]
pub struct Classification {
    /// The most probable labels, most probable first. Where the request has exactly one image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predictions: Option<Vec<Prediction>>,
    /// One entry an image, in the order they were sent. Where the request has several images, instead of `predictions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Vec<ImagePredictions>>,
    /// The child that answered.
    pub child: ChildSummary,
    /// The better child that would have answered if the server had not been under load.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, pattern = "^[0-9a-f]{16}$")]
    pub degraded_from: Option<ChildId>,
    /// What was asked of it, and whether it holds.
    pub budget: BudgetReport,
    /// Where the child came from.
    #[schema(value_type = SourceName)]
    pub source: SourceName,
    /// Images that were classified together, those of other requests with them: decoding and inference took their time for all of them.
    #[schema(example = 1)]
    pub batch: usize,
    /// Where the time went.
    pub timing_ms: Timing,
}

/// The predictions for one of several images.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImagePredictions {
    /// The most probable labels, most probable first.
    pub predictions: Vec<Prediction>,
}

/// A label with its probability.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Prediction {
    /// Index of the class in the model's order.
    #[schema(example = 9)]
    pub index: usize,
    /// Its name.
    #[schema(example = "ankle boot")]
    pub label: String,
    /// Its softmax probability, 0 to 1.
    #[schema(example = 0.987)]
    pub probability: f32,
}

/// What was asked of the child, and whether it holds.
#[derive(Debug, Serialize, ToSchema)]
pub struct BudgetReport {
    /// What the request gave, and nothing else.
    pub asked: Asked,
    /// Whether the child keeps within all of it.
    pub met: bool,
}

/// The bounds that a request gave.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub struct Asked {
    /// Millions of multiply-adds at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 3.0)]
    pub mflops: Option<f64>,
    /// Parameters at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<u64>,
    /// Milliseconds at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// Accuracy at least, as a fraction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_accuracy: Option<f64>,
    /// This child and no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub child: Option<ChildId>,
}

/// Where the child that answered came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Source)]
#[serde(rename_all = "snake_case")]
pub enum SourceName {
    /// It was loaded already.
    Memory,
    /// It was loaded from disk.
    Disk,
    /// Another server had built it: it was loaded from the store that they share.
    Shared,
    /// It was sliced and recalibrated for this request.
    Built,
}

/// Where the time of a request went, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct Timing {
    /// From the bytes of all images to their centre crops.
    #[schema(example = 0.08)]
    pub decode: f64,
    /// Choosing the child, and loading or building it where it was not in memory.
    #[schema(example = 0.01)]
    pub resolve: f64,
    /// Waiting for a worker.
    #[schema(example = 0.02)]
    pub queue: f64,
    /// Resizing to the child's resolution and running the network.
    #[schema(example = 0.2)]
    pub inference: f64,
    /// All of it, from the complete request to the answer.
    #[schema(example = 0.33)]
    pub total: f64,
}

impl From<Source> for SourceName {
    fn from(source: Source) -> Self {
        match source {
            Source::Memory => Self::Memory,
            Source::Disk => Self::Disk,
            Source::Shared => Self::Shared,
            Source::Built => Self::Built,
        }
    }
}

impl From<Budget> for Asked {
    fn from(budget: Budget) -> Self {
        let Budget { mflops, params, latency_ms, min_accuracy } = budget;
        Self { mflops, params, latency_ms, min_accuracy, child: None }
    }
}

impl Asked {
    /// Whether a child keeps within all bounds; what is not known keeps within none.
    #[must_use]
    pub fn met_by(&self, child: &ChildSummary) -> bool {
        self.mflops.is_none_or(|most| child.mflops <= most)
            && self.params.is_none_or(|most| child.params <= most)
            && self.latency_ms.is_none_or(|most| child.latency_ms.is_some_and(|ms| ms <= most))
            && self.min_accuracy.is_none_or(|least| child.accuracy.is_some_and(|accuracy| accuracy >= least))
            && self.child.is_none_or(|id| child.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_met_only_by_what_is_known() {
        let id = "0123456789abcdef".parse().unwrap();
        let known = ChildSummary {
            id,
            mflops: 3.0,
            params: 100,
            resolution: 28,
            accuracy: Some(0.9),
            accuracy_source: None,
            latency_ms: Some(0.5),
        };
        let unknown = ChildSummary { accuracy: None, latency_ms: None, ..known.clone() };
        let nothing = Asked::default();
        let cases = [
            (nothing, true, true),
            (Asked { mflops: Some(3.0), params: Some(100), ..nothing }, true, true),
            (Asked { mflops: Some(2.9), ..nothing }, false, false),
            (Asked { params: Some(99), ..nothing }, false, false),
            (Asked { latency_ms: Some(0.5), ..nothing }, true, false),
            (Asked { latency_ms: Some(0.4), ..nothing }, false, false),
            (Asked { min_accuracy: Some(0.9), ..nothing }, true, false),
            (Asked { min_accuracy: Some(0.91), ..nothing }, false, false),
            (Asked { child: Some(id), ..nothing }, true, true),
        ];
        for (asked, by_known, by_unknown) in cases {
            assert_eq!((asked.met_by(&known), asked.met_by(&unknown)), (by_known, by_unknown), "{asked:?}");
        }
    }
}
