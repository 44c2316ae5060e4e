//! What scores depend on, and what they do not.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Purpose, ResultsError, SearchSettings};
use crate::image::Preprocessing;

/// What accuracies depend on: where any of it differs, scores say nothing about each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Basis {
    /// SHA-256 of the model's weights.
    pub weights_sha256: String,
    /// SHA-256 of the search space, which also says how children are computed.
    pub space_sha256: String,
    /// SHA-256 of the calibration images, and how many form a batch.
    pub calibration: (String, usize),
    /// Split, number and SHA-256 of the images that accuracy is measured on, cropped, with the numbers of their classes.
    pub selection: (String, usize, String),
    /// From an image to a child's input.
    pub preprocessing: Preprocessing,
    /// Version of the exporter that wrote the graphs.
    pub exporter: u32,
    /// What the build of ONNX Runtime that ran them says of itself.
    pub onnxruntime: String,
}

/// What a search looks for. Accuracies do not depend on it, but which children are evaluated does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aim {
    /// What latencies are measured on, where a budget bounds them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What is searched.
    pub settings: SearchSettings,
}

impl Basis {
    /// Refuses the scores of the file at `path`, which depend on this, where `other` differs.
    pub(super) fn check(&self, path: &Path, other: &Self, purpose: Purpose) -> Result<(), ResultsError> {
        // Each stands behind "another search".
        let difference = first_difference([
            ("of other weights", self.weights_sha256 == other.weights_sha256),
            ("of another search space", self.space_sha256 == other.space_sha256),
            ("recalibrated on other images or in other batches", self.calibration == other.calibration),
            ("selecting on other images", self.selection == other.selection),
            ("with another preprocessing", self.preprocessing == other.preprocessing),
            ("by another version of bignas's exporter", self.exporter == other.exporter),
            ("by another build of ONNX Runtime", self.onnxruntime == other.onnxruntime),
        ]);
        difference.map_or(Ok(()), |difference| Err(ResultsError::Other { path: path.to_owned(), difference, purpose }))
    }
}

impl Aim {
    /// The first thing in which `other` differs, to stand between "a search" and "than".
    pub(super) fn difference(&self, other: &Self) -> Option<&'static str> {
        let (ours, theirs) = (&self.settings, &other.settings);
        let mutates_alike = (ours.mutations, ours.mutation_chance) == (theirs.mutations, theirs.mutation_chance);
        first_difference([
            ("with another grid", ours.grid == theirs.grid),
            ("with other budgets", ours.budgets == theirs.budgets),
            ("with other mutations", mutates_alike),
            ("with another seed", ours.seed == theirs.seed),
            ("measuring latency on another device", self.device == other.device),
        ])
    }
}

fn first_difference<const N: usize>(compared: [(&'static str, bool); N]) -> Option<&'static str> {
    compared.into_iter().find_map(|(difference, same)| (!same).then_some(difference))
}
