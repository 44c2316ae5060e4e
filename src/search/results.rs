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
    /// What the latencies were measured on.
    device: Option<String>,
    lines: BTreeMap<ChildId, Line>,
    /// Bytes up to the end of the last whole line.
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
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let mut contents = Self { whole, ..Self::default() };
        for (index, line) in bytes[..whole].split_inclusive(|&byte| byte == b'\n').enumerate() {
            let wrong = |source| match index {
                0 => ResultsError::Foreign { path: path.to_owned(), purpose },
                _ => ResultsError::Line { path: path.to_owned(), line: index + 1, source },
            };
            match serde_json::from_slice(line).map_err(wrong)? {
                // There may be several where files were joined by hand.
                Record::Basis(basis) => basis.check(path, contents.basis.get_or_insert_with(|| basis.clone()), purpose)?,
                Record::Aim(aim) => contents.take(aim),
                // A child that was evaluated again, for its latency, has its last score.
                Record::Child(line) => drop(contents.lines.insert(line.id, line)),
            }
        }
        Ok(contents)
    }

    /// Notes what a search asks for. Latencies of another device than its own say nothing to it.
    fn take(&mut self, aim: Aim) {
        if aim.device.is_some() && aim.device != self.device {
            self.lines.values_mut().for_each(|line| line.score.latency_ms = None);
            self.device.clone_from(&aim.device);
        }
        self.aim = Some(aim);
    }

    /// What serves the search that asks for `aim`.
    pub(super) fn serving(&self, aim: &Aim) -> impl Iterator<Item = Line> {
        let serving = |line: &Line| Some(Line { score: aim.serving(line.score)?, ..line.clone() });
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
        let mut contents = Contents::parse(path, &bytes, purpose)?;
        contents.basis.as_ref().map_or(Ok(()), |found| found.check(path, basis, purpose))?;
        if contents.whole < bytes.len() {
            file.set_len(contents.whole as u64).map_err(io)?;
        }
        let aimed_so = contents.aim.as_ref() == Some(aim);
        contents.take(aim.clone());
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
pub(super) mod tests {
    use super::*;
    use crate::image::{Filter, Preprocessing};
    use crate::search::{Grid, SearchSettings, spread_budgets};
    use crate::space::{SearchSpace, preset};

    pub(in crate::search) fn basis() -> Basis {
        let preprocessing =
            Preprocessing { resize: None, filter: Filter::Bicubic, crop: 28, mean: vec![0.3], std: vec![0.3], background: [0; 3] };
        Basis {
            weights_sha256: "w".into(),
            space_sha256: "s".into(),
            calibration: ("c".into(), 64),
            selection: ("train".into(), 10, "i".into()),
            preprocessing,
            exporter: 2,
            onnxruntime: "o".into(),
        }
    }

    pub(in crate::search) fn aim(space: &SearchSpace) -> Aim {
        let (grid, budgets) = (Grid::of(space), spread_budgets(space, 10, 3));
        Aim { device: None, settings: SearchSettings { grid, budgets, mutations: 2, mutation_chance: 0.1, seed: 0 } }
    }

    pub(in crate::search) fn score(accuracy: f64) -> Score {
        Score { accuracy, latency_ms: None }
    }

    #[test]
    fn results_outlive_an_interruption_in_the_middle_of_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results.jsonl");
        let space = preset("fashion-mnist").unwrap();
        let (small, big) = (space.smallest(), space.biggest());
        let open = || Results::open(&path, &basis(), &aim(&space)).unwrap();
        let mut results = open();
        results.add(&small, score(0.25)).unwrap();
        results.add(&big, score(0.75)).unwrap();
        drop(results);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        let mut results = open();
        assert_eq!(results.scores, BTreeMap::from([(small.id(), score(0.25))]));
        results.add(&big, score(0.5)).unwrap();
        drop(results);
        assert_eq!(open().scores.len(), 2);
        std::fs::write(&path, &bytes[..20]).unwrap();
        assert_eq!(open().scores.len(), 0, "it was cut off before its first score");
        assert_eq!(open().scores.len(), 0);
    }

    /// A plain parser of decimals is off in the last place for eight of these.
    #[test]
    fn scores_come_back_to_the_last_bit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results.jsonl");
        let space = preset("fashion-mnist").unwrap();
        let open = || Results::open(&path, &basis(), &aim(&space)).unwrap();
        let mut results = open();
        for (step, right) in (0..110).enumerate() {
            let child = space.random(crate::space::Draw::new(3, step as u64, 0));
            results.add(&child, score(f64::from(right) / 110.0)).unwrap();
        }
        let written = std::mem::take(&mut results.scores);
        drop(results);
        assert_eq!(open().scores, written);
    }

    #[test]
    fn a_file_belongs_to_one_search_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results.jsonl");
        let space = preset("fashion-mnist").unwrap();
        let first = Results::open(&path, &basis(), &aim(&space)).unwrap();
        let message = Results::open(&path, &basis(), &aim(&space)).unwrap_err().to_string();
        assert!(message.contains("another search or merge writes ") && message.ends_with("name another file with --results"), "{message}");
        drop(first);
        Results::open(&path, &basis(), &aim(&space)).unwrap();
    }

    #[test]
    fn what_scores_depend_on_is_named_where_it_differs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results.jsonl");
        let space = preset("fashion-mnist").unwrap();
        Results::open(&path, &basis(), &aim(&space)).unwrap();
        let before = std::fs::read(&path).unwrap();
        type Change = fn(&mut Basis);
        let cases: [(Change, &str); 7] = [
            (|basis| basis.weights_sha256 = "x".into(), "of other weights"),
            (|basis| basis.space_sha256 = "x".into(), "of another search space"),
            (|basis| basis.calibration.1 = 32, "recalibrated on other images or in other batches"),
            (|basis| basis.selection.0 = "test".into(), "selecting on other images"),
            (|basis| basis.preprocessing.crop = 32, "with another preprocessing"),
            (|basis| basis.exporter = 3, "by another version of bignas's exporter"),
            (|basis| basis.onnxruntime = "x".into(), "by another build of ONNX Runtime"),
        ];
        for (change, difference) in cases {
            let mut other = basis();
            change(&mut other);
            let message = Results::open(&path, &other, &aim(&space)).unwrap_err().to_string();
            let expected =
                format!("results.jsonl holds the scores of another search, {difference}: delete it if nobody needs them, or name");
            assert!(message.contains(&expected), "{message}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn what_is_no_file_of_results_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results.jsonl");
        let space = preset("fashion-mnist").unwrap();
        Results::open(&path, &basis(), &aim(&space)).unwrap();
        let ours = std::fs::read_to_string(&path).unwrap();
        let foreign = "does not begin as results of a search by this version of bignas do, and is left as it is: name another file";
        let cases = [
            (serde_json::to_string(&Grid::of(&space)).unwrap(), foreign),
            ("{}\n".to_owned(), foreign),
            ("x".to_owned(), foreign),
            (ours.replacen("exporter", "importer", 1), foreign),
            (format!("{ours}{{}}\n"), "line 3: not a result of a search; delete that line, and its child is evaluated again"),
            (ours.clone() + &ours.replacen("\"w\"", "\"x\"", 1), "of other weights"),
        ];
        for (text, expected) in cases {
            std::fs::write(&path, &text).unwrap();
            let message = Results::open(&path, &basis(), &aim(&space)).unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    /// Accuracies do not depend on what is asked for; latencies do, on the device.
    #[test]
    fn scores_serve_a_search_with_another_aim() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results.jsonl");
        let space = preset("fashion-mnist").unwrap();
        let small = space.smallest();
        let plain = aim(&space);
        let other = Aim { settings: SearchSettings { mutations: 3, budgets: Vec::new(), ..plain.settings.clone() }, device: None };
        let on = |device: &str| Aim { device: Some(device.into()), ..plain.clone() };
        let timed = Score { accuracy: 0.5, latency_ms: Some(1.5) };
        // What is asked for, what is known by then, and what is found out.
        let steps = [
            (plain.clone(), None, Some(score(0.5))),
            (other, Some(score(0.5)), None),
            (on("a"), None, Some(timed)),
            (plain.clone(), Some(score(0.5)), None),
            (on("a"), Some(timed), None),
            (on("b"), None, None),
            (on("a"), None, None),
            (plain.clone(), Some(score(0.5)), None),
        ];
        for (index, (aim, known, found)) in steps.into_iter().enumerate() {
            let mut results = Results::open(&path, &basis(), &aim).unwrap();
            assert_eq!(results.scores.get(&small.id()).copied(), known, "step {index}");
            found.into_iter().for_each(|score| results.add(&small, score).unwrap());
        }
    }
}
