//! A model directory: opened with every check, written file by file, each atomically.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::family::{Family, FamilyError};
use super::weights::{Weights, WeightsError};
use crate::data::{CalibrationSet, DataError};
use crate::files::{sha256, write_atomically};
use crate::image::{Preprocessing, PreprocessingError};
use crate::space::{SearchSpace, SpaceError, layout};

/// Version of the directory's layout.
const FORMAT: u32 = 1;
/// Most classes that a model may tell apart.
const MAX_CLASSES: usize = 100_000;

const MODEL: &str = "model.json";
const WEIGHTS: &str = "weights.safetensors";
const FAMILY: &str = "family.json";
const CALIBRATION: &str = "calibration.safetensors";

/// A single-stage model: everything that its directory says.
#[derive(Debug, Clone)]
pub struct Model {
    /// What `model.json` says.
    pub card: ModelCard,
    /// The shared weights.
    pub weights: Weights,
    /// The searched children; empty before the search.
    pub family: Family,
    directory: PathBuf,
}

/// `model.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelCard {
    /// Version of the directory's layout.
    pub format: u32,
    /// Name of the model.
    pub name: String,
    /// Names of the classes, in the classifier's order.
    pub labels: Vec<String>,
    /// Names of the classes' folders in image data sets, where they are not the labels, as with ImageNet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_folders: Option<Vec<String>>,
    /// From an image to a child's input.
    pub preprocessing: Preprocessing,
    /// The search space.
    pub space: SearchSpace,
    /// SHA-256 of `weights.safetensors`.
    pub weights_sha256: String,
    /// The calibration set that ships with the model, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// How the weights came about; free-form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<serde_json::Value>,
}

/// Which images a model is recalibrated on, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// How many images.
    pub images: usize,
    /// In batches of how many.
    pub batch: usize,
    /// Seed under which they were drawn from the training images.
    pub seed: u64,
    /// SHA-256 of the images in `calibration.safetensors`, as [`CalibrationSet::sha256`] gives it.
    pub sha256: String,
}

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
    #[error("{}: {source}", path.display())]
    Space {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SpaceError,
    },
    /// The preprocessing is unusable.
    #[error("{}: {source}", path.display())]
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
    #[error("{}: {source}", path.display())]
    Family {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: FamilyError,
    },
    /// The calibration images are unreadable.
    #[error(transparent)]
    Calibration(#[from] DataError),
}

impl Model {
    /// Opens and validates a model directory: names, shapes, checksums, every member of the family.
    ///
    /// # Errors
    /// [`ModelError`] names the file and what is wrong with it.
    pub fn open(directory: &Path) -> Result<Self, ModelError> {
        let card_path = directory.join(MODEL);
        let card: ModelCard = read_json(&card_path)?;
        card.check(&card_path)?;
        let weights_path = directory.join(WEIGHTS);
        let bytes = read_checked(&weights_path, &card.weights_sha256)?;
        let weights = Weights::from_bytes(&bytes, &weights_path, &layout(&card.space, card.labels.len()))?;
        let family = Self::read_family(directory, &card)?;
        Ok(Self { card, weights, family, directory: directory.to_owned() })
    }

    /// The directory that the model was opened from or created in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads the calibration images that ship with the model, `None` where there are none.
    ///
    /// # Errors
    /// [`ModelError`] where the file is missing, damaged, or of another size or count than `model.json` says.
    pub fn calibration_images(&self) -> Result<Option<CalibrationSet>, ModelError> {
        let Some(calibration) = &self.card.calibration else { return Ok(None) };
        let path = self.directory.join(CALIBRATION);
        let images = CalibrationSet::read(&path)?;
        require(&path, images.sha256(), &calibration.sha256)?;
        let crop = self.card.preprocessing.crop as usize;
        let expected = [calibration.images, self.card.preprocessing.channels(), crop, crop];
        if images.shape() != expected {
            let problem = format!("holds images {:?}, but model.json says {expected:?}", images.shape());
            return Err(ModelError::Card { path, problem });
        }
        Ok(Some(images))
    }

    /// Creates or replaces a model's `weights.safetensors` and `model.json` in `directory`. A calibration set, where given,
    /// is written too; the family is not touched.
    ///
    /// # Errors
    /// [`ModelError`] names the file that could not be written, or what is wrong with the card.
    pub fn create(directory: &Path, draft: Draft, weights: Weights) -> Result<Self, ModelError> {
        std::fs::create_dir_all(directory).map_err(|source| ModelError::Io { path: directory.to_owned(), source })?;
        let weights_sha256 = weights.write(&directory.join(WEIGHTS))?;
        let calibration = draft.calibration.map(|(images, batch, seed)| {
            images.write(&directory.join(CALIBRATION))?;
            Ok::<_, ModelError>(Calibration { images: images.count(), batch, seed, sha256: images.sha256() })
        });
        let card = ModelCard {
            format: FORMAT,
            name: draft.name,
            labels: draft.labels,
            class_folders: draft.class_folders,
            preprocessing: draft.preprocessing,
            space: draft.space,
            weights_sha256,
            calibration: calibration.transpose()?,
            training: draft.training,
        };
        let path = directory.join(MODEL);
        card.check(&path)?;
        write_json(&path, &card)?;
        let family = Self::read_family(directory, &card)?;
        Ok(Self { card, weights, family, directory: directory.to_owned() })
    }

    /// The family in `directory`, empty where there is none.
    fn read_family(directory: &Path, card: &ModelCard) -> Result<Family, ModelError> {
        let path = directory.join(FAMILY);
        if !path.exists() {
            return Ok(Family::default());
        }
        let family = Family::from_file(&card.space, card.labels.len(), read_json(&path)?);
        family.map_err(|source| ModelError::Family { path, source })
    }

    /// Replaces `family.json`.
    ///
    /// # Errors
    /// [`ModelError::Io`] where the file cannot be written.
    pub fn write_family(&mut self, family: Family) -> Result<(), ModelError> {
        let file = family.to_file(&self.card.space, self.card.labels.len());
        write_json(&self.directory.join(FAMILY), &file)?;
        self.family = family;
        Ok(())
    }
}

/// What a new model directory is made of, beside its weights.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Name of the model.
    pub name: String,
    /// Names of the classes.
    pub labels: Vec<String>,
    /// Names of the classes' folders in image data sets, where they are not the labels.
    pub class_folders: Option<Vec<String>>,
    /// From an image to a child's input.
    pub preprocessing: Preprocessing,
    /// The search space.
    pub space: SearchSpace,
    /// Calibration images, the batch size to use them in, and the seed they were drawn under.
    pub calibration: Option<(CalibrationSet, usize, u64)>,
    /// How the weights came about.
    pub training: Option<serde_json::Value>,
}

impl ModelCard {
    fn check(&self, path: &Path) -> Result<(), ModelError> {
        let path = path.to_owned();
        let problem = |problem: String| Err(ModelError::Card { path: path.clone(), problem });
        if self.format != FORMAT {
            return problem(format!("format {} is not supported; this program reads format {FORMAT}", self.format));
        }
        if self.labels.len() < 2 || self.labels.len() > MAX_CLASSES {
            return problem(format!("{} labels; a model has between 2 and {MAX_CLASSES}", self.labels.len()));
        }
        if let Some(folders) = self.class_folders.as_ref().filter(|folders| folders.len() != self.labels.len()) {
            return problem(format!("{} class_folders for {} labels", folders.len(), self.labels.len()));
        }
        self.space.validate().map_err(|source| ModelError::Space { path: path.clone(), source })?;
        self.preprocessing.validate().map_err(|source| ModelError::Preprocessing { path: path.clone(), source })?;
        if self.preprocessing.channels() != self.space.input_channels {
            let (given, needed) = (self.preprocessing.channels(), self.space.input_channels);
            return problem(format!("preprocessing makes {given} channels, but the search space takes {needed}"));
        }
        match &self.calibration {
            Some(c) if c.batch == 0 || c.batch > c.images => {
                problem(format!("calibration in batches of {} from {} images is impossible", c.batch, c.images))
            }
            _ => Ok(()),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    std::fs::read(path).map_err(|source| ModelError::Io { path: path.to_owned(), source })
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, ModelError> {
    serde_json::from_slice(&read(path)?).map_err(|source| ModelError::Json { path: path.to_owned(), source })
}

fn read_checked(path: &Path, expected: &str) -> Result<Vec<u8>, ModelError> {
    let bytes = read(path)?;
    require(path, sha256(&bytes), expected)?;
    Ok(bytes)
}

fn require(path: &Path, found: String, expected: &str) -> Result<(), ModelError> {
    if found == expected {
        return Ok(());
    }
    Err(ModelError::Checksum { path: path.to_owned(), found, expected: expected.to_owned() })
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), ModelError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|source| ModelError::Json { path: path.to_owned(), source })?;
    text.push(b'\n');
    write_atomically(path, &text).map_err(|source| ModelError::Io { path: path.to_owned(), source })
}
