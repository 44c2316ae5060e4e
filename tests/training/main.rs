//! Training runs on a tiny data set: resumed exactly, refused with a reason, stopped in time.
#![cfg(feature = "train")]

mod lessons;
mod refusals;
mod resuming;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bignas::checkpoint::Weights;
use bignas::data::{Augment, DataOptions, ImageSet, Policy, RandomCrop, Source, Split};
use bignas::image::{Filter, Preprocessing};
use bignas::space::{SearchSpace, layout, preset};
use bignas::train::{Checkpoint, Given, Job, Outcome, RunDirectory, TrainError, TrainSettings, Wanted, run};
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
