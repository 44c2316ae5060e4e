//! The paper's own space at full size, with random weights: every deployment resolution, by the library and by the real binary.

mod common;

use std::collections::BTreeSet;
use std::process::Command;

use bignas::calibrate::{Batches, Calibrator, recalibrate};
use bignas::checkpoint::{GammaInit, Weights};
use bignas::data::CalibrationSet;
use bignas::image::{Filter, Preprocessing};
use bignas::onnx::{Input, Metadata, deployable};
use bignas::runtime::Network;
use bignas::slice::slice;
use bignas::space::{Child, Plan, layout, preset};

const CLASSES: usize = 20;

/// Sliced, recalibrated, exported and run; logits are finite and depend on the image.
#[test]
fn the_smallest_child_works_at_all_ten_deployment_resolutions() {
    let space = preset("bignas").expect("a preset");
    assert_eq!(space.resolutions.len(), 10);
    let weights = Weights::random(&layout(&space, CLASSES), 5, GammaInit::Random);
    let (mean, std) = (vec![0.5; 3], vec![0.25; 3]);
    let preprocessing = Preprocessing { resize: Some(256), filter: Filter::Bicubic, crop: 224, mean, std, background: [0; 3] };
    let runtime = common::runtime();
    let images = CalibrationSet::from(common::noise(4, 224, 3));
    let calibrator = Calibrator { runtime: &runtime, images: &images, batches: Batches::of(2), threads: 1, stop: None };
    let labels: Vec<String> = (0..CLASSES).map(|class| class.to_string()).collect();
    let mut ids = BTreeSet::new();
    for &resolution in &space.resolutions {
        let mut choices = space.smallest().choices().clone();
        choices.resolution = resolution;
        let child = Child::new(&space, choices).expect("inside");
        let plan = Plan::new(&space, &child, CLASSES);
        let net = slice(&weights, &plan).expect("weights of this space");
        let stats = recalibrate(&net, &preprocessing, &calibrator).expect("recalibrates");
        let metadata =
            Metadata { model: "table-one", weights_sha256: "", labels: &labels, preprocessing: &preprocessing, input: Input::Resolution };
        let onnx = deployable(&net, &stats, metadata).expect("exports");
        let mut network = Network::load(&runtime, &onnx, "a child", 1).expect("loads");
        assert_eq!(network.input_shape(), [3, resolution, resolution]);
        let mut input = vec![0.0; 2 * 3 * resolution * resolution];
        for (index, out) in input.chunks_exact_mut(3 * resolution * resolution).enumerate() {
            images.write_input(index, resolution, &preprocessing, out).expect("fits");
        }
        let logits = network.run(&input, 2).expect("runs");
        let (first, second) = logits.split_at(CLASSES);
        assert!(logits.iter().all(|logit| logit.is_finite()), "{resolution} px: {logits:?}");
        assert!(first.iter().zip(second).any(|(a, b)| (a - b).abs() > 1e-3), "{resolution} px: both images give {first:?}");
        ids.insert(child.id());
    }
    assert_eq!(ids.len(), 10);
}

/// `bignas init` makes a model that the real binary exports from, with calibration images of one's own in either form.
#[test]
fn a_random_model_is_exported_on_images_of_ones_own() {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    let bignas = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_bignas")).current_dir(here).args(arguments).output().expect("runs");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), said)
    };
    let (made, said) = bignas(&["init", "--space", "bignas", "--classes", "20", "--calibration-images", "2", "-o", "model"]);
    assert!(made, "{said}");
    std::fs::create_dir_all(here.join("photos/of/mine")).expect("creates");
    for index in 0..3u8 {
        let image = image::RgbImage::from_fn(300, 260, |x, y| image::Rgb([x as u8, y as u8 ^ index, index * 50]));
        image.save(here.join(format!("photos/of/mine/{index}.png"))).expect("saves");
    }
    std::fs::write(here.join("photos/notes.txt"), "not an image").expect("writes");
    CalibrationSet::from(common::noise(2, 224, 3)).write(&here.join("tensor.safetensors")).expect("writes");
    CalibrationSet::from(common::noise(2, 200, 3)).write(&here.join("small.safetensors")).expect("writes");

    std::os::unix::fs::symlink(common::library(), here.join("linked-here.so")).expect("links");

    let export = ["export", "--model", "model", "--child", "smallest", "-o"];
    let cases: [(&[&str], bool, &str); 8] = [
        (&["child.onnx", "--calibration", "photos", "--calibration-batch", "2"], true, "recalibrated on 2 images"),
        (&["child.onnx", "--onnxruntime", "linked-here.so"], true, "recalibrated on 2 images"),
        (&["child.onnx", "--calibration", "tensor.safetensors", "--calibration-batch", "1"], true, "recalibrated on 2 images"),
        (&["child.onnx", "--input", "crop"], true, "recalibrated on 2 images"),
        (&["child.onnx", "--calibration", "photos", "--calibration-batch", "4"], false, "3 calibration images do not fill one batch of 4"),
        (
            &["child.onnx", "--calibration", "small.safetensors"],
            false,
            "the images are [3, 200, 200], but the model's crop is [3, 224, 224]",
        ),
        (&["child.onnx", "--calibration", "model"], false, "holds no image file"),
        (&["absent/child.onnx"], false, "there is no directory absent to write absent/child.onnx into"),
    ];
    for (flags, works, expected) in cases {
        let (worked, said) = bignas(&[&export[..], flags].concat());
        assert_eq!(worked, works, "{flags:?}: {said}");
        assert!(said.contains(expected), "{flags:?}: {said:?} should contain {expected:?}");
    }
}
