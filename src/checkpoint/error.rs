//! What can be wrong with a model directory.

use std::path::PathBuf;

use thiserror::Error;

use super::family::FamilyError;
use super::statistics_file::StatisticsFileError;
use super::weights::WeightsError;
use crate::data::DataError;
use crate::image::PreprocessingError;
use crate::space::SpaceError;

/// A directory that holds no usable model.
#[derive(Debug, Error)]
pub enum ModelError {
    /// A file is missing or unreadable.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// There is a model already, which nobody said may go.
    #[error("{} holds a model already: name another directory, or replace that model and its family with --replace", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// Another model took the place of this one since it was opened.
    #[error("{} holds another model by now, which another program wrote, and it is left as it is: begin again with it", path.display())]
    Replaced {
        /// The directory.
        path: PathBuf,
    },
    /// A JSON file does not parse.
    #[error("{} is not what it should be", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said, with line and column.
        #[source]
        source: serde_json::Error,
    },
    /// `model.json` contradicts itself.
    #[error("{}: {problem}", path.display())]
    Card {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// The search space is unusable.
    #[error("{} cannot be used", path.display())]
    Space {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SpaceError,
    },
    /// The preprocessing is unusable.
    #[error("{} cannot be used", path.display())]
    Preprocessing {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: PreprocessingError,
    },
    /// A file is another one than `model.json` means.
    #[error("{} has SHA-256 {found}, but model.json says {expected}: the files belong to different models, or one is damaged", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// Its checksum.
        found: String,
        /// The checksum in `model.json`.
        expected: String,
    },
    /// The weights are unreadable or those of another space.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A member of the family is not what it says.
    #[error("{} cannot be used", path.display())]
    Family {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: FamilyError,
    },
    /// The calibration images are unreadable.
    #[error(transparent)]
    Calibration(#[from] DataError),
    /// The list of examples is not what it should be.
    #[error("{}: {problem}", path.display())]
    Examples {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// The shipped statistics are not those of the family.
    #[error("{} cannot be used", path.display())]
    Statistics {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: StatisticsFileError,
    },
}
