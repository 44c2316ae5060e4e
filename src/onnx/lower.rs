//! From a sliced network to graph nodes; the one place that knows how each layer is written in ONNX.

use super::graph::{GraphBuilder, Value};
use crate::checkpoint::{BnStats, LayerStats, Tensor};
use crate::slice::SlicedNet;
use crate::space::{Activation, BlockPlan, ConvPlan, Gate, Pad, Part, PoolPlan, SqueezeExcitePlan};

/// How a batch norm is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Norms<'a> {
    /// Folded into its convolution, with these statistics.
    Folded(&'a BnStats),
    /// Folded into its convolution, with mean 0 and variance 1: as fast as any statistics, and of no other use.
    Unit,
    /// Normalising by the batch; mean and biased variance of the batch become outputs `NAME.mean` and `NAME.variance`.
    Batch,
}

/// Writes layers of `net` into `graph`. Every method takes and returns names of values.
pub(super) struct Lowering<'a> {
    pub(super) net: &'a SlicedNet,
    pub(super) norms: Norms<'a>,
    pub(super) graph: GraphBuilder,
}

impl Lowering<'_> {
    /// The stem and all blocks. `input` is `[N, C, R, R]`.
    pub(super) fn trunk(&mut self, input: &str) -> String {
        let plan = self.net.plan();
        let mut value = self.conv(&plan.stem, input);
        for block in &plan.blocks {
            value = self.block(block, &value);
        }
        value
    }

    /// One part of the network. The head's output is called `logits`.
    pub(super) fn part(&mut self, part: Part<'_>, input: &str, logits: &str) -> String {
        match part {
            Part::Stem(conv) => self.conv(conv, input),
            Part::Block(block) => self.block(block, input),
            Part::Head { .. } => {
                self.classifier(input, logits);
                logits.to_owned()
            }
        }
    }

    /// Resamples the model's crop, `[N, C, crop, crop]`, to the child's resolution: bicubic with A = -0.75 and half-pixel centres,
    /// without antialiasing, edges repeated; what `image` does outside the graph.
    pub(super) fn resample(&mut self, input: &str, crop: usize) -> String {
        let side = self.net.plan().child.resolution();
        if side == crop {
            return input.to_owned();
        }
        // Sizes, not scales: a scale is rounded, and a size computed from it may be one short.
        let outer = self.graph.node("Shape", "resample.outer", &[input], &[("start", Value::Int(0)), ("end", Value::Int(2))]);
        let inner = self.graph.integers("resample.inner", &[side as i64; 2]);
        let sizes = self.graph.node("Concat", "resample.sizes", &[&outer, &inner], &[("axis", Value::Int(0))]);
        let attributes = [
            ("mode", Value::Text("cubic")),
            ("cubic_coeff_a", Value::Float(-0.75)),
            ("coordinate_transformation_mode", Value::Text("half_pixel")),
        ];
        self.graph.node("Resize", "resample", &[input, "", "", &sizes], &attributes)
    }

    /// From the trunk's output to the logits `[N, classes]`, called `output`.
    pub(super) fn classifier(&mut self, trunk: &str, output: &str) {
        let head = &self.net.plan().head;
        let wide = self.conv(&head.conv, trunk);
        let mut value = self.graph.node("GlobalAveragePool", "head.pool", &[&wide], &[]);
        if let Some(mix) = &head.mix {
            value = self.conv(mix, &value);
        }
        let flat = self.graph.node("Flatten", "head.flat", &[&value], &[]);
        let weight = self.shared("classifier.weight");
        let bias = self.shared("classifier.bias");
        self.graph.node("Gemm", output, &[&flat, &weight, &bias], &[("transB", Value::Int(1))]);
    }

    fn block(&mut self, block: &BlockPlan, input: &str) -> String {
        let mut value = input.to_owned();
        if let Some(expand) = &block.expand {
            value = self.conv(expand, &value);
        }
        value = self.conv(&block.depthwise, &value);
        if let Some(squeeze) = &block.squeeze_excite {
            value = self.squeeze_excite(squeeze, &value);
        }
        value = self.conv(&block.project, &value);
        if !block.skip {
            return value;
        }
        let mut skip = input.to_owned();
        if let Some(pool) = &block.pool {
            skip = self.pool(pool, &format!("{}.pool", block.name), &skip);
        }
        if let Some(shortcut) = &block.shortcut {
            skip = self.conv(shortcut, &skip);
        }
        self.graph.node("Add", &format!("{}.add", block.name), &[&value, &skip], &[])
    }

    fn conv(&mut self, conv: &ConvPlan, input: &str) -> String {
        let value = if conv.norm {
            self.conv_norm(conv, input)
        } else {
            let weight = self.shared(&format!("{}.weight", conv.name));
            self.conv_node(conv, &[input, &weight])
        };
        self.activation(conv.activation, &value, &conv.name)
    }

    /// A convolution and its batch norm, without activation.
    fn conv_norm(&mut self, conv: &ConvPlan, input: &str) -> String {
        match self.norms {
            Norms::Folded(stats) => {
                let layer = stats.get(&conv.name).expect("the exporter checks that the statistics are complete");
                self.conv_folded(conv, layer, input)
            }
            Norms::Unit => self.conv_folded(conv, &LayerStats { mean: vec![0.0; conv.c_out], variance: vec![1.0; conv.c_out] }, input),
            Norms::Batch => self.conv_batch_norm(conv, input),
        }
    }

    fn conv_folded(&mut self, conv: &ConvPlan, layer: &LayerStats, input: &str) -> String {
        let name = &conv.name;
        let (weight, bias) = fold(self.net, conv, layer);
        let weight = self.graph.constant(&format!("{name}.weight"), &conv.weight_shape(), &weight);
        let bias = self.graph.constant(&format!("{name}.bias"), &[conv.c_out], &bias);
        self.conv_node(conv, &[input, &weight, &bias])
    }

    pub(super) fn conv_node(&mut self, conv: &ConvPlan, inputs: &[&str]) -> String {
        let group = if conv.depthwise() { conv.c_in } else { 1 };
        let attributes = [
            ("kernel_shape", square(conv.kernel)),
            ("strides", square(conv.stride)),
            ("pads", pads(conv.pad)),
            ("group", Value::Int(group as i64)),
        ];
        self.graph.node("Conv", &conv.name, inputs, &attributes)
    }

    fn squeeze_excite(&mut self, squeeze: &SqueezeExcitePlan, input: &str) -> String {
        let name = &squeeze.name;
        let mean = self.graph.node("GlobalAveragePool", &format!("{name}.squeeze"), &[input], &[]);
        let reduced = self.biased_conv(&format!("{name}.reduce"), &mean);
        let reduced = self.activation(Some(squeeze.activation), &reduced, &format!("{name}.reduce"));
        let expanded = self.biased_conv(&format!("{name}.expand"), &reduced);
        let gate_name = format!("{name}.gate");
        let gate = match squeeze.gate {
            Gate::Sigmoid => self.graph.node("Sigmoid", &gate_name, &[&expanded], &[]),
            Gate::HardSigmoid => {
                let attributes = [("alpha", Value::Float(1.0 / 6.0)), ("beta", Value::Float(0.5))];
                self.graph.node("HardSigmoid", &gate_name, &[&expanded], &attributes)
            }
        };
        self.graph.node("Mul", name, &[input, &gate], &[])
    }

    fn biased_conv(&mut self, name: &str, input: &str) -> String {
        let weight = self.shared(&format!("{name}.weight"));
        let bias = self.shared(&format!("{name}.bias"));
        self.graph.node("Conv", name, &[input, &weight, &bias], &[("kernel_shape", square(1))])
    }

    fn pool(&mut self, pool: &PoolPlan, name: &str, input: &str) -> String {
        let attributes = [
            ("kernel_shape", square(2)),
            ("strides", square(2)),
            ("pads", pads(pool.pad)),
            ("count_include_pad", Value::Int(pool.count_padding.into())),
        ];
        self.graph.node("AveragePool", name, &[input], &attributes)
    }

    fn activation(&mut self, activation: Option<Activation>, input: &str, name: &str) -> String {
        match activation {
            None => input.to_owned(),
            Some(Activation::Relu) => self.graph.node("Relu", &format!("{name}.relu"), &[input], &[]),
            Some(Activation::HardSwish) => self.graph.node("HardSwish", &format!("{name}.hardswish"), &[input], &[]),
            Some(Activation::Swish) => {
                let sigmoid = self.graph.node("Sigmoid", &format!("{name}.sigmoid"), &[input], &[]);
                self.graph.node("Mul", &format!("{name}.swish"), &[input, &sigmoid], &[])
            }
        }
    }

    /// Adds a sliced tensor as it is.
    pub(super) fn shared(&mut self, name: &str) -> String {
        let tensor = sliced(self.net, name);
        self.graph.constant(name, &tensor.shape, &tensor.data)
    }
}

/// Weight and bias of a convolution that does its batch norm's work too.
fn fold(net: &SlicedNet, conv: &ConvPlan, layer: &LayerStats) -> (Vec<f32>, Vec<f32>) {
    let name = &conv.name;
    let weight = sliced(net, &format!("{name}.weight"));
    let gamma = &sliced(net, &format!("{name}.bn.weight")).data;
    let beta = &sliced(net, &format!("{name}.bn.bias")).data;
    let eps = net.plan().bn_eps;
    let scales = gamma.iter().zip(&layer.variance).map(|(&g, &variance)| f64::from(g) / (f64::from(variance) + eps).sqrt());
    let scales: Vec<f64> = scales.collect();
    let filter = weight.data.len() / conv.c_out;
    let folded = weight.data.chunks_exact(filter).zip(&scales).flat_map(|(w, scale)| w.iter().map(move |&w| (f64::from(w) * scale) as f32));
    let shifts = beta.iter().zip(&layer.mean).zip(&scales).map(|((&b, &mean), scale)| (f64::from(b) - f64::from(mean) * scale) as f32);
    (folded.collect(), shifts.collect())
}

fn sliced<'a>(net: &'a SlicedNet, name: &str) -> &'a Tensor {
    net.get(name).expect("a sliced network holds every tensor of its plan")
}

fn square(side: usize) -> Value {
    Value::Ints(vec![side as i64; 2])
}

fn pads(pad: Pad) -> Value {
    Value::Ints(vec![pad.begin as i64, pad.begin as i64, pad.end as i64, pad.end as i64])
}
