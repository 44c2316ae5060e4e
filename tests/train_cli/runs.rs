//! What a run settles at its beginning, and what it meets at its end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use bignas::checkpoint::Model;
use bignas::data::Policy;
use bignas::space::Shortcut;
use bignas::train::RunDirectory;
use image::{Rgb, RgbImage};

use crate::{CLASSES, bignas, succeed, write_images};

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
