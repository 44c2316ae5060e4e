//! Labelled images, wherever they come from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::cifar::{self, CifarImages};
use super::error::DataError;
use super::folder::{self, ImageFile};
use super::idx::{self, IdxImages};
use super::patch_set::calibration_indices;
use crate::image::{DecodeLimits, Pixels, Preprocessing, decode};

/// Draws what is held out apart from everything else that is drawn under the same seed.
const HELD_OUT: u64 = 0x04e1_d0a7;

/// Part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// What is trained, calibrated and searched on.
    Train,
    /// What is only measured on.
    Test,
}

/// How a data set is read.
#[derive(Debug, Clone)]
pub struct DataOptions {
    /// The classes in the order of their labels. Without it, folders are classes in alphabetical order, CIFAR-10's are
    /// called as its `batches.meta.txt` says, and those of IDX files, and of batches without it, by their numbers.
    pub class_names: Option<Vec<String>>,
    /// Channels of the images: 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// What transparent pixels are composited over.
    pub background: [u8; 3],
    /// How large an image may be.
    pub limits: DecodeLimits,
    /// How many files may be unreadable, or no images, before that is an error.
    pub max_corrupt: usize,
}

/// Labelled images. IDX files and CIFAR-10's batches lie in memory; files in folders are decoded when they are asked for.
#[derive(Debug)]
pub struct ImageSet {
    classes: Vec<String>,
    images: Images,
    /// Which of the images there are; all, if none.
    chosen: Option<Vec<usize>>,
    options: DataOptions,
    /// Files that could not be read, by their index.
    corrupt: Mutex<BTreeMap<usize, PathBuf>>,
}

/// Where the images are. A further format is a further variant.
#[derive(Debug)]
enum Images {
    Idx(IdxImages),
    Cifar(CifarImages),
    Folder(Vec<ImageFile>),
}

impl Split {
    /// The prefix of IDX files and the names of folders.
    fn names(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Train => ("train", &["train"]),
            Self::Test => ("t10k", &["test", "val"]),
        }
    }
}

/// `dir` itself, where it holds folders and none of them is a split's: the classes of one split. Beside IDX files of training images a
/// folder is something else, such as a run's.
fn single_split(dir: &Path) -> Option<PathBuf> {
    if idx::find(dir, "train-images-idx3-ubyte").is_some() {
        return None;
    }
    let names = folder::class_names(dir).ok()?;
    let is_split = |name: &String| [Split::Train, Split::Test].iter().any(|split| split.names().1.contains(&name.as_str()));
    (!names.is_empty() && !names.iter().any(is_split)).then(|| dir.to_owned())
}

/// A name that stands in `names` twice.
fn twice(names: &[String]) -> Option<&str> {
    let mut seen = BTreeSet::new();
    names.iter().find(|name| !seen.insert(name.as_str())).map(String::as_str)
}

impl DataOptions {
    /// Images as a model wants them; no file may be corrupt.
    pub fn new(preprocessing: &Preprocessing) -> Self {
        Self {
            class_names: None,
            channels: preprocessing.channels(),
            background: preprocessing.background,
            limits: DecodeLimits::default(),
            max_corrupt: 0,
        }
    }
}

impl ImageSet {
    /// Opens a split of the data set in `dir`, which holds IDX files (`train-images-idx3-ubyte`,
    /// `t10k-labels-idx1-ubyte` and so on, plain or `.gz`), CIFAR-10's binary batches (`data_batch_1.bin` and so on, or the folder
    /// that their archive unpacks to), or image folders (`train/CLASS/*`, and `test/CLASS/*` or
    /// `val/CLASS/*`), or the folders of the test split alone, `CLASS/*`. The folders in `train` say which classes there are, also for the
    /// test split.
    ///
    /// # Errors
    ///
    /// [`DataError`], naming the file; images in folders are not looked at yet.
    pub fn open(dir: &Path, split: Split, options: DataOptions) -> Result<Self, DataError> {
        if let Some(class) = options.class_names.as_deref().and_then(twice) {
            return Err(DataError::TwiceNamed { class: class.to_owned() });
        }
        let (prefix, folders) = split.names();
        let expected = format!("{prefix}-images-idx3-ubyte");
        if let Some(images) = idx::find(dir, &expected) {
            let labels_name = format!("{prefix}-labels-idx1-ubyte");
            let labels = idx::find(dir, &labels_name).unwrap_or_else(|| dir.join(labels_name));
            return Self::from_idx(idx::read(&images, labels)?, options);
        }
        let layout = || DataError::Layout {
            path: dir.to_owned(),
            split: folders[0],
            folders: folders.iter().map(|name| format!("{name}/CLASS/")).collect::<Vec<_>>().join(" or "),
            expected: expected.clone(),
        };
        if let Some(folder) = cifar::find(dir) {
            return match cifar::has(&folder, split) {
                true => Self::from_cifar(cifar::read(&folder, split)?, &folder, options),
                false => Err(layout()),
            };
        }
        let split_dir = folder::of_split(dir, folders).or_else(|| match split {
            Split::Train => None,
            Split::Test => single_split(dir),
        });
        let set = Self::from_folder(dir, &split_dir.ok_or_else(layout)?, options)?;
        if set.is_empty() { Err(layout()) } else { Ok(set) }
    }

    /// Classes that have no image here, as it may be in a part of a data set, or where the names of its classes are another's.
    #[must_use]
    pub fn classes_without_images(&self) -> Vec<&str> {
        let found: BTreeSet<usize> = (0..self.len()).filter_map(|index| self.label(index)).collect();
        self.classes.iter().enumerate().filter(|(label, _)| !found.contains(label)).map(|(_, name)| name.as_str()).collect()
    }

    fn from_idx(images: IdxImages, options: DataOptions) -> Result<Self, DataError> {
        let highest = images.labels.iter().copied().max().unwrap_or(0);
        let classes = match &options.class_names {
            Some(names) => names.clone(),
            None => (0..=highest).map(|class| class.to_string()).collect(),
        };
        if usize::from(highest) >= classes.len() {
            return Err(DataError::UnknownClass { path: images.labels_path, class: highest.to_string(), classes: classes.len() });
        }
        Ok(Self { classes, images: Images::Idx(images), chosen: None, options, corrupt: Mutex::default() })
    }

    fn from_cifar(images: CifarImages, folder: &Path, options: DataOptions) -> Result<Self, DataError> {
        let classes = match &options.class_names {
            Some(names) => names.clone(),
            None => cifar::class_names(folder)?,
        };
        cifar::check_names(&classes, folder)?;
        Ok(Self { classes, images: Images::Cifar(images), chosen: None, options, corrupt: Mutex::default() })
    }

    fn from_folder(dir: &Path, split_dir: &Path, options: DataOptions) -> Result<Self, DataError> {
        let train = dir.join("train");
        let classes = match &options.class_names {
            Some(names) => names.clone(),
            None => folder::class_names(if train.is_dir() { &train } else { split_dir })?,
        };
        let files = folder::list(split_dir, &classes)?;
        Ok(Self { classes, images: Images::Folder(files), chosen: None, options, corrupt: Mutex::default() })
    }

    /// A seeded choice of `count` of the images, or all where there are no more.
    #[must_use]
    pub fn sample(mut self, count: usize, seed: u64) -> Self {
        let chosen = calibration_indices(self.len(), count, seed).into_iter().filter_map(|index| self.place(index)).collect();
        self.chosen = Some(chosen);
        self
    }

    /// The images without a seeded choice of `count` that is held out of training.
    #[must_use]
    pub fn without_held_out(self, count: usize, seed: u64) -> Self {
        self.held_out_or_not(count, seed, false)
    }

    /// What [`Self::without_held_out`] leaves out.
    #[must_use]
    pub fn held_out(self, count: usize, seed: u64) -> Self {
        self.held_out_or_not(count, seed, true)
    }

    fn held_out_or_not(mut self, count: usize, seed: u64, held_out: bool) -> Self {
        let drawn: BTreeSet<usize> = calibration_indices(self.len(), count, seed ^ HELD_OUT).into_iter().collect();
        let kept = (0..self.len()).filter(|index| drawn.contains(index) == held_out).filter_map(|index| self.place(index)).collect();
        self.chosen = Some(kept);
        self
    }

    /// Where image `index` lies among all of the data set.
    fn place(&self, index: usize) -> Option<usize> {
        match &self.chosen {
            Some(chosen) => chosen.get(index).copied(),
            None => Some(index),
        }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        if let Some(chosen) = &self.chosen {
            return chosen.len();
        }
        match &self.images {
            Images::Idx(idx) => idx.labels.len(),
            Images::Cifar(images) => images.len(),
            Images::Folder(files) => files.len(),
        }
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names of the classes; a label is an index into them.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The class of image `index`, or `None` beyond the end.
    pub fn label(&self, index: usize) -> Option<usize> {
        let index = self.place(index)?;
        match &self.images {
            Images::Idx(idx) => idx.labels.get(index).copied().map(usize::from),
            Images::Cifar(images) => images.label(index),
            Images::Folder(files) => files.get(index).map(|file| file.label),
        }
    }

    /// Image `index`, with the channels of the options.
    ///
    /// # Errors
    ///
    /// [`DataError::OutOfRange`], [`DataError::Io`] and [`DataError::Decode`].
    pub fn pixels(&self, index: usize) -> Result<Pixels, DataError> {
        let out_of_range = || DataError::OutOfRange { index, len: self.len() };
        let index = self.place(index).ok_or_else(out_of_range)?;
        match &self.images {
            Images::Idx(idx) => {
                let bytes = idx.width as usize * idx.height as usize;
                let grey = idx.pixels.chunks_exact(bytes).nth(index).ok_or_else(out_of_range)?;
                let channels = self.options.channels;
                let data = grey.iter().flat_map(|value| std::iter::repeat_n(*value, channels)).collect();
                Ok(Pixels { width: idx.width, height: idx.height, channels, data })
            }
            Images::Cifar(images) => {
                let pixels = images.pixels(index).ok_or_else(out_of_range)?;
                Ok(if self.options.channels == 1 { pixels.to_grey() } else { pixels })
            }
            Images::Folder(files) => {
                let path = &files.get(index).ok_or_else(out_of_range)?.path;
                let bytes = fs::read(path).map_err(|source| DataError::Io { path: path.clone(), source })?;
                decode(&bytes, &self.options.limits, self.options.channels, self.options.background)
                    .map_err(|source| DataError::Decode { path: path.clone(), source })
            }
        }
    }

    /// Image `index`, or `None` if its file cannot be read or decoded and may be skipped. Such a file is logged the first time.
    ///
    /// # Errors
    ///
    /// [`DataError::TooManyCorrupt`] once more distinct files failed than the options allow, and [`DataError::OutOfRange`].
    pub fn pixels_or_skip(&self, index: usize) -> Result<Option<Pixels>, DataError> {
        let (path, problem) = match self.pixels(index) {
            Err(DataError::Decode { path, source }) => (path, source.to_string()),
            Err(DataError::Io { path, source }) => (path, source.to_string()),
            other => return other.map(Some),
        };
        let mut corrupt = self.corrupt.lock().unwrap_or_else(PoisonError::into_inner);
        if corrupt.insert(index, path.clone()).is_none() {
            tracing::warn!(path = %path.display(), error = problem, "skipping an image that cannot be read");
        }
        let limit = self.options.max_corrupt;
        if corrupt.len() > limit {
            let first = corrupt.values().next().cloned().unwrap_or(path);
            return Err(DataError::TooManyCorrupt { count: corrupt.len(), limit, first });
        }
        Ok(None)
    }

    /// The files that [`Self::pixels_or_skip`] skipped so far, in the order of their indices.
    pub fn skipped(&self) -> Vec<PathBuf> {
        self.corrupt.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
