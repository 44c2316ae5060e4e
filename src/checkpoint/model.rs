//! A model directory: opened with every check, written file by file, each atomically.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::card::{Calibration, FORMAT, ModelCard, ShippedStatistics};
use super::error::ModelError;
use super::examples::{self, Example};
use super::family::{Family, Member};
use super::statistics::BnStats;
use super::statistics_file;
use super::weights::Weights;
use crate::data::CalibrationSet;
use crate::files::{Staged, sha256, write_atomically};
use crate::image::Preprocessing;
use crate::space::{ChildId, Plan, SearchSpace, layout};

/// Statistics of children, each by its id.
type Statistics = BTreeMap<ChildId, BnStats>;

const MODEL: &str = "model.json";
const WEIGHTS: &str = "weights.safetensors";
const FAMILY: &str = "family.json";
const CALIBRATION: &str = "calibration.safetensors";
const STATISTICS: &str = "statistics.safetensors";

/// A single-stage model: everything that its directory says.
#[derive(Debug, Clone)]
pub struct Model {
    /// What `model.json` says.
    pub card: ModelCard,
    /// The shared weights.
    pub weights: Weights,
    /// The searched children; empty before the search.
    pub family: Family,
    /// The statistics that ship with the family: of all its children, or none.
    pub statistics: BTreeMap<ChildId, BnStats>,
    /// Pictures to try it with.
    pub examples: Vec<Example>,
    directory: PathBuf,
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
        let statistics = Self::read_statistics(directory, &card, &family)?;
        let examples = examples::read(directory, &card.labels)?;
        Ok(Self { card, weights, family, statistics, examples, directory: directory.to_owned() })
    }

    /// Whether `directory` holds a model, whole or damaged.
    #[must_use]
    pub fn is_in(directory: &Path) -> bool {
        directory.join(MODEL).exists()
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

    /// Writes a model into `directory`: `weights.safetensors`, `model.json`, and its calibration images, which go where the draft has
    /// none. A family that lies there goes, unless it was searched in the very same weights; so does a damaged one, where `replaces` lets
    /// it. What would not open again is refused before anything is replaced.
    ///
    /// # Errors
    /// [`ModelError`] where the directory holds a model that `replaces` protects; it names the file that could not be written, or what
    /// would be wrong with the model.
    pub fn create(directory: &Path, draft: Draft, weights: Weights, replaces: &Replaces) -> Result<Self, ModelError> {
        let io = |source| ModelError::Io { path: directory.to_owned(), source };
        std::fs::create_dir_all(directory).map_err(io)?;
        let path = directory.join(MODEL);
        weights.check_finite(&directory.join(WEIGHTS))?;
        let (staged_weights, weights_sha256) = weights.stage(&directory.join(WEIGHTS))?;
        let calibration = draft.calibration.map(|(images, batch, seed)| {
            let staged = images.stage(&directory.join(CALIBRATION))?;
            Ok::<_, ModelError>((staged, Calibration { images: images.count(), batch, seed, sha256: images.sha256() }))
        });
        let (staged_calibration, calibration) = calibration.transpose()?.unzip();
        let mut card = ModelCard {
            format: FORMAT,
            name: draft.name,
            labels: draft.labels,
            class_folders: draft.class_folders,
            preprocessing: draft.preprocessing,
            space: draft.space,
            weights_sha256,
            calibration,
            statistics: None,
            training: draft.training,
        };
        let before: Option<ModelCard> = read_json(&path).ok();
        let same = before.as_ref().filter(|before| before.computes_as(&card));
        replaces.check(directory, before.as_ref(), same.is_some())?;
        card.statistics = same.and_then(|before| before.statistics.clone());
        card.check(&path)?;
        let searched = if same.is_some() { Self::searched(directory, &mut card, replaces)? } else { None };
        let family_stays = searched.is_some();
        let (family, statistics) = searched.unwrap_or_default();
        let examples = examples::read(directory, &card.labels)?;
        let text = to_json(&path, &card)?;
        let staged_card = Staged::new(&path, |temporary| std::fs::write(temporary, text)).map_err(io)?;
        staged_weights.commit().map_err(io)?;
        // The old card refuses other weights than its own until the new one is there, so that nobody takes the old family for theirs.
        if !family_stays {
            remove(&directory.join(FAMILY))?;
            remove(&directory.join(STATISTICS))?;
        }
        for staged in staged_calibration.into_iter().chain([staged_card]) {
            staged.commit().map_err(io)?;
        }
        if card.calibration.is_none() {
            remove(&directory.join(CALIBRATION))?;
        }
        Ok(Self { card, weights, family, statistics, examples, directory: directory.to_owned() })
    }

    /// The family in `directory` and its statistics, which `card` names; none where they are damaged and may go.
    fn searched(directory: &Path, card: &mut ModelCard, replaces: &Replaces) -> Result<Option<(Family, Statistics)>, ModelError> {
        let family = Self::read_family(directory, card);
        let both = family.and_then(|family| Self::read_statistics(directory, card, &family).map(|statistics| (family, statistics)));
        match both {
            Err(_) if matches!(replaces, Replaces::Any) => {
                card.statistics = None;
                Ok(None)
            }
            both => both.map(Some),
        }
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

    /// The statistics in `directory`, none where the card names none.
    fn read_statistics(directory: &Path, card: &ModelCard, family: &Family) -> Result<Statistics, ModelError> {
        let Some(shipped) = &card.statistics else { return Ok(BTreeMap::new()) };
        let path = directory.join(STATISTICS);
        let bytes = read_checked(&path, &shipped.sha256)?;
        let plan = |member: &Member| Plan::new(&card.space, &member.child, card.labels.len());
        let plans: Vec<Plan> = family.members.iter().map(plan).collect();
        statistics_file::read(&bytes, &plans, shipped.images, shipped.batch).map_err(|source| ModelError::Statistics { path, source })
    }

    /// Replaces `family.json`; the model then ships no statistics.
    ///
    /// # Errors
    /// [`ModelError::Replaced`] where another model lies there by now, [`ModelError::Io`] where a file cannot be written.
    pub fn write_family(&mut self, family: Family) -> Result<(), ModelError> {
        self.reread_card()?;
        if self.card.statistics.take().is_some() {
            self.statistics.clear();
            write_json(&self.directory.join(MODEL), &self.card)?;
        }
        let file = family.to_file(&self.card.space, self.card.labels.len());
        write_json(&self.directory.join(FAMILY), &file)?;
        self.family = family;
        Ok(())
    }

    /// Writes the statistics of all children of the family, so that they can be served without calibration images. `images`
    /// says what they were measured on: the SHA-256 of the images, and the seed under which they were drawn.
    ///
    /// # Errors
    /// [`ModelError`] where statistics of a child are missing, another model lies there by now, or a file cannot be written.
    pub fn write_statistics(&mut self, statistics: Vec<BnStats>, images: (String, u64)) -> Result<(), ModelError> {
        self.reread_card()?;
        let path = self.directory.join(STATISTICS);
        let failed = |source| ModelError::Statistics { path: path.clone(), source };
        let bytes = statistics_file::to_bytes(&statistics).map_err(failed)?;
        let (images_sha256, seed) = images;
        let (count, batch) = statistics.first().map_or((0, 0), |stats| (stats.images(), stats.batch()));
        let shipped = ShippedStatistics { images: count, batch, seed, images_sha256, sha256: sha256(&bytes) };
        write_atomically(&path, &bytes).map_err(|source| ModelError::Io { path: path.clone(), source })?;
        self.card.statistics = Some(shipped);
        self.statistics = Self::read_statistics(&self.directory, &self.card, &self.family)?;
        write_json(&self.directory.join(MODEL), &self.card)
    }

    /// Takes over what the card says by now, and refuses to write beside another network: a search takes long enough for a training to
    /// replace the model.
    fn reread_card(&mut self) -> Result<(), ModelError> {
        let now: ModelCard = read_json(&self.directory.join(MODEL))?;
        if !now.computes_as(&self.card) {
            return Err(ModelError::Replaced { path: self.directory.clone() });
        }
        self.card = now;
        Ok(())
    }
}

/// Which model a new one may take the place of.
#[derive(Debug, Clone)]
pub enum Replaces {
    /// Whichever lies there, with its family.
    Any,
    /// None but the one with these weights, by their SHA-256, and that only where no family goes with it.
    Own(Option<String>),
}

impl Replaces {
    /// Refuses to replace the model with the card `before` in `directory`, whose family stays or not.
    fn check(&self, directory: &Path, before: Option<&ModelCard>, family_stays: bool) -> Result<(), ModelError> {
        let Self::Own(own) = self else { return Ok(()) };
        let is_own = before.is_some_and(|before| own.as_ref() == Some(&before.weights_sha256));
        match !Model::is_in(directory) || is_own && (family_stays || !directory.join(FAMILY).exists()) {
            true => Ok(()),
            false => Err(ModelError::Exists { path: directory.to_owned() }),
        }
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

fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    std::fs::read(path).map_err(|source| ModelError::Io { path: path.to_owned(), source })
}

pub(super) fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, ModelError> {
    serde_json::from_slice(&read(path)?).map_err(|source| ModelError::Json { path: path.to_owned(), source })
}

/// Removes a file, where it is.
fn remove(path: &Path) -> Result<(), ModelError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(ModelError::Io { path: path.to_owned(), source }),
        _ => Ok(()),
    }
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

fn to_json<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>, ModelError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|source| ModelError::Json { path: path.to_owned(), source })?;
    text.push(b'\n');
    Ok(text)
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), ModelError> {
    write_atomically(path, &to_json(path, value)?).map_err(|source| ModelError::Io { path: path.to_owned(), source })
}
