//! From a sliced network to an ONNX file.
//!
//! There are two ways to write the same network, and one to write pieces of it for timing. The deployable graph has its batch norms folded into the convolutions and
//! answers with logits; it takes statistics measured on that very child, so an uncalibrated network cannot be written. The
//! calibration graph normalises by the batch and answers with the statistics that the deployable one needs.

mod batch_norm;
mod graph;
mod lower;
mod proto;

use crate::checkpoint::{BnStats, StatisticsError};
use crate::image::Preprocessing;
use crate::slice::{SlicedNet, SlicedSegment};
use crate::space::Plan;
use graph::{Dim, GraphBuilder};
use lower::{Lowering, Norms};

/// Changes whenever the same network would be written differently; part of the key under which built children are kept.
pub const EXPORTER_VERSION: u32 = 2;

/// Name of the input: float32 `[batch, channels, side, side]`, normalised; the side is the child's resolution, or the crop's.
pub const INPUT: &str = "images";

/// Name of the deployable graph's output: float32 `[batch, classes]`.
pub const OUTPUT: &str = "logits";

/// What a deployable graph takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The image at the child's own resolution.
    Resolution,
    /// The model's crop, which the graph resamples: one preprocessing for every child, for devices that should get one file.
    Crop,
}

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
    /// What the graph takes.
    pub input: Input,
}

/// Writes `net` as a deployable model file: opset 17, standard operators, any batch size.
///
/// # Errors
/// [`StatisticsError`] where `stats` are not those of this child.
pub fn deployable(net: &SlicedNet, stats: &BnStats, metadata: Metadata<'_>) -> Result<Vec<u8>, StatisticsError> {
    let plan = net.plan();
    stats.check(plan)?;
    let mut lowering = Lowering { net, norms: Norms::Folded(stats), graph: GraphBuilder::default() };
    let input = match metadata.input {
        Input::Resolution => declare_input(&mut lowering.graph, plan, plan.child.resolution()),
        Input::Crop => {
            let crop = metadata.preprocessing.crop as usize;
            let crop_input = declare_input(&mut lowering.graph, plan, crop);
            lowering.resample(&crop_input, crop)
        }
    };
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
    let input = declare_input(&mut lowering.graph, plan, plan.child.resolution());
    let trunk = lowering.trunk(&input);
    lowering.last_batch_norm(&plan.head.conv, &trunk);
    lowering.graph.finish(&format!("calibration of child {}", plan.child.id()), &[])
}

/// Writes some parts of a child, or all of them, as a graph to be timed: from [`INPUT`], float32 `[batch, channels, side, side]` as the
/// first part takes it, to one output. Its batch norms are folded with mean 0 and variance 1: the values are of no use, the time is
/// that of the deployable graph.
#[must_use]
pub fn segment(segment: &SlicedSegment) -> Vec<u8> {
    let mut lowering = Lowering { net: segment.layers(), norms: Norms::Unit, graph: GraphBuilder::default() };
    let dims = |shape: &[usize]| -> Vec<Dim> { std::iter::once(Dim::Batch).chain(shape.iter().copied().map(Dim::Size)).collect() };
    let mut value = INPUT.to_owned();
    let (mut keys, mut shape) = (Vec::new(), Vec::new());
    for part in segment.parts() {
        if keys.is_empty() {
            value = lowering.graph.input(INPUT, &dims(&part.input_shape()));
        }
        value = lowering.part(part, &value, OUTPUT);
        shape = part.output_shape();
        keys.push(part.key());
    }
    lowering.graph.output(&value, &dims(&shape));
    lowering.graph.finish(&format!("timing of {}", keys.join("; ")), &[])
}

/// The smallest graph that computes something, to try a device out: from [`INPUT`], `[batch, 1, 1, 1]`, a convolution that doubles it.
#[must_use]
pub fn probe() -> Vec<u8> {
    let mut graph = GraphBuilder::default();
    let dims = [Dim::Batch, Dim::Size(1), Dim::Size(1), Dim::Size(1)];
    let image = graph.input(INPUT, &dims);
    let weight = graph.constant("weight", &[1, 1, 1, 1], &[2.0]);
    let doubled = graph.node("Conv", "doubled", &[&image, &weight], &[]);
    graph.output(&doubled, &dims);
    graph.finish("a trial of the device", &[])
}

fn declare_input(graph: &mut GraphBuilder, plan: &Plan, side: usize) -> String {
    let side = Dim::Size(side);
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
        ("bignas.input", if metadata.input == Input::Crop { "crop" } else { "resolution" }.to_owned()),
        ("bignas.weights_sha256", metadata.weights_sha256.to_owned()),
        ("bignas.calibration_images", stats.images().to_string()),
        ("bignas.calibration_batch", stats.batch().to_string()),
        ("bignas.statistics_sha256", stats.checksum()),
        ("bignas.exporter_version", EXPORTER_VERSION.to_string()),
    ];
    entries.map(|(key, value)| (key.to_owned(), value)).to_vec()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use prost::Message;

    use super::proto::{DimensionValue, FLOAT, Model, ValueInfo};
    use super::*;
    use crate::checkpoint::{GammaInit, LayerStats, Weights};
    use crate::image::Filter;
    use crate::slice::slice;
    use crate::space::{Child, Choices, PRESETS, SearchSpace, layout, preset};

    fn network(space: &str, choose: fn(&SearchSpace) -> Child) -> SlicedNet {
        let space = preset(space).unwrap();
        let weights = Weights::random(&layout(&space, 3), 0, GammaInit::Random);
        slice(&weights, &Plan::new(&space, &choose(&space), 3)).unwrap()
    }

    fn plain_statistics(plan: &Plan) -> BnStats {
        let layer = |c_out: usize| LayerStats { mean: vec![0.5; c_out], variance: vec![2.0; c_out] };
        BnStats::new(plan, plan.norms().map(|conv| (conv.name.clone(), layer(conv.c_out))).collect(), 8, 4).unwrap()
    }

    fn export(net: &SlicedNet) -> Model {
        let labels = ["cat", "dog", "\"quoted\""].map(str::to_owned);
        let preprocessing =
            Preprocessing { resize: None, filter: Filter::Bicubic, crop: 28, mean: vec![0.5], std: vec![0.5], background: [0; 3] };
        let metadata =
            Metadata { model: "tiny", weights_sha256: "abc", labels: &labels, preprocessing: &preprocessing, input: Input::Resolution };
        let bytes = deployable(net, &plain_statistics(net.plan()), metadata).unwrap();
        Model::decode(bytes.as_slice()).unwrap()
    }

    fn dims(info: &ValueInfo) -> Vec<String> {
        let tensor = info.r#type.clone().unwrap().tensor_type.unwrap();
        assert_eq!(tensor.elem_type, FLOAT);
        let text = |value: DimensionValue| match value {
            DimensionValue::Size(size) => size.to_string(),
            DimensionValue::Name(name) => name,
        };
        tensor.shape.unwrap().dim.into_iter().map(|dim| text(dim.value.unwrap())).collect()
    }

    #[test]
    fn a_deployable_file_is_opset_17_with_standard_operators_and_a_free_batch() {
        for name in PRESETS {
            let net = network(name, SearchSpace::smallest);
            let plan = net.plan();
            let model = export(&net);
            let opsets: Vec<_> = model.opset_import.iter().map(|set| (set.domain.as_str(), set.version)).collect();
            assert_eq!((model.ir_version, opsets), (8, vec![("", 17)]));
            let graph = model.graph.unwrap();
            let operators: BTreeSet<&str> = graph.node.iter().map(|node| node.op_type.as_str()).collect();
            let mut expected = BTreeSet::from(["Add", "AveragePool", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "Mul", "Sigmoid"]);
            if name == "attentivenas" {
                expected.extend(["HardSigmoid", "Relu"]);
            }
            assert_eq!(operators, expected, "{name}: batch norms are folded");
            let [input, output] = [&graph.input, &graph.output].map(|values| &values[..]);
            let ([input], [output]) = (input, output) else { panic!("one input and one output, not {input:?} and {output:?}") };
            let side = plan.child.resolution().to_string();
            assert_eq!((input.name.as_str(), output.name.as_str()), (INPUT, OUTPUT));
            assert_eq!(dims(input), ["batch", &plan.input_channels.to_string(), &side, &side]);
            assert_eq!(dims(output), ["batch", "3"]);
        }
    }

    /// Every value has one producer, which comes before its readers; every constant is as long as its shape says.
    #[test]
    fn graphs_are_in_order_and_complete() {
        for name in PRESETS {
            let net = network(name, SearchSpace::biggest);
            let calibration = Model::decode(calibration(&net).as_slice()).unwrap();
            for graph in [export(&net).graph.unwrap(), calibration.graph.unwrap()] {
                let mut known: BTreeSet<&str> = graph.input.iter().map(|value| value.name.as_str()).collect();
                for constant in &graph.initializer {
                    assert!(known.insert(&constant.name), "{} is there twice", constant.name);
                    let element_bytes = if constant.data_type == FLOAT { 4 } else { 8 };
                    let values = constant.dims.iter().product::<i64>();
                    assert_eq!(constant.raw_data.len() as i64, element_bytes * values, "{}", constant.name);
                }
                for node in &graph.node {
                    node.input.iter().for_each(|value| assert!(known.contains(value.as_str()), "{} reads {value}", node.name));
                    node.output.iter().for_each(|value| assert!(known.insert(value), "{value} is made twice"));
                }
                graph.output.iter().for_each(|value| assert!(known.contains(value.name.as_str()), "{}", value.name));
            }
        }
    }

    #[test]
    fn a_deployable_file_says_what_it_is() {
        let net = network("fashion-mnist", SearchSpace::biggest);
        let plan = net.plan();
        let found: BTreeMap<_, _> = export(&net).metadata_props.into_iter().map(|entry| (entry.key, entry.value)).collect();
        let expected = [
            ("bignas.model", "tiny".to_owned()),
            ("bignas.child", plan.child.id().to_string()),
            ("bignas.macs", plan.cost().macs.total().to_string()),
            ("bignas.params", plan.cost().params.total().to_string()),
            ("bignas.labels", r#"["cat","dog","\"quoted\""]"#.to_owned()),
            ("bignas.weights_sha256", "abc".to_owned()),
            ("bignas.calibration_images", "8".to_owned()),
            ("bignas.calibration_batch", "4".to_owned()),
            ("bignas.statistics_sha256", plain_statistics(plan).checksum()),
        ];
        for (key, value) in expected {
            assert_eq!(found.get(key), Some(&value), "{key}");
        }
        let choices: Choices = serde_json::from_str(&found["bignas.choices"]).unwrap();
        assert_eq!(&choices, plan.child.choices());
        let preprocessing: Preprocessing = serde_json::from_str(&found["bignas.preprocessing"]).unwrap();
        assert_eq!(preprocessing.crop, 28);
    }

    #[test]
    fn the_calibration_graph_answers_with_every_norms_statistics_in_order() {
        let net = network("fashion-mnist", SearchSpace::biggest);
        let graph = Model::decode(calibration(&net).as_slice()).unwrap().graph.unwrap();
        let found: Vec<_> = graph.output.iter().map(|value| (value.name.clone(), dims(value))).collect();
        let expected = net
            .plan()
            .norms()
            .flat_map(|conv| ["mean", "variance"].map(|part| (format!("{}.{part}", conv.name), vec![conv.c_out.to_string()])));
        assert_eq!(BTreeSet::from_iter(found), expected.collect());
    }

    #[test]
    fn statistics_of_another_child_are_refused() {
        let [smallest, biggest] = [SearchSpace::smallest, SearchSpace::biggest];
        let (net, other) = (network("fashion-mnist", smallest), network("fashion-mnist", biggest));
        let preprocessing =
            Preprocessing { resize: None, filter: Filter::Bicubic, crop: 28, mean: vec![0.5], std: vec![0.5], background: [0; 3] };
        let metadata = Metadata { model: "tiny", weights_sha256: "", labels: &[], preprocessing: &preprocessing, input: Input::Resolution };
        let refused = deployable(&net, &plain_statistics(other.plan()), metadata).unwrap_err();
        assert!(matches!(refused, StatisticsError::OtherChild { .. }), "{refused}");
    }
}
