//! Training a single-stage model with libtorch: the paper's techniques, one file each.

mod average;
mod curves;
mod elastic;
mod error;
mod input;
mod job;
mod lanes;
mod lesson;
mod norm;
mod optimiser;
mod parameters;
mod progress;
mod run_dir;
mod sandwich;
mod schedule;
mod settings;
mod teacher;
mod trainer;
mod validation;

pub use average::Average;
pub use curves::Course;
pub use elastic::ElasticNet;
pub use error::TrainError;
pub use input::{Normaliser, gpu};
pub use job::{Given, Job, Outcome, Provenance, loader_threads};
pub use norm::{Norm, Recorder, Statistics};
pub use optimiser::{Optimiser, OptimiserKind, OptimiserSettings, OptimiserState};
pub use parameters::Parameters;
pub use run_dir::{Checkpoint, Phase, RunDirectory, RunState};
pub use sandwich::{Losses, Sandwich, Step, resize};
pub use schedule::{Decay, Schedule};
pub use settings::{Regularise, Roster, TrainSettings};
pub use tch::Device;
pub use teacher::Teacher;
pub use trainer::run;
pub use validation::Accuracy;
