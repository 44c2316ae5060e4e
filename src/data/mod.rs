//! Data sets, augmentation and batches.
//!
//! ```text
//! ImageSet ─ pixels ─► Augment ─ patch ─► Batches ─ [N, C, S, S] u8, labels ─► training
//!     └── calibration_indices ─► PatchSet ─► CalibrationSet ─► calibration.safetensors
//! ```
//!
//! Everything random is a function of a seed, the epoch and the position in the data set alone: neither the number of
//! threads nor an interruption changes what is trained on.

mod augment;
mod auto_augment;
mod batches;
mod calibration_set;
mod cifar;
mod error;
mod folder;
mod idx;
mod image_set;
mod patch_set;
mod rng;

pub use augment::{Augment, AugmentError, RandomCrop};
pub use auto_augment::Policy;
pub use batches::{Batch, BatchPlan, Batches, Mode, Source};
pub use calibration_set::{CalibrationSet, NormalisedSet};
pub use error::DataError;
pub use folder::image_files;
pub use image_set::{DataOptions, ImageSet, Split};
pub use patch_set::{PatchSet, calibration_indices};
