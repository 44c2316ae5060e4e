//! The model directory on disk: what a single-stage model consists of, read with every check and written atomically.

mod statistics;
mod weights;

pub use statistics::{BnStats, LayerStats, StatisticsError};
pub use weights::{GammaInit, Tensor, Weights, WeightsError};
