//! The model directory on disk: what a single-stage model consists of, read with every check and written atomically.

mod atomic;
mod weights;

pub use atomic::write_atomically;
pub use weights::{GammaInit, Tensor, Weights, WeightsError, sha256};
