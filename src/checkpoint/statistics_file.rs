//! `statistics.safetensors`: the batch-norm statistics of a whole family, tensors `CHILD/LAYER.mean` and `CHILD/LAYER.variance`.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use thiserror::Error;

use super::card::ShippedStatistics;
use super::statistics::{BnStats, LayerStats, StatisticsError};
use crate::space::{ChildId, Plan};

/// A file that does not hold the statistics of its family.
#[derive(Debug, Error)]
pub enum StatisticsFileError {
    /// The file is not safetensors, or cut short.
    #[error("not a complete safetensors file")]
    Format(#[from] safetensors::SafeTensorError),
    /// A child's statistics are incomplete.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
    /// A tensor that no child of the family has.
    #[error("tensor {0} belongs to no child of the family: run `bignas search` again")]
    Unknown(String),
    /// A tensor that is no list of float32 values.
    #[error("tensor {0} is no list of float32 values")]
    Kind(String),
}

/// The bytes of a file with `statistics`.
pub(super) fn to_bytes(statistics: &[BnStats]) -> Result<Vec<u8>, StatisticsFileError> {
    let mut raw: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for stats in statistics {
        for (layer, values) in stats.layers() {
            for (part, values) in [("mean", &values.mean), ("variance", &values.variance)] {
                raw.insert(format!("{}/{layer}.{part}", stats.child()), values.iter().flat_map(|value| value.to_le_bytes()).collect());
            }
        }
    }
    let mut views = Vec::with_capacity(raw.len());
    for (name, bytes) in &raw {
        views.push((name.as_str(), TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes)?));
    }
    Ok(safetensors::serialize(views, None)?)
}

/// Reads the statistics of every child of `plans`; each must be there, and no other.
pub(super) fn read(bytes: &[u8], plans: &[Plan], shipped: &ShippedStatistics) -> Result<BTreeMap<ChildId, BnStats>, StatisticsFileError> {
    let file = SafeTensors::deserialize(bytes)?;
    let mut tensors: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for (name, view) in file.tensors() {
        if view.dtype() != Dtype::F32 || view.shape().len() != 1 {
            return Err(StatisticsFileError::Kind(name));
        }
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        tensors.insert(name, values.collect());
    }
    let mut found = BTreeMap::new();
    for plan in plans {
        let id = plan.child.id();
        let mut take = |layer: &str, part: &str| tensors.remove(&format!("{id}/{layer}.{part}")).unwrap_or_default();
        let layer = |name: &str| (name.to_owned(), LayerStats { mean: take(name, "mean"), variance: take(name, "variance") });
        let layers = plan.norms().map(|conv| conv.name.as_str()).map(layer).collect();
        found.insert(id, BnStats::new(plan, layers, shipped.images, shipped.batch)?);
    }
    match tensors.into_keys().next() {
        Some(name) => Err(StatisticsFileError::Unknown(name)),
        None => Ok(found),
    }
}
