//! The shared weights of a single-stage model: named float32 tensors, kept in a safetensors file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors, View};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::files::{Staged, sha256_of_file};
use crate::space::{Init, TensorSpec};

/// A dense float32 tensor in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Size of every dimension.
    pub shape: Vec<usize>,
    /// The values, the last dimension fastest.
    pub data: Vec<f32>,
}

impl Tensor {
    /// What is wrong with its values, as the end of a sentence.
    pub(crate) fn problem(&self) -> Option<String> {
        let bad = self.data.iter().filter(|value| !value.is_finite()).count();
        (bad > 0).then(|| format!("has {bad} values that are not finite"))
    }
}

/// Named tensors, sorted by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights(BTreeMap<String, Tensor>);

/// How the last batch norm of every residual block starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GammaInit {
    /// Zero, so that every block starts as the identity (paper, 3.1).
    ZeroLast,
    /// One everywhere: the paper's naive initialisation.
    One,
    /// Random within 0.5..1.5 everywhere, and random shifts: weights behind which no mistake can hide, for tests.
    Random,
}

/// Weights that cannot be read, or that are not the model's.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// The file could not be read or written.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not safetensors, or cut short.
    #[error("{} is not a complete safetensors file", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: SafeTensorError,
    },
    /// Tensors are missing, unknown, of the wrong shape or type, or not finite.
    #[error("{} does not hold the weights of this search space: {}", path.display(), problems.join("; "))]
    Tensors {
        /// The file.
        path: PathBuf,
        /// One sentence a tensor.
        problems: Vec<String>,
    },
}

impl Weights {
    /// Takes tensors as they are.
    #[must_use]
    pub fn new(tensors: BTreeMap<String, Tensor>) -> Self {
        Self(tensors)
    }

    /// The tensor called `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// All tensors, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Seeded random weights of the given layout. Each tensor depends on the seed and its name only.
    #[must_use]
    pub fn random(layout: &[TensorSpec], seed: u64, gamma: GammaInit) -> Self {
        Self(layout.iter().map(|spec| (spec.name.clone(), random_tensor(spec, seed, gamma))).collect())
    }

    /// Reads a file and checks it against `layout`: every tensor there, of its shape, float32, finite, and no other.
    ///
    /// # Errors
    /// [`WeightsError`] names the file and every tensor at fault.
    pub fn read(path: &Path, layout: &[TensorSpec]) -> Result<Self, WeightsError> {
        let bytes = std::fs::read(path).map_err(|source| WeightsError::Io { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes, path, layout)
    }

    /// As [`Weights::read`], of a file already in memory; `path` is for messages.
    ///
    /// # Errors
    /// [`WeightsError`] names the file and every tensor at fault.
    pub fn from_bytes(bytes: &[u8], path: &Path, layout: &[TensorSpec]) -> Result<Self, WeightsError> {
        let file = SafeTensors::deserialize(bytes).map_err(|source| WeightsError::Format { path: path.to_owned(), source })?;
        let mut found: BTreeMap<String, TensorView<'_>> = file.tensors().into_iter().collect();
        let mut problems = Vec::new();
        let mut tensors = BTreeMap::new();
        for spec in layout {
            match found.remove(&spec.name) {
                None => problems.push(format!("{} is missing", spec.name)),
                Some(view) if view.dtype() != Dtype::F32 => problems.push(format!("{} is {:?}, not F32", spec.name, view.dtype())),
                Some(view) if view.shape() != spec.shape => {
                    problems.push(format!("{} has shape {:?}, not {:?}", spec.name, view.shape(), spec.shape));
                }
                Some(view) => {
                    tensors.insert(spec.name.clone(), Tensor { shape: spec.shape.clone(), data: floats(view.data()) });
                }
            }
        }
        problems.extend(found.keys().map(|name| format!("{name} is unknown")));
        if !problems.is_empty() {
            return Err(WeightsError::Tensors { path: path.to_owned(), problems });
        }
        let weights = Self(tensors);
        weights.check_finite(path)?;
        Ok(weights)
    }

    /// Whether all values are finite, as they have to be to be read again from `path`.
    ///
    /// # Errors
    /// [`WeightsError::Tensors`] names every tensor at fault.
    pub(super) fn check_finite(&self, path: &Path) -> Result<(), WeightsError> {
        let problem = |(name, tensor): (&str, &Tensor)| tensor.problem().map(|problem| format!("{name} {problem}"));
        let problems: Vec<String> = self.iter().filter_map(problem).collect();
        if problems.is_empty() { Ok(()) } else { Err(WeightsError::Tensors { path: path.to_owned(), problems }) }
    }

    /// Replaces the file at `path` atomically, tensor by tensor, and returns the SHA-256 of what was written.
    ///
    /// # Errors
    /// [`WeightsError`] names the file.
    pub fn write(&self, path: &Path) -> Result<String, WeightsError> {
        let (staged, sha256) = self.stage(path)?;
        staged.commit().map_err(|source| WeightsError::Io { path: path.to_owned(), source })?;
        Ok(sha256)
    }

    /// Writes beside `path` what is to replace it, tensor by tensor, and returns its SHA-256 too.
    ///
    /// # Errors
    /// [`WeightsError`] names `path`.
    pub fn stage(&self, path: &Path) -> Result<(Staged, String), WeightsError> {
        let io = |source| WeightsError::Io { path: path.to_owned(), source };
        let write = |temporary: &Path| safetensors::serialize_to_file(self.iter(), None, temporary);
        let staged = Staged::new(path, write).map_err(|source| match source {
            SafeTensorError::IoError(source) => io(source),
            source => WeightsError::Format { path: path.to_owned(), source },
        })?;
        let sha256 = sha256_of_file(staged.temporary()).map_err(io)?;
        Ok((staged, sha256))
    }
}

/// How a tensor lies in a safetensors file.
impl View for &Tensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(bytes_of(&self.data))
    }

    fn data_len(&self) -> usize {
        4 * self.data.len()
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn random_tensor(spec: &TensorSpec, seed: u64, gamma: GammaInit) -> Tensor {
    let mut rng = rng_for(seed, &spec.name);
    let count = spec.shape.iter().product();
    let uniform =
        |rng: &mut ChaCha8Rng, low: f32, high: f32| -> Vec<f32> { (0..count).map(|_| low + (high - low) * rng.random::<f32>()).collect() };
    let data = match (spec.init, gamma) {
        (Init::Convolution | Init::Depthwise, _) => {
            let fan_out = spec.shape[2] * spec.shape[3] * if spec.init == Init::Depthwise { 1 } else { spec.shape[0] };
            let std = (2.0 / fan_out as f32).sqrt();
            (0..count).map(|_| -> f32 { rng.sample::<f32, _>(StandardNormal) * std }).collect()
        }
        (Init::Linear, _) => {
            let bound = 1.0 / (spec.shape[0] as f32).sqrt();
            uniform(&mut rng, -bound, bound)
        }
        (Init::Gamma | Init::LastGamma, GammaInit::Random) => uniform(&mut rng, 0.5, 1.5),
        (Init::Shift, GammaInit::Random) => uniform(&mut rng, -0.5, 0.5),
        (Init::LastGamma, GammaInit::ZeroLast) => vec![0.0; count],
        (Init::Gamma | Init::LastGamma, _) => vec![1.0; count],
        (Init::Shift, _) => vec![0.0; count],
    };
    Tensor { shape: spec.shape.clone(), data }
}

fn rng_for(seed: u64, name: &str) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(name.as_bytes());
    ChaCha8Rng::from_seed(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::{layout, preset};

    fn model() -> (Vec<TensorSpec>, Weights) {
        let layout = layout(&preset("fashion-mnist").unwrap(), 10);
        let weights = Weights::random(&layout, 7, GammaInit::ZeroLast);
        (layout, weights)
    }

    fn bytes(weights: &Weights) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weights.safetensors");
        weights.write(&path).unwrap();
        std::fs::read(&path).unwrap()
    }

    #[test]
    fn weights_survive_the_file() {
        let (layout, weights) = model();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weights.safetensors");
        let checksum = weights.write(&path).unwrap();
        assert_eq!(checksum, crate::files::sha256(&std::fs::read(&path).unwrap()));
        assert_eq!(Weights::read(&path, &layout).unwrap(), weights);
    }

    #[test]
    fn every_tensor_at_fault_is_named_at_once() {
        let (layout, mut weights) = model();
        weights.0.remove("stem.weight");
        weights.0.insert("surprise".into(), Tensor { shape: vec![1], data: vec![0.0] });
        weights.0.insert("classifier.bias".into(), Tensor { shape: vec![3], data: vec![0.0; 3] });
        let bytes = bytes(&weights);
        let message = Weights::from_bytes(&bytes, Path::new("w"), &layout).unwrap_err().to_string();
        for part in ["stem.weight is missing", "surprise is unknown", "classifier.bias has shape [3], not [10]"] {
            assert!(message.contains(part), "{message:?} should contain {part:?}");
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let (layout, weights) = model();
        let bytes = bytes(&weights);
        for keep in [0, 1, 7, 8, 9, 100, bytes.len() / 2, bytes.len() - 1] {
            assert!(Weights::from_bytes(&bytes[..keep], Path::new("w"), &layout).is_err(), "{keep} bytes of {}", bytes.len());
        }
    }

    /// Measured over some hundred values and more, of a grey network, whose stem has one input channel as a depthwise
    /// convolution has, and of a coloured one.
    #[test]
    fn random_tensors_have_efficientnets_variance() {
        let cases = [
            ("fashion-mnist", "stem.weight", 2.0 / (9.0 * 12.0)),
            ("cifar10", "stem.weight", 2.0 / (9.0 * 16.0)),
            ("fashion-mnist", "stages.2.0.depthwise.weight", 2.0 / 25.0),
            ("fashion-mnist", "stages.2.0.project.weight", 2.0 / 24.0),
            ("cifar10", "head.conv.weight", 2.0 / 384.0),
            ("fashion-mnist", "classifier.weight", 1.0 / 3.0 / 10.0),
        ];
        for (space, name, expected) in cases {
            let space = preset(space).unwrap();
            let weights = Weights::random(&layout(&space, 10), 7, GammaInit::ZeroLast);
            let tensor = weights.get(name).unwrap();
            let variance = tensor.data.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / tensor.data.len() as f64;
            assert!((variance / expected).ln().abs() < 0.5, "{}, {name} {:?}: {variance}, not {expected}", space.name, tensor.shape);
        }
    }

    #[test]
    fn initialisation_follows_the_paper() {
        let (layout, weights) = model();
        for spec in &layout {
            let data = &weights.get(&spec.name).unwrap().data;
            match spec.init {
                Init::LastGamma | Init::Shift => assert!(data.iter().all(|&v| v == 0.0), "{} starts at zero", spec.name),
                Init::Gamma => assert!(data.iter().all(|&v| v == 1.0), "{} starts at one", spec.name),
                Init::Convolution | Init::Depthwise | Init::Linear => {}
            }
        }
        let naive = Weights::random(&layout, 7, GammaInit::One);
        assert!(naive.get("stages.1.0.project.bn.weight").unwrap().data.iter().all(|&v| v == 1.0));
        assert_eq!(naive.get("stem.weight"), weights.get("stem.weight"), "the choice of gamma leaves other tensors alone");
        assert_ne!(Weights::random(&layout, 8, GammaInit::One).get("stem.weight"), weights.get("stem.weight"));
    }
}
