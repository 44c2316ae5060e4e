//! What the tensors of a public supernet are called, in our words and in theirs.

use std::collections::BTreeMap;

use super::checkpoint::{Checkpoint, Entry};
use super::pickle::Element;
use crate::space::{SearchSpace, TensorSpec};

/// Tensors of a batch norm that hold statistics of training: meaningless with changing children, so they are not needed.
const STATISTICS: [&str; 3] = ["running_mean", "running_var", "num_batches_tracked"];

/// The names that the two groups use, block by block.
#[derive(Debug)]
pub struct Names {
    /// Index of every stage's first block.
    first_block: Vec<usize>,
}

impl Names {
    /// The names for `space`.
    #[must_use]
    pub fn of(space: &SearchSpace) -> Self {
        let deepest = space.stages.iter().map(|stage| stage.depth.iter().copied().max().unwrap_or(0));
        let first_block = deepest.scan(0, |next, depth| Some(std::mem::replace(next, *next + depth)));
        Self { first_block: first_block.collect() }
    }

    /// What they call our tensor `name`.
    #[must_use]
    pub fn theirs(&self, name: &str) -> String {
        let (layer, part) = match name.rsplit_once(".bn.") {
            Some((layer, part)) => (layer, format!("bn.bn.{part}")),
            None => name.rsplit_once('.').map_or((name, String::new()), |(layer, part)| (layer, part.to_owned())),
        };
        let conv = |theirs: &str| if part.starts_with("bn.") { format!("{theirs}.{part}") } else { format!("{theirs}.conv.conv.{part}") };
        match layer {
            "stem" => conv("first_conv"),
            "head.conv" => conv("last_conv.final_expand_layer"),
            "head.mix" => conv("last_conv.feature_mix_layer"),
            "classifier" => format!("classifier.linear.linear.{part}"),
            _ => self.in_block(layer, &part, conv),
        }
    }

    /// A tensor of `stages.S.L.LAYER`.
    fn in_block(&self, layer: &str, part: &str, conv: impl Fn(&str) -> String) -> String {
        let pieces: Vec<&str> = layer.splitn(4, '.').collect();
        let ["stages", stage, index, layer] = pieces[..] else { return layer.to_owned() };
        let number = |text: &str| text.parse::<usize>().unwrap_or(0);
        let first = self.first_block.get(number(stage)).copied().unwrap_or(0);
        let block = format!("blocks.{}", first + number(index));
        let inner = format!("{block}.mobile_inverted_conv");
        match layer {
            "expand" => conv(&format!("{inner}.inverted_bottleneck")),
            "depthwise" => conv(&format!("{inner}.depth_conv")),
            "project" => conv(&format!("{inner}.point_linear")),
            "shortcut" => conv(&format!("{block}.shortcut")),
            // se.reduce and se.expand.
            _ => format!("{inner}.depth_conv.se.fc.{}.{part}", layer.trim_start_matches("se.")),
        }
    }
}

/// Compares a checkpoint with the tensors that `layout` needs; returns, sorted by name, one sentence for each that is
/// missing, of the wrong shape or type, or unknown.
#[must_use]
pub fn problems(checkpoint: &Checkpoint, names: &Names, layout: &[TensorSpec]) -> Vec<String> {
    let found = checkpoint.tensors();
    let needed: BTreeMap<String, &[usize]> = layout.iter().map(|spec| (names.theirs(&spec.name), spec.shape.as_slice())).collect();
    let mut problems = Vec::new();
    for (name, shape) in &needed {
        match found.get(name) {
            None => problems.push(format!("{name} {shape:?} is missing")),
            Some(entry) => problems.extend(mismatch(name, entry, shape, Element::Float)),
        }
    }
    for (name, entry) in found.iter().filter(|(name, _)| !needed.contains_key(*name)) {
        match expected_extra(name, &needed) {
            Extra::Ignored => {}
            Extra::Of(shape, element) => problems.extend(mismatch(name, entry, &shape, element)),
            Extra::Unknown => problems.push(format!("{name} {:?} is unknown", entry.shape)),
        }
    }
    problems.sort();
    problems
}

fn mismatch(name: &str, entry: &Entry, shape: &[usize], element: Element) -> Option<String> {
    if entry.shape != shape {
        return Some(format!("{name} has shape {:?}, not {shape:?}", entry.shape));
    }
    (entry.element != element).then(|| format!("{name} is {}, not {}", type_name(entry.element), type_name(element)))
}

fn type_name(element: Element) -> &'static str {
    match element {
        Element::Float => "float32",
        Element::Long => "int64",
        Element::Unsupported(name) => name,
    }
}

/// A tensor that is there but not needed.
enum Extra {
    /// Nobody reads it.
    Ignored,
    /// It must at least have this shape and type.
    Of(Vec<usize>, Element),
    /// It has no business there.
    Unknown,
}

fn expected_extra(name: &str, needed: &BTreeMap<String, &[usize]>) -> Extra {
    // Statistics of two fixed children, kept to watch the training.
    if let Some((layer, _)) = name.split_once(".bn_tracking.") {
        return if needed.contains_key(&format!("{layer}.bn.weight")) { Extra::Ignored } else { Extra::Unknown };
    }
    let norm = name.rsplit_once('.').filter(|(layer, part)| layer.ends_with(".bn.bn") && STATISTICS.contains(part));
    if let Some((layer, part)) = norm {
        return match needed.get(&format!("{layer}.weight")) {
            Some(_) if part == "num_batches_tracked" => Extra::Of(Vec::new(), Element::Long),
            Some(shape) => Extra::Of(shape.to_vec(), Element::Float),
            None => Extra::Unknown,
        };
    }
    // Blocks within a stage have a shortcut convolution too, which no child can use: its widths agree.
    let block = name.strip_suffix(".shortcut.conv.conv.weight");
    let width = block.and_then(|block| needed.get(&format!("{block}.mobile_inverted_conv.point_linear.bn.bn.weight")));
    match width {
        Some(width) => Extra::Of(vec![width[0], width[0], 1, 1], Element::Float),
        None => Extra::Unknown,
    }
}
