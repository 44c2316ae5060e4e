//! The table as a file, and what it predicts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Correction, Errors, Features};
use crate::files::write_atomically;
use crate::space::{Plan, SearchSpace};

/// Version of the file's form; a program refuses any other.
const FORMAT: u32 = 1;

/// The times of a space's parts on one device, and how a child's time follows from them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    format: u32,
    /// Name of the search space.
    pub space: String,
    /// [`SearchSpace::sha256`] of the space: it may change under its name.
    pub space_sha256: String,
    /// Number of classes of the classifier.
    pub classes: usize,
    /// The processor that was measured, as a person reads it.
    pub device: String,
    /// What the build of ONNX Runtime says of itself.
    pub onnxruntime: String,
    /// Threads of a run.
    pub threads: usize,
    /// The measurements at each batch size, in images.
    pub batches: BTreeMap<usize, BatchTable>,
}

/// What was measured at one batch size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchTable {
    /// From the sum of parts to a child's time.
    pub correction: Correction,
    /// Children that the correction was fitted on.
    pub fitted_children: usize,
    /// The error on children that the correction was not fitted on; `None` where there were none.
    pub held_out: Option<Errors>,
    /// Milliseconds of every part of the space, by [`crate::space::Part::key`].
    pub parts_ms: BTreeMap<String, f64>,
}

/// A table that cannot be read, or that is not meant for a child.
#[derive(Debug, Error)]
pub enum TableError {
    /// The file could not be read or written.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is no table.
    #[error("{} is no latency table of this version of bignas: write one with `bignas profile`", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// The table has the form of another version.
    #[error("{} has form {found}, and this version of bignas reads form {FORMAT}: write it anew with `bignas profile`", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The file's form.
        found: u32,
    },
    /// The table is of another search space.
    #[error("the latency table is of search space {found}, not of {asked}: write one with `bignas profile` for {asked}")]
    OtherSpace {
        /// Name of the table's space.
        found: String,
        /// Name of the space asked for.
        asked: String,
    },
    /// The table is of a space of the same name with other choices.
    #[error("the latency table is of a search space called {name} whose choices differ: write one with `bignas profile` for this one")]
    ChangedSpace {
        /// Name of both spaces.
        name: String,
    },
    /// The table is of another number of classes.
    #[error("the latency table is of {found} classes, not of {asked}: name {found} with --classes, or write a table for {asked}")]
    OtherClasses {
        /// Classes of the table.
        found: usize,
        /// Classes asked for.
        asked: usize,
    },
    /// A part of the child is not in the table.
    #[error("the latency table lacks the part \"{key}\" at batch {batch}: write it anew with `bignas profile`")]
    Part {
        /// The part's key.
        key: String,
        /// The batch size in images.
        batch: usize,
    },
}

impl Table {
    /// A table of `space` with a classifier of `classes` classes.
    #[must_use]
    pub fn new(space: &SearchSpace, classes: usize, (device, onnxruntime): (String, String), threads: usize) -> Self {
        let (name, space_sha256) = (space.name.clone(), space.sha256());
        Self { format: FORMAT, space: name, space_sha256, classes, device, onnxruntime, threads, batches: BTreeMap::new() }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`TableError`] names the file and what to do.
    pub fn read(path: &Path) -> Result<Self, TableError> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let bytes = std::fs::read(path).map_err(|source| TableError::Io { path: path.to_owned(), source })?;
        let failed = |source| TableError::Format { path: path.to_owned(), source };
        let Version { format } = serde_json::from_slice(&bytes).map_err(failed)?;
        if format != FORMAT {
            return Err(TableError::Version { path: path.to_owned(), found: format });
        }
        serde_json::from_slice(&bytes).map_err(failed)
    }

    /// Replaces the file at `path` atomically.
    ///
    /// # Errors
    /// [`TableError::Io`] names the file.
    pub fn write(&self, path: &Path) -> Result<(), TableError> {
        let failed = |source| TableError::Io { path: path.to_owned(), source };
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        write_atomically(path, &text).map_err(failed)
    }

    /// Checks that the table is of `space` with `classes` classes.
    ///
    /// # Errors
    /// [`TableError`] says what it is of instead.
    pub fn check(&self, space: &SearchSpace, classes: usize) -> Result<(), TableError> {
        if self.space != space.name {
            return Err(TableError::OtherSpace { found: self.space.clone(), asked: space.name.clone() });
        }
        if self.space_sha256 != space.sha256() {
            return Err(TableError::ChangedSpace { name: space.name.clone() });
        }
        if self.classes != classes {
            return Err(TableError::OtherClasses { found: self.classes, asked: classes });
        }
        Ok(())
    }

    /// The time of the child of `plan` in milliseconds, by batch size in images.
    ///
    /// # Errors
    /// [`TableError::Part`] where the table lacks a part of the child: it is of another space, or was edited.
    pub fn predict_ms(&self, plan: &Plan) -> Result<BTreeMap<usize, f64>, TableError> {
        self.batches.iter().map(|(&batch, table)| Ok((batch, table.predict_ms(plan, batch)?))).collect()
    }
}

impl BatchTable {
    /// The time of `batch` images through the child of `plan`, in milliseconds; `batch` is the one that the table was measured at.
    ///
    /// # Errors
    /// [`TableError::Part`] where the table lacks a part of the child.
    pub fn predict_ms(&self, plan: &Plan, batch: usize) -> Result<f64, TableError> {
        Ok(self.correction.predict_ms(&features(&self.parts_ms, plan, batch)?))
    }
}

/// What the time of the child of `plan` is predicted from.
pub(super) fn features(parts_ms: &BTreeMap<String, f64>, plan: &Plan, batch: usize) -> Result<Features, TableError> {
    let time = |key: String| parts_ms.get(&key).copied().ok_or(TableError::Part { key, batch });
    let sum = plan.parts().map(|part| time(part.key())).sum::<Result<f64, _>>()?;
    Ok(Features::new(plan, batch, sum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::inventory;
    use crate::space::preset;

    /// A table in which part number n takes n microseconds.
    fn made_up(space: &SearchSpace) -> Table {
        let mut table = Table::new(space, 10, ("a processor".into(), "a build".into()), 1);
        let parts_ms = inventory(space, 10).into_keys().enumerate().map(|(n, key)| (key, n as f64 / 1e3)).collect();
        let correction = Correction { factor: 0.5, per_part_ms: 0.25, per_border_mb_ms: 2.0, constant_ms: 1.0 };
        let held_out = Errors::of([(1.0, 1.1)].into_iter());
        table.batches.insert(4, BatchTable { correction, fitted_children: 3, held_out, parts_ms });
        table
    }

    #[test]
    fn a_child_takes_what_its_parts_take_corrected() {
        let space = preset("fashion-mnist").unwrap();
        let table = made_up(&space);
        let plan = Plan::new(&space, &space.smallest(), 10);
        let parts_ms: f64 = plan.parts().map(|part| table.batches[&4].parts_ms[&part.key()]).sum();
        let border_mb = Features::new(&plan, 4, 0.0).border_mb;
        let expected = 0.5 * parts_ms + 0.25 * 6.0 + 2.0 * border_mb + 1.0;
        let found = table.predict_ms(&plan).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), [&4]);
        assert!((found[&4] - expected).abs() < 1e-12, "{found:?}, not {expected}");
    }

    #[test]
    fn a_table_survives_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("table.json");
        let table = made_up(&preset("fashion-mnist").unwrap());
        table.write(&path).unwrap();
        assert_eq!(Table::read(&path).unwrap(), table);
        let text = std::fs::read_to_string(&path).unwrap();
        for (broken, expected) in [
            (text.replacen("\"format\": 1", "\"format\": 2", 1), "has form 2, and this version of bignas reads form 1"),
            (text[..text.len() / 2].to_owned(), "is no latency table"),
            (text.replacen("\"threads\"", "\"fibres\"", 1), "is no latency table"),
        ] {
            std::fs::write(&path, broken).unwrap();
            let message = Table::read(&path).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("bignas profile"), "{message}");
        }
    }

    #[test]
    fn a_table_of_something_else_is_refused_by_name() {
        let space = preset("fashion-mnist").unwrap();
        let table = made_up(&space);
        table.check(&space, 10).unwrap();
        let mut changed = space.clone();
        changed.stages[1].depth = vec![1];
        let cases = [
            (preset("cifar10").unwrap(), 10, "is of search space fashion-mnist, not of cifar10"),
            (changed, 10, "is of a search space called fashion-mnist whose choices differ"),
            (space, 100, "is of 10 classes, not of 100"),
        ];
        for (space, classes, expected) in cases {
            let message = table.check(&space, classes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} should contain {expected:?}");
        }
    }

    #[test]
    fn a_part_that_is_missing_is_named() {
        let space = preset("fashion-mnist").unwrap();
        let mut table = made_up(&space);
        table.batches.get_mut(&4).unwrap().parts_ms.remove("stem 1@20>8@20 k3 s1");
        let message = table.predict_ms(&Plan::new(&space, &space.smallest(), 10)).unwrap_err().to_string();
        assert!(message.contains("lacks the part \"stem 1@20>8@20 k3 s1\" at batch 4"), "{message}");
    }
}
