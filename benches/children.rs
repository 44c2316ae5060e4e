//! What a new child costs: slicing, folding and exporting, loading, and recalibration against plain inference.
//!
//! Children of Table 1, and the smallest of AttentiveNAS's space, with random weights. The last lines give the ratio of recalibration to plain inference over the same
//! images, measured in turn, so that it holds when the machine's speed drifts.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bignas::calibrate::{Batches, Calibrator, recalibrate};
use bignas::checkpoint::{BnStats, GammaInit, Weights};
use bignas::data::{CalibrationSet, PatchSet};
use bignas::image::{Filter, Preprocessing};
use bignas::onnx::{self, Input, Metadata};
use bignas::runtime::{Network, Runtime, default_library};
use bignas::slice::slice;
use bignas::space::{Child, Choices, Plan, SearchSpace, StageChoices, layout, preset};
use criterion::{BenchmarkId, Criterion};

/// Images of a recalibration, few and many, and how many form a batch.
const IMAGES: [usize; 2] = [64, 512];
const BATCH: usize = 32;
/// Pairs of measurements behind the ratio.
const PAIRS: usize = 5;

struct Bench {
    runtime: Runtime,
    space: SearchSpace,
    weights: Weights,
    preprocessing: Preprocessing,
    labels: Vec<String>,
}

fn main() {
    bignas::process::keep_freed_memory();
    let bench = Bench::of("bignas");
    let mut criterion = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(3)).configure_from_args();
    let children = [("smallest", bench.space.smallest()), ("printed", printed(&bench.space)), ("biggest", bench.space.biggest())];
    for (name, child) in &children {
        bench.first_answer(&mut criterion, name, child);
    }
    for images in IMAGES {
        bench.recalibration_ratio("the smallest Table 1 child", &bench.space.smallest(), images);
    }
    let bench = Bench::of("attentivenas");
    bench.first_answer(&mut criterion, "A0", &bench.space.smallest());
    bench.recalibration_ratio("AttentiveNAS-A0", &bench.space.smallest(), IMAGES[1]);
    criterion.final_summary();
}

/// The child whose configuration the paper prints, at 256 px.
fn printed(space: &SearchSpace) -> Child {
    let rows = [(1, 16, 3), (2, 24, 3), (2, 48, 5), (2, 88, 3), (4, 128, 5), (4, 216, 5), (1, 352, 3)];
    let stage = |(i, &(depth, channels, kernel)): (usize, &(usize, usize, usize))| {
        StageChoices::uniform(depth, channels, kernel, if i == 0 { 1 } else { 6 })
    };
    let stages = rows.iter().enumerate().map(stage).collect();
    Child::new(space, Choices { resolution: 256, stem: 32, stages, head: 1408 }).expect("it is in the space")
}

impl Bench {
    /// Random weights in a preset space, with ImageNet's preprocessing.
    fn of(space: &str) -> Self {
        let library = std::env::var_os("ORT_DYLIB_PATH").map(Into::into).or_else(default_library).expect("a home directory");
        let space = preset(space).expect("the preset");
        let labels: Vec<String> = (0..1000).map(|class| class.to_string()).collect();
        let weights = Weights::random(&layout(&space, labels.len()), 0, GammaInit::Random);
        let (mean, std) = (vec![0.5; 3], vec![0.25; 3]);
        let preprocessing = Preprocessing { resize: Some(256), filter: Filter::Bicubic, crop: 224, mean, std, background: [0; 3] };
        Self { runtime: Runtime::load(&library).expect("`make fetch` fetches it"), space, weights, preprocessing, labels }
    }

    /// Every stage between weights in memory and a first answer, but for recalibration, alone and together.
    fn first_answer(&self, criterion: &mut Criterion, name: &str, child: &Child) {
        let plan = Plan::new(&self.space, child, self.labels.len());
        let stats = unit_statistics(&plan);
        let net = slice(&self.weights, &plan).expect("slices");
        let file = self.export(&net, &stats);
        let image = vec![0.0; 3 * child.resolution() * child.resolution()];
        let mut group = criterion.benchmark_group("child");
        group.bench_function(BenchmarkId::new("slice", name), |b| b.iter(|| slice(&self.weights, &plan)));
        group.bench_function(BenchmarkId::new("fold and export", name), |b| b.iter(|| self.export(&net, &stats)));
        group.bench_function(BenchmarkId::new("load", name), |b| b.iter(|| self.load(&file)));
        group.bench_function(BenchmarkId::new("slice, fold, export and load", name), |b| {
            b.iter(|| self.load(&self.export(&slice(&self.weights, &plan).expect("slices"), &stats)));
        });
        let mut network = self.load(&file);
        group.bench_function(BenchmarkId::new("answer on one thread", name), |b| b.iter(|| network.run(&image, 1)));
        group.finish();
        self.whole_first_answer(name, &plan, &image);
    }

    /// What the first client of a child waits for: everything, with recalibration, on all cores.
    fn whole_first_answer(&self, name: &str, plan: &Plan, image: &[f32]) {
        let images = CalibrationSet::from(noise(IMAGES[0], self.preprocessing.crop));
        let calibrator =
            Calibrator { runtime: &self.runtime, images: &images, batches: Batches::of(BATCH), threads: threads(), stop: None };
        let mut recalibration = 0.0;
        let whole = seconds(|| {
            let net = slice(&self.weights, plan).expect("slices");
            let mut stats = None;
            recalibration = seconds(|| stats = recalibrate(&net, &self.preprocessing, &calibrator).ok());
            let file = self.export(&net, &stats.expect("recalibrates"));
            black_box(self.load(&file).run(image, 1)).expect("runs");
        });
        let rest_ms = 1e3 * (whole - recalibration);
        println!("first answer, {name}: {rest_ms:.0} ms and a recalibration of {recalibration:.2} s ({} images)", IMAGES[0]);
    }

    fn export(&self, net: &bignas::slice::SlicedNet, stats: &BnStats) -> Vec<u8> {
        let metadata = Metadata {
            model: "bench",
            weights_sha256: "",
            labels: &self.labels,
            preprocessing: &self.preprocessing,
            input: Input::Resolution,
        };
        onnx::deployable(net, stats, metadata).expect("exports")
    }

    fn load(&self, file: &[u8]) -> Network {
        Network::load(&self.runtime, file, "bench", 1).expect("loads")
    }

    /// Recalibration and plain inference over the same images on all cores, pair by pair.
    fn recalibration_ratio(&self, name: &str, child: &Child, count: usize) {
        let threads = threads();
        let plan = Plan::new(&self.space, child, self.labels.len());
        let net = slice(&self.weights, &plan).expect("slices");
        let file = self.export(&net, &unit_statistics(&plan));
        let images = noise(count, self.preprocessing.crop);
        let calibration = CalibrationSet::from(images.clone());
        let mut network = Network::load(&self.runtime, &file, "bench", threads).expect("loads");
        let per_image = 3 * child.resolution() * child.resolution();
        let mut plain = || {
            let mut input = vec![0.0; BATCH * per_image];
            for batch in 0..count / BATCH {
                for (i, out) in input.chunks_exact_mut(per_image).enumerate() {
                    let patch = images.patch(batch * BATCH + i).expect("there are enough");
                    patch.write_input(child.resolution() as u32, &self.preprocessing, out).expect("fits");
                }
                black_box(network.run(&input, BATCH).expect("runs"));
            }
        };
        let recalibrated = || {
            let batches = Batches::of(BATCH);
            let calibrator = Calibrator { runtime: &self.runtime, images: &calibration, batches, threads, stop: None };
            black_box(recalibrate(&net, &self.preprocessing, &calibrator).expect("recalibrates"));
        };
        plain();
        let mut ratios: Vec<f64> = (0..PAIRS).map(|_| seconds(recalibrated) / seconds(&mut plain)).collect();
        ratios.sort_by(f64::total_cmp);
        let (low, median, high) = (ratios[0], ratios[PAIRS / 2], ratios[PAIRS - 1]);
        println!("recalibration / plain inference, {name}, {count} images: median {median:.2} ({low:.2} to {high:.2})");
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn seconds(run: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    run();
    begin.elapsed().as_secs_f64()
}

fn unit_statistics(plan: &Plan) -> BnStats {
    let layer = |channels: usize| bignas::checkpoint::LayerStats { mean: vec![0.0; channels], variance: vec![1.0; channels] };
    let layers = plan.norms().map(|conv| (conv.name.clone(), layer(conv.c_out))).collect();
    BnStats::new(plan, layers, 1, 1).expect("complete")
}

/// Patches that no decoder made: every byte differs from its neighbours.
fn noise(count: usize, size: u32) -> PatchSet {
    let bytes = count * 3 * (size * size) as usize;
    let data = (0..bytes as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    PatchSet { size, channels: 3, count, data }
}
