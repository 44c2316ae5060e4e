//! IDX files, the format of MNIST and Fashion-MNIST: plain or gzipped.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::error::DataError;

/// The most bytes of pixels that are kept in memory: what a header may claim.
const MAX_BYTES: u64 = 4 << 30;

/// Grey images of one size, and their labels.
#[derive(Debug)]
pub(super) struct IdxImages {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// `[count, height, width]`.
    pub pixels: Vec<u8>,
    /// One class per image.
    pub labels: Vec<u8>,
    /// Where the labels came from.
    pub labels_path: PathBuf,
}

/// The file `name` in `dir`, or `name.gz`, if either exists.
pub(super) fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    [name.to_owned(), format!("{name}.gz")]
        .into_iter()
        .map(|name| dir.join(name))
        .find(|path| path.is_file())
}

/// Reads an image file and a label file.
///
/// # Errors
///
/// [`DataError::Io`] and [`DataError::Format`] (magic number, dimensions, length, differing counts).
pub(super) fn read(path: &Path, labels_path: PathBuf) -> Result<IdxImages, DataError> {
    let ([count, height, width], pixels) = read_bytes::<3>(path)?;
    let ([label_count], labels) = read_bytes::<1>(&labels_path)?;
    if count != label_count {
        let problem = format!(
            "{label_count} labels for the {count} images of {}",
            path.display()
        );
        return Err(DataError::Format {
            path: labels_path,
            problem,
        });
    }
    Ok(IdxImages {
        width,
        height,
        pixels,
        labels,
        labels_path,
    })
}

/// Reads an IDX file of unsigned bytes with `N` dimensions.
fn read_bytes<const N: usize>(path: &Path) -> Result<([u32; N], Vec<u8>), DataError> {
    let io = |source| DataError::Io {
        path: path.to_owned(),
        source,
    };
    let format = |problem| DataError::Format {
        path: path.to_owned(),
        problem,
    };
    let file = BufReader::new(File::open(path).map_err(io)?);
    let mut reader: Box<dyn Read> = if path.extension().is_some_and(|extension| extension == "gz") {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    // A gzip stream that ends early or is damaged is the file's fault, not the system's.
    let read = |source: std::io::Error| match source.kind() {
        ErrorKind::UnexpectedEof => format("the file is truncated".to_owned()),
        ErrorKind::InvalidInput | ErrorKind::InvalidData => {
            format(format!("damaged gzip data: {source}"))
        }
        _ => io(source),
    };

    let mut word = [0; 4];
    reader.read_exact(&mut word).map_err(read)?;
    let magic = [0, 0, 8, N as u8];
    if word != magic {
        return Err(format(format!(
            "magic number {word:02x?}; an IDX file of bytes in {N} dimensions has {magic:02x?}"
        )));
    }
    let mut dimensions = [0; N];
    for dimension in &mut dimensions {
        reader.read_exact(&mut word).map_err(read)?;
        *dimension = u32::from_be_bytes(word);
    }
    let expected = dimensions
        .iter()
        .try_fold(1_u64, |product, dimension| {
            product.checked_mul(u64::from(*dimension))
        })
        .filter(|bytes| (1..=MAX_BYTES).contains(bytes))
        .ok_or_else(|| {
            format(format!(
                "dimensions {dimensions:?}; they must make 1..={MAX_BYTES} bytes"
            ))
        })?;

    // One byte more than expected, to notice a longer file.
    let mut bytes = Vec::new();
    reader
        .take(expected + 1)
        .read_to_end(&mut bytes)
        .map_err(read)?;
    if bytes.len() as u64 != expected {
        let problem = if (bytes.len() as u64) < expected {
            "truncated"
        } else {
            "too long"
        };
        return Err(format(format!(
            "the file is {problem}: its header {dimensions:?} says {expected} bytes of data"
        )));
    }
    Ok((dimensions, bytes))
}
