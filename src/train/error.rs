//! What can go wrong in training.

use std::path::PathBuf;

use thiserror::Error;

use crate::checkpoint::WeightsError;
use crate::data::DataError;

/// Training that cannot start, or go on.
#[derive(Debug, Error)]
pub enum TrainError {
    /// Saved tensors that are not this model's.
    #[error("the saved tensors are not those of this search space; start a new run in another directory")]
    Layout,
    /// The run directory could not be read or written.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The tensors of a checkpoint could not be read or written.
    #[error("the checkpoint's tensors cannot be used")]
    Weights(#[from] WeightsError),
    /// The state of a checkpoint could not be understood.
    #[error("{} is not the state of a checkpoint; delete this checkpoint to resume from the one before", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// A file of a checkpoint changed after it was written.
    #[error("{} does not have the checksum that state.json names; delete this checkpoint to resume from the one before", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
    },
    /// There is a run already.
    #[error("{} already holds a run; resume it with --resume, or choose another directory", path.display())]
    Exists {
        /// The run directory.
        path: PathBuf,
    },
    /// Another process trains there.
    #[error("another process trains in {}: wait for it, or choose another directory", path.display())]
    Busy {
        /// The run directory.
        path: PathBuf,
    },
    /// There is nothing to resume.
    #[error("{} holds no checkpoint to resume from; start without --resume", path.display())]
    NothingToResume {
        /// The run directory.
        path: PathBuf,
    },
    /// The run to resume was started with other settings.
    #[error("the {what} changed since the run in {} was started; resume it with the same, or start a new run elsewhere", path.display())]
    Changed {
        /// The run directory.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// The run to resume is further than it is to go.
    #[error("the run in {} is in epoch {done} already: --epochs {epochs} would have to go back; ask for {done} or more", path.display())]
    Past {
        /// The run directory.
        path: PathBuf,
        /// Epochs begun.
        done: u64,
        /// Epochs asked for.
        epochs: u64,
    },
    /// The data set and the search space do not fit each other.
    #[error("the images have {images} channels, but the search space expects {space}")]
    Channels {
        /// Channels of the images.
        images: usize,
        /// Channels of the space.
        space: usize,
    },
    /// A setting that cannot be.
    #[error("training settings: {name} must be {allowed}")]
    Setting {
        /// The field, such as `schedule.floor`.
        name: &'static str,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A child that the search space does not have.
    #[error("the child to train is not in the search space")]
    Child(#[from] crate::space::ChildError),
    /// A GPU was asked for, and there is none.
    #[error(
        "libtorch sees no GPU: it takes a libtorch with CUDA (LIBTORCH at build time) and a GPU that nvidia-smi lists; or use --device cpu"
    )]
    NoGpu,
    /// The images could not be read.
    #[error("the images cannot be read")]
    Data(#[from] DataError),
    /// The curves could not be drawn.
    #[error(transparent)]
    Plot(#[from] crate::plot::PlotError),
    /// A loss, or a weight after the step, was infinite or not a number.
    #[error(
        "the network diverged (a loss or weight is no longer a number) at step {step}, learning rate {rate:.3e}; {checkpoint}; a lower learning rate usually helps"
    )]
    NotFinite {
        /// The step, from 1, as progress and metrics count.
        step: u64,
        /// The learning rate.
        rate: f64,
        /// Says which checkpoint is the last good one.
        checkpoint: String,
    },
}
