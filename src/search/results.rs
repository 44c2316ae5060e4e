//! Scores on disk, as they come: an interrupted search goes on, and one with other budgets begins with what is known.
//!
//! One JSON object a line: first what all scores depend on; then, as they came, what a search asked for, and children with their scores.
//! Lines are only ever added, under a lock, so that whatever ends the process, the last line alone may be cut off.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Aim, Basis, Purpose, ResultsError, Score};
use crate::space::{Child, ChildId, Choices};

/// A scored child as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    pub(super) id: ChildId,
    choices: Choices,
    pub(super) score: Score,
}

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Record {
    Basis(Basis),
    Aim(Aim),
    Child(Line),
}

/// How every file of results begins.
const BEGINNING: &[u8] = br#"{"basis":"#;

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// None where the file is empty, or was cut off before its first score.
    pub(super) basis: Option<Basis>,
    /// What the last search asked for.
    pub(super) aim: Option<Aim>,
    /// Every child as it was scored last, without its latency.
    lines: BTreeMap<ChildId, Line>,
    /// Latencies by what they were measured on.
    latencies_ms: BTreeMap<String, BTreeMap<ChildId, f64>>,
    /// Bytes up to the end of the last line that is whole.
    whole: usize,
}

/// A file of results, open for more, and nobody else's as long as this lives.
#[derive(Debug)]
pub struct Results {
    path: PathBuf,
    file: File,
    /// The scores in the file that serve this search.
    pub scores: BTreeMap<ChildId, Score>,
}

impl Contents {
    /// Reads what a file holds, without a last line that was cut off.
    fn parse(path: &Path, bytes: &[u8], purpose: Purpose) -> Result<Self, ResultsError> {
        if !bytes.starts_with(BEGINNING) && !BEGINNING.starts_with(bytes) {
            return Err(ResultsError::Foreign { path: path.to_owned(), purpose });
        }
        let mut contents = Self::default();
        for (index, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
            let record = match serde_json::from_slice(line) {
                Ok(record) => record,
                // Whatever ended the process cut it off.
                Err(_) if !line.ends_with(b"\n") => break,
                Err(_) if index == 0 => return Err(ResultsError::Foreign { path: path.to_owned(), purpose }),
                Err(source) => return Err(ResultsError::Line { path: path.to_owned(), line: index + 1, source }),
            };
            match record {
                // There may be several where files were joined by hand.
                Record::Basis(basis) => basis.check(path, contents.basis.get_or_insert_with(|| basis.clone()), purpose)?,
                Record::Aim(aim) => contents.aim = Some(aim),
                Record::Child(line) => contents.take(line),
            }
            contents.whole += line.len();
        }
        Ok(contents)
    }

    /// Notes a child, which has its last score where it was evaluated again, and every device's latency.
    fn take(&mut self, mut line: Line) {
        let device = self.aim.as_ref().and_then(|aim| aim.device.clone());
        if let (Some(latency_ms), Some(device)) = (line.score.latency_ms.take(), device) {
            self.latencies_ms.entry(device).or_default().insert(line.id, latency_ms);
        }
        self.lines.insert(line.id, line);
    }

    /// All scored children.
    pub(super) fn lines(&self) -> impl Iterator<Item = &Line> {
        self.lines.values()
    }

    /// What serves the search that asks for `aim`: one that bounds latencies needs those of its device, and to any other they say nothing.
    pub(super) fn serving(&self, aim: &Aim) -> impl Iterator<Item = Line> {
        let latencies_ms = aim.device.as_ref().map(|device| self.latencies_ms.get(device));
        let serving = move |line: &Line| {
            let latency_ms = match latencies_ms {
                Some(latencies_ms) => Some(*latencies_ms?.get(&line.id)?),
                None => None,
            };
            Some(Line { score: Score { latency_ms, ..line.score }, ..line.clone() })
        };
        self.lines.values().filter_map(serving)
    }
}

/// What the file at `path` holds, whoever writes it.
pub(super) fn read(path: &Path, purpose: Purpose) -> Result<Contents, ResultsError> {
    let bytes = std::fs::read(path).map_err(|source| ResultsError::Io { path: path.to_owned(), source })?;
    Contents::parse(path, &bytes, purpose)
}

impl Results {
    /// Opens the results in `path`, or begins them, for the search that `basis` and `aim` describe. A line that was cut off is dropped.
    /// Where `aim` bounds latencies, scores without one measured on its device do not serve.
    ///
    /// # Errors
    /// [`ResultsError`] names the file; it is then as it was before.
    pub fn open(path: &Path, basis: &Basis, aim: &Aim) -> Result<Self, ResultsError> {
        Self::open_for(Purpose::Search, path, basis, aim)
    }

    /// As [`Self::open`], for whatever purpose.
    pub(super) fn open_for(purpose: Purpose, path: &Path, basis: &Basis, aim: &Aim) -> Result<Self, ResultsError> {
        let io = |source| ResultsError::Io { path: path.to_owned(), source };
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ResultsError::Busy { path: path.to_owned(), purpose }),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let contents = Contents::parse(path, &bytes, purpose)?;
        contents.basis.as_ref().map_or(Ok(()), |found| found.check(path, basis, purpose))?;
        if contents.whole < bytes.len() {
            file.set_len(contents.whole as u64).map_err(io)?;
        } else if bytes.last().is_some_and(|&byte| byte != b'\n') {
            file.write_all(b"\n").map_err(io)?;
        }
        let aimed_so = contents.aim.as_ref() == Some(aim);
        let scores = contents.serving(aim).map(|line| (line.id, line.score)).collect();
        let mut results = Self { path: path.to_owned(), file, scores };
        if contents.basis.is_none() {
            results.write(&Record::Basis(basis.clone()))?;
        }
        if !aimed_so {
            results.write(&Record::Aim(aim.clone()))?;
        }
        Ok(results)
    }

    /// Adds a score, in memory and on disk.
    ///
    /// # Errors
    /// [`ResultsError::Io`].
    pub fn add(&mut self, child: &Child, score: Score) -> Result<(), ResultsError> {
        self.add_line(Line { id: child.id(), choices: child.choices().clone(), score })
    }

    pub(super) fn add_line(&mut self, line: Line) -> Result<(), ResultsError> {
        let (id, score) = (line.id, line.score);
        self.write(&Record::Child(line))?;
        self.scores.insert(id, score);
        Ok(())
    }

    /// Sees to it that what was added outlives the machine.
    pub(super) fn sync(&self) -> Result<(), ResultsError> {
        self.file.sync_all().map_err(|source| ResultsError::Io { path: self.path.clone(), source })
    }

    fn write(&mut self, record: &Record) -> Result<(), ResultsError> {
        let io = |source| ResultsError::Io { path: self.path.clone(), source };
        let mut bytes = serde_json::to_vec(record).map_err(|source| io(source.into()))?;
        bytes.push(b'\n');
        self.file.write_all(&bytes).map_err(io)
    }
}

#[cfg(test)]
pub(super) mod tests;
