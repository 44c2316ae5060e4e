//! The directory of a training run: its checkpoints, written whole or not at all, and its metrics.
//!
//! ```text
//! RUN/metrics.jsonl                         one line a report
//! RUN/{loss,learning-rate,accuracy}.{svg,png}  the same as curves
//! RUN/lock                                  held by the process that trains
//! RUN/model.sha256                          of the weights of the model that it ended in
//! RUN/checkpoints/step-00000468/            state.json, weights, mean_square, momentum, perhaps average (.safetensors)
//! ```

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::TrainError;
use super::optimiser::OptimiserState;
use super::state::RunState;
use crate::checkpoint::Weights;
use crate::files::{sha256, write_atomically};
use crate::space::{SearchSpace, TensorSpec};

/// Checkpoints kept: the newest, and one to fall back on.
const KEPT: usize = 2;

/// A checkpoint in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Where the run stands.
    pub state: RunState,
    /// The shared weights.
    pub weights: Weights,
    /// The optimiser's memory.
    pub optimiser: OptimiserState,
    /// The averaged weights, where the run keeps an average.
    pub average: Option<Weights>,
}

/// The directory of a run, which no other process trains in as long as this lives.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    _lock: File,
}

const WEIGHTS: &str = "weights.safetensors";
const MEAN_SQUARE: &str = "mean_square.safetensors";
const MOMENTUM: &str = "momentum.safetensors";
const AVERAGE: &str = "average.safetensors";
const LOCK: &str = "lock";
const MODEL: &str = "model.sha256";
const STATE: &str = "state.json";
/// How the names of checkpoints begin, and of those that are being written.
const STEP: &str = "step-";
const PARTIAL: &str = ".partial-";

impl RunDirectory {
    /// Starts a new run at `path`, which is made where it is missing. What a run left there that never came to a checkpoint goes.
    ///
    /// # Errors
    /// [`TrainError::Exists`] where it holds a run, [`TrainError::Busy`] where another process trains in it.
    pub fn create(path: &Path) -> Result<Self, TrainError> {
        let directory = checkpoints(path);
        fs::create_dir_all(&directory).map_err(|source| io(&directory, source))?;
        let run = Self::lock(path)?;
        if run.latest()?.is_some() {
            return Err(TrainError::Exists { path: path.to_owned() });
        }
        for lost in [run.metrics(), path.join(MODEL)] {
            match fs::remove_file(&lost) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(io(&lost, source)),
                _ => {}
            }
        }
        Ok(run)
    }

    /// Takes the directory at `path` for this process, and removes what another left that was killed while it saved.
    fn lock(path: &Path) -> Result<Self, TrainError> {
        let name = path.join(LOCK);
        let lock = File::create(&name).map_err(|source| io(&name, source))?;
        match lock.try_lock() {
            Ok(()) => {
                for partial in entries(path, PARTIAL)? {
                    fs::remove_dir_all(&partial).map_err(|source| io(&partial, source))?;
                }
                Ok(Self { path: path.to_owned(), _lock: lock })
            }
            Err(TryLockError::WouldBlock) => Err(TrainError::Busy { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(io(&name, source)),
        }
    }

    /// Opens the run at `path` and reads its newest checkpoint; `layout` gives the tensors of a state's space and classes.
    ///
    /// # Errors
    /// [`TrainError::NothingToResume`], [`TrainError::Busy`] where another process trains in it, or what is wrong with the checkpoint.
    pub fn resume(path: &Path, layout: impl Fn(&SearchSpace, usize) -> Vec<TensorSpec>) -> Result<(Self, Checkpoint), TrainError> {
        let nothing = || TrainError::NothingToResume { path: path.to_owned() };
        latest(path)?.ok_or_else(nothing)?;
        let run = Self::lock(path)?;
        let directory = run.latest()?.ok_or_else(nothing)?;
        let state = read_state(&directory)?;
        let layout = layout(&state.space, state.classes.len());
        let tensors = |name: &str| read_tensors(&directory.join(name), state.sha256.get(name), &layout);
        let optimiser = OptimiserState { mean_square: tensors(MEAN_SQUARE)?, momentum: tensors(MOMENTUM)? };
        let average = state.sha256.contains_key(AVERAGE).then(|| tensors(AVERAGE)).transpose()?;
        let checkpoint = Checkpoint { weights: tensors(WEIGHTS)?, optimiser, average, state };
        Ok((run, checkpoint))
    }

    /// The newest checkpoint of the run at `path`, without its tensors.
    ///
    /// # Errors
    /// [`TrainError::NothingToResume`], or what is wrong with the state.
    pub fn peek(path: &Path) -> Result<RunState, TrainError> {
        read_state(&latest(path)?.ok_or_else(|| TrainError::NothingToResume { path: path.to_owned() })?)
    }

    /// Writes a checkpoint under a temporary name, renames it, and deletes the oldest beyond two. Returns its directory.
    ///
    /// # Errors
    /// [`TrainError::Save`]; the checkpoints before are untouched. [`TrainError::Io`] where this one is in place, and
    /// one of them could not be deleted, or the system did not say that all is on the disk.
    pub fn save(&self, checkpoint: &Checkpoint) -> Result<PathBuf, TrainError> {
        let directory = self.checkpoints().join(format!("{STEP}{:08}", checkpoint.state.step));
        if directory.exists() {
            return Ok(directory);
        }
        self.write(checkpoint, &directory).map_err(|source| TrainError::Save { path: self.checkpoints(), source })?;
        File::open(self.checkpoints()).and_then(|parent| parent.sync_all()).map_err(|source| io(&directory, source))?;
        self.prune()?;
        Ok(directory)
    }

    /// Writes the checkpoint's files under a temporary name, which becomes `directory`.
    fn write(&self, checkpoint: &Checkpoint, directory: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let partial = tempfile::Builder::new().prefix(PARTIAL).tempdir_in(self.checkpoints())?;
        let mut state = checkpoint.state.clone();
        // What the checkpoint before had is not what this one has: an average may have been given up.
        state.sha256.clear();
        let files =
            [(WEIGHTS, &checkpoint.weights), (MEAN_SQUARE, &checkpoint.optimiser.mean_square), (MOMENTUM, &checkpoint.optimiser.momentum)];
        for (name, tensors) in files.into_iter().chain(checkpoint.average.as_ref().map(|average| (AVERAGE, average))) {
            state.sha256.insert(name.to_owned(), tensors.write(&partial.path().join(name))?);
        }
        write_atomically(&partial.path().join(STATE), &serde_json::to_vec_pretty(&state)?)?;
        fs::rename(partial.path(), directory)?;
        // It has another name now, under which it stays.
        let _ = partial.keep();
        Ok(())
    }

    /// Writes the state of the newest checkpoint anew.
    ///
    /// # Errors
    /// Whatever the file system says; the state is then what it was.
    pub(super) fn rewrite(&self, state: &RunState) -> Result<(), TrainError> {
        let Some(directory) = self.latest()? else { return Ok(()) };
        let path = directory.join(STATE);
        let text = serde_json::to_vec_pretty(state).map_err(|source| TrainError::State { path: path.clone(), source })?;
        write_atomically(&path, &text).map_err(|source| io(&path, source))
    }

    /// Remembers the SHA-256 of the weights of the model that this run ended in, so that going on may replace it.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn remember_model(path: &Path, sha256: &str) -> Result<(), TrainError> {
        let file = path.join(MODEL);
        write_atomically(&file, sha256.as_bytes()).map_err(|source| io(&file, source))
    }

    /// The SHA-256 of the weights of the model that the run at `path` ended in, where it did.
    #[must_use]
    pub fn model(path: &Path) -> Option<String> {
        fs::read_to_string(path.join(MODEL)).ok()
    }

    /// The file of the metrics, one JSON object a line.
    #[must_use]
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// Directory of the newest checkpoint.
    ///
    /// # Errors
    /// Whatever the file system says, but for an absent directory, which holds none.
    pub fn latest(&self) -> Result<Option<PathBuf>, TrainError> {
        latest(&self.path)
    }

    fn checkpoints(&self) -> PathBuf {
        checkpoints(&self.path)
    }

    fn prune(&self) -> Result<(), TrainError> {
        let all = entries(&self.path, STEP)?;
        for path in &all[..all.len().saturating_sub(KEPT)] {
            fs::remove_dir_all(path).map_err(|source| io(path, source))?;
        }
        Ok(())
    }
}

fn checkpoints(path: &Path) -> PathBuf {
    path.join("checkpoints")
}

fn latest(path: &Path) -> Result<Option<PathBuf>, TrainError> {
    Ok(entries(path, STEP)?.pop())
}

/// What lies among the checkpoints under names that begin with `prefix`: the oldest checkpoint first.
fn entries(path: &Path, prefix: &str) -> Result<Vec<PathBuf>, TrainError> {
    let entries = match fs::read_dir(checkpoints(path)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(io(&checkpoints(path), source)),
    };
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>();
    let mut paths = paths.map_err(|source| io(&checkpoints(path), source))?;
    paths.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
    paths.sort();
    Ok(paths)
}

pub(super) fn io(path: &Path, source: std::io::Error) -> TrainError {
    TrainError::Io { path: path.to_owned(), source }
}

fn read_state(directory: &Path) -> Result<RunState, TrainError> {
    let path = directory.join(STATE);
    let text = fs::read(&path).map_err(|source| io(&path, source))?;
    let state: RunState = serde_json::from_slice(&text).map_err(|source| TrainError::State { path: path.clone(), source })?;
    let named = directory.file_name().and_then(|name| name.to_str()?.strip_prefix(STEP)?.parse().ok());
    let problem = match named == Some(state.step) {
        true => state.problem(),
        false => Some(format!("it is of step {}, and its directory is not", state.step)),
    };
    problem.map_or(Ok(state), |problem| Err(TrainError::Contradiction { path, problem }))
}

fn read_tensors(path: &Path, checksum: Option<&String>, layout: &[TensorSpec]) -> Result<Weights, TrainError> {
    let bytes = fs::read(path).map_err(|source| io(path, source))?;
    if checksum != Some(&sha256(&bytes)) {
        return Err(TrainError::Checksum { path: path.to_owned() });
    }
    Ok(Weights::from_bytes(&bytes, path, layout)?)
}
