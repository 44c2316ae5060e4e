//! What cannot be trained, resumed or saved, and what is said of it.

use std::fs;

use bignas::data::DataError;
use bignas::space::{layout, preset};
use bignas::train::{Checkpoint, RunDirectory, RunState, TrainError};
use serde_json::json;

use crate::{BATCH, Bench, STEPS};

#[test]
fn runs_that_cannot_start_say_why() {
    let mut bench = Bench::new();
    assert!(matches!(bench.run("none", true), Err(TrainError::NothingToResume { .. })));
    bench.one_step("taken", false);
    let message = bench.run("taken", false).expect_err("taken").to_string();
    assert!(message.contains("already holds a run; resume it with --resume"), "{message}");

    let (begun, lost) = (bench.path("begun"), bench.path("begun").join("metrics.jsonl"));
    fs::create_dir_all(&begun).expect("makes");
    fs::write(&lost, "{}\n").expect("writes");
    let partial = begun.join("checkpoints/.partial-x");
    fs::create_dir_all(&partial).expect("makes");
    let held = RunDirectory::create(&begun).expect("what never came to a checkpoint does not stand in the way");
    assert!(!lost.exists() && !partial.exists());
    assert!(matches!(bench.run("begun", false), Err(TrainError::Busy { .. })));
    drop(held);
    bench.one_step("begun", false);

    let labels = bench.directory.path().join("train-labels-idx1-ubyte");
    let three = fs::read(&labels).expect("reads");
    fs::write(&labels, [&three[..8], &[0; BATCH * STEPS as usize + 1]].concat()).expect("writes");
    let message = bench.run("single", false).expect_err("one class").to_string();
    assert!(message.contains("the training images are of 1 classes; a model tells 2 to 100000 apart"), "{message}");
    fs::write(&labels, three).expect("writes");

    let before = bench.settings.clone();
    bench.settings.seed += 1;
    let message = bench.run("taken", true).expect_err("another seed").to_string();
    assert!(message.contains("the seed changed since the run"), "{message}");
    bench.settings = before;
    bench.space = preset("cifar10").expect("a preset");
    assert!(matches!(bench.run("colour", false), Err(TrainError::Channels { images: 1, space: 3 })));
    bench.space = preset("fashion-mnist").expect("a preset");
    bench.settings.batch_size = 100;
    let refused = bench.run("few", false);
    assert!(matches!(refused, Err(TrainError::Data(DataError::TooFew { len: 9, batch_size: 100 }))), "{refused:?}");
    for run in ["colour", "few", "single"] {
        assert!(!bench.path(run).exists(), "nothing is made before the job is known to fit");
    }
}

#[test]
fn damaged_checkpoints_are_refused_by_name() {
    let mut bench = Bench::new();
    bench.settings.average = Some(0.9);
    let checkpoint = bench.one_step("run", false);
    for file in ["state.json", "weights.safetensors", "momentum.safetensors", "mean_square.safetensors", "average.safetensors"] {
        let path = checkpoint.join(file);
        let whole = fs::read(&path).expect("reads");
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0x80;
        for damaged in [&whole[..whole.len() / 2], &flipped] {
            fs::write(&path, damaged).expect("writes");
            let message = bench.run("run", true).expect_err(file).to_string();
            assert!(message.contains(file), "{message:?} lacks {file}");
        }
        fs::remove_file(&path).expect("removes");
        assert!(matches!(bench.run("run", true), Err(TrainError::Io { .. })), "{file} is missing");
        fs::write(&path, whole).expect("writes");
    }
    let path = checkpoint.join("state.json");
    let whole = fs::read(&path).expect("reads");
    for (at, value, said) in [
        ("/step", json!(2), "state.json: it is of step 2, and its directory is not"),
        ("/steps_per_epoch", json!(0), "state.json: 9 images in batches of 4 do not make 0 steps an epoch"),
        ("/steps_per_epoch", json!(3), "state.json: 9 images in batches of 4 do not make 3 steps an epoch"),
        ("/space/training_resolutions", json!([]), "training_resolutions"),
        ("/preprocessing/std", json!([0.0]), "preprocessing: std"),
    ] {
        let mut state: serde_json::Value = serde_json::from_slice(&whole).expect("JSON");
        *state.pointer_mut(at).expect("is there") = value;
        fs::write(&path, state.to_string()).expect("writes");
        let message = bench.run("run", true).expect_err(at).to_string();
        assert!(message.contains(said) && message.contains("delete this checkpoint"), "{message:?} lacks {said:?}");
    }
    fs::write(&path, whole).expect("writes");
    assert_eq!(bench.newest("run").state.step, 1, "restored, it is whole again");
}

#[test]
fn a_checkpoint_that_cannot_be_written_says_how_to_go_on() {
    let bench = Bench::new();
    bench.one_step("run", false);
    let checkpoint = bench.newest("run");
    let (run, _) = RunDirectory::resume(&bench.path("run"), layout).expect("a checkpoint");
    let later = Checkpoint { state: RunState { step: 2, ..checkpoint.state.clone() }, ..checkpoint };
    let checkpoints = bench.path("run").join("checkpoints");
    fs::rename(&checkpoints, bench.path("elsewhere")).expect("renames");
    let message = run.save(&later).expect_err("nowhere to write").to_string();
    let expected = format!("no checkpoint could be saved in {}; those before it are whole: make room", checkpoints.display());
    assert!(message.contains(&expected), "{message}");
    fs::rename(bench.path("elsewhere"), &checkpoints).expect("renames");
    run.save(&later).expect("there it is again");
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint() {
    let mut bench = Bench::new();
    bench.settings.schedule.rate_per_256 = 1e30;
    bench.settings.schedule.warmup_epochs = 0.0;
    let error = bench.run("fresh", false).expect_err("diverges");
    assert!(matches!(error, TrainError::NotFinite { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("step 2,") && message.contains("there is no checkpoint yet"), "{message}");
    let rate = bench.settings.schedule.rate(1, 4, BATCH);
    assert!(message.contains(&format!("learning rate {rate:.3e}")), "{message}");

    // The same after a good step, of a run whose settings were edited.
    bench.settings.schedule.rate_per_256 = 0.016;
    let checkpoint = bench.one_step("good", false);
    let path = checkpoint.join("state.json");
    let mut state: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("reads")).expect("JSON");
    state["settings"]["schedule"]["rate_per_256"] = 1e30.into();
    fs::write(&path, state.to_string()).expect("writes");
    bench.settings.schedule.rate_per_256 = 1e30;
    let good = bench.newest("good");
    let message = bench.run("good", true).expect_err("diverges").to_string();
    let expected = format!("the last good checkpoint is {}", checkpoint.display());
    assert!(message.contains("diverged") && message.contains(&expected), "{message}");
    assert!(bench.newest("good") == good, "what is not a number is never saved");
}
