//! Pictures to try a model with: those that `examples/examples.json` lists, else `example.png` alone.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::ModelError;
use super::model::read_json;

const DIRECTORY: &str = "examples";
const INDEX: &str = "examples.json";
/// What stands for the whole folder where there is none.
const SINGLE: &str = "example.png";

/// A picture that ships with a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// Name of the file, in letters, digits, `.`, `-` and `_`.
    pub file: String,
    /// What it shows, one of the model's labels; `None` where nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Under which licence it ships.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Where it lies.
    #[serde(skip)]
    pub path: PathBuf,
}

/// `examples.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    examples: Vec<Example>,
}

/// The examples in a model's `directory`; none where it has neither index nor single picture. Their content is not opened.
pub(super) fn read(directory: &Path, labels: &[String]) -> Result<Vec<Example>, ModelError> {
    let folder = directory.join(DIRECTORY);
    let path = folder.join(INDEX);
    if !path.exists() {
        let single = Example { file: SINGLE.to_owned(), label: None, source: None, licence: None, path: directory.join(SINGLE) };
        return Ok(if single.path.is_file() { vec![single] } else { Vec::new() });
    }
    let Index { mut examples } = read_json(&path)?;
    for number in 0..examples.len() {
        let (before, rest) = examples.split_at_mut(number);
        let example = &mut rest[0];
        example.path = folder.join(&example.file);
        if let Some(problem) = problem(example, before, labels) {
            return Err(ModelError::Examples { path, problem });
        }
    }
    Ok(examples)
}

/// What is wrong with an entry that stands behind `before`.
fn problem(example: &Example, before: &[Example], labels: &[String]) -> Option<String> {
    let file = &example.file;
    // The name becomes part of a path and of a URL.
    let is_plain =
        !file.is_empty() && !file.starts_with('.') && file.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    if !is_plain {
        return Some(format!("{file:?} is no plain file name; use letters, digits, '.', '-' and '_'"));
    }
    if before.iter().any(|other| other.file == *file) {
        return Some(format!("{file} is listed twice"));
    }
    if !example.path.is_file() {
        return Some(format!("{file} is not there"));
    }
    let label = example.label.as_ref().filter(|label| !labels.contains(label))?;
    Some(format!("{file} shows {label:?}, which is none of the model's labels"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Vec<String> {
        vec!["cat".to_owned(), "dog".to_owned()]
    }

    /// What is found where the index holds `entries` and the folder one file, `a.png`.
    fn indexed(entries: &str) -> Result<Vec<Example>, String> {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join(DIRECTORY);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("a.png"), b"").unwrap();
        std::fs::write(folder.join(INDEX), format!("{{\"examples\": [{entries}]}}")).unwrap();
        read(directory.path(), &labels()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_index_is_read_with_what_it_says() {
        let found = indexed(r#"{"file": "a.png", "label": "cat", "source": "a garden", "licence": "MIT"}"#).unwrap();
        assert_eq!((found.len(), found[0].label.as_deref(), found[0].licence.as_deref()), (1, Some("cat"), Some("MIT")));
        assert!(found[0].path.ends_with("examples/a.png"));
        assert_eq!(indexed("").unwrap(), []);
    }

    #[test]
    fn what_is_wrong_with_an_entry_is_named() {
        let cases = [
            (r#"{"file": "../model.json"}"#, "no plain file name"),
            (r#"{"file": ".hidden"}"#, "no plain file name"),
            (r#"{"file": "b.png"}"#, "b.png is not there"),
            (r#"{"file": "a.png"}, {"file": "a.png"}"#, "listed twice"),
            (r#"{"file": "a.png", "label": "cow"}"#, "\"cow\""),
            (r#"{"fiel": "a.png"}"#, "examples.json"),
        ];
        for (entries, message) in cases {
            let error = indexed(entries).unwrap_err();
            assert!(error.contains(message), "{error:?} lacks {message:?}");
        }
    }

    #[test]
    fn a_single_picture_stands_for_the_folder() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path(), &labels()).unwrap(), []);
        std::fs::write(directory.path().join(SINGLE), b"").unwrap();
        let found = read(directory.path(), &labels()).unwrap();
        assert_eq!((found.len(), found[0].file.as_str(), &found[0].label), (1, SINGLE, &None));
    }
}
