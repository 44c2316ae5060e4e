//! The model directory on disk: what a single-stage model consists of, read with every check and written atomically.

mod family;
mod model;
mod statistics;
mod weights;

pub use family::{AccuracyKind, AccuracySource, Family, FamilyError, Member};
pub use model::{Calibration, Draft, Model, ModelCard, ModelError};
pub use statistics::{BnStats, LayerStats, StatisticsError};
pub use weights::{GammaInit, Tensor, Weights, WeightsError};
