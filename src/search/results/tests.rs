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

/// As editors leave them.
#[test]
fn a_whole_last_line_counts_without_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("results.jsonl");
    let space = preset("fashion-mnist").unwrap();
    let (small, big) = (space.smallest(), space.biggest());
    let open = || Results::open(&path, &basis(), &aim(&space)).unwrap();
    open().add(&small, score(0.25)).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    open().add(&big, score(0.75)).unwrap();
    assert_eq!(open().scores, BTreeMap::from([(small.id(), score(0.25)), (big.id(), score(0.75))]));
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
        let expected = format!("results.jsonl holds the scores of another search, {difference}: delete it if nobody needs them, or name");
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
        (on("a"), Some(timed), None),
        (plain.clone(), Some(score(0.5)), None),
    ];
    for (index, (aim, known, found)) in steps.into_iter().enumerate() {
        let mut results = Results::open(&path, &basis(), &aim).unwrap();
        assert_eq!(results.scores.get(&small.id()).copied(), known, "step {index}");
        found.into_iter().for_each(|score| results.add(&small, score).unwrap());
    }
}
