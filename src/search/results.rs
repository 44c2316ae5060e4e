//! Scores on disk, as they come: an interrupted search goes on, and the parts of several machines are merged.
//!
//! One JSON object a line: first what the scores belong to, then a child with its score.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Score, SearchSettings};
use crate::files::write_atomically;
use crate::image::Preprocessing;
use crate::space::{Child, ChildId, Choices};

/// What scores belong to: another model, other settings or other images would give others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// SHA-256 of the model's weights.
    pub weights_sha256: String,
    /// SHA-256 of the calibration images, and how many form a batch.
    pub calibration: (String, usize),
    /// Split, number and SHA-256 of the images that accuracy is measured on, cropped, with their labels.
    pub selection: (String, usize, String),
    /// From an image to a child's input.
    pub preprocessing: Preprocessing,
    /// What latencies are measured on, where a budget bounds them.
    pub device: Option<String>,
    /// What is searched.
    pub settings: SearchSettings,
}

/// A scored child as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: ChildId,
    choices: Choices,
    score: Score,
}

/// Results that cannot be used.
#[derive(Debug, Error)]
pub enum ResultsError {
    /// The file cannot be read or written.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A line is not what it should be.
    #[error("{}, line {line}: not a result of a search", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// The results belong to another search.
    #[error("{} holds the results of another search (model, images, settings, or the device where latency is bounded, differ): delete it, or name another with --results", path.display())]
    Other {
        /// The file.
        path: PathBuf,
    },
    /// There is nothing to merge.
    #[error("{} holds no results", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Two parts disagree.
    #[error("child {child} has other scores in {} than before: the machines do not compute alike", path.display())]
    Disagree {
        /// The second file.
        path: PathBuf,
        /// The child.
        child: ChildId,
    },
}

/// A file of results, open for more.
#[derive(Debug)]
pub struct Results {
    path: PathBuf,
    file: File,
    /// The scores in the file.
    pub scores: BTreeMap<ChildId, Score>,
}

impl Results {
    /// Opens the results in `path`, or begins them, for the search that `header` describes. A line that was cut off is dropped.
    ///
    /// # Errors
    /// [`ResultsError`] names the file.
    pub fn open(path: &Path, header: &Header) -> Result<Self, ResultsError> {
        let io = |source| ResultsError::Io { path: path.to_owned(), source };
        let (found, lines) = match path.exists() {
            true => read(path)?,
            false => (None, Vec::new()),
        };
        if found.as_ref().is_some_and(|found| found != header) {
            return Err(ResultsError::Other { path: path.to_owned() });
        }
        write(path, header, &lines)?;
        let file = OpenOptions::new().append(true).open(path).map_err(io)?;
        Ok(Self { path: path.to_owned(), file, scores: lines.iter().map(|line| (line.id, line.score)).collect() })
    }

    /// Adds a score, in memory and on disk.
    ///
    /// # Errors
    /// [`ResultsError::Io`].
    pub fn add(&mut self, child: &Child, score: Score) -> Result<(), ResultsError> {
        let line = Line { id: child.id(), choices: child.choices().clone(), score };
        let io = |source| ResultsError::Io { path: self.path.clone(), source };
        self.file.write_all(&json_line(&line).map_err(|source| io(source.into()))?).map_err(io)?;
        self.scores.insert(line.id, score);
        Ok(())
    }
}

/// Merges the results in `parts` into the file `into` and returns how many children they hold.
///
/// # Errors
/// [`ResultsError`] where the parts are not of one search, or two give a child different accuracies.
pub fn merge(parts: &[PathBuf], into: &Path) -> Result<usize, ResultsError> {
    let mut first: Option<Header> = None;
    let mut all: BTreeMap<ChildId, Line> = BTreeMap::new();
    for path in parts {
        let (header, lines) = read(path)?;
        let header = header.ok_or_else(|| ResultsError::Empty { path: path.clone() })?;
        if *first.get_or_insert_with(|| header.clone()) != header {
            return Err(ResultsError::Other { path: path.clone() });
        }
        for line in lines {
            let (child, accuracy) = (line.id, line.score.accuracy);
            // Latencies differ from run to run; accuracies must not.
            if (all.entry(child).or_insert(line).score.accuracy - accuracy).abs() > 1e-9 {
                return Err(ResultsError::Disagree { path: path.clone(), child });
            }
        }
    }
    let header = first.ok_or_else(|| ResultsError::Empty { path: into.to_owned() })?;
    let lines: Vec<Line> = all.into_values().collect();
    write(into, &header, &lines)?;
    Ok(lines.len())
}

/// The header, if there is one, and the scores; without a last line that was cut off.
fn read(path: &Path) -> Result<(Option<Header>, Vec<Line>), ResultsError> {
    let text = std::fs::read_to_string(path).map_err(|source| ResultsError::Io { path: path.to_owned(), source })?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let wrong = |(line, source)| ResultsError::Line { path: path.to_owned(), line: line + 1, source };
    let mut lines = whole.lines().enumerate();
    let header = lines.next().map(|(i, line)| serde_json::from_str(line).map_err(|source| wrong((i, source)))).transpose()?;
    let scores = lines.map(|(i, line)| serde_json::from_str(line).map_err(|source| wrong((i, source)))).collect::<Result<_, _>>()?;
    Ok((header, scores))
}

fn write(path: &Path, header: &Header, lines: &[Line]) -> Result<(), ResultsError> {
    let io = |source: std::io::Error| ResultsError::Io { path: path.to_owned(), source };
    let mut bytes = json_line(header).map_err(|source| io(source.into()))?;
    for line in lines {
        bytes.extend(json_line(line).map_err(|source| io(source.into()))?);
    }
    write_atomically(path, &bytes).map_err(io)
}

fn json_line(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(value)?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Filter;
    use crate::search::{Grid, spread_budgets};
    use crate::space::{SearchSpace, preset};

    fn header(space: &SearchSpace) -> Header {
        let preprocessing =
            Preprocessing { resize: None, filter: Filter::Bicubic, crop: 28, mean: vec![0.3], std: vec![0.3], background: [0; 3] };
        let (grid, budgets) = (Grid::of(space), spread_budgets(space, 10, 3));
        let settings = SearchSettings { grid, budgets, mutations: 2, mutation_chance: 0.1, seed: 0 };
        Header {
            weights_sha256: "w".into(),
            calibration: ("c".into(), 64),
            selection: ("train".into(), 10, "i".into()),
            preprocessing,
            device: None,
            settings,
        }
    }

    fn score(accuracy: f64) -> Score {
        Score { accuracy, latency_ms: Some(0.5) }
    }

    #[test]
    fn results_outlive_an_interruption_in_the_middle_of_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results.jsonl");
        let space = preset("fashion-mnist").unwrap();
        let (small, big) = (space.smallest(), space.biggest());
        let mut results = Results::open(&path, &header(&space)).unwrap();
        results.add(&small, score(0.25)).unwrap();
        results.add(&big, score(0.75)).unwrap();
        drop(results);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        let mut results = Results::open(&path, &header(&space)).unwrap();
        assert_eq!(results.scores, BTreeMap::from([(small.id(), score(0.25))]));
        results.add(&big, score(0.5)).unwrap();
        assert_eq!(Results::open(&path, &header(&space)).unwrap().scores.len(), 2);
    }

    #[test]
    fn other_searches_and_damaged_files_are_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results.jsonl");
        let space = preset("fashion-mnist").unwrap();
        Results::open(&path, &header(&space)).unwrap();
        let other = Header { weights_sha256: "x".into(), ..header(&space) };
        let message = Results::open(&path, &other).unwrap_err().to_string();
        assert!(message.contains("results.jsonl holds the results of another search"), "{message}");
        std::fs::write(&path, "{}\n").unwrap();
        assert!(Results::open(&path, &other).unwrap_err().to_string().ends_with("line 1: not a result of a search"));
    }

    #[test]
    fn parts_are_merged_where_they_agree() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let space = preset("fashion-mnist").unwrap();
        let part = |name: &str, scores: &[(&Child, f64)]| {
            let mut results = Results::open(&at(name), &header(&space)).unwrap();
            scores.iter().for_each(|(child, accuracy)| results.add(child, score(*accuracy)).unwrap());
            at(name)
        };
        let (small, big) = (space.smallest(), space.biggest());
        let parts = [part("a", &[(&small, 0.25)]), part("b", &[(&big, 0.75), (&small, 0.25)])];
        assert_eq!(merge(&parts, &at("all")).unwrap(), 2);
        assert_eq!(Results::open(&at("all"), &header(&space)).unwrap().scores.len(), 2);
        let disagreeing = [at("a"), part("c", &[(&small, 0.5)])];
        assert!(merge(&disagreeing, &at("all")).unwrap_err().to_string().contains("has other scores"));
        std::fs::write(at("empty"), "").unwrap();
        assert!(merge(&[at("empty")], &at("all")).unwrap_err().to_string().contains("holds no results"));
    }
}
