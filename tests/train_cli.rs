//! The thin whole, with the real binary: train on a folder of images, stop, go on, search, evaluate, export.
#![cfg(feature = "train")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use bignas::checkpoint::{AccuracyKind, Model};
use bignas::data::Policy;
use bignas::space::Shortcut;
use bignas::train::{Regularise, Roster, RunDirectory, Schedule, TrainSettings};
use image::{GrayImage, Luma, Rgb, RgbImage};

const CLASSES: [&str; 3] = ["across", "down", "slanted"];

/// Stripes four pixels wide, at a seeded place; their direction is the class.
fn stripes(class: usize, seed: u32) -> GrayImage {
    let direction = [(1, 0), (0, 1), (1, 1)][class];
    let bright = |x, y| (x * direction.0 + y * direction.1 + seed) % 8 < 4;
    GrayImage::from_fn(28, 28, |x, y| Luma([if bright(x, y) { 200 } else { 20 }]))
}

/// Eight test images a class, and so many to train on.
fn write_images(directory: &Path, train: u32) {
    for (split, count) in [("train", train), ("test", 8)] {
        for (class, name) in CLASSES.iter().enumerate() {
            let folder = directory.join(split).join(name);
            fs::create_dir_all(&folder).expect("creates");
            for seed in 0..count {
                stripes(class, seed).save(folder.join(format!("{seed:02}.png"))).expect("saves");
            }
        }
    }
}

fn bignas(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bignas"));
    command.current_dir(directory).args(arguments).env("OMP_WAIT_POLICY", "passive").env("BIGNAS_THREADS", "1");
    command
}

/// Runs to a good end and returns the standard output.
fn succeed(mut command: Command) -> String {
    let output = command.output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

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
    let interrupted = Command::new("kill").args(["-INT", &training.id().to_string()]).status().expect("runs");
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

/// What lies in the way at the end may not have been there at the beginning.
#[test]
fn a_model_that_appears_during_a_training_is_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    write_images(&here.join("images"), 24);
    succeed(bignas(here, &["init", "--space", "fashion-mnist", "-o", "other"]));
    let model = |name: &str| Model::open(&here.join(name)).expect("a model directory").card.name;
    let shape = ["--epochs", "9", "--label-epochs", "9", "--batch-size", "10", "--calibration-images", "64"];
    let start = [&["train", "--data", "images", "--run", "run", "--model", "model"][..], &shape].concat();
    let mut training = bignas(here, &start).stderr(Stdio::piped()).spawn().expect("starts");
    let mut said = BufReader::new(training.stderr.take().expect("piped")).lines().map_while(Result::ok);
    assert!(said.any(|line| line.contains("every one of the 9 epochs") && line.ends_with("so none distils")));
    said.find(|line| line.starts_with("step 1 of ")).expect("the first step is reported");
    fs::rename(here.join("other"), here.join("model")).expect("renames");
    let rest: Vec<String> = said.collect();
    assert!(!training.wait().expect("ends").success());
    let refusal =
        ["error: no model was written; run keeps what was trained", "  because model holds a model already: name another directory"];
    for part in refusal {
        assert!(rest.iter().any(|line| line.starts_with(part)), "no {part:?}: {rest:?}");
    }
    assert_eq!(model("model"), "fashion-mnist-random");
    let start: Vec<&str> = start.iter().map(|&word| if word == "model" { "mine" } else { word }).collect();
    succeed(bignas(here, &[&start[..], &["--resume"]].concat()));
    assert_eq!((model("mine"), model("model")), ("fashion-mnist".to_owned(), "fashion-mnist-random".to_owned()));
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

/// Who says nothing about the space gets one that suits the images, and a policy that was searched on ones of their size.
#[test]
fn colour_images_are_trained_in_colour() {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    write_images(&here.join("images"), 4);
    for name in CLASSES {
        // The first stay grey.
        let last = here.join(format!("images/train/{name}/03.png"));
        let grey = image::open(&last).expect("opens").into_rgb8();
        RgbImage::from_fn(28, 28, |x, y| Rgb([grey[(x, y)][0], 40, 0])).save(last).expect("saves");
    }
    let train = |run: &str, flags: &[&str]| {
        let fixed = ["train", "--data", "images", "--model", "model", "--calibration-images", "0", "--epochs", "1", "--batch-size", "6"];
        bignas(here, &[&fixed[..], &["--run", run], flags].concat())
    };
    let card = || Model::open(&here.join("model")).expect("a model directory").card;
    let text = succeed(train("run", &[]));
    assert!(text.contains("next: bignas search --model model --data images --calibration DIR"), "it ships no images: {text}");
    assert_eq!((card().space.name.as_str(), card().space.input_channels, card().space.shortcut), ("cifar10", 3, Shortcut::PoolSame));
    assert_eq!(card().augment().auto_augment, Some(Policy::Cifar10));

    // A resumed run still knows that it is to ship no images.
    let again = ["train", "--data", "images", "--run", "run", "--model", "model", "--epochs", "2", "--name", "second", "--resume"];
    let text = succeed(bignas(here, &again));
    assert!(text.contains("--calibration DIR") && !here.join("model/calibration.safetensors").exists(), "{text}");
    assert_eq!((card().name.as_str(), card().calibration), ("second", None));
    // What it is told at its end is known from then on, though no step follows.
    let flags = ["train", "--data", "images", "--run", "run", "--model", "model", "--resume"];
    for told in [&["--calibration-images", "8"][..], &[]] {
        succeed(bignas(here, &[&flags[..], told].concat()));
        assert_eq!(card().calibration.map(|calibration| calibration.images), Some(8), "{told:?}");
    }

    let refused = train("run", &["--resume", "--without", "transition-skips"]).output().expect("runs");
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && error.contains("--without transition-skips is not what run was begun with"), "{error}");
    fs::remove_dir_all(here.join("model")).expect("removes");
    succeed(train("other", &["--without", "transition-skips", "zero-gamma", "--auto-augment", "none"]));
    assert_eq!((card().space.shortcut, card().augment().auto_augment), (Shortcut::IdentityOnly, None));
    fs::write(here.join("settings.json"), r#"{"epochs": 2, "batch_size": 6}"#).expect("writes");
    let refused = train("other", &["--resume", "--settings", "settings.json"]).output().expect("runs");
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(error.contains("other was begun without zero-gamma, and --settings switches it on: say --without zero-gamma too"), "{error}");
}

/// Fewer images than a batch of the recalibration hold a run up no more than many do, nor does the want of test images.
#[test]
fn a_handful_of_images_is_enough() {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    write_images(&here.join("images"), 4);
    fs::write(here.join("names.txt"), "no stripes\nacross\ndown\nslanted\n").expect("writes");
    let arguments =
        ["train", "--data", "images", "--run", "run", "--model", "model", "--epochs", "1", "--batch-size", "4", "--labels", "names.txt"];
    fs::remove_dir_all(here.join("images/test")).expect("removes");
    let output = bignas(here, &arguments).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("images: there are no test images"), "{said}");
    assert!(said.contains("1 of 4 classes have no training image, the first of them no stripes"), "{said}");
    let model = Model::open(&here.join("model")).expect("a model directory");
    assert_eq!(model.card.calibration.map(|calibration| (calibration.images, calibration.batch)), Some((12, 12)));
}

/// What a run is about is settled at its beginning; how it goes on may change.
#[test]
fn a_run_goes_on_as_what_it_was_begun() {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    write_images(&here.join("images"), 24);
    fs::write(here.join("settings.json"), r#"{"epochs": 1, "batch_size": 12, "seed": 3}"#).expect("writes");
    fs::write(here.join("labels.txt"), "one\ntwo\nthree\n").expect("writes");
    let train = |flags: &[&str]| {
        let fixed = ["train", "--data", "images", "--run", "run", "--model", "model", "--calibration-images", "16"];
        bignas(here, &[&fixed[..], flags].concat())
    };
    let told = || Model::open(&here.join("model")).expect("a model").card.training.expect("told")["settings"].clone();
    succeed(train(&["--settings", "settings.json", "--seed", "7", "--child", "smallest"]));
    assert_eq!((&told()["seed"], &told()["batch_size"]), (&7.into(), &12.into()), "a flag goes before the file");
    assert!(told()["roster"]["child"].is_object(), "{}", told());

    let search = ["search", "--model", "model", "--data", "images", "--select-on", "held-out"];
    let error = bignas(here, &search).output().expect("runs").stderr;
    assert!(String::from_utf8_lossy(&error).contains("was trained on all images: train with --hold-out"));

    for (flags, said) in [
        (["--space", "cifar10"], "--space is not what run was begun with"),
        (["--hold-out", "72"], "--hold-out 72: there are 72 training images, and some must be left to train on"),
        (["--child", "biggest"], "--child or --with-biggest is not what run was begun with"),
        (["--labels", "labels.txt"], "--labels is not what run was begun with"),
        (["--without", "zero-gamma"], "--without zero-gamma is not what run was begun with"),
    ] {
        let output = train(&[&flags[..], &["--resume"]].concat()).output().expect("runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(said), "{flags:?}: {error}");
    }

    fs::write(here.join("images/train/across/06.png"), b"no image").expect("writes");
    // Validation would read all training images beforehand.
    fs::remove_dir_all(here.join("images/test")).expect("removes");
    let more = ["--epochs", "2", "--optimiser", "sgd", "--schedule", "cosine", "--resume"];
    let output = train(&more).output().expect("runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("06.png"), "{error}");
    let newest = fs::read_dir(here.join("run/checkpoints")).expect("checkpoints").map(|entry| entry.expect("reads").file_name()).max();
    assert!(newest.as_deref() > Some("step-00000006".as_ref()), "the steps before the damaged file are kept: {newest:?}");
    assert!(!error.contains("none distils"), "a child alone has no teacher: {error}");
    assert_eq!(RunDirectory::peek(&here.join("run")).expect("a state").skipped, 0, "the file may be repaired yet");
    let output = train(&[&more[..], &["--max-corrupt", "1"]].concat()).output().expect("runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && error.contains("WARN skipping an image that cannot be read"), "{error}");
    assert!(error.contains("06.png"), "what is skipped is named: {error}");
    assert!(error.contains("1 images could not be read and were skipped, the first of them images/train/across/06.png"), "{error}");
    // Finished once more, it meets few images.
    let text = succeed(train(&[&more[..], &["--max-corrupt", "1"]].concat()));
    assert!(text.contains("next: put test images into images/test/CLASS/"), "{text}");
    assert!(text.ends_with("then: bignas search --model model --data images --max-corrupt 1\n"), "{text}");
    let training = Model::open(&here.join("model")).expect("a model").card.training.expect("told");
    assert_eq!((&training["images"], &training["skipped"]), (&71.into(), &1.into()), "those that could be read, and not");
    assert_eq!((&told()["optimiser"]["kind"], &told()["seed"]), (&"sgd".into(), &7.into()));
    assert_eq!((&told()["schedule"]["shape"], &told()["schedule"]["floor"]), (&"cosine".into(), &0.0.into()), "to zero, if not told");
    assert!(told()["roster"]["child"].is_object(), "what was trained still is");
}
