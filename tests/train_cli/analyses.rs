//! Analyses that train, on a model and a data set that are tiny.

use std::fs;
use std::path::Path;

use bignas::checkpoint::Model;
use bignas::space::Shortcut;
use bignas::train::{Regularise, Roster, RunDirectory, Schedule, TrainSettings};

use crate::{bignas, succeed, write_images};

/// Every analysis that trains, on a model and a data set that are tiny.
#[test]
fn analyses_that_train_compare_what_they_say() {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    write_images(&here.join("images"), 24);
    let shape = ["--epochs", "1", "--batch-size", "12"];
    let start = ["train", "--data", "images", "--run", "run", "--model", "model", "--calibration-images", "64", "--pad", "1"];
    succeed(bignas(here, &[&start[..], &shape].concat()));
    let analyse = |name: &str, flags: &[&str]| {
        let on = ["--model", "model", "--data", "images", "--calibration-images", "16", "--calibration-batch", "8", "--train-images", "24"];
        bignas(here, &[&["analyze", name], &on[..], &shape, flags].concat())
    };
    let numbers = |name: &str| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(here.join(format!("analysis/{name}.json"))).expect("written")).expect("JSON")
    };
    let arms = |name: &str| {
        let rows = numbers(name)["rows"].as_array().expect("rows").clone();
        assert!(rows.iter().all(|row| row["smallest"].is_f64() && row["biggest"].is_f64() && row["epochs"][0][0] == 1), "{rows:?}");
        rows.iter().map(|row| row["arm"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let methods = |name: &str| {
        let row = numbers(name)["rows"][0].clone();
        assert!(row["child"] == "smallest" && row["sliced"].is_f64(), "{row}");
        let trained = row["trained"].as_array().expect("methods").clone();
        assert!(trained.iter().all(|method| method["accuracy"].is_f64() && method["gain"]["margin"].is_f64()), "{row}");
        trained.iter().map(|method| method["method"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };

    succeed(analyse("fine-tuning", &["--child", "smallest", "--rates", "0.01", "0.0001"]));
    assert_eq!(methods("fine-tuning"), ["fine-tuned at 0.01", "fine-tuned at 0.0001"]);
    succeed(analyse("from-scratch", &["--child", "smallest"]));
    assert_eq!(methods("from-scratch"), ["from scratch", "distilled from the model (A)", "distilled in place (B)"]);
    drawn(here, "from-scratch", &["from-scratch"]);
    succeed(analyse("from-scratch", &["--child", "biggest", "--from", "in-place"]));
    let own_teacher = numbers("from-scratch")["rows"][0]["trained"][0].clone();
    assert!(own_teacher["applies"] == false && own_teacher["accuracy"].is_null(), "nobody is a bigger one's student: {own_teacher}");
    succeed(analyse("initialisation", &[]));
    assert_eq!(arms("initialisation"), ["identity, full rate", "naive, full rate", "identity, reduced rate", "naive, reduced rate"]);
    succeed(analyse("constant-ending", &["--floors", "0", "0.07"]));
    assert_eq!(arms("constant-ending"), ["floor 0 %", "floor 7 %"]);
    succeed(analyse("regularisation", &[]));
    assert_eq!(arms("regularisation"), ["the biggest alone", "everyone"]);
    let [first, second] = [0, 1].map(|row| numbers("regularisation")["rows"][row].clone());
    for (child, gain) in [("smallest", "gain_smallest"), ("biggest", "gain_biggest")] {
        let [before, after, gained] = [&first[child], &second[child], &second[gain]["mean"]].map(|value| value.as_f64().expect("measured"));
        assert!(first[gain].is_null() && (after - before - gained).abs() < 1e-9, "{child}: {first} {second}");
    }
    assert_eq!(numbers("regularisation")["augment"]["crop"]["pad"], 1, "as the model was trained");
    drawn(here, "fine-tuning", &["fine-tuning"]);
    for name in ["initialisation", "constant-ending", "regularisation"] {
        drawn(here, name, &[&format!("{name}-smallest"), &format!("{name}-biggest")]);
    }
    arms_were_trained_as_they_say(here);

    let refused = analyse("regularisation", &["--child", "smallest"]).output().expect("runs");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("unexpected argument '--child'"), "whole models are trained");

    let before = numbers("regularisation")["rows"].clone();
    let (smallest, biggest) = (before[0]["smallest"].as_f64().expect("measured"), before[0]["biggest"].as_f64().expect("measured"));
    assert_eq!(before[0]["average"], f64::midpoint(smallest, biggest));
    let checkpoints = here.join("runs/analysis/regularisation/everyone/checkpoints");
    let trained = fs::metadata(&checkpoints).expect("kept").modified().expect("a time");
    succeed(analyse("regularisation", &[]));
    assert_eq!(numbers("regularisation")["rows"], before, "what is trained is not trained again");
    assert_eq!(fs::metadata(&checkpoints).expect("kept").modified().expect("a time"), trained);
    let other = "holds a run with other settings: choose another --runs directory, or delete it";
    for (flags, said) in [
        (["--learning-rate", "0.5"], other),
        (["--pad", "3"], other),
        (["--without", "transition-skips"], "leave --without transition-skips out"),
        (["--without", "regularise-biggest"], "--without regularise-biggest is what this analysis decides"),
    ] {
        let refused = analyse("regularisation", &flags).output().expect("runs");
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && error.contains(said), "{flags:?}: {error}");
    }
    // Nothing is trained where a later arm is impossible.
    for (name, flags, said) in [
        ("constant-ending", &["--floors", "0.5", "3"][..], "schedule.floor must be from 0 to 1"),
        ("fine-tuning", &["--rates", "0.5", "0"], "schedule.rate_per_256 must be above 0"),
        ("from-scratch", &["--label-epochs", "1"], "nobody would be distilled in place"),
        ("regularisation", &["--without", "dropout", "weight-decay"], "nobody is regularised"),
    ] {
        let refused = analyse(name, &[flags, &["--runs", "runs/refused"]].concat()).output().expect("runs");
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && error.contains(said), "{name} {flags:?}: {error}");
    }
    let many =
        ["analyze", "regularisation", "--model", "model", "--data", "images", "--calibration-images", "73", "--runs", "runs/refused"];
    let refused = bignas(here, &many).output().expect("runs");
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(error.contains("73 calibration images are more than the 72 training images"), "{error}");
    let card = here.join("model/model.json");
    let mut dry: serde_json::Value = serde_json::from_slice(&fs::read(&card).expect("reads")).expect("JSON");
    dry["space"]["head"]["dropout"] = 0.0.into();
    fs::write(&card, dry.to_string()).expect("writes");
    let refused = analyse("regularisation", &["--without", "weight-decay", "--runs", "runs/refused"]).output().expect("runs");
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(error.contains("nobody is regularised"), "a space without dropout drops nothing: {error}");
    assert!(!here.join("runs/refused").exists());
}

/// An analysis left its table, and its charts as SVG and PNG.
fn drawn(here: &Path, name: &str, charts: &[&str]) {
    assert!(fs::read_to_string(here.join(format!("analysis/{name}.md"))).expect("written").contains("| --- |"), "{name}.md");
    for chart in charts {
        for ending in ["svg", "png"] {
            assert!(fs::metadata(here.join(format!("analysis/{chart}.{ending}"))).is_ok_and(|file| file.len() > 0), "{chart}.{ending}");
        }
    }
}

/// The run of every arm has all that distinguishes it, and else what the others have: were two of them swapped, it would show here.
fn arms_were_trained_as_they_say(here: &Path) {
    let card = Model::open(&here.join("model")).expect("a model").card;
    let (child, weights) = (card.space.smallest(), &card.weights_sha256[..8]);
    let (id, choices) = (child.id(), child.choices());
    let base = TrainSettings { epochs: 1, batch_size: 12, ..TrainSettings::default() };
    let Schedule { rate_per_256: full, .. } = base.schedule;
    let rated = |rate_per_256| Schedule { rate_per_256, ..base.schedule.clone() };
    let constant = |rate| Schedule { warmup_epochs: 0.0, floor: 1.0, ..rated(rate) };
    let floored = |floor| TrainSettings { schedule: Schedule { floor, ..base.schedule.clone() }, ..base.clone() };
    let tuned = |rate| TrainSettings { roster: Roster::Child(choices.clone()), schedule: constant(rate), ..base.clone() };
    let alone = TrainSettings { roster: Roster::Child(choices.clone()), ..base.clone() };
    let beside = TrainSettings { roster: Roster::BiggestAnd(choices.clone()), ..base.clone() };
    let started = |zero_gamma, rate| TrainSettings { zero_gamma, schedule: rated(rate), ..base.clone() };
    let regularised = |regularise| TrainSettings { regularise, ..base.clone() };
    // Whether the model's weights are the start, or the teacher's; what the network does where the shape changes.
    let (fresh, start, taught) = ((false, false), (true, false), (false, true));
    let (skips, naive) = (Shortcut::PoolSame, Shortcut::IdentityOnly);
    let arms = [
        (format!("fine-tuning/{id}-at-0.01-{weights}"), tuned(0.01), start, skips),
        (format!("fine-tuning/{id}-at-0.0001-{weights}"), tuned(0.0001), start, skips),
        (format!("from-scratch/{id}-from-scratch"), alone.clone(), fresh, skips),
        (format!("from-scratch/{id}-distilled-from-the-model-a-{weights}"), alone, taught, skips),
        (format!("from-scratch/{id}-distilled-in-place-b"), beside, fresh, skips),
        ("initialisation/identity-full-rate".to_owned(), started(true, full), fresh, skips),
        ("initialisation/naive-full-rate".to_owned(), started(false, full), fresh, naive),
        ("initialisation/identity-reduced-rate".to_owned(), started(true, full * 0.3), fresh, skips),
        ("initialisation/naive-reduced-rate".to_owned(), started(false, full * 0.3), fresh, naive),
        ("constant-ending/floor-0".to_owned(), floored(0.0), fresh, skips),
        ("constant-ending/floor-7".to_owned(), floored(0.07), fresh, skips),
        ("regularisation/the-biggest-alone".to_owned(), regularised(Regularise::Biggest), fresh, skips),
        ("regularisation/everyone".to_owned(), regularised(Regularise::Everyone), fresh, skips),
    ];
    for (arm, settings, (start, taught), shortcut) in arms {
        let state = RunDirectory::peek(&here.join("runs/analysis").join(&arm)).unwrap_or_else(|error| panic!("{arm}: {error}"));
        let given = |is: bool| is.then(|| card.weights_sha256.clone());
        assert_eq!(state.settings, settings, "{arm}");
        assert_eq!((state.start_sha256, state.teacher_sha256, state.taught), (given(start), given(taught), taught), "{arm}");
        assert_eq!(state.space.shortcut, shortcut, "{arm}");
    }
}
