//! What several test files share: ONNX Runtime, and a small model with random weights in a directory of its own.
#![allow(dead_code, reason = "each test file uses its part of this module")]

use std::path::PathBuf;

use bignas::checkpoint::{Draft, Family, GammaInit, Member, Model, Weights};
use bignas::data::PatchSet;
use bignas::image::{Filter, Preprocessing};
use bignas::runtime::{Runtime, default_library};
use bignas::search::{Grid, largest_within, spread_budgets};
use bignas::space::{SearchSpace, layout, preset};

/// ONNX Runtime, from `ORT_DYLIB_PATH` or where `make fetch` puts it.
pub fn runtime() -> Runtime {
    let path = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from).or_else(default_library).unwrap();
    Runtime::load(&path).unwrap()
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
        let directory = tempfile::tempdir().unwrap();
        let space = space();
        let weights = Weights::random(&layout(&space, 10), 3, GammaInit::Random);
        let draft = Draft {
            name: "test".into(),
            labels: (0..10).map(|class| format!("class {class}")).collect(),
            preprocessing: preprocessing(),
            space: space.clone(),
            calibration: Some((noise(32, 28, 1), 16, 0)),
            training: None,
        };
        let mut model = Model::create(directory.path(), draft, &weights).unwrap();
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

    pub fn path(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub fn open(&self) -> Model {
        Model::open(self.path()).unwrap()
    }
}
