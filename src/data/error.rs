//! What can be wrong with a data set.

use std::io;
use std::path::PathBuf;

use crate::image::{DecodeError, ShapeError};

/// Why data could not be read or written; every variant names the file or directory where there is one.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or directory could not be read or written.
    #[error("{}: cannot be read or written", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The directory holds neither IDX files nor CIFAR-10's batches nor class folders.
    #[error(
        "{}: no {split} images found; it needs {expected}[.gz], CIFAR-10's data_batch_1.bin to data_batch_5.bin and test_batch.bin, or {folders} folders with image files",
        path.display()
    )]
    Layout {
        /// The directory that was searched.
        path: PathBuf,
        /// The name of the split.
        split: &'static str,
        /// The folders that were looked for.
        folders: String,
        /// The IDX file that was looked for.
        expected: String,
    },
    /// A file's header or length is wrong.
    #[error("{}: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// A label or folder that names no known class.
    #[error("{}: class {class} is not among the {classes} classes of the data set", path.display())]
    UnknownClass {
        /// The label file or the class folder.
        path: PathBuf,
        /// The class, by number or name.
        class: String,
        /// How many classes there are.
        classes: usize,
    },
    /// Two classes of the same name.
    #[error("two classes are called {class}: name every class once")]
    TwiceNamed {
        /// Their name.
        class: String,
    },
    /// An image file could not be decoded.
    #[error("{}: the image cannot be decoded", path.display())]
    Decode {
        /// The image file.
        path: PathBuf,
        /// Why.
        source: DecodeError,
    },
    /// More unreadable files than may be skipped.
    #[error(
        "{count} image files cannot be read, {limit} may be skipped; the first is {}: replace or remove them, or allow more with \
         --max-corrupt",
        first.display()
    )]
    TooManyCorrupt {
        /// How many distinct files failed so far.
        count: usize,
        /// How many may fail.
        limit: usize,
        /// The one of lowest index.
        first: PathBuf,
    },
    /// An index beyond the data set.
    #[error("image {index} is not in the data set of {len}")]
    OutOfRange {
        /// The index.
        index: usize,
        /// Images in the data set.
        len: usize,
    },
    /// Not enough images for a single batch.
    #[error("{len} images do not fill a batch of {batch_size}; lower the batch size to {len} or less, or find more images")]
    TooFew {
        /// Images in the data set.
        len: usize,
        /// Images asked for per batch.
        batch_size: usize,
    },
    /// Sizes that do not fit, such as patches of different sides in one set.
    #[error("images do not fit together")]
    Shape(#[from] ShapeError),
    /// A loading thread could not be started or ended early.
    #[error("a loading thread stopped: {0}")]
    Thread(String),
}
