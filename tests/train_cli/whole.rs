//! The thin whole: train on a folder of images, stop, go on, search, evaluate, analyse, export.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use bignas::checkpoint::{AccuracyKind, Model};

use crate::{CLASSES, bignas, stripes, succeed, write_images};

#[test]
fn from_a_folder_of_images_to_an_exported_child() {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    write_images(&here.join("images"), 24);

    let start = ["train", "--data", "images", "--run", "run", "--model", "model", "--name", "stripes", "--epochs", "6"];
    let shape = ["--batch-size", "10", "--hold-out", "8", "--calibration-images", "64", "--no-flip"];
    let mut training = bignas(here, &[&start[..], &shape].concat());
    let mut training = training.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut said = BufReader::new(training.stderr.take().expect("piped")).lines().map_while(Result::ok);
    let first = said.find(|line| line.starts_with("step 1 of 36")).expect("the first step is reported");
    for part in ["epoch 1, loss ", " biggest, ", " smallest, learning rate ", " images/s", " GiB, ", " min left"] {
        assert!(first.contains(part), "{first:?} lacks {part:?}");
    }
    let interrupted = Command::new("kill").args(["-TERM", &training.id().to_string()]).status().expect("runs");
    assert!(interrupted.success());
    let rest: Vec<String> = said.collect();
    let output = training.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(130), "a script does not go on as if it were trained: {rest:?}");
    for part in ["stopping after this step", "saved run/checkpoints/step-000000"] {
        assert!(rest.iter().any(|line| line.starts_with(part)), "{rest:?} lack {part:?}");
    }
    assert!(!here.join("model").exists(), "an unfinished run writes no model");

    let command = rest.iter().find_map(|line| line.strip_prefix("go on with: ")).expect("the command to go on");
    let again: Vec<&str> = command.split(' ').skip(1).collect();
    assert_eq!(again, [&start[..], &shape, &["--resume"]].concat());
    let text = succeed(bignas(here, &again));
    assert!(text.contains("trained 36 steps; wrote model"), "{text}");
    let model = Model::open(&here.join("model")).expect("a model directory");
    assert_eq!((model.card.name.as_str(), &model.card.labels[..]), ("stripes", &CLASSES.map(str::to_owned)[..]));
    let images = model.calibration_images().expect("reads").expect("ships with the model");
    assert_eq!(images.shape(), [64, 1, 28, 28]);
    metrics_are_kept(&here.join("run"));

    let early = bignas(here, &["evaluate", "--model", "model", "--data", "images"]).output().expect("runs");
    let said = String::from_utf8_lossy(&early.stderr);
    assert!(!early.status.success() && said.contains("model has no family yet: name children with --child"), "{said}");

    let model = search(here);
    assert!(!model.family.members.is_empty());
    models_are_not_replaced_by_mistake(here, &[&start[..], &shape].concat());
    for member in &model.family.members {
        let source = member.accuracy_source.as_ref().expect("a source");
        assert_eq!((source.dataset.as_str(), source.images, source.kind), ("Stripes", 24, AccuracyKind::Measured));
    }

    let table = succeed(bignas(here, &["evaluate", "--model", "model", "--data", "images", "--predictions", "predictions.json"]));
    let text = fs::read_to_string(here.join("predictions.json")).expect("written");
    let predictions: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for member in &model.family.members {
        let id = member.child.id().to_string();
        let row = table.lines().find(|line| line.contains(&id)).expect("a row");
        let accuracy = format!("{:.2}", 100.0 * member.accuracy.expect("measured"));
        assert!(row.split_whitespace().any(|word| word == accuracy), "{row:?}, but the family says {accuracy}");
        assert_eq!(predictions[&id].as_array().map(Vec::len), Some(24));
    }

    analyse(here);

    // A child of the family has statistics of its own, but who names a batch wants them measured.
    let family = model.family.members[0].child.id().to_string();
    for (flags, sixteenths) in [(&[][..], false), (&["--calibration-batch", "16"], true)] {
        succeed(bignas(here, &[&["export", "--model", "model", "--child", &family, "--output", "child.onnx"], flags].concat()));
        let bytes = fs::read(here.join("child.onnx")).expect("written");
        let batch = |size: &str| {
            bytes.windows(26 + size.len()).any(|part| part.starts_with(b"bignas.calibration_batch") && part.ends_with(size.as_bytes()))
        };
        assert_eq!((batch("64"), batch("16")), (!sixteenths, sixteenths), "{flags:?}");
    }

    let text = succeed(bignas(here, &["export", "--model", "model", "--child", "biggest", "--output", "biggest.onnx"]));
    assert!(text.contains("recalibrated on 64 images"), "{text}");
    assert!(fs::metadata(here.join("biggest.onnx")).expect("written").len() > 100_000);
}

/// A model that lies in the way is left alone, and so is its family where a finished run is finished again.
fn models_are_not_replaced_by_mistake(here: &Path, train: &[&str]) {
    let family = || Model::open(&here.join("model")).expect("a model directory").family.members.len();
    let before = family();
    let another: Vec<&str> = train.iter().map(|&word| if word == "run" { "another" } else { word }).collect();
    let refused = bignas(here, &another);
    for mut command in [refused, bignas(here, &["init", "--space", "fashion-mnist", "-o", "model"])] {
        let output = command.output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("model holds a model already: name another directory"), "{said}");
    }
    assert!(!here.join("another").exists(), "it is known before the training");
    let text = succeed(bignas(here, &[train, &["--resume"]].concat()));
    assert!(text.contains("the weights are those that its family was searched in"), "{text}");
    assert_eq!(family(), before);
    let longer: Vec<&str> = train.iter().map(|&word| if word == "6" { "7" } else { word }).chain(["--resume"]).collect();
    let output = bignas(here, &longer).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("model holds a model already"), "its family would go: {said}");
    assert_eq!(family(), before);
    // A run replaces its own model when it goes on, and no other that happens to be named.
    succeed(bignas(here, &["init", "--space", "fashion-mnist", "-o", "other"]));
    let aimed: Vec<&str> = train.iter().map(|&word| if word == "model" { "other" } else { word }).chain(["--resume"]).collect();
    let output = bignas(here, &aimed).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("other holds a model already: name another directory"), "{said}");
    succeed(bignas(here, &["init", "--space", "fashion-mnist", "-o", "random"]));
    succeed(bignas(here, &["init", "--space", "fashion-mnist", "-o", "random", "--replace"]));
}

/// What a run of six epochs of six steps, once interrupted, tells of its course.
fn metrics_are_kept(run: &Path) {
    let text = fs::read_to_string(run.join("metrics.jsonl")).expect("kept");
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let steps: Vec<&serde_json::Value> = lines.iter().filter(|line| line["kind"] == "step").collect();
    assert_eq!(steps.iter().map(|line| line["step"].as_u64()).collect::<Vec<_>>(), [Some(20)], "every twenty steps: {text}");
    for name in ["rate", "loss_biggest", "loss_smallest", "images_per_second", "waiting", "memory_bytes"] {
        assert!(steps[0][name].as_f64().is_some_and(|value| value > 0.0), "{name}: {}", steps[0]);
    }
    assert_eq!(steps[0]["loss_random"].as_array().map(Vec::len), Some(2));
    let epochs: Vec<&serde_json::Value> = lines.iter().filter(|line| line["kind"] == "epoch").collect();
    assert_eq!(epochs.iter().map(|line| line["epoch"].as_u64()).collect::<Vec<_>>(), (1..=6).map(Some).collect::<Vec<_>>());
    assert!(epochs.iter().all(|line| line["accuracy_biggest"].is_f64() && line["accuracy_smallest"].is_f64()), "{text}");
    for (name, said) in [("loss", "smallest child"), ("learning-rate", "learning rate"), ("accuracy", "biggest child")] {
        let svg = fs::read_to_string(run.join(format!("{name}.svg"))).expect("drawn");
        assert!(svg.contains(said) && svg.contains("<circle"), "{name}.svg");
        assert!(run.join(format!("{name}.png")).exists(), "{name}.png");
    }
}

/// Searches the model, three ways that come to the same: at once, interrupted, and on two machines.
fn search(here: &Path) -> Model {
    let grid = r#"{"resolutions": [20, 32], "depth": [0, 1], "width": [0, 1], "kernel": [1]}"#;
    fs::write(here.join("grid.json"), grid).expect("writes");
    let search = ["search", "--model", "model", "--data", "images", "--dataset", "Stripes", "--images", "64", "--grid", "grid.json"];
    let budgets = ["--budget", "mflops=1,params=60000", "--budget", "mflops=4", "--budget", "activation_mb=5,latency_ms=1000"];
    let run = |flags: &[&str]| succeed(bignas(here, &[&search[..], &budgets, &["--mutations", "2"], flags].concat()));
    let family = || {
        let model = Model::open(&here.join("model")).expect("with a family");
        let members = model.family.members.iter().map(|member| (member.child.id(), member.accuracy)).collect::<Vec<_>>();
        assert!(!members.is_empty() && model.statistics.len() == members.len(), "every child has its statistics");
        members
    };

    let text = run(&[]);
    assert!(!text.contains("going on"), "{text}");
    let expected = family();
    let answer = |budget: &str| text.lines().find(|line| line.starts_with(budget)).unwrap_or_else(|| panic!("no {budget}: {text}"));
    assert!(answer("mflops=1,params=60000: child ").ends_with(" %"), "{text}");
    let timed = answer("activation_mb=5,latency_ms=1000: child ");
    assert!(timed.contains(" ms when it was selected, ") && timed.ends_with(" ms measured again"), "{timed}");
    let drawn = |name: &str| fs::read_to_string(here.join(format!("model/plots/{name}.svg"))).expect("drawn");
    assert!(drawn("coarse").contains("mutated in the fine phase") && !drawn("coarse").contains("front"), "parents, not what came of them");
    assert!(drawn("fine").contains("mutations") && drawn("fine").contains("front of the search"));
    let weights = Model::open(&here.join("model")).expect("a model").card.weights_sha256;
    let results = here.join(format!("model/search-{}.jsonl", &weights[..8]));
    let text = fs::read_to_string(&results).expect("kept");
    for name in ["coarse.svg", "coarse.png", "fine.svg", "fine.png", "family.svg", "family.png"] {
        assert!(fs::metadata(here.join("model/plots").join(name)).expect("drawn").len() > 2_000, "{name}");
    }
    fs::write(&results, &text[..text.len() / 2]).expect("writes");
    assert!(run(&[]).contains("going on from "), "an interrupted search goes on");
    assert_eq!(family(), expected);

    for phase in 0..2 {
        for part in ["1", "2"] {
            let file = format!("part{part}.jsonl");
            if phase == 1 {
                fs::copy(here.join("all.jsonl"), here.join(&file)).expect("copies");
            }
            let text = run(&["--shard", &format!("{part}/2"), "--results", &file]);
            assert!(text.contains("this part of the phase is done"), "{text}");
        }
        let text = succeed(bignas(here, &["search", "merge", "part1.jsonl", "part2.jsonl", "-o", "all.jsonl"]));
        assert!(text.contains("wrote all.jsonl with "), "{text}");
    }
    run(&["--results", "all.jsonl"]);
    assert_eq!(family(), expected);
    let held_out = ["--select-on", "held-out", "--results", "held-out.jsonl"];
    let text = run(&held_out);
    assert!(text.contains(" children on 8 images"), "as many as were held out: {text}");
    let new = here.join("images/train/across/new.png");
    stripes(0, 3).save(&new).expect("saves");
    let other = bignas(here, &[&search[..], &budgets, &held_out].concat()).output().expect("runs");
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(said.contains("images holds 73 training images, and stripes was trained on 64 and left out 8"), "{said}");
    fs::remove_file(new).expect("removes");

    let refused = |flags: &[&str]| {
        let output = bignas(here, &[&search[..], &budgets, flags].concat()).output().expect("runs");
        assert!(!output.status.success(), "{flags:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused(&["--calibration-batch", "32"]);
    assert!(said.contains(".jsonl holds the scores of another search, recalibrated on other images or in other batches"), "{said}");
    let said = refused(&["--results", "grid.json"]);
    assert!(said.contains("name another file with --results"), "{said}");
    assert_eq!(fs::read_to_string(here.join("grid.json")).expect("kept"), grid);
    // What is looked for may change; scores do not depend on it.
    let scores = || fs::read_to_string(&results).expect("kept").lines().filter(|line| line.starts_with("{\"child\"")).count();
    let known = scores();
    let text = succeed(bignas(here, &[&search[..], &["--budget", "mflops=4", "--budget", "params=1", "--mutations", "3"]].concat()));
    assert!(text.contains(&format!("going on from {known} children")) && scores() > known, "{text}");
    assert!(text.contains("keeps the budget params=1: every one costs at least params="), "{text}");
    run(&[]);
    assert_eq!(family(), expected, "whatever else is known");
    Model::open(&here.join("model")).expect("with a family")
}

/// Every analysis of a trained model runs, and leaves a table, a curve and its numbers.
fn analyse(here: &Path) {
    let on = ["--model", "model", "--data", "images", "--calibration-batch", "8", "--output", "analysis"];
    succeed(bignas(here, &[&["analyze", "recalibration"], &on[..], &["--images", "16", "64"]].concat()));
    succeed(bignas(here, &[&["analyze", "resolutions"], &on[..], &["--images", "16", "--child", "biggest"]].concat()));
    let numbers = |name: &str| -> serde_json::Value {
        for ending in ["md", "svg", "png"] {
            assert!(here.join(format!("analysis/{name}.{ending}")).exists(), "{name}.{ending}");
        }
        serde_json::from_str(&fs::read_to_string(here.join(format!("analysis/{name}.json"))).expect("written")).expect("JSON")
    };
    let recalibration = numbers("recalibration");
    let card = Model::open(&here.join("model")).expect("a model").card;
    assert_eq!((&recalibration["model"], &recalibration["weights_sha256"]), (&card.name.into(), &card.weights_sha256.into()));
    let command = recalibration["command"].as_str().expect("told");
    assert!(command.starts_with("bignas analyze recalibration --model model ") && recalibration["seconds"].is_u64(), "{recalibration}");
    assert!(recalibration["machine"].as_str().is_some_and(|machine| machine.contains("cores")), "{recalibration}");
    assert_eq!((&recalibration["test_images"], recalibration["rows"].as_array().map(Vec::len)), (&24.into(), Some(2)));
    let biggest = &recalibration["rows"][1];
    assert_eq!(biggest["biggest_childs"], biggest["recalibrated"][1][1], "the biggest child's statistics are its own");
    let resolutions = numbers("resolutions");
    let seen: Vec<bool> = resolutions["rows"].as_array().expect("rows").iter().filter_map(|row| row["seen"].as_bool()).collect();
    assert_eq!(seen.len(), 7);
    assert!(seen.contains(&true) && seen.contains(&false), "{seen:?}");

    let (image, spaced) = (here.join("images/test/across/00.png"), ["--output", "with a space", "--max-corrupt", "1"]);
    fs::write(&image, b"no image").expect("writes");
    let on_spaced = [&["analyze", "resolutions", "--images", "16", "--child", "smallest"], &on[..6], &spaced].concat();
    succeed(bignas(here, &on_spaced));
    let predicted = ["evaluate", "--model", "model", "--data", "images", "--max-corrupt", "1", "--predictions", "skipping.json"];
    succeed(bignas(here, &predicted));
    let text = fs::read_to_string(here.join("skipping.json")).expect("written");
    let predictions: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).expect("JSON");
    for (child, classes) in &predictions {
        let known: Vec<bool> = classes.as_array().expect("a list").iter().map(serde_json::Value::is_u64).collect();
        assert_eq!(known, (0..24).map(|index| index > 0).collect::<Vec<_>>(), "{child}: null stands for the image that was skipped");
    }
    stripes(0, 0).save(&image).expect("saves");
    let text = fs::read_to_string(here.join("with a space/resolutions.json")).expect("written");
    let skipping: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(skipping["test_images"], 23, "those that could be read");
    let command = skipping["command"].as_str().expect("told");
    assert!(command.ends_with("--output 'with a space' --max-corrupt 1"), "{command}");

    for (images, expected) in [
        ("100000", "100000 calibration images are more than the 72 training images"),
        ("20", "20 calibration images are no whole batches of 8"),
    ] {
        let refused =
            bignas(here, &[&["analyze", "recalibration"], &on[..], &["--images", "16", images, "72"]].concat()).output().expect("runs");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains(expected), "{said}");
    }
}
