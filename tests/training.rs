//! Training runs on a tiny data set: resumed exactly, refused with a reason, stopped in time.
#![cfg(feature = "train")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bignas::checkpoint::{GammaInit, Weights};
use bignas::data::{Augment, DataError, DataOptions, ImageSet, Policy, RandomCrop, Source, Split};
use bignas::image::{Filter, Preprocessing};
use bignas::space::{SearchSpace, layout, preset};
use bignas::train::{
    Checkpoint, Decay, Given, Job, OptimiserKind, Outcome, Regularise, Roster, RunDirectory, RunState, TrainError, TrainSettings, Wanted,
    run,
};
use serde_json::json;
use tempfile::TempDir;

/// Images a step, and steps of an epoch.
const BATCH: usize = 4;
const STEPS: u64 = 2;

/// libtorch has one generator of random numbers for all threads: one training at a time.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static RUNNING: Mutex<()> = Mutex::new(());
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A data set of 28×28 grey images, and a place for the run.
struct Bench {
    _one: MutexGuard<'static, ()>,
    directory: TempDir,
    space: SearchSpace,
    settings: TrainSettings,
    /// Weights, and what tells them from others.
    start: Option<(Weights, &'static str)>,
    teacher: Option<(Weights, &'static str)>,
    threads: usize,
    policy: Option<Policy>,
    stop: AtomicBool,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let count = BATCH * STEPS as usize + 1;
        let header = |dimensions: &[usize]| {
            let mut bytes = vec![0, 0, 8, dimensions.len() as u8];
            bytes.extend(dimensions.iter().flat_map(|&n| (n as u32).to_be_bytes()));
            bytes
        };
        let pixels = (0..count * 28 * 28).map(|i| (i * 7919 % 251) as u8);
        let images: Vec<u8> = header(&[count, 28, 28]).into_iter().chain(pixels).collect();
        let labels: Vec<u8> = header(&[count]).into_iter().chain((0..count).map(|i| (i % 3) as u8)).collect();
        for prefix in ["train", "t10k"] {
            fs::write(directory.path().join(format!("{prefix}-images-idx3-ubyte")), &images).expect("writes");
            fs::write(directory.path().join(format!("{prefix}-labels-idx1-ubyte")), &labels).expect("writes");
        }
        let settings = TrainSettings { epochs: 2, batch_size: BATCH, seed: 7, ..TrainSettings::default() };
        let space = preset("fashion-mnist").expect("a preset");
        let (start, teacher, threads, policy) = (None, None, 1, None);
        Self { _one: one_at_a_time(), directory, space, settings, start, teacher, threads, policy, stop: AtomicBool::new(false) }
    }

    fn path(&self, run: &str) -> PathBuf {
        self.directory.path().join(run)
    }

    fn source(&self, split: Split) -> Source {
        let preprocessing =
            Preprocessing { resize: None, filter: Filter::Bicubic, crop: 28, mean: vec![0.5], std: vec![0.25], background: [0; 3] };
        let images = ImageSet::open(self.directory.path(), split, DataOptions::new(&preprocessing)).expect("opens");
        Source { images, preprocessing, augment: Augment { crop: RandomCrop::Pad { pad: 2 }, flip: true, auto_augment: self.policy } }
    }

    fn run(&self, name: &str, resume: bool) -> Result<Outcome, TrainError> {
        let validation = self.source(Split::Test);
        let job = Job {
            device: tch::Device::Cpu,
            start: self.start.as_ref().map(|(weights, sha256)| Given { weights, sha256 }),
            teacher: self.teacher.as_ref().map(|(weights, sha256)| Given { weights, sha256 }),
            space: &self.space,
            train: Arc::new(self.source(Split::Train)),
            validation: Some(&validation),
            wanted: Wanted::default(),
            directory: &self.path(name),
            threads: self.threads,
            loader_threads: self.threads,
            stop: &self.stop,
        };
        run(&job, &self.settings, resume)
    }

    /// Trains one step, then saves.
    fn one_step(&self, name: &str, resume: bool) -> PathBuf {
        self.stop.store(true, Ordering::Relaxed);
        let outcome = self.run(name, resume);
        self.stop.store(false, Ordering::Relaxed);
        match outcome.expect("one step") {
            Outcome::Stopped { checkpoint } => checkpoint,
            Outcome::Finished { .. } => panic!("stopped runs are not finished"),
        }
    }

    fn newest(&self, name: &str) -> Checkpoint {
        RunDirectory::resume(&self.path(name), layout).expect("a checkpoint").1
    }
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(path).expect("metrics");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one_bit_for_bit() {
    let bench = Bench::new();
    let Outcome::Finished { weights, provenance } = bench.run("whole", false).expect("trains") else { panic!("it was not stopped") };
    assert_eq!((provenance.steps, provenance.images), (4, 9));

    // In the middle of an epoch, at its end, and to the end of the run.
    let first = bench.one_step("parts", false);
    assert!(first.ends_with("checkpoints/step-00000001"), "{}", first.display());
    assert_eq!(bench.newest("parts").state.step, 1);
    bench.one_step("parts", true);
    assert_eq!(bench.newest("parts").state.step, 2);
    let Outcome::Finished { weights: resumed, provenance } = bench.run("parts", true).expect("resumes") else { panic!("not stopped") };

    assert!(weights == resumed, "the weights differ");
    assert_eq!(provenance.steps, 4);
    let (whole, parts) = (bench.newest("whole"), bench.newest("parts"));
    assert!(whole.weights == weights && whole.weights == parts.weights && whole.optimiser == parts.optimiser);
    let kept = |run: &str| fs::read_dir(bench.path(run).join("checkpoints")).expect("checkpoints").count();
    assert_eq!((kept("whole"), kept("parts")), (2, 2), "the newest, and one to fall back on");

    let epochs = lines(&bench.path("whole").join("metrics.jsonl"));
    let curve = fs::read_to_string(bench.path("whole").join("accuracy.svg")).expect("drawn");
    assert_eq!(curve.matches("<circle").count(), 2 * 2 + 2, "two children after two epochs, and the legend");
    assert!(bench.path("whole").join("accuracy.png").exists());
    let accuracies = |epoch: &serde_json::Value| (epoch["accuracy_biggest"].clone(), epoch["accuracy_smallest"].clone());
    assert_eq!(epochs.len(), 2);
    let parts = lines(&bench.path("parts").join("metrics.jsonl"));
    let of = |epochs: &[serde_json::Value]| epochs.iter().map(accuracies).collect::<Vec<_>>();
    assert_eq!(of(&epochs), of(&parts), "who stops at the end of an epoch still validates");
}

/// The same with everything that a run can keep beside its weights, each technique off, and as the command line has it: two threads,
/// labels at first, images changed by a policy.
#[test]
fn averages_and_ablations_are_resumed_exactly_too() {
    type Change = fn(&mut TrainSettings);
    let cases: [(&str, Change); 5] = [
        ("usual", |s| s.label_epochs = 1),
        ("average", |s| (s.average, s.schedule.shape) = (Some(0.9), Decay::Cosine)),
        ("sgd", |s| (s.optimiser.kind, s.regularise, s.schedule.shape) = (OptimiserKind::Sgd, Regularise::Everyone, Decay::Linear)),
        ("patches", |s| (s.same_patch, s.dropout) = (false, false)),
        ("plain", |s| (s.sandwich, s.distillation, s.zero_gamma) = (false, false, false)),
    ];
    for (name, change) in cases {
        let mut bench = Bench::new();
        change(&mut bench.settings);
        if name == "usual" {
            (bench.threads, bench.policy) = (2, Some(Policy::Cifar10));
        }
        let Ok(Outcome::Finished { weights, provenance }) = bench.run("whole", false) else { panic!("{name} should finish") };
        bench.one_step("parts", false);
        let Ok(Outcome::Finished { weights: resumed, .. }) = bench.run("parts", true) else { panic!("{name} should finish") };
        assert!(weights == resumed, "{name}: the weights differ");
        assert_eq!(provenance.settings, bench.settings);
        let newest = bench.newest("parts");
        assert_eq!(newest.average.is_some(), name == "average");
        assert_eq!(newest.weights == weights, name != "average", "{name}: the model is the average where there is one");
    }
}

#[test]
fn a_resumed_run_may_be_told_otherwise_and_remembers_what_held_before() {
    let mut bench = Bench::new();
    bench.one_step("run", false);
    let before = bench.settings.clone();
    bench.settings.schedule.rate_per_256 /= 2.0;
    let Ok(Outcome::Finished { provenance, .. }) = bench.run("run", true) else { panic!("the run should finish") };
    assert_eq!(provenance.settings, bench.settings);
    let history: Vec<_> = provenance.history.iter().map(|phase| (phase.until_step, &phase.settings)).collect();
    assert_eq!(history, [(1, &before)]);
}

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
fn a_run_never_goes_back() {
    let mut bench = Bench::new();
    bench.run("run", false).expect("trains");
    assert!(matches!(bench.run("run", true), Ok(Outcome::Finished { .. })), "what is done is done");
    bench.settings.epochs = 1;
    let message = bench.run("run", true).expect_err("two are done").to_string();
    assert!(message.contains("is in epoch 2 already: --epochs 1 would have to go back; ask for 2 or more"), "{message}");
}

/// What the checkpoints before had of it is nothing that the next ones lack.
#[test]
fn an_average_may_be_given_up() {
    let mut bench = Bench::new();
    bench.settings.average = Some(0.9);
    bench.one_step("run", false);
    bench.settings.average = None;
    bench.one_step("run", true);
    assert!(bench.newest("run").average.is_none());
    assert!(matches!(bench.run("run", true), Ok(Outcome::Finished { .. })));
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

/// Who is killed between a checkpoint and the validation of its epoch makes up for it.
#[test]
fn an_epoch_that_was_not_validated_is_when_the_run_goes_on() {
    let bench = Bench::new();
    bench.run("run", false).expect("trains");
    let log = bench.path("run").join("metrics.jsonl");
    let whole = lines(&log);
    let text = fs::read_to_string(&log).expect("reads");
    fs::write(&log, text.lines().next().expect("the first epoch").to_owned() + "\n").expect("writes");
    for _ in 0..2 {
        assert!(matches!(bench.run("run", true), Ok(Outcome::Finished { .. })));
        assert_eq!(lines(&log), whole, "once, and no more");
    }
}

/// A classifier that says the same of every image is right as often as the class occurs, and an average of weights is what is validated.
#[test]
fn the_accuracy_told_is_that_of_the_weights() {
    let mut bench = Bench::new();
    let labels = bench.directory.path().join("t10k-labels-idx1-ubyte");
    let header = fs::read(&labels).expect("reads")[..8].to_vec();
    fs::write(&labels, [&header[..], &[1, 0, 0, 1, 2, 0, 0, 2, 1]].concat()).expect("writes");
    bench.settings.schedule.rate_per_256 = 1e-12;
    for (average, class, expected) in [(None, 0, 4.0), (None, 1, 3.0), (Some(0.999), 2, 2.0)] {
        let start = Weights::random(&layout(&bench.space, 3), 99, GammaInit::Random);
        let constant = start.iter().map(|(name, tensor)| {
            let mut tensor = tensor.clone();
            match name {
                "classifier.weight" => tensor.data.fill(0.0),
                "classifier.bias" => tensor.data = (0..3).map(|other| if other == class { 9.0 } else { 0.0 }).collect(),
                _ => {}
            }
            (name.to_owned(), tensor)
        });
        bench.start = Some((Weights::new(constant.collect()), "constant"));
        bench.settings.average = average;
        let name = format!("class {class}");
        bench.run(&name, false).expect("trains");
        for line in lines(&bench.path(&name).join("metrics.jsonl")) {
            let told = [&line["accuracy_biggest"], &line["accuracy_smallest"]].map(serde_json::Value::as_f64);
            assert_eq!(told, [Some(expected / 9.0); 2], "{line}");
        }
    }
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

/// A child that is trained alone, and one beside the biggest, each with its own accuracy; the alone one leaves alone what it does
/// not have.
#[test]
fn one_child_can_be_trained() {
    let mut bench = Bench::new();
    let smallest = bench.space.smallest().choices().clone();
    bench.settings.roster = Roster::Child(smallest.clone());
    let Outcome::Finished { weights, .. } = bench.run("alone", false).expect("trains") else { panic!("not stopped") };
    let before = Weights::random(&layout(&bench.space, 3), bench.settings.seed, GammaInit::ZeroLast);
    let stem = |weights: &Weights| weights.get("stem.weight").expect("a stem").data.clone();
    let (whole, per_filter) = (stem(&before), 9);
    let changed: Vec<bool> = whole.chunks(per_filter).zip(stem(&weights).chunks(per_filter)).map(|(a, b)| a != b).collect();
    // Weight decay reaches every weight; only what the child has moves further than that.
    let moved = |filter: usize| {
        let pairs = whole.iter().zip(stem(&weights)).skip(filter * per_filter).take(per_filter);
        pairs.map(|(a, b)| (a - b).abs() / a.abs().max(1e-3)).fold(0.0, f32::max)
    };
    assert!(changed[0] && moved(0) > 1e-4, "{}", moved(0));
    assert!(moved(whole.len() / per_filter - 1) < 1e-4, "{}", moved(whole.len() / per_filter - 1));
    let last = lines(&bench.path("alone").join("metrics.jsonl")).pop().expect("an epoch");
    assert!(last["accuracy_child"].is_f64() && last["accuracy_biggest"].is_null(), "{last}");

    bench.settings.roster = Roster::BiggestAnd(smallest);
    bench.run("both", false).expect("trains");
    let last = lines(&bench.path("both").join("metrics.jsonl")).pop().expect("an epoch");
    assert!(last["accuracy_child"].is_f64() && last["accuracy_biggest"].is_f64() && last["accuracy_smallest"].is_null(), "{last}");
}

/// Weight decay draws at whole tensors of the child that is regularised, as the optimiser's; where everyone is, at his own part of them.
#[test]
fn weight_decay_reaches_what_the_regularised_child_has() {
    let mut bench = Bench::new();
    bench.settings.roster = Roster::Child(bench.space.smallest().choices().clone());
    bench.settings.optimiser.kind = OptimiserKind::Sgd;
    let before = Weights::random(&layout(&bench.space, 3), bench.settings.seed, GammaInit::ZeroLast);
    for (decay, regularise, shrinks) in
        [(0.0, Regularise::Biggest, false), (0.1, Regularise::Biggest, true), (0.1, Regularise::Everyone, false)]
    {
        bench.settings.optimiser.weight_decay = decay;
        bench.settings.regularise = regularise;
        let Outcome::Finished { weights, .. } = bench.run(&format!("{decay} {regularise:?}"), false).expect("trains") else {
            panic!("not stopped")
        };
        let last = |weights: &Weights, name: &str| weights.get(name).expect("there").data.last().copied().expect("values");
        let (old, new) = (last(&before, "stem.weight"), last(&weights, "stem.weight"));
        let shrank = new != old && (new / old) > 0.9 && (new / old) < 1.0;
        assert!(shrank == shrinks && (shrinks || new == old), "{decay}, {regularise:?}: {old} became {new}");
        let lacking = "stages.3.2.expand.weight";
        assert_eq!(last(&before, lacking), last(&weights, lacking), "a layer that the child does not have");
    }
}

#[test]
fn a_run_starts_from_given_weights_and_learns_from_a_given_teacher() {
    let mut bench = Bench::new();
    let start = Weights::random(&layout(&bench.space, 3), 99, GammaInit::Random);
    bench.settings.schedule.rate_per_256 = 1e-12;
    bench.start = Some((start.clone(), "a"));
    let Outcome::Finished { weights, provenance } = bench.run("started", false).expect("trains") else { panic!("not stopped") };
    let (a, b) = (&start.get("classifier.weight").expect("there").data, &weights.get("classifier.weight").expect("there").data);
    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "the weights are those given");
    assert_eq!((provenance.start_sha256.as_deref(), provenance.teacher_sha256), (Some("a"), None));
    bench.start = Some((start.clone(), "b"));
    let message = bench.run("started", true).expect_err("begun from another").to_string();
    assert!(message.contains("did not start from the weights that --start names now: leave --start out"), "{message}");
    bench.start = None;
    bench.one_step("random", false);
    bench.start = Some((start.clone(), "a"));
    let message = bench.run("random", true).expect_err("begun from none").to_string();
    assert!(message.contains("leave --start out"), "{message}");

    bench.settings.schedule.rate_per_256 = 0.01;
    bench.settings.distillation = false;
    let trained = |bench: &Bench, name: &str| match bench.run(name, false).expect("trains") {
        Outcome::Finished { weights, .. } => weights,
        Outcome::Stopped { .. } => panic!("not stopped"),
    };
    let labels = trained(&bench, "labels");
    bench.teacher = Some((start.clone(), "c"));
    let taught = trained(&bench, "taught");
    assert!(labels != taught, "the teacher stands in for the labels");
    for other in [None, Some((start, "d"))] {
        bench.teacher = other;
        let message = bench.run("taught", true).expect_err("the teacher is missing, or another").to_string();
        assert!(message.contains("teacher (--teacher) changed"), "{message}");
    }
}
