//! The exported networks and the single-stage model in libtorch compute the same, each recalibrated by itself.
//!
//! Nothing is shared on the way but the weights and the patches: resizing, normalising, slicing, statistics and the forward
//! pass exist twice. Bounds are absolute where the values are of order one, which the tests make sure of.
#![cfg(feature = "train")]

mod common;

use bignas::calibrate::{Batches, Calibrator, recalibrate};
use bignas::checkpoint::{BnStats, GammaInit, Weights};
use bignas::data::PatchSet;
use bignas::image::{Filter, Preprocessing};
use bignas::onnx::{Input, Metadata, deployable};
use bignas::runtime::{Network, Runtime};
use bignas::slice::slice;
use bignas::space::{Activation, Child, Draw, Padding, Plan, SearchSpace, Shortcut, layout, preset};
use bignas::train::{ElasticNet, Normaliser, Statistics, resize};
use tch::{Device, IndexOp, Tensor as Torch};

/// Largest differences; the bounds that hold for all of them.
#[derive(Debug, Default)]
struct Worst {
    /// Between logits.
    logits: f32,
    /// Between means, in standard deviations of the channel.
    mean: f32,
    /// Between variances, as a fraction of the channel's.
    variance: f32,
    /// Of the largest logits, the smallest and the largest over the children: what the first is to be compared with.
    scale: Option<(f32, f32)>,
}

const LOGITS: f32 = 1e-4;
const MEAN: f32 = 1e-4;
const VARIANCE: f32 = 1e-4;

const CLASSES: usize = 10;

/// A single-stage model, and images, in both worlds.
struct Model {
    space: SearchSpace,
    weights: Weights,
    preprocessing: Preprocessing,
    patches: PatchSet,
    batch: usize,
    runtime: Runtime,
    net: ElasticNet,
}

impl Model {
    /// Random weights for `space`, and patches of `crop` pixels: two batches to calibrate on, and one to classify.
    fn new(space: SearchSpace, crop: u32, batch: usize) -> Self {
        tch::set_num_threads(1);
        space.validate().expect("a valid space");
        let weights = Weights::random(&layout(&space, CLASSES), 5, GammaInit::Random);
        let channels = space.input_channels;
        let (mean, std) = ([0.485, 0.456, 0.406][..channels].to_vec(), [0.229, 0.224, 0.225][..channels].to_vec());
        let preprocessing = Preprocessing { resize: None, filter: Filter::Bicubic, crop, mean, std, background: [0; 3] };
        let patches: Vec<_> = (0..3 * batch as u64).map(|seed| common::natural_patch(crop, channels, seed)).collect();
        let patches = PatchSet::from_patches(&patches).expect("alike");
        let net = ElasticNet::from_weights(&weights, Device::Cpu);
        Self { space, weights, preprocessing, patches, batch, runtime: common::runtime(), net }
    }

    /// The statistics and the logits `[batch, classes]` of the exported child.
    fn exported(&self, plan: &Plan) -> (BnStats, Vec<f32>) {
        let sliced = slice(&self.weights, plan).expect("weights of this space");
        let calibration = PatchSet { count: 2 * self.batch, data: self.bytes(0, 2).to_vec(), ..self.patches }.into();
        let batches = Batches::of(self.batch);
        let calibrator = Calibrator { runtime: &self.runtime, images: &calibration, batches, threads: 1, stop: None };
        let stats = recalibrate(&sliced, &self.preprocessing, &calibrator).expect("recalibrates");
        let labels = vec!["a".to_owned(); CLASSES];
        let metadata =
            Metadata { model: "parity", weights_sha256: "", labels: &labels, preprocessing: &self.preprocessing, input: Input::Resolution };
        let onnx = deployable(&sliced, &stats, metadata).expect("its own statistics");
        let mut network = Network::load(&self.runtime, &onnx, "a child", 1).expect("loads");
        let mut input = vec![0.0; self.batch * network.input_shape().iter().product::<usize>()];
        let per_image = input.len() / self.batch;
        for (index, out) in input.chunks_exact_mut(per_image).enumerate() {
            let patch = self.patches.patch(2 * self.batch + index).expect("is there");
            patch.write_input(plan.child.resolution() as u32, &self.preprocessing, out).expect("fits");
        }
        (stats, network.run(&input, self.batch).expect("runs"))
    }

    /// The same in libtorch.
    fn trained(&self, plan: &Plan) -> (Statistics, Vec<f32>) {
        let side = plan.child.resolution();
        let normaliser = Normaliser::new(&self.preprocessing, Device::Cpu);
        let images = |batch| resize(&normaliser.apply(self.bytes(batch, batch + 1)), side);
        let stats = self.net.recalibrate(plan, [images(0), images(1)]);
        let logits = self.net.logits(plan, &images(2), &stats);
        (stats, to_vec(&logits))
    }

    /// The bytes of the batches from `first` up to `end`.
    fn bytes(&self, first: usize, end: usize) -> &[u8] {
        let per_batch = self.patches.data.len() / self.patches.count * self.batch;
        &self.patches.data[first * per_batch..end * per_batch]
    }

    fn compare(&self, child: &Child, worst: &mut Worst) {
        let plan = Plan::new(&self.space, child, CLASSES);
        let (exported_stats, exported) = self.exported(&plan);
        let (trained_stats, trained) = self.trained(&plan);
        let what = format!("child {} of {}: {:?}", child.id(), self.space.name, child.choices());

        assert_eq!(exported_stats.layers().count(), trained_stats.len(), "{what}");
        for (name, layer) in exported_stats.layers() {
            let (means, variances) = &trained_stats[name];
            assert_eq!((layer.mean.len(), layer.variance.len()), (means.len(), variances.len()), "{name} of {what}");
            for (channel, (mean, variance)) in means.iter().zip(variances).enumerate() {
                let by_mean = (layer.mean[channel] - mean).abs() / variance.sqrt();
                let by_variance = (layer.variance[channel] - variance).abs() / variance;
                let here = format!("channel {channel} of {name}: {mean}, {variance}; {what}");
                assert!(by_mean <= MEAN, "means differ by {by_mean:e} deviations in {here}");
                assert!(by_variance <= VARIANCE, "variances differ by {by_variance:e} in {here}");
                worst.mean = worst.mean.max(by_mean);
                worst.variance = worst.variance.max(by_variance);
            }
        }

        assert_eq!(exported.len(), trained.len());
        let scale = trained.iter().fold(0f32, |most, logit| most.max(logit.abs()));
        let difference = exported.iter().zip(&trained).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!((0.1..20.0).contains(&scale), "logits of order one can be compared absolutely, not {scale}; {what}");
        assert!(difference <= LOGITS, "logits differ by {difference:e}; {what}");
        let (least, most) = worst.scale.unwrap_or((scale, scale));
        worst.scale = Some((least.min(scale), most.max(scale)));
        worst.logits = worst.logits.max(difference);
    }

    /// Compares `count` random children and reports the largest differences.
    fn compare_random(&self, count: u64) {
        let mut worst = Worst::default();
        for step in 0..count {
            self.compare(&self.space.random(Draw::new(11, step, 0)), &mut worst);
        }
        println!("{}, {count} children: {worst:?}", self.space.name);
    }
}

fn to_vec(tensor: &Torch) -> Vec<f32> {
    let flat = tensor.contiguous().reshape([-1]);
    Vec::<f32>::try_from(flat).expect("float32")
}

#[test]
fn children_of_fashion_mnist() {
    Model::new(preset("fashion-mnist").expect("a preset"), 28, 16).compare_random(50);
}

#[test]
fn children_of_cifar10() {
    Model::new(preset("cifar10").expect("a preset"), 32, 16).compare_random(50);
}

#[test]
fn children_of_bignas() {
    Model::new(preset("bignas").expect("a preset"), 224, 4).compare_random(5);
}

/// A space with the block options of AttentiveNAS and AlphaNet, at sizes that make odd maps: 31 gives 16, 8, 4; 52 gives
/// 26, 13, 7; 57 gives 29, 15, 8.
fn attentive() -> SearchSpace {
    let squeeze = r#"{"ratio": 0.25, "of": "expanded", "divisor": 8, "activation": "relu", "gate": "hard_sigmoid"}"#;
    let text = format!(
        r#"{{
            "name": "attentive", "input_channels": 3,
            "resolutions": [31, 52, 57, 64], "training_resolutions": [31, 52, 57, 64],
            "padding": "symmetric", "activation": "swish", "bn_eps": 0.00001, "expansion_divisor": 8, "shortcut": "pool_zeros",
            "stem": {{"channels": [16, 24], "kernel": 3, "stride": 2}},
            "stages": [
                {{"channels": [16, 24], "depth": [1, 2], "kernel": [3, 5], "expansion": [1], "stride": 1, "granularity": "stage"}},
                {{"channels": [24, 32], "depth": [2, 3], "kernel": [3, 5], "expansion": [4, 5, 6], "stride": 2, "granularity": "stage"}},
                {{"channels": [32, 40], "depth": [2, 3], "kernel": [3, 5], "expansion": [4, 5, 6], "stride": 2, "granularity": "stage",
                  "squeeze_excite": {squeeze}}},
                {{"channels": [56, 64], "depth": [1, 2], "kernel": [3, 5, 7], "expansion": [6], "stride": 1, "granularity": "stage",
                  "squeeze_excite": {squeeze}}}
            ],
            "head": {{"channels": [224, 256], "kind": {{"feature_mix": {{"expansion": 6}}}}, "dropout": 0.2}}
        }}"#
    );
    serde_json::from_str(&text).expect("a space")
}

#[test]
fn block_options_of_other_families() {
    let space = attentive();
    let odd = |resolution: usize| {
        let mut choices = space.biggest().choices().clone();
        choices.resolution = resolution;
        let plan = Plan::new(&space, &Child::new(&space, choices).expect("inside"), CLASSES);
        plan.blocks.iter().filter(|block| block.pool.is_some_and(|pool| pool.pad.begin == 1)).count()
    };
    assert_eq!([31, 52, 57, 64].map(odd), [0, 1, 2, 0], "shortcuts that pool an odd map");
    Model::new(space, 48, 16).compare_random(20);
}

/// As `block_options_of_other_families`, for what neither a preset nor that space uses.
#[test]
fn the_remaining_block_options() {
    let mut space = attentive();
    space.name = "remaining".to_owned();
    space.activation = Activation::HardSwish;
    space.padding = Padding::Same;
    for shortcut in [Shortcut::PoolSame, Shortcut::IdentityOnly] {
        space.shortcut = shortcut;
        Model::new(space.clone(), 48, 16).compare_random(8);
    }
    space.activation = Activation::Relu;
    Model::new(space, 48, 16).compare_random(4);
}

#[test]
fn resizing_is_libtorchs() {
    for (size, channels, sides) in [(28, 1, &[20, 22, 24, 26, 28, 30, 32][..]), (32, 3, &[24, 31, 36]), (224, 3, &[192, 208, 288, 320])] {
        let mean = [0.485, 0.456, 0.406][..channels].to_vec();
        let std = [0.229, 0.224, 0.225][..channels].to_vec();
        let preprocessing = Preprocessing { resize: None, filter: Filter::Bicubic, crop: size, mean, std, background: [0; 3] };
        for seed in 0..3 {
            let patch = common::natural_patch(size, channels, 100 + seed);
            let set = PatchSet::from_patches(std::slice::from_ref(&patch)).expect("one patch");
            let normalised = Normaliser::new(&preprocessing, Device::Cpu).apply(&set.data);
            for &side in sides {
                let mut written = vec![f32::NAN; channels * side * side];
                patch.write_input(side as u32, &preprocessing, &mut written).expect("fits");
                let expected = to_vec(&resize(&normalised, side).i(0));
                let worst = written.iter().zip(&expected).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
                assert!(worst <= 1e-5, "{size} to {side}: {worst:e}");
            }
        }
    }
}
