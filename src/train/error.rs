//! What can go wrong in training.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;

use thiserror::Error;

use crate::checkpoint::{CLASSES, WeightsError};
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
    /// The tensors of a checkpoint could not be read.
    #[error("the checkpoint's tensors cannot be used; delete this checkpoint to resume from the one before")]
    Weights(#[from] WeightsError),
    /// A checkpoint could not be written.
    #[error("no checkpoint could be saved in {}; those before it are whole: make room, and go on with --resume", path.display())]
    Save {
        /// The directory of the checkpoints.
        path: PathBuf,
        /// What the system said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The state of a checkpoint contradicts itself.
    #[error("{}: {problem}; delete this checkpoint to resume from the one before", path.display())]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
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
    /// The run to resume did not start where it is told to have.
    #[error(
        "the run in {} did not start from the weights that --start names now: leave --start out, as going on needs none, or start a new run \
         elsewhere",
        path.display()
    )]
    OtherStart {
        /// The run directory.
        path: PathBuf,
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
    #[error("the images have {images} channels, but the search space expects {space}: --space or --preprocessing names another")]
    Channels {
        /// Channels of the images.
        images: usize,
        /// Channels of the space.
        space: usize,
    },
    /// There is nothing to tell apart, or too much.
    #[error(
        "the training images are of {count} classes; a model tells {} to {} apart: every class needs a folder of its own, train/CLASS/",
        CLASSES.start(),
        CLASSES.end()
    )]
    Classes {
        /// Classes of the images.
        count: usize,
    },
    /// libtorch failed in the middle of a step: mostly for want of memory.
    #[error(
        "libtorch could not compute step {step}: {problem}; where memory is what it lacked, free some and go on with --resume, or start a new run with a lower --batch-size"
    )]
    Torch {
        /// The step, from 1.
        step: u64,
        /// What libtorch said.
        problem: String,
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
    /// A GPU was asked for, and libtorch could use none.
    #[error("this program was built without libtorch's CUDA: build it with LIBTORCH naming a libtorch that has it, or use --device cpu")]
    NoCuda,
    /// A GPU was asked for, and there is none.
    #[error("libtorch sees no GPU: it takes one that nvidia-smi lists, with a driver for the CUDA of this libtorch; or use --device cpu")]
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

/// How a panic of tch begins that hands on what libtorch said.
const TORCH_SAYS: &str = "called `Result::unwrap()` on an `Err` value: Torch(\"";

/// What `work` computes for `step`, counted from 0, or [`TrainError::Torch`] where libtorch cannot: tch panics then.
pub(super) fn told_by_torch<T>(step: u64, work: impl FnOnce() -> T) -> Result<T, TrainError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let said = panic.downcast_ref::<String>().and_then(|text| text.strip_prefix(TORCH_SAYS));
        // Its first line says what failed, the others where in libtorch.
        match said.and_then(|said| said.split("\\n").next()) {
            Some(problem) => TrainError::Torch { step: step + 1, problem: problem.to_owned() },
            None => resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;

    #[test]
    fn what_libtorch_says_becomes_an_error_and_other_panics_stay_panics() {
        let ones = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, tch::Device::Cpu));
        let error = told_by_torch(2, || ones(&[2, 3]).matmul(&ones(&[2, 3]))).unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("libtorch could not compute step 3: mat1 and mat2 shapes cannot be multiplied"), "{message}");
        assert!(!message.contains("Exception raised"), "{message}");
        assert!(catch_unwind(|| told_by_torch(2, || panic!("a mistake of ours"))).is_err());
        assert_eq!(told_by_torch(2, || 5).unwrap(), 5);
    }
}
