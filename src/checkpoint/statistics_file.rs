//! Batch-norm statistics as safetensors, tensors `CHILD/LAYER.mean` and `CHILD/LAYER.variance`: `statistics.safetensors` has those
//! of a whole family, and servers share those of single children.

use std::collections::{BTreeMap, HashMap};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use thiserror::Error;

use super::statistics::{BnStats, LayerStats, StatisticsError};
use crate::space::{ChildId, Plan};

/// A file that does not hold the statistics of its family.
#[derive(Debug, Error)]
pub enum StatisticsFileError {
    /// The file is not safetensors, or cut short.
    #[error("not a complete safetensors file")]
    Format(#[from] safetensors::SafeTensorError),
    /// A child's statistics are incomplete.
    #[error("the file is not whole: restore it, or search again")]
    Statistics(#[from] StatisticsError),
    /// A tensor that no child of the family has.
    #[error(
        "tensor {0} belongs to no child of the family: family.json and these statistics were not written together; take both from one copy \
         of the model"
    )]
    Unknown(String),
    /// A tensor that is no list of float32 values.
    #[error("tensor {0} is no list of float32 values")]
    Kind(String),
    /// One child's file does not say on how many images, in which batches.
    #[error("its metadata lack a number called {0}")]
    Metadata(&'static str),
    /// One child's file holds other values than were written.
    #[error("its values are not those that its checksum is of")]
    Damaged,
}

/// The keys of a single child's metadata.
const IMAGES: &str = "calibration_images";
const BATCH: &str = "calibration_batch";
const SHA256: &str = "sha256";

impl BnStats {
    /// The bytes of a file with these statistics alone, complete in itself.
    ///
    /// # Errors
    /// [`StatisticsFileError::Format`] where they cannot be written.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, StatisticsFileError> {
        let numbers = [(IMAGES, self.images()), (BATCH, self.batch())];
        let mut metadata = HashMap::from(numbers.map(|(key, number)| (key.to_owned(), number.to_string())));
        metadata.insert(SHA256.to_owned(), self.checksum());
        serialize(std::slice::from_ref(self), Some(metadata))
    }

    /// Reads such a file; it must hold the statistics of the child of `plan`, and nothing else.
    ///
    /// # Errors
    /// [`StatisticsFileError`] says what is wrong with it.
    pub fn from_safetensors(bytes: &[u8], plan: &Plan) -> Result<Self, StatisticsFileError> {
        let (_, metadata) = SafeTensors::read_metadata(bytes)?;
        let text = |key: &'static str| metadata.metadata().as_ref().and_then(|metadata| metadata.get(key));
        let number = |key| text(key).and_then(|text| text.parse().ok()).ok_or(StatisticsFileError::Metadata(key));
        let mut found = read(bytes, std::slice::from_ref(plan), number(IMAGES)?, number(BATCH)?)?;
        let stats = found.remove(&plan.child.id()).ok_or_else(|| StatisticsFileError::Unknown(plan.child.id().to_string()))?;
        if text(SHA256) != Some(&stats.checksum()) {
            return Err(StatisticsFileError::Damaged);
        }
        Ok(stats)
    }
}

/// The bytes of a file with `statistics`.
pub(super) fn to_bytes(statistics: &[BnStats]) -> Result<Vec<u8>, StatisticsFileError> {
    serialize(statistics, None)
}

fn serialize(statistics: &[BnStats], metadata: Option<HashMap<String, String>>) -> Result<Vec<u8>, StatisticsFileError> {
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
    Ok(safetensors::serialize(views, metadata)?)
}

/// Reads the statistics of every child of `plans`, which were measured on `images` images in batches of `batch`; each must be there,
/// and no other.
pub(super) fn read(bytes: &[u8], plans: &[Plan], images: usize, batch: usize) -> Result<BTreeMap<ChildId, BnStats>, StatisticsFileError> {
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
        found.insert(id, BnStats::new(plan, layers, images, batch)?);
    }
    match tensors.into_keys().next() {
        Some(name) => Err(StatisticsFileError::Unknown(name)),
        None => Ok(found),
    }
}
