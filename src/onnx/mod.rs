//! From a sliced network to an ONNX file.
//!
//! There are two ways to write the same network. The deployable graph has its batch norms folded into the convolutions and
//! answers with logits; it takes statistics measured on that very child, so an uncalibrated network cannot be written. The
//! calibration graph normalises by the batch and answers with the statistics that the deployable one needs.

mod graph;
mod lower;
mod proto;

use crate::checkpoint::{BnStats, StatisticsError};
use crate::image::Preprocessing;
use crate::slice::SlicedNet;
use crate::space::Plan;
use graph::{Dim, GraphBuilder};
use lower::{Lowering, Norms};

/// Changes whenever the same network would be written differently; part of the key under which built children are kept.
pub const EXPORTER_VERSION: u32 = 1;

/// Name of the input: float32 `[batch, channels, resolution, resolution]`, normalised.
pub const INPUT: &str = "images";

/// Name of the deployable graph's output: float32 `[batch, classes]`.
pub const OUTPUT: &str = "logits";

/// What a deployable file says of itself, beyond its plan.
#[derive(Debug, Clone, Copy)]
pub struct Metadata<'a> {
    /// Name of the single-stage model.
    pub model: &'a str,
    /// SHA-256 of its weights file.
    pub weights_sha256: &'a str,
    /// Names of the classes.
    pub labels: &'a [String],
    /// From an image to the network's input.
    pub preprocessing: &'a Preprocessing,
}

/// Writes `net` as a deployable model file: opset 17, standard operators, any batch size.
///
/// # Errors
/// [`StatisticsError`] where `stats` are not those of this child.
pub fn deployable(net: &SlicedNet, stats: &BnStats, metadata: Metadata<'_>) -> Result<Vec<u8>, StatisticsError> {
    let plan = net.plan();
    stats.check(plan)?;
    let mut lowering = Lowering { net, norms: Norms::Folded(stats), graph: GraphBuilder::default() };
    let input = declare_input(&mut lowering.graph, plan);
    let trunk = lowering.trunk(&input);
    lowering.classifier(&trunk, OUTPUT);
    lowering.graph.output(OUTPUT, &[Dim::Batch, Dim::Size(plan.classes)]);
    Ok(lowering.graph.finish(&format!("{} child {}", metadata.model, plan.child.id()), &properties(plan, stats, metadata)))
}

/// Writes `net` as a calibration graph: outputs `LAYER.mean` and `LAYER.variance` (biased), `[c_out]` each, for every batch
/// norm, in the order of [`Plan::norms`]; nothing behind the last batch norm is computed.
#[must_use]
pub fn calibration(net: &SlicedNet) -> Vec<u8> {
    let plan = net.plan();
    let mut lowering = Lowering { net, norms: Norms::Batch, graph: GraphBuilder::default() };
    let input = declare_input(&mut lowering.graph, plan);
    lowering.trunk(&input);
    lowering.graph.finish(&format!("calibration of child {}", plan.child.id()), &[])
}

fn declare_input(graph: &mut GraphBuilder, plan: &Plan) -> String {
    let side = Dim::Size(plan.child.resolution());
    graph.input(INPUT, &[Dim::Batch, Dim::Size(plan.input_channels), side, side])
}

fn properties(plan: &Plan, stats: &BnStats, metadata: Metadata<'_>) -> Vec<(String, String)> {
    let cost = plan.cost();
    let json = |value: serde_json::Result<String>| value.unwrap_or_default();
    let entries = [
        ("bignas.model", metadata.model.to_owned()),
        ("bignas.child", plan.child.id().to_string()),
        ("bignas.choices", json(serde_json::to_string(plan.child.choices()))),
        ("bignas.macs", cost.macs.total().to_string()),
        ("bignas.params", cost.params.total().to_string()),
        ("bignas.labels", json(serde_json::to_string(metadata.labels))),
        ("bignas.preprocessing", json(serde_json::to_string(metadata.preprocessing))),
        ("bignas.weights_sha256", metadata.weights_sha256.to_owned()),
        ("bignas.calibration_images", stats.images().to_string()),
        ("bignas.calibration_batch", stats.batch().to_string()),
        ("bignas.statistics_sha256", stats.checksum()),
        ("bignas.exporter_version", EXPORTER_VERSION.to_string()),
    ];
    entries.map(|(key, value)| (key.to_owned(), value)).to_vec()
}
