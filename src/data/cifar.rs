//! CIFAR-10 in its official binary form: records of one label byte and 3,072 bytes of planar RGB.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::error::DataError;
use super::image_set::Split;
use crate::image::Pixels;

/// Side of every image in pixels.
const SIDE: usize = 32;
/// Bytes of a channel.
const PLANE: usize = SIDE * SIDE;
/// Bytes of a label and its image.
const RECORD: usize = 1 + 3 * PLANE;
/// Number of classes.
const CLASSES: usize = 10;
/// The folder that the official archive unpacks to.
const FOLDER: &str = "cifar-10-batches-bin";
/// The names of the classes.
const NAMES: &str = "batches.meta.txt";

/// All images of a split.
#[derive(Debug)]
pub(super) struct CifarImages {
    /// Records, one after the other.
    records: Vec<u8>,
}

/// The folder with the batches: `dir` itself, or what the official archive unpacks to within it.
pub(super) fn find(dir: &Path) -> Option<PathBuf> {
    [dir.to_owned(), dir.join(FOLDER)]
        .into_iter()
        .find(|folder| folder.join("data_batch_1.bin").is_file() || folder.join("test_batch.bin").is_file())
}

/// Whether `folder` holds anything of a split: of training images the first batch, without which the others are of no use.
pub(super) fn has(folder: &Path, split: Split) -> bool {
    batches(split).first().is_some_and(|name| folder.join(name).is_file())
}

/// The files of a split.
fn batches(split: Split) -> Vec<String> {
    match split {
        Split::Train => (1..=5).map(|batch| format!("data_batch_{batch}.bin")).collect(),
        Split::Test => vec!["test_batch.bin".to_owned()],
    }
}

/// Reads the batches of a split.
///
/// # Errors
///
/// [`DataError::Io`] for a batch that is missing; [`DataError::Format`] for one that is cut short or bears an unknown label.
pub(super) fn read(folder: &Path, split: Split) -> Result<CifarImages, DataError> {
    let mut records = Vec::new();
    for name in batches(split) {
        let path = folder.join(name);
        let bytes = fs::read(&path).map_err(|source| DataError::Io { path: path.clone(), source })?;
        let format = |problem: String| DataError::Format { path: path.clone(), problem };
        if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD) {
            return Err(format(format!("{} bytes are not whole records of {RECORD}: the file is truncated", bytes.len())));
        }
        let wrong = bytes.chunks_exact(RECORD).position(|record| usize::from(record[0]) >= CLASSES);
        if let Some(index) = wrong {
            return Err(format(format!("image {index} has label {}; labels lie below {CLASSES}", bytes[index * RECORD])));
        }
        records.extend(bytes);
    }
    Ok(CifarImages { records })
}

/// The names of the classes, one a line of `batches.meta.txt`: their numbers where there is no such file.
///
/// # Errors
///
/// [`DataError::Io`], and [`DataError::Format`] where not ten classes are named.
pub(super) fn class_names(folder: &Path) -> Result<Vec<String>, DataError> {
    let path = folder.join(NAMES);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) if source.kind() == ErrorKind::NotFound => return Ok((0..CLASSES).map(|class| class.to_string()).collect()),
        Err(source) => return Err(DataError::Io { path, source }),
    };
    let names: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if names.len() != CLASSES {
        let problem = format!("{} names; CIFAR-10 has {CLASSES} classes: mend or remove the file", names.len());
        return Err(DataError::Format { path, problem });
    }
    Ok(names)
}

/// Checks names of classes that were given elsewhere, for the batches in `folder`.
///
/// # Errors
///
/// [`DataError::Format`] where they are not ten.
pub(super) fn check_names(names: &[String], folder: &Path) -> Result<(), DataError> {
    if names.len() == CLASSES {
        return Ok(());
    }
    let problem = format!("{} names of classes are given; CIFAR-10 has {CLASSES} classes", names.len());
    Err(DataError::Format { path: folder.to_owned(), problem })
}

impl CifarImages {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.records.len() / RECORD
    }

    /// Class of image `index`.
    pub fn label(&self, index: usize) -> Option<usize> {
        self.record(index).map(|record| usize::from(record[0]))
    }

    /// Image `index` in colour.
    pub fn pixels(&self, index: usize) -> Option<Pixels> {
        let (red, rest) = self.record(index)?[1..].split_at(PLANE);
        let (green, blue) = rest.split_at(PLANE);
        let data = red.iter().zip(green).zip(blue).flat_map(|((&red, &green), &blue)| [red, green, blue]).collect();
        Some(Pixels { width: SIDE as u32, height: SIDE as u32, channels: 3, data })
    }

    fn record(&self, index: usize) -> Option<&[u8]> {
        self.records.chunks_exact(RECORD).nth(index)
    }
}
