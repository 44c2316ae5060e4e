//! The model directory on disk: what a single-stage model consists of, read with every check and written atomically.

mod card;
mod error;
mod examples;
mod family;
mod model;
mod statistics;
mod statistics_file;
mod weights;

#[cfg(feature = "train")]
pub(crate) use card::CLASSES;
pub use card::{Calibration, ModelCard, ShippedStatistics};
pub use error::ModelError;
pub use examples::Example;
pub use family::{AccuracyKind, AccuracySource, Family, FamilyError, Member};
pub use model::{Draft, Model, Replaces};
pub use statistics::{BnStats, LayerStats, StatisticsError};
pub use statistics_file::StatisticsFileError;
pub use weights::{GammaInit, Tensor, Weights, WeightsError};
