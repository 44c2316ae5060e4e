//! AttentiveNAS and AlphaNet: what is imported and exported computes what their published code does.
//!
//! The public weights are not ours to ship, so a checkpoint of random ones stands in, of the same names, shapes and file
//! format. The program reads it, recalibrates and exports; `reference` does the same from the facts alone.

#[path = "../common/mod.rs"]
mod common;

mod checkpoint;
mod reference;
mod refusals;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use bignas::runtime::{Network, Runtime};
use reference::Config;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

/// Largest difference between two logits whose standard deviation is about one.
const LOGITS: f64 = 1e-4;

/// Images in a batch of the recalibration, of which there are two.
const BATCH: i64 = 4;

/// A published child: millions of multiply-adds, and the accuracies of both families in percent.
struct Published {
    config: Config,
    millions: &'static str,
    attentivenas: f64,
    /// None where AlphaNet published another child.
    alphanet: Option<f64>,
}

/// The published children by rising cost, A0 to A6.
fn published() -> [Published; 7] {
    let child = |resolution, [mb4, mb6, mb7, last]: [i64; 4], depth, kernel_size, expand_ratio| Config {
        resolution,
        width: [16, 16, 24, 32, mb4, 112, mb6, mb7, last],
        depth,
        kernel_size,
        expand_ratio,
    };
    let small = [1, 4, 4, 4, 4, 6, 6];
    let row = |config, millions, attentivenas, alphanet| Published { config, millions, attentivenas, alphanet };
    [
        row(child(192, [64, 192, 216, 1792], [1, 3, 3, 3, 3, 3, 1], [3, 3, 3, 3, 3, 3, 3], small), "203.39", 77.3, Some(77.87)),
        row(child(224, [64, 192, 216, 1984], [1, 3, 3, 3, 3, 3, 1], [3, 3, 3, 5, 3, 5, 3], small), "279.24", 78.4, Some(78.94)),
        row(
            child(224, [64, 200, 224, 1984], [1, 3, 3, 3, 3, 4, 1], [3, 3, 3, 3, 3, 5, 3], [1, 4, 5, 4, 4, 6, 6]),
            "316.73",
            78.8,
            Some(79.20),
        ),
        row(child(224, [64, 208, 224, 1984], [2, 3, 3, 4, 3, 5, 1], [3, 3, 3, 5, 3, 3, 3], small), "356.52", 79.1, Some(79.41)),
        row(
            child(256, [64, 192, 216, 1984], [1, 3, 3, 4, 3, 5, 1], [3, 3, 3, 5, 3, 5, 3], [1, 4, 4, 5, 4, 6, 6]),
            "443.53",
            79.8,
            Some(80.01),
        ),
        row(child(256, [72, 192, 216, 1792], [1, 3, 3, 3, 4, 6, 1], [3, 3, 3, 5, 3, 3, 3], [1, 4, 5, 4, 4, 6, 6]), "490.52", 80.1, None),
        row(
            child(288, [64, 216, 224, 1984], [1, 3, 3, 4, 4, 6, 1], [3, 3, 3, 3, 3, 5, 3], [1, 4, 6, 5, 4, 6, 6]),
            "709.01",
            80.7,
            Some(80.78),
        ),
    ]
}

/// A child that uses what no published one does: shortcuts that pool and keep their channels, and kernels of 5 throughout.
fn unpublished() -> Config {
    Config {
        resolution: 208,
        width: [24, 24, 32, 32, 72, 128, 216, 216, 1984],
        depth: [2, 4, 5, 3, 4, 3, 2],
        kernel_size: [5; 7],
        expand_ratio: [1, 6, 5, 6, 5, 6, 6],
    }
}

/// `count` normalised crops as photographs are: large smooth shapes, and ever weaker ones down to single pixels.
fn crops(seed: i64, count: i64) -> Tensor {
    let octave = |side: i64| {
        let noise = Tensor::randn([count, 3, side, side], (Kind::Float, Device::Cpu));
        noise.upsample_bilinear2d([224, 224], false, None, None) * (1.5 / (side as f64).sqrt())
    };
    checkpoint::seeded(seed, || [2, 4, 9, 20, 60, 224].map(octave).into_iter().reduce(|sum, next| sum + next).expect("several"))
}

fn write_images(path: &Path, images: &Tensor) {
    Tensor::write_safetensors(&[("images", images)], path).expect("writes");
}

fn bignas(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bignas"));
    command.current_dir(directory).args(arguments).env("OMP_WAIT_POLICY", "passive");
    command.output().expect("runs")
}

fn succeed(directory: &Path, arguments: &[&str]) {
    let output = bignas(directory, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn import_arguments<'a>(source: &'a str, file: &'a str, model: &'a str) -> [&'a str; 9] {
    ["import", source, file, "--calibration", "crops.safetensors", "--calibration-batch", "4", "--output", model]
}

#[test]
fn the_checkpoint_has_the_public_ones_size() {
    let entries = checkpoint::entries();
    let names: BTreeMap<_, _> = entries.iter().map(|(name, shape, _)| (name, shape.iter().product::<i64>())).collect();
    assert_eq!((entries.len(), names.len()), (1468, 1468));
    let buffer = |name: &str| name.contains(".running_") || name.ends_with(".num_batches_tracked");
    let parameters: i64 = names.iter().filter(|(name, _)| !buffer(name)).map(|(_, count)| count).sum();
    assert_eq!(parameters, 23_934_704);
}

#[test]
fn families_are_the_published_ones_whatever_the_format() {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    let weights = checkpoint::random(7);
    let state_dict = checkpoint::published(&weights);
    checkpoint::save(&here.join("published.pth.tar"), &state_dict);
    Tensor::write_safetensors(&state_dict, here.join("published.safetensors")).expect("writes");
    write_images(&here.join("crops.safetensors"), &crops(1, BATCH));
    succeed(here, &import_arguments("attentivenas", "published.pth.tar", "attentivenas"));
    succeed(here, &import_arguments("alphanet", "published.safetensors", "alphanet"));

    let read = |file: &str| fs::read(here.join(file)).expect("is there");
    assert!(read("attentivenas/weights.safetensors") == read("alphanet/weights.safetensors"), "formats differ");

    let mut expected = BTreeMap::from([("attentivenas", Vec::new()), ("alphanet", Vec::new())]);
    for child in published() {
        let macs = reference::macs(&weights, &child.config);
        assert_eq!(format!("{:.2}", macs as f64 / 1e6), child.millions, "{:?}", child.config);
        let config = serde_json::to_value(&child.config).expect("plain");
        for (family, percent) in [("attentivenas", Some(child.attentivenas)), ("alphanet", child.alphanet)] {
            expected.get_mut(family).expect("either").extend(percent.map(|percent| (macs, percent, config.clone())));
        }
    }
    assert_eq!(expected["alphanet"].len(), 6);
    for (family, expected) in expected {
        let written: Value = serde_json::from_slice(&read(&format!("{family}/family.json"))).expect("JSON");
        let members = written["children"].as_array().expect("a list");
        assert_eq!(members.len(), expected.len(), "{family}");
        for (member, (macs, percent, config)) in members.iter().zip(expected) {
            assert_eq!(member["macs"], macs, "{family}");
            let accuracy = member["accuracy"].as_f64().expect("a number");
            assert!((accuracy * 100.0 - percent).abs() < 1e-9, "{accuracy} in {family}, published {percent}");
            assert_eq!(member["accuracy_source"]["kind"], "published");
            assert_eq!(as_published(&member["choices"]), config, "{family}");
        }
    }
}

/// A child's choices as the public repositories write them. These spaces choose by stage: one layer stands for all.
fn as_published(choices: &Value) -> Value {
    let stages = choices["stages"].as_array().expect("a list");
    let first = |key: &str| stages.iter().map(|stage| stage[key][0].clone()).collect::<Vec<_>>();
    let width = [&[choices["stem"].clone()][..], &first("channels"), &[choices["head"].clone()]].concat();
    json!({
        "resolution": choices["resolution"],
        "width": width,
        "depth": stages.iter().map(|stage| stage["depth"].clone()).collect::<Vec<_>>(),
        "kernel_size": first("kernel"),
        "expand_ratio": first("expansion"),
    })
}

#[test]
fn exported_children_compute_what_the_reference_does() {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    let weights = checkpoint::random(8);
    checkpoint::save(&here.join("published.pth.tar"), &checkpoint::published(&weights));
    // The model's own calibration set is another than the one that the exports name.
    write_images(&here.join("crops.safetensors"), &crops(1, BATCH));
    succeed(here, &import_arguments("attentivenas", "published.pth.tar", "model"));
    let calibration = crops(2, 2 * BATCH);
    write_images(&here.join("calibration.safetensors"), &calibration);

    let [a0, mut a1, a2, .., a6] = published().map(|child| child.config);
    // Halved to 15 and 8: the shortcuts pool odd maps.
    a1.resolution = 240;
    let runtime = common::runtime();
    let images = crops(3, 2);
    for (name, child, inputs) in [
        ("A0", a0, &["resolution", "crop"][..]),
        ("A1 at 240", a1, &["resolution"]),
        ("A2", a2, &["resolution"]),
        ("A6", a6, &["resolution", "crop"]),
        ("unpublished", unpublished(), &["resolution"]),
    ] {
        let statistics = reference::recalibrate(&weights, &child, &calibration.split(BATCH, 0));
        let expected = reference::logits(&weights, &child, &statistics, &images);
        let deviation = expected.std(true).double_value(&[]);
        assert!((0.5..2.0).contains(&deviation), "{name}: logits of deviation {deviation} make no absolute bound");
        let between = (expected.get(0) - expected.get(1)).std(true).double_value(&[]);
        assert!(between > 0.1, "{name}: logits that hardly depend on the image show nothing ({between})");
        fs::write(here.join("child.json"), serde_json::to_vec(&child).expect("plain")).expect("writes");
        for &input in inputs {
            let exported = exported(&runtime, here, input, &images, child.resolution);
            let difference = (exported - &expected).abs().max().double_value(&[]);
            println!("{name}, {input}: {difference:.1e} where logits' deviation is {deviation:.2}, images' {between:.2}");
            assert!(difference <= LOGITS, "{name}, {input}: logits differ by {difference:e}");
        }
    }
}

/// Logits of `images` by the ONNX file that the program makes of `child.json` and `calibration.safetensors`.
fn exported(runtime: &Runtime, directory: &Path, input: &str, images: &Tensor, resolution: i64) -> Tensor {
    let calibration = ["--calibration", "calibration.safetensors", "--calibration-batch", "4"];
    let child = ["export", "--model", "model", "--child", "child.json", "--input", input, "--output", "child.onnx"];
    succeed(directory, &[&child[..], &calibration].concat());
    let onnx = fs::read(directory.join("child.onnx")).expect("is there");
    let mut network = Network::load(runtime, &onnx, "a child", 1).expect("loads");
    let images = if input == "crop" { images.shallow_clone() } else { reference::resize(images, resolution) };
    let (count, _, side, _) = images.size4().expect("images");
    assert_eq!(network.input_shape(), [3, side as usize, side as usize]);
    let flat = Vec::<f32>::try_from(images.reshape([-1])).expect("float32");
    let [(name, logits)] = <[_; 1]>::try_from(network.run_all(&flat, count as usize).expect("runs")).expect("one output");
    assert_eq!(name, "logits");
    Tensor::from_slice(&logits).view([count, checkpoint::CLASSES])
}
