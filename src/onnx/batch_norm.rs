//! Batch norms of the calibration graph: they normalise by the batch, and mean and biased variance of the batch are outputs.
//!
//! Most are ONNX's `BatchNormalization` in training mode. Behind a pointwise convolution that widens its input, the statistics
//! follow from those of the narrower input, and the batch norm is folded within the graph: no pass over the wide values.

use super::graph::{Dim, Value};
use super::lower::Lowering;
use crate::space::ConvPlan;

impl Lowering<'_> {
    /// A convolution and its batch norm, without activation.
    pub(super) fn conv_batch_norm(&mut self, conv: &ConvPlan, input: &str) -> String {
        if widens(conv) {
            let folded = self.fold_in_graph(conv, input);
            return self.conv_node(conv, &[input, &folded.weight, &folded.bias]);
        }
        let weight = self.shared(&format!("{}.weight", conv.name));
        let value = self.conv_node(conv, &[input, &weight]);
        self.training_mode(conv, &value)
    }

    /// The statistics of a convolution's batch norm alone, for one that nothing comes after.
    pub(super) fn last_batch_norm(&mut self, conv: &ConvPlan, input: &str) {
        if widens(conv) {
            self.covariance_statistics(conv, input);
        } else {
            self.conv_batch_norm(conv, input);
        }
    }

    /// Batch norm in training mode. With momentum 0 its running statistics are the batch's own.
    fn training_mode(&mut self, conv: &ConvPlan, value: &str) -> String {
        let name = &conv.name;
        let gamma = self.shared(&format!("{name}.bn.weight"));
        let beta = self.shared(&format!("{name}.bn.bias"));
        let unused_mean = self.graph.constant(&format!("{name}.bn.mean"), &[conv.c_out], &vec![0.0; conv.c_out]);
        let unused_variance = self.graph.constant(&format!("{name}.bn.variance"), &[conv.c_out], &vec![1.0; conv.c_out]);
        let normed = format!("{name}.bn");
        let [mean, variance] = self.declare_statistics(conv);
        self.graph.node_with_outputs(
            "BatchNormalization",
            &normed,
            &[value, &gamma, &beta, &unused_mean, &unused_variance],
            &[&normed, &mean, &variance],
            &[("epsilon", Value::Float(self.epsilon())), ("momentum", Value::Float(0.0)), ("training_mode", Value::Int(1))],
        );
        normed
    }

    /// Weight and bias that do the batch norm's work too, for the batch at hand.
    fn fold_in_graph(&mut self, conv: &ConvPlan, input: &str) -> Folded {
        let name = &conv.name;
        let Statistics { weight, mean, variance } = self.covariance_statistics(conv, input);
        let gamma = self.shared(&format!("{name}.bn.weight"));
        let beta = self.shared(&format!("{name}.bn.bias"));
        let epsilon = self.graph.constant(&format!("{name}.epsilon"), &[1], &[self.epsilon()]);
        let by_filter = self.graph.integers(&format!("{name}.by_filter"), &[conv.c_out as i64, 1, 1, 1]);
        let mut node = |op: &str, part: &str, inputs: &[&str]| self.graph.node(op, &format!("{name}.{part}"), inputs, &[]);
        let above_zero = node("Add", "above_zero", &[&variance, &epsilon]);
        let deviation = node("Sqrt", "deviation", &[&above_zero]);
        let scale = node("Div", "scale", &[&gamma, &deviation]);
        let shifted = node("Mul", "shifted", &[&mean, &scale]);
        let bias = node("Sub", "folded_bias", &[&beta, &shifted]);
        let scale = node("Reshape", "filter_scale", &[&scale, &by_filter]);
        let weight = node("Mul", "folded_weight", &[&weight, &scale]);
        Folded { weight, bias }
    }

    /// With `y = W x` at every position, the mean of `y` is `W` times the mean of `x`, and its variance the diagonal of
    /// `W Cov(x) Wᵀ`. The input is centred before its products are summed, or large means would drown small variances.
    fn covariance_statistics(&mut self, conv: &ConvPlan, input: &str) -> Statistics {
        let name = &conv.name;
        let weight = self.shared(&format!("{name}.weight"));
        let positions = (conv.size_out * conv.size_out) as f32;
        let [rows_shape, column_shape, flat_shape] =
            [("rows_shape", vec![0, conv.c_in as i64, -1]), ("column_shape", vec![conv.c_in as i64, 1]), ("flat_shape", vec![-1])]
                .map(|(part, dims)| self.graph.integers(&format!("{name}.{part}"), &dims));
        let to_variance = self.graph.constant(&format!("{name}.to_variance"), &[1], &[conv.c_in as f32 / positions]);
        let [mean_out, variance_out] = self.declare_statistics(conv);
        let mut node = |op: &str, part: &str, inputs: &[&str], attributes: &[(&str, Value)]| {
            self.graph.node(op, &format!("{name}.{part}"), inputs, attributes)
        };
        let over = |axis: i64, keep: i64| [("axes", Value::Ints(vec![axis])), ("keepdims", Value::Int(keep))];

        let by_image = node("GlobalAveragePool", "input_by_image", &[input], &[]);
        let centre = node("ReduceMean", "input_mean", &[&by_image], &over(0, 1));
        let centred = node("Sub", "centred", &[input, &centre], &[]);
        let rows = node("Reshape", "rows", &[&centred, &rows_shape], &[]);
        let columns = node("Transpose", "columns", &[&rows], &[("perm", Value::Ints(vec![0, 2, 1]))]);
        let products = node("MatMul", "products", &[&rows, &columns], &[]);
        let spread = node("ReduceMean", "spread", &[&products], &over(0, 0));

        let matrix = node("Flatten", "matrix", &[&weight], &[("axis", Value::Int(1))]);
        let projected = node("MatMul", "projected", &[&matrix, &spread], &[]);
        let diagonal = node("Mul", "diagonal", &[&projected, &matrix], &[]);
        let sums = node("ReduceMean", "diagonal_mean", &[&diagonal], &over(1, 0));
        let scaled = node("Mul", "signed_variance", &[&sums, &to_variance], &[]);
        let column = node("Reshape", "input_column", &[&centre, &column_shape], &[]);
        let mean_column = node("MatMul", "mean_column", &[&matrix, &column], &[]);
        // Rounding can leave a variance of zero a little below it.
        self.graph.node("Relu", &variance_out, &[&scaled], &[]);
        self.graph.node("Reshape", &mean_out, &[&mean_column, &flat_shape], &[]);
        Statistics { weight, mean: mean_out, variance: variance_out }
    }

    /// Declares both outputs of a batch norm.
    fn declare_statistics(&mut self, conv: &ConvPlan) -> [String; 2] {
        ["mean", "variance"].map(|part| {
            let name = format!("{}.{part}", conv.name);
            self.graph.output(&name, &[Dim::Size(conv.c_out)]);
            name
        })
    }

    fn epsilon(&self) -> f32 {
        self.net.plan().bn_eps as f32
    }
}

/// Names of a convolution's weight and of its batch norm's statistics.
struct Statistics {
    weight: String,
    mean: String,
    variance: String,
}

/// Names of a convolution's weight and bias with the batch norm in them.
struct Folded {
    weight: String,
    bias: String,
}

/// Whether a convolution mixes channels only, into at least twice as many: then the input's covariance costs less than
/// statistics of the output.
fn widens(conv: &ConvPlan) -> bool {
    conv.kernel == 1 && conv.stride == 1 && !conv.depthwise() && conv.c_out >= 2 * conv.c_in
}
