//! Image folders: `SPLIT/CLASS/*`.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::DataError;

/// One image file and its class.
#[derive(Debug)]
pub(super) struct ImageFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Index of its class.
    pub label: usize,
}

/// The first of `folders` in `dir` that holds folders of the classes to train on: ImageNet's `test` holds pictures without labels, beside
/// its `val`. Where none does, the first that there is.
pub(super) fn of_split(dir: &Path, folders: &[&str]) -> Option<PathBuf> {
    let there: Vec<PathBuf> = folders.iter().map(|name| dir.join(name)).filter(|path| path.is_dir()).collect();
    let known = class_names(&dir.join("train")).unwrap_or_default();
    let has_classes =
        |path: &&PathBuf| class_names(path).is_ok_and(|names| names.iter().any(|name| known.is_empty() || known.contains(name)));
    there.iter().find(has_classes).or(there.first()).cloned()
}

/// The sorted names of the class folders in `split_dir`.
///
/// # Errors
///
/// [`DataError::Io`]; [`DataError::Format`] for a name that is not UTF-8.
pub(super) fn class_names(split_dir: &Path) -> Result<Vec<String>, DataError> {
    visible_entries(split_dir)?
        .into_iter()
        .filter(|path| path.is_dir())
        .map(|path| match path.file_name().and_then(|name| name.to_str()) {
            Some(name) => Ok(name.to_owned()),
            None => Err(DataError::Format { path, problem: "the folder's name is not valid UTF-8".to_owned() }),
        })
        .collect()
}

/// The image files of `split_dir`, by class and then by name.
///
/// # Errors
///
/// [`DataError::Io`]; [`DataError::UnknownClass`] for a folder that is not in `classes`.
pub(super) fn list(split_dir: &Path, classes: &[String]) -> Result<Vec<ImageFile>, DataError> {
    let mut files = Vec::new();
    for name in class_names(split_dir)? {
        let dir = split_dir.join(&name);
        let Some(label) = classes.iter().position(|class| *class == name) else {
            return Err(DataError::UnknownClass { path: dir, class: name, classes: classes.len() });
        };
        // A link that leads nowhere is a file that cannot be read, and is reported as one.
        let paths = visible_entries(&dir)?.into_iter().filter(|path| path.is_file() || !path.exists());
        files.extend(paths.map(|path| ImageFile { path, label }));
    }
    files.sort_by(|a, b| (a.label, &a.path).cmp(&(b.label, &b.path)));
    Ok(files)
}

/// Deepest nesting of folders that [`image_files`] follows; links can form circles.
const MAX_DEPTH: usize = 16;

/// Endings of image files, in lower case.
const IMAGE_ENDINGS: [&str; 7] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "jpe"];

/// All image files in `dir` and the folders within, by the ending of their names, sorted by path.
///
/// # Errors
///
/// [`DataError::Io`]; [`DataError::Format`] where there are none.
pub fn image_files(dir: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    let mut folders = vec![(dir.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for path in visible_entries(&folder)? {
            if path.is_dir() && depth < MAX_DEPTH {
                folders.push((path, depth + 1));
            } else if is_image(&path) {
                files.push(path);
            }
        }
    }
    if files.is_empty() {
        let problem = format!("holds no image file ({})", IMAGE_ENDINGS.map(|ending| format!(".{ending}")).join(", "));
        return Err(DataError::Format { path: dir.to_owned(), problem });
    }
    files.sort();
    Ok(files)
}

fn is_image(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
    ending.is_some_and(|ending| IMAGE_ENDINGS.contains(&ending.as_str()))
}

/// What a directory holds, sorted, without names that start with a dot.
fn visible_entries(dir: &Path) -> Result<Vec<PathBuf>, DataError> {
    let io = |source| DataError::Io { path: dir.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}
