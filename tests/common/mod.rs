//! What several test files share: ONNX Runtime, and a small model with random weights in a directory of its own.
#![allow(dead_code, reason = "each test file uses its part of this module")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bignas::calibrate::{Batches, Calibrator};
use bignas::checkpoint::{Draft, Family, GammaInit, Member, Model, Replaces, Weights};
use bignas::data::PatchSet;
use bignas::deploy::{Statistics, deploy};
use bignas::engine::{Engine, EngineOptions};
use bignas::image::{Filter, Patch, Preprocessing};
use bignas::metrics::Metrics;
use bignas::onnx::Input;
use bignas::runtime::{Runtime, default_library};
use bignas::search::{Grid, largest_within, spread_budgets};
use bignas::space::{ChildId, SearchSpace, layout, preset};
use clap::Parser;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The library of ONNX Runtime, from `ORT_DYLIB_PATH` or where `make fetch` puts it.
pub fn library() -> PathBuf {
    std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from).or_else(default_library).unwrap()
}

/// What it runs.
pub fn runtime() -> Runtime {
    Runtime::load(&library()).unwrap()
}

/// `count` patches of deterministic noise.
pub fn noise(count: usize, size: u32, channels: usize) -> PatchSet {
    let bytes = count * channels * (size * size) as usize;
    let data = (0..bytes as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    PatchSet { size, channels, count, data }
}

/// Preprocessing for grey 28×28 images.
pub fn preprocessing() -> Preprocessing {
    Preprocessing { resize: None, filter: Filter::Bicubic, crop: 28, mean: vec![0.3], std: vec![0.35], background: [0; 3] }
}

/// The space that the small model is made of.
pub fn space() -> SearchSpace {
    preset("fashion-mnist").unwrap()
}

/// A model directory with random weights and a family of six, whose accuracies rise with their cost.
pub struct TestModel {
    directory: tempfile::TempDir,
}

impl TestModel {
    pub fn new() -> Self {
        Self::with_seed(3)
    }

    /// One with other weights.
    pub fn with_seed(seed: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let space = space();
        let weights = Weights::random(&layout(&space, 10), seed, GammaInit::Random);
        let draft = Draft {
            name: "test".into(),
            labels: (0..10).map(|class| format!("class {class}")).collect(),
            class_folders: None,
            preprocessing: preprocessing(),
            space: space.clone(),
            calibration: Some((noise(32, 28, 1).into(), 16, 0)),
            training: None,
        };
        let mut model = Model::create(directory.path(), draft, weights, &Replaces::Any).unwrap();
        let children = largest_within(&space, 10, &Grid::of(&space), &spread_budgets(&space, 10, 6));
        let source = bignas::checkpoint::AccuracySource {
            dataset: "none".into(),
            split: "test".into(),
            images: 1,
            kind: bignas::checkpoint::AccuracyKind::Measured,
        };
        let member = |(rank, child)| Member { child, accuracy: Some(0.8 + 0.01 * rank as f64), accuracy_source: Some(source.clone()) };
        let members = children.into_iter().enumerate().map(member).collect();
        model.write_family(Family::new(&space, 10, members, None)).unwrap();
        Self { directory }
    }

    /// Measures the statistics of the family, and takes the images away.
    pub fn ship_statistics_instead_of_images(&self) {
        let mut model = self.open();
        let images = model.calibration_images().unwrap().unwrap();
        let runtime = runtime();
        let calibrator = Calibrator { runtime: &runtime, images: &images, batches: Batches::of(16), threads: 1, stop: None };
        let measured = |member: &Member| deploy(&model, &member.child, Statistics::Measured(&calibrator), Input::Resolution).unwrap().stats;
        let statistics = model.family.members.iter().map(measured).collect();
        model.write_statistics(statistics, (images.sha256(), 0)).unwrap();
        let card = self.path().join("model.json");
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&card).unwrap()).unwrap();
        json.as_object_mut().unwrap().remove("calibration");
        std::fs::write(card, json.to_string()).unwrap();
        std::fs::remove_file(self.path().join("calibration.safetensors")).unwrap();
    }

    pub fn path(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub fn open(&self) -> Model {
        Model::open(self.path()).unwrap()
    }
}

/// A seeded patch as natural images are: smooth shapes of different sizes, a little noise, now and then clipped.
pub fn natural_patch(size: u32, channels: usize, seed: u64) -> Patch {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut waves = vec![[0.0f32; 5]; 12];
    for (octave, wave) in waves.iter_mut().enumerate() {
        let frequency = 2f32.powi(octave as i32 / 3);
        let mut draw = |low: f32, high: f32| low + (high - low) * rng.random::<f32>();
        let angle = draw(0.0, std::f32::consts::TAU);
        *wave = [frequency * angle.cos(), frequency * angle.sin(), draw(0.0, 6.0), draw(0.0, 6.0), draw(30.0, 90.0) / frequency.sqrt()];
    }
    let level: f32 = 60.0 + 130.0 * rng.random::<f32>();
    let mut data = Vec::with_capacity(size as usize * size as usize * channels);
    for (y, x) in (0..size).flat_map(|y| (0..size).map(move |x| (y, x))) {
        let (v, u) = (y as f32 / size as f32 * 6.0, x as f32 / size as f32 * 6.0);
        for channel in 0..channels {
            let wave = |[fy, fx, phase, shift, height]: &[f32; 5]| height * (fy * v + fx * u + phase + shift * channel as f32).sin();
            let value = level + waves.iter().map(wave).sum::<f32>() * 0.5 + 12.0 * (rng.random::<f32>() - 0.5);
            data.push(value.clamp(0.0, 255.0) as u8);
        }
    }
    Patch { size, channels, data }
}

/// The engine's flags.
#[derive(Parser)]
pub struct Flags {
    #[command(flatten)]
    pub options: EngineOptions,
}

/// An engine with its own cache directory and the given flags; two workers, no warm-up.
pub fn engine(model: &TestModel, cache: &Path, flags: &[&str]) -> Engine {
    let cache = cache.to_str().unwrap();
    let workers: &[&str] = if flags.contains(&"--workers") { &[] } else { &["--workers", "2"] };
    let fixed = ["test", "--cache-dir", cache];
    let warm_up: &[&str] = if flags.contains(&"--warm-up") { &[] } else { &["--warm-up", "false"] };
    let options = Flags::parse_from(fixed.iter().chain(workers).chain(warm_up).chain(flags)).options;
    Engine::start(model.open(), runtime(), Arc::new(Metrics::new().unwrap()), options, None).unwrap()
}

/// Builds the family in `cache`, and measures it.
pub async fn measure(model: &TestModel, cache: &Path) {
    let first = engine(model, cache, &["--warm-up", "true"]);
    while !first.ready() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Rewrites what an engine has measured into `cache`: a child's image takes so many milliseconds as `ms_of` its id says.
pub fn claim_latencies(cache: &Path, ms_of: impl Fn(&str) -> f64) {
    claim_profiles(cache, |id| vec![(1, ms_of(id))]);
}

/// The same of batches: a child's run of so many images takes so many milliseconds.
pub fn claim_profiles(cache: &Path, runs_ms_of: impl Fn(&str) -> Vec<(usize, f64)>) {
    for file in std::fs::read_dir(cache.join("latency")).unwrap() {
        let path = file.unwrap().path();
        let mut table: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for (id, runs) in table["runs_ms"].as_object_mut().unwrap() {
            *runs = serde_json::json!(runs_ms_of(id));
        }
        std::fs::write(&path, table.to_string()).unwrap();
    }
}

/// A grey patch.
pub fn patch(value: u8) -> Patch {
    Patch { size: 28, channels: 1, data: vec![value; 28 * 28] }
}

/// The children, cheapest first.
pub fn ids(engine: &Engine) -> Vec<ChildId> {
    engine.children().iter().map(|status| status.child.id()).collect()
}
