//! A builder of ONNX graphs: adds nodes and constants, and hands back the names of their values.

use prost::Message;

use super::proto::{
    Attribute, AttributeType, Constant, Dimension, DimensionValue, FLOAT, Graph, INT64, Model, Node, OperatorSet, Shape, StringEntry,
    TensorType, Type, ValueInfo,
};

/// The operator set that all graphs use.
pub const OPSET: i64 = 17;

/// The file format that goes with it.
const IR_VERSION: i64 = 8;

/// A graph in the making. A value is known by its name.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    nodes: Vec<Node>,
    constants: Vec<Constant>,
    inputs: Vec<ValueInfo>,
    outputs: Vec<ValueInfo>,
}

/// A dimension of an input or output.
#[derive(Debug, Clone, Copy)]
pub enum Dim {
    /// Any number of images.
    Batch,
    /// A fixed size.
    Size(usize),
}

/// The value of an attribute.
#[derive(Debug, Clone)]
pub enum Value {
    /// An integer.
    Int(i64),
    /// A float.
    Float(f32),
    /// A list of integers.
    Ints(Vec<i64>),
    /// A text.
    Text(&'static str),
}

impl GraphBuilder {
    /// Declares a float32 input.
    pub fn input(&mut self, name: &str, dims: &[Dim]) -> String {
        self.inputs.push(value_info(name, dims));
        name.to_owned()
    }

    /// Declares the value `name` as a float32 output.
    pub fn output(&mut self, name: &str, dims: &[Dim]) {
        self.outputs.push(value_info(name, dims));
    }

    /// Adds a float32 constant.
    pub fn constant(&mut self, name: &str, shape: &[usize], values: &[f32]) -> String {
        let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let dims = shape.iter().map(|&n| n as i64).collect();
        self.constants.push(Constant { dims, data_type: FLOAT, name: name.to_owned(), raw_data });
        name.to_owned()
    }

    /// Adds a list of integers, such as a shape.
    pub fn integers(&mut self, name: &str, values: &[i64]) -> String {
        let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constants.push(Constant { dims: vec![values.len() as i64], data_type: INT64, name: name.to_owned(), raw_data });
        name.to_owned()
    }

    /// Adds a node with one output, which is called as the node.
    pub fn node(&mut self, op: &str, name: &str, inputs: &[&str], attributes: &[(&str, Value)]) -> String {
        self.node_with_outputs(op, name, inputs, &[name], attributes);
        name.to_owned()
    }

    /// Adds a node whose outputs are called `outputs`.
    pub fn node_with_outputs(&mut self, op: &str, name: &str, inputs: &[&str], outputs: &[&str], attributes: &[(&str, Value)]) {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        self.nodes.push(Node {
            input: owned(inputs),
            output: owned(outputs),
            name: name.to_owned(),
            op_type: op.to_owned(),
            attribute: attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
        });
    }

    /// Finishes the model and serialises it.
    #[must_use]
    pub fn finish(self, name: &str, metadata: &[(String, String)]) -> Vec<u8> {
        let graph =
            Graph { node: self.nodes, name: name.to_owned(), initializer: self.constants, input: self.inputs, output: self.outputs };
        let entry = |(key, value): &(String, String)| StringEntry { key: key.clone(), value: value.clone() };
        Model {
            ir_version: IR_VERSION,
            producer_name: env!("CARGO_PKG_NAME").to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(graph),
            opset_import: vec![OperatorSet { domain: String::new(), version: OPSET }],
            metadata_props: metadata.iter().map(entry).collect(),
        }
        .encode_to_vec()
    }
}

fn attribute(name: &str, value: &Value) -> Attribute {
    let mut attribute = Attribute { name: name.to_owned(), ..Attribute::default() };
    match value {
        Value::Int(i) => (attribute.i, attribute.r#type) = (*i, AttributeType::Int as i32),
        Value::Float(f) => (attribute.f, attribute.r#type) = (*f, AttributeType::Float as i32),
        Value::Text(text) => (attribute.s, attribute.r#type) = (text.as_bytes().to_vec(), AttributeType::String as i32),
        Value::Ints(ints) => (attribute.ints, attribute.r#type) = (ints.clone(), AttributeType::Ints as i32),
    }
    attribute
}

fn value_info(name: &str, dims: &[Dim]) -> ValueInfo {
    let dimension = |dim: &Dim| Dimension {
        value: Some(match dim {
            Dim::Batch => DimensionValue::Name("batch".to_owned()),
            Dim::Size(size) => DimensionValue::Size(*size as i64),
        }),
    };
    let shape = Shape { dim: dims.iter().map(dimension).collect() };
    let tensor_type = TensorType { elem_type: FLOAT, shape: Some(shape) };
    ValueInfo { name: name.to_owned(), r#type: Some(Type { tensor_type: Some(tensor_type) }) }
}
