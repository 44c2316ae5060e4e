//! The results of several machines in one file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::results::{Line, read};
use super::{Aim, Basis, Purpose, Results, ResultsError, Score};
use crate::space::ChildId;

/// Adds the scores in `parts` to the file `into`, which may hold some of the same kind, and returns how many children it then holds.
///
/// # Errors
/// [`ResultsError`] where the parts are not of one search, or two give a child different accuracies; no score is lost.
pub fn merge(parts: &[PathBuf], into: &Path) -> Result<usize, ResultsError> {
    let mut first: Option<(&Path, Basis, Aim)> = None;
    let mut all: BTreeMap<ChildId, Line> = BTreeMap::new();
    for path in parts {
        let mut contents = read(path, Purpose::Part)?;
        let (Some(basis), Some(aim)) = (contents.basis.take(), contents.aim.take()) else {
            return Err(ResultsError::Empty { path: path.clone() });
        };
        let (first_path, first_basis, first_aim) = first.get_or_insert_with(|| (path, basis.clone(), aim.clone()));
        basis.check(path, first_basis, Purpose::Part)?;
        if let Some(difference) = aim.difference(first_aim) {
            return Err(ResultsError::OtherAim { path: path.clone(), first: first_path.to_owned(), difference });
        }
        for line in contents.serving(&aim) {
            let id = line.id;
            let known = all.entry(id).or_insert_with(|| line.clone());
            agree(path, id, known.score, line.score)?;
        }
    }
    let (_, basis, aim) = first.ok_or_else(|| ResultsError::Empty { path: into.to_owned() })?;
    if into.exists() {
        // All that it holds, also what does not serve this aim, and before anything is written.
        let held = read(into, Purpose::Output)?;
        held.basis.as_ref().map_or(Ok(()), |found| found.check(into, &basis, Purpose::Output))?;
        for line in held.lines() {
            all.get(&line.id).map_or(Ok(()), |ours| agree(into, line.id, ours.score, line.score))?;
        }
    }
    let mut results = Results::open_for(Purpose::Output, into, &basis, &aim)?;
    for (id, line) in all {
        if !results.scores.contains_key(&id) {
            results.add_line(line)?;
        }
    }
    results.sync()?;
    Ok(results.scores.len())
}

/// Latencies differ from run to run; accuracies must not.
fn agree(path: &Path, child: ChildId, a: Score, b: Score) -> Result<(), ResultsError> {
    match (a.accuracy - b.accuracy).abs() <= 1e-9 {
        true => Ok(()),
        false => Err(ResultsError::Disagree { path: path.to_owned(), child }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::{aim, basis, score};
    use super::*;
    use crate::space::{Child, preset};

    /// Files of one search, and what becomes of them.
    struct Desk {
        directory: tempfile::TempDir,
        basis: Basis,
        aim: Aim,
    }

    impl Desk {
        fn new() -> Self {
            let space = preset("fashion-mnist").unwrap();
            Self { directory: tempfile::tempdir().unwrap(), basis: basis(), aim: aim(&space) }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn part(&self, name: &str, scores: &[(&Child, f64)]) -> PathBuf {
            let mut results = Results::open(&self.at(name), &self.basis, &self.aim).unwrap();
            scores.iter().for_each(|(child, accuracy)| results.add(child, score(*accuracy)).unwrap());
            self.at(name)
        }

        fn scores(&self, name: &str) -> Vec<f64> {
            let results = Results::open(&self.at(name), &self.basis, &self.aim).unwrap();
            results.scores.values().map(|score| score.accuracy).collect()
        }
    }

    #[test]
    fn parts_are_joined_with_what_the_file_holds_already() {
        let space = preset("fashion-mnist").unwrap();
        let (small, big) = (space.smallest(), space.biggest());
        let mut children = [(&small, 0.25), (&big, 0.75)];
        children.sort_by_key(|(child, _)| child.id());
        let expected = children.map(|(_, accuracy)| accuracy);
        let desk = Desk::new();
        let parts = [desk.part("1", &[(&small, 0.25)]), desk.part("2", &[(&big, 0.75), (&small, 0.25)])];
        assert_eq!(merge(&parts, &desk.at("all")).unwrap(), 2);
        assert_eq!(desk.scores("all"), expected);
        let bytes = std::fs::read(desk.at("all")).unwrap();
        assert_eq!(merge(&parts, &desk.at("all")).unwrap(), 2);
        assert_eq!(std::fs::read(desk.at("all")).unwrap(), bytes, "there was nothing to add");
        // A part that is named as the output by mistake keeps what it has.
        let desk = Desk::new();
        let part = desk.part("1", &[(&small, 0.25)]);
        desk.part("2", &[(&big, 0.75)]);
        assert_eq!(merge(&[part], &desk.at("2")).unwrap(), 2);
        assert_eq!(desk.scores("2"), expected);
    }

    #[test]
    fn what_cannot_be_joined_is_refused_and_left_alone() {
        let space = preset("fashion-mnist").unwrap();
        let small = space.smallest();
        let desk = Desk::new();
        desk.part("1", &[(&small, 0.25)]);
        desk.part("unlike", &[(&small, 0.5)]);
        std::fs::write(desk.at("empty"), "").unwrap();
        std::fs::write(desk.at("grid"), "{\"depth\": []}").unwrap();
        let weights = Desk { basis: Basis { weights_sha256: "x".into(), ..basis() }, ..Desk::new() };
        std::fs::copy(weights.part("1", &[(&small, 0.25)]), desk.at("weights")).unwrap();
        let mut seeded = Desk::new();
        seeded.aim.settings.seed = 1;
        std::fs::copy(seeded.part("1", &[(&small, 0.25)]), desk.at("seed")).unwrap();
        let cases = [
            (
                &["1", "weights"][..],
                "all",
                "weights holds the scores of another search, of other weights: delete it if nobody needs them, or leave it out",
            ),
            (&["1", "seed"], "all", "seed is a part of a search with another seed than "),
            (&["1", "empty"], "all", "empty holds no results yet: run `bignas search --shard` on it, or leave it out"),
            (&["1", "grid"], "all", "and is left as it is: leave it out"),
            (&["1", "unlike"], "all", "has another accuracy in "),
            (&["1"], "grid", "and is left as it is: name another file with --output"),
            (&["1"], "weights", "of other weights: delete it if nobody needs them, or name another file with --output"),
            (&["1"], "unlike", "leave the file out, and give its share to a machine like the others"),
        ];
        for (parts, into, expected) in cases {
            let paths: Vec<PathBuf> = parts.iter().map(|name| desk.at(name)).collect();
            let before = std::fs::read(desk.at(into)).ok();
            let message = merge(&paths, &desk.at(into)).unwrap_err().to_string();
            assert!(message.contains(expected), "{parts:?} into {into}: {message}");
            assert_eq!(std::fs::read(desk.at(into)).ok(), before, "{parts:?} into {into}");
        }
        // A refusal does not change what the file was last asked for either.
        let before = std::fs::read(desk.at("seed")).unwrap();
        assert!(merge(&[desk.at("unlike")], &desk.at("seed")).is_err());
        assert_eq!(std::fs::read(desk.at("seed")).unwrap(), before);
        let running = Results::open(&desk.at("seed"), &desk.basis, &desk.aim).unwrap();
        let message = merge(&[desk.at("1")], &desk.at("seed")).unwrap_err().to_string();
        assert!(message.ends_with("wait for its end, or name another file with --output"), "{message}");
        drop(running);
        assert_eq!(merge(&[desk.at("1")], &desk.at("seed")).unwrap(), 1, "scores do not depend on what was asked for");
    }
}
