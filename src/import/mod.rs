//! Public single-stage models: from a checkpoint of AttentiveNAS or AlphaNet to a model directory of ours.
//!
//! ```text
//! file ─ pickle ─► Checkpoint ─ names ─► Weights ─► Model::create ─ published ─► family.json
//! ```
//!
//! Both groups trained the same search space with BigNAS's sandwich rule. A checkpoint is read as data, never run; every name
//! and shape is checked before anything is written. Facts: their published code and configurations.

mod checkpoint;
mod imagenet;
mod names;
mod pickle;
mod published;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::checkpoint::{Draft, Family, Model, ModelError, Replaces, Tensor, Weights};
use crate::data::CalibrationSet;
use crate::files::sha256_of_file;
use crate::space::{ChildError, SearchSpace, layout, preset};
use checkpoint::Checkpoint;
use names::{Names, problems};
pub use published::Source;

/// A checkpoint that cannot be imported.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file holds no tensor dictionary.
    #[error("{}: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The pickle is cut short or makes no sense.
    #[error("the checkpoint's pickle is damaged: it has {problem}")]
    Pickle {
        /// What was found.
        problem: &'static str,
    },
    /// The pickle asks for more than data.
    #[error("the checkpoint asks for {what}, which no tensor dictionary needs: refused, and nothing was run")]
    Refused {
        /// What it asks for.
        what: String,
    },
    /// Tensors are missing, unknown, of the wrong shape or type, or not finite.
    #[error("{} is no checkpoint of this supernet: {} tensors are wrong\n  {}", path.display(), problems.len(), problems.join("\n  "))]
    Tensors {
        /// The file.
        path: PathBuf,
        /// One sentence a tensor, sorted by name.
        problems: Vec<String>,
    },
    /// A published child is outside the space: a mistake in the data that the program carries.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// The model directory cannot be written.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// The search space of both supernets.
#[must_use]
pub fn space() -> SearchSpace {
    preset("attentivenas").expect("a preset, which a test reads")
}

/// Reads and checks the weights in `path`.
///
/// # Errors
/// [`ImportError`]; all tensors at fault are listed at once.
pub fn read_weights(path: &Path) -> Result<Weights, ImportError> {
    let space = space();
    let mut checkpoint = Checkpoint::open(path)?;
    let (names, layout) = (Names::of(&space), layout(&space, imagenet::CLASSES));
    let problems = problems(&checkpoint, &names, &layout);
    if !problems.is_empty() {
        return Err(ImportError::Tensors { path: path.to_owned(), problems });
    }
    let read = |spec: &crate::space::TensorSpec| {
        let data = checkpoint.floats(&names.theirs(&spec.name))?;
        Ok((spec.name.clone(), Tensor { shape: spec.shape.clone(), data }))
    };
    let tensors = layout.iter().map(read).collect::<Result<BTreeMap<_, _>, ImportError>>()?;
    let problem = |(name, tensor): (&String, &Tensor)| tensor.problem().map(|problem| format!("{} {problem}", names.theirs(name)));
    let problems: Vec<String> = tensors.iter().filter_map(problem).collect();
    if problems.is_empty() { Ok(Weights::new(tensors)) } else { Err(ImportError::Tensors { path: path.to_owned(), problems }) }
}

/// Writes a model directory: the weights, ImageNet's labels, the preprocessing of `source`, `calibration` with the size of its
/// batches and its seed, and the published children with their published accuracies. `checkpoint` is the file that the weights
/// come from, named with its checksum in `model.json`.
///
/// # Errors
/// [`ImportError`] names the file.
pub fn write_model(
    directory: &Path,
    replaces: &Replaces,
    source: Source,
    checkpoint: &Path,
    weights: Weights,
    calibration: (CalibrationSet, usize, u64),
) -> Result<Model, ImportError> {
    let name = directory.file_name().map_or_else(|| source.name().to_owned(), |name| name.to_string_lossy().into_owned());
    let sha256 = sha256_of_file(checkpoint).map_err(|error| ImportError::Io { path: checkpoint.to_owned(), source: error })?;
    let file = checkpoint.file_name().unwrap_or_default().to_string_lossy();
    let training = serde_json::json!({
        "imported": { "from": source.name(), "file": file, "sha256": sha256, "licence": source.licence(), "published": source.address() },
    });
    let draft = Draft {
        name,
        labels: imagenet::labels(),
        class_folders: Some(imagenet::class_folders()),
        preprocessing: source.preprocessing(),
        space: space(),
        calibration: Some(calibration),
        training: Some(training),
    };
    let members = source.members(&draft.space)?;
    let mut model = Model::create(directory, draft, weights, replaces)?;
    let family = Family::new(&model.card.space, imagenet::CLASSES, members, Some(serde_json::json!({ "published": source.address() })));
    model.write_family(family)?;
    Ok(model)
}
