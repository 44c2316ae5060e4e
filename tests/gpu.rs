//! What an accelerator answers is what the processor answers, what it compiled is kept, and one that is missing is an error. `make
//! test-gpu` runs this on a machine that has one: `ORT_DYLIB_PATH` names an ONNX Runtime with the CUDA and TensorRT providers, whose
//! libraries are where the loader finds them.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bignas::engine::{Engine, EngineOptions};
use bignas::image::Patch;
use bignas::metrics::Metrics;
use clap::Parser;
use common::{TestModel, noise, patch, runtime};

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    options: EngineOptions,
}

fn engine(model: &TestModel, cache: &tempfile::TempDir, flags: &[&str]) -> Engine {
    let fixed = ["test", "--warm-up", "false", "--cache-dir", cache.path().to_str().unwrap()];
    let options = Flags::parse_from(fixed.iter().chain(flags)).options;
    let runtime = runtime().on(options.device().unwrap()).unwrap();
    Engine::start(model.open(), runtime, Arc::new(Metrics::new().unwrap()), options, None).unwrap()
}

/// Every child, with batches that fill a fixed size and with those that do not.
async fn agrees_with_the_processor(flags: &[&str], tolerance: f32) {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let (expected, device) = (engine(&model, &cache, &[]), engine(&model, &cache, flags));
    assert_eq!(device.device().provider, *flags.get(1).unwrap_or(&"cpu"));
    let images = noise(33, 28, 1);
    let patch = |index: usize| Patch { size: 28, channels: 1, data: images.data[index * 28 * 28..][..28 * 28].to_vec() };
    for child in expected.children() {
        for count in [1, 3, 33] {
            let patches: Vec<Patch> = (0..count).map(patch).collect();
            let by_processor = expected.classify(child.child.id(), patches.clone()).await.unwrap().logits;
            let by_device = device.classify(child.child.id(), patches).await.unwrap().logits;
            assert_eq!((by_device.len(), by_processor.len()), (count, count));
            let pairs = by_device.iter().flatten().zip(by_processor.iter().flatten());
            let furthest = pairs.map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
            assert!(furthest <= tolerance, "child {}, {count} images: {furthest} apart", child.child.id());
        }
    }
}

#[tokio::test]
async fn the_processor_agrees_with_itself() {
    agrees_with_the_processor(&[], 1e-5).await;
}

#[tokio::test]
#[ignore = "needs a GPU: make test-gpu"]
async fn cuda_agrees_with_the_processor() {
    agrees_with_the_processor(&["--device", "cuda"], 1e-3).await;
}

#[tokio::test]
#[ignore = "needs a GPU: make test-gpu"]
async fn tensorrt_agrees_with_the_processor() {
    agrees_with_the_processor(&["--device", "tensorrt", "--precision", "float32"], 1e-3).await;
}

#[tokio::test]
#[ignore = "needs a GPU: make test-gpu"]
async fn tensorrt_in_float16_agrees_with_the_processor() {
    agrees_with_the_processor(&["--device", "tensorrt"], 3e-2).await;
}

/// Compiling takes seconds a child: a second engine must find what the first one compiled.
#[tokio::test]
#[ignore = "needs a GPU: make test-gpu"]
async fn what_tensorrt_compiled_is_kept() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let kept = || -> BTreeMap<_, SystemTime> {
        let files = std::fs::read_dir(cache.path().join("tensorrt")).unwrap().map(Result::unwrap);
        files.map(|file| (file.file_name(), file.metadata().unwrap().modified().unwrap())).collect()
    };
    let mut before = BTreeMap::new();
    for run in 0..2 {
        let engine = engine(&model, &cache, &["--device", "tensorrt"]);
        let child = engine.children()[0].child.id();
        engine.classify(child, vec![patch(1)]).await.unwrap();
        assert!(!kept().is_empty());
        assert!(run == 0 || kept() == before, "{:?} after {before:?}", kept());
        before = kept();
    }
}

#[test]
#[ignore = "needs a GPU: make test-gpu"]
fn a_gpu_that_is_not_there_is_an_error() {
    for provider in ["cuda", "tensorrt"] {
        let options = Flags::parse_from(["test", "--device", provider, "--device-id", "97"]).options;
        let started = runtime().on(options.device().unwrap());
        assert!(started.is_err(), "{provider}");
    }
}

/// The same steps on both: the losses of children that are trained at every step, twenty updates later.
#[cfg(feature = "train")]
#[test]
#[ignore = "needs a GPU, and a libtorch with CUDA: make test-gpu"]
fn a_gpu_trains_as_the_processor_does() {
    let directory = tempfile::tempdir().unwrap();
    for (split, class) in ["train", "test"].into_iter().flat_map(|split| [(split, "dark"), (split, "light")]) {
        let folder = directory.path().join("images").join(split).join(class);
        std::fs::create_dir_all(&folder).unwrap();
        let images = noise(40, 28, 1);
        for (number, pixels) in images.data.chunks_exact(28 * 28).enumerate() {
            let pixels = pixels.iter().map(|value| if class == "dark" { value / 2 } else { 255 - value / 2 }).collect();
            image::GrayImage::from_raw(28, 28, pixels).unwrap().save(folder.join(format!("{number}.png"))).unwrap();
        }
    }
    let losses = |device: &str| -> Vec<f64> {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bignas"));
        command.current_dir(directory.path()).args(["train", "--data", "images", "--device", device, "--run", device]);
        command.args(["--model", &format!("{device}-model"), "--epochs", "5", "--batch-size", "20", "--without", "dropout"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let log = std::fs::read_to_string(directory.path().join(device).join("metrics.jsonl")).unwrap();
        let step =
            log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).find(|line| line["step"] == 20).unwrap();
        ["loss_biggest", "loss_smallest"].map(|name| step[name].as_f64().unwrap()).to_vec()
    };
    let (processor, gpu) = (losses("cpu"), losses("cuda"));
    for (processor, gpu) in processor.iter().zip(&gpu) {
        assert!((processor - gpu).abs() < 0.02 * processor, "{gpu} on the GPU, {processor} on the processor");
    }
}
