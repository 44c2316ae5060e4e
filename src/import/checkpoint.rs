//! A checkpoint file: named tensors, whatever the container.
//!
//! PyTorch's container is an uncompressed zip archive: `NAME/data.pkl` says which tensors there are, and `NAME/data/KEY` holds
//! the elements. A `.safetensors` file is the other.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use zip::ZipArchive;
use zip::result::ZipError;

use super::ImportError;
use super::pickle::{Element, Pickle, TensorView, Value};

/// Most bytes of a pickle: a supernet's takes a quarter of a megabyte.
const MAX_PICKLE_BYTES: u64 = 16 << 20;
/// What data-parallel training puts before every name.
const PARALLEL_PREFIX: &str = "module.";

/// Named tensors in a file; the elements stay there until [`Checkpoint::floats`] asks for them.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    container: Container,
    tensors: BTreeMap<String, Entry>,
}

/// Name, type and shape of a tensor in a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Size of every dimension.
    pub shape: Vec<usize>,
    /// Element type.
    pub element: Element,
    /// Where it lies in a PyTorch archive.
    view: Option<TensorView>,
    /// Its name as the file has it.
    full_name: String,
}

#[derive(Debug)]
enum Container {
    Torch(Box<Torch>),
    Safetensors(Vec<u8>),
}

#[derive(Debug)]
struct Torch {
    archive: ZipArchive<BufReader<File>>,
    /// The archive's top folder, with a slash.
    folder: String,
    pickle: Pickle,
    /// The storage that was read last: neighbouring tensors often share one.
    last: Option<(String, Vec<u8>)>,
}

impl Checkpoint {
    /// Opens a PyTorch checkpoint, or a `.safetensors` file, and lists its tensors. A training checkpoint's `state_dict` is
    /// found; names lose the `module.` that data-parallel training puts before them.
    ///
    /// # Errors
    /// [`ImportError`] where the file cannot be read, holds no tensor dictionary, or asks for code to be run.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let io = |source| ImportError::Io { path: path.to_owned(), source };
        if path.extension().is_some_and(|ending| ending == "safetensors") {
            return Self::open_safetensors(path, std::fs::read(path).map_err(io)?);
        }
        let file = BufReader::new(File::open(path).map_err(io)?);
        let format = |problem: String| ImportError::Format { path: path.to_owned(), problem };
        let mut archive = ZipArchive::new(file).map_err(|error| match error {
            ZipError::Io(source) => io(source),
            other => format(format!(
                "neither a whole PyTorch zip archive ({other}) nor named .safetensors; torch.save of PyTorch 1.6 or newer writes one"
            )),
        })?;
        let names: Vec<String> = archive.file_names().filter_map(|name| name.ok().map(|name| name.into_owned())).collect();
        let pickle = names.iter().find_map(|name| name.strip_suffix("data.pkl").filter(|folder| folder.ends_with('/')));
        let folder = pickle.ok_or_else(|| format("the zip archive holds no NAME/data.pkl".to_owned()))?.to_owned();
        // Absent before PyTorch 2.1, when only little-endian machines wrote archives.
        let byte_order = format!("{folder}byteorder");
        if names.contains(&byte_order) && read_entry(&mut archive, &byte_order, 16).map_err(format)? != b"little" {
            return Err(format("the tensors are not little-endian: save the checkpoint on another machine".to_owned()));
        }
        let bytes = read_entry(&mut archive, &format!("{folder}data.pkl"), MAX_PICKLE_BYTES).map_err(format)?;
        let (pickle, top) = Pickle::read(&bytes)?;
        let tensors = state_dict(&pickle, top).map_err(format)?;
        Ok(Self { path: path.to_owned(), container: Container::Torch(Box::new(Torch { archive, folder, pickle, last: None })), tensors })
    }

    fn open_safetensors(path: &Path, bytes: Vec<u8>) -> Result<Self, ImportError> {
        let format = |problem: String| ImportError::Format { path: path.to_owned(), problem };
        let file = SafeTensors::deserialize(&bytes).map_err(|error| format(format!("not a whole safetensors file ({error})")))?;
        let entry = |(full_name, view): (String, safetensors::tensor::TensorView<'_>)| {
            let element = match view.dtype() {
                Dtype::F32 => Element::Float,
                Dtype::I64 => Element::Long,
                Dtype::F16 => Element::Unsupported("float16"),
                Dtype::BF16 => Element::Unsupported("bfloat16"),
                Dtype::F64 => Element::Unsupported("float64"),
                _ => Element::Unsupported("another type"),
            };
            (plain(&full_name), Entry { shape: view.shape().to_vec(), element, view: None, full_name })
        };
        let tensors = file.tensors().into_iter().map(entry).collect();
        Ok(Self { path: path.to_owned(), container: Container::Safetensors(bytes), tensors })
    }

    /// The tensors by name.
    #[must_use]
    pub fn tensors(&self) -> &BTreeMap<String, Entry> {
        &self.tensors
    }

    /// Reads the float32 tensor called `name`, in row-major order.
    ///
    /// # Errors
    /// [`ImportError`] where there is none, or where it reaches beyond the bytes that the file has for it.
    pub fn floats(&mut self, name: &str) -> Result<Vec<f32>, ImportError> {
        let format = |problem: &str| ImportError::Format { path: self.path.clone(), problem: format!("tensor {name}: {problem}") };
        let entry = self.tensors.get(name).filter(|entry| entry.element == Element::Float);
        let entry = entry.ok_or_else(|| format("there is no such float32 tensor"))?;
        match &mut self.container {
            Container::Safetensors(bytes) => {
                let file = SafeTensors::deserialize(bytes).map_err(|error| format(&error.to_string()))?;
                let view = file.tensor(&entry.full_name).map_err(|error| format(&error.to_string()))?;
                Ok(floats(view.data()))
            }
            Container::Torch(torch) => {
                let view = entry.view.as_ref().ok_or_else(|| format("it lies nowhere"))?;
                torch.floats(view).map_err(|problem| format(&problem))
            }
        }
    }
}

impl Torch {
    fn floats(&mut self, view: &TensorView) -> Result<Vec<f32>, String> {
        let key = &self.pickle.texts[self.pickle.storages[view.storage].key];
        if self.last.as_ref().is_none_or(|(last, _)| last != key) {
            let name = format!("{}data/{key}", self.folder);
            self.last = Some((key.clone(), read_entry(&mut self.archive, &name, u64::MAX)?));
        }
        let bytes = self.last.as_ref().map(|(_, bytes)| bytes.as_slice()).unwrap_or_default();
        gather(bytes, view)
    }
}

/// The elements of `view` in row-major order, out of the `bytes` of its storage.
fn gather(bytes: &[u8], view: &TensorView) -> Result<Vec<f32>, String> {
    let outside = || format!("it reaches beyond the {} bytes of its storage", bytes.len());
    let count = view.shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size)).ok_or_else(outside)?;
    if count == 0 {
        return Ok(Vec::new());
    }
    let last = view
        .shape
        .iter()
        .zip(&view.strides)
        .try_fold(view.offset, |last, (&size, &stride)| (size - 1).checked_mul(stride).and_then(|step| last.checked_add(step)));
    let last = last.filter(|&last| last < bytes.len() / 4).ok_or_else(outside)?;
    // Strides of zero would let a small file ask for any amount of memory.
    if count > last - view.offset + 1 {
        return Err("its elements overlap".to_owned());
    }
    let row_major = view
        .shape
        .iter()
        .zip(&view.strides)
        .rev()
        .try_fold(1, |expected, (&size, &stride)| (size == 1 || stride == expected).then_some(expected * size));
    if row_major.is_some() {
        return Ok(floats(&bytes[4 * view.offset..4 * (last + 1)]));
    }
    let mut values = Vec::with_capacity(count);
    let mut index = vec![0; view.shape.len()];
    loop {
        let at = index.iter().zip(&view.strides).fold(view.offset, |at, (i, stride)| at + i * stride);
        values.extend(floats(&bytes[4 * at..4 * at + 4]));
        let Some(dimension) = (0..index.len()).rev().find(|&d| index[d] + 1 < view.shape[d]) else { return Ok(values) };
        index[dimension] += 1;
        index[dimension + 1..].fill(0);
    }
}

/// The entries of the tensor dictionary: the top of the pickle, or its `state_dict`.
fn state_dict(pickle: &Pickle, top: Value) -> Result<BTreeMap<String, Entry>, String> {
    let Value::Dict(mut dict) = top else { return Err("the pickle holds no dictionary".to_owned()) };
    let nested = pickle.dicts[dict].iter().find(|(key, _)| pickle.text(*key) == Some("state_dict"));
    if let Some((_, value)) = nested {
        let Value::Dict(inner) = value else { return Err("state_dict is no dictionary".to_owned()) };
        dict = *inner;
    }
    let mut tensors = BTreeMap::new();
    for &(key, value) in &pickle.dicts[dict] {
        let name = pickle.text(key).ok_or("a key of the tensor dictionary is no text")?;
        let Value::Tensor(index) = value else { return Err(format!("{name} is no tensor: this is no tensor dictionary")) };
        let view = pickle.tensors[index].clone();
        let element = pickle.storages[view.storage].element;
        let entry = Entry { shape: view.shape.clone(), element, view: Some(view), full_name: name.to_owned() };
        if tensors.insert(plain(name), entry).is_some() {
            return Err(format!("{name} is there twice"));
        }
    }
    Ok(tensors)
}

/// A name without the prefix of data-parallel training.
fn plain(name: &str) -> String {
    name.strip_prefix(PARALLEL_PREFIX).unwrap_or(name).to_owned()
}

/// Reads a whole entry; the reader checks its CRC at the end.
fn read_entry(archive: &mut ZipArchive<BufReader<File>>, name: &str, most: u64) -> Result<Vec<u8>, String> {
    let entry = archive.by_name(name).map_err(|error| format!("{name}: {error}"))?;
    if entry.size() > most {
        return Err(format!("{name} has {} bytes; at most {most} are read", entry.size()));
    }
    let mut bytes = Vec::new();
    entry.take(most).read_to_end(&mut bytes).map_err(|error| format!("{name}: {error}"))?;
    Ok(bytes)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(offset: usize, shape: &[usize], strides: &[usize]) -> TensorView {
        TensorView { storage: 0, offset, shape: shape.to_vec(), strides: strides.to_vec() }
    }

    #[test]
    fn views_are_gathered_in_row_major_order() {
        let bytes: Vec<u8> = (0..6u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
        let cases = [
            (view(0, &[2, 3], &[3, 1]), vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
            (view(0, &[3, 2], &[1, 3]), vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
            (view(4, &[2], &[1]), vec![4.0, 5.0]),
            (view(1, &[2, 1], &[3, 77]), vec![1.0, 4.0]),
            (view(5, &[], &[]), vec![5.0]),
            (view(9, &[0, 4], &[4, 1]), vec![]),
        ];
        for (view, expected) in cases {
            assert_eq!(gather(&bytes, &view), Ok(expected), "{view:?}");
        }
    }

    #[test]
    fn views_that_reach_outside_or_multiply_the_file_are_refused() {
        let bytes = [0; 24];
        let cases = [
            (view(0, &[7], &[1]), "reaches beyond"),
            (view(6, &[1], &[1]), "reaches beyond"),
            (view(0, &[2, 3], &[4, 1]), "reaches beyond"),
            (view(usize::MAX, &[2], &[1]), "reaches beyond"),
            (view(0, &[2, usize::MAX], &[1, 1]), "reaches beyond"),
            (view(0, &[2], &[usize::MAX]), "reaches beyond"),
            (view(0, &[1 << 40], &[0]), "overlap"),
            (view(0, &[4, 3], &[1, 1]), "overlap"),
        ];
        for (view, expected) in cases {
            let problem = gather(&bytes, &view).unwrap_err();
            assert!(problem.contains(expected), "{view:?}: {problem}");
        }
    }
}
