//! The shipped models: `fashion-mnist` on the real test images, what the server answers, what `bignas evaluate` says, what the family
//! claims; `cifar10`, whose images nobody may ship, on the pictures that come with it.

use std::path::{Path, PathBuf};
use std::process::Command;

use bignas::checkpoint::Model;
use bignas::data::{DataOptions, ImageSet, Split};
use bignas::space::{Child, Choices, Plan};
use serde_json::Value;

use super::harness::{Server, encode};

/// Images sent over HTTP, shared among three budgets.
const SENT: usize = 2100;
/// Another processor sums in another order, so an image on the edge between two classes may fall to the other side.
const IMAGES_ON_THE_EDGE: f64 = 5.0;

/// The test images of Fashion-MNIST; `make test` fetches them and says where they are.
fn data() -> PathBuf {
    let directory = std::env::var_os("BIGNAS_TEST_FASHION_MNIST");
    PathBuf::from(directory.expect("set BIGNAS_TEST_FASHION_MNIST to the folder that `make data` prints"))
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

#[test]
fn the_server_the_evaluation_and_the_family_agree() {
    let directory_of_model = shipped("fashion-mnist");
    let model = Model::open(&directory_of_model).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let predictions = directory.path().join("predictions.json");
    let status = Command::new(env!("CARGO_BIN_EXE_bignas"))
        .args(["evaluate", "--model"])
        .arg(&directory_of_model)
        .arg("--data")
        .arg(data())
        .arg("--predictions")
        .arg(&predictions)
        .status()
        .unwrap();
    assert!(status.success());
    let predictions: Value = serde_json::from_slice(&std::fs::read(predictions).unwrap()).unwrap();
    let mut options = DataOptions::new(&model.card.preprocessing);
    options.class_names = Some(model.card.labels.clone());
    let images = ImageSet::open(&data(), Split::Test, options).unwrap();
    assert_eq!(images.len(), 10_000);
    claims_hold(&model, &images, &predictions);

    let server = Server::start(&directory_of_model, &[]);
    server.wait_until_ready();
    let budgets = ["?mflops=1", "?mflops=3", ""];
    for index in 0..SENT {
        let pixels = images.pixels(index).unwrap();
        let picture = image::GrayImage::from_raw(pixels.width, pixels.height, pixels.data).unwrap();
        let answer = server.classify(budgets[index % 3], &encode(&picture.into(), image::ImageFormat::Png)).json();
        let child = answer["child"]["id"].as_str().unwrap();
        assert_eq!(answer["predictions"][0]["index"], predictions[child][index], "test image {index}, child {child}");
    }
    large_pictures_are_seen_whole(&server, &model);
}

/// A picture of many times the input's size says what the small one does.
fn large_pictures_are_seen_whole(server: &Server, model: &Model) {
    let same = |path: &Path| {
        let picture = image::open(path).unwrap();
        let large = picture.resize_exact(300, 300, image::imageops::FilterType::CatmullRom);
        let answer = |picture| server.classify("", &encode(picture, image::ImageFormat::Png)).json()["predictions"][0]["label"].clone();
        answer(&picture) == answer(&large)
    };
    let same = model.examples.iter().filter(|example| same(&example.path)).count();
    assert!(same + 1 >= model.examples.len(), "{same} of {} are seen as the small ones are", model.examples.len());
}

/// The family claims what the evaluation found, has at least ten children, and is a front.
fn claims_hold(model: &Model, images: &ImageSet, predictions: &Value) {
    let members = &model.family.members;
    assert!(members.len() >= 10, "{} children", members.len());
    for member in members {
        let found = predictions[member.child.id().to_string()].as_array().unwrap();
        let right = found.iter().enumerate().filter(|(index, class)| class.as_u64() == images.label(*index).map(|l| l as u64)).count();
        let claimed = member.accuracy.unwrap() * images.len() as f64;
        let id = member.child.id();
        assert!((claimed - right as f64).abs() <= IMAGES_ON_THE_EDGE, "{id} claims {claimed} right answers and gave {right}");
        let source = member.accuracy_source.as_ref().unwrap();
        assert_eq!((source.images, source.split.as_str()), (10_000, "test"));
    }
    assert!(members.is_sorted_by(|a, b| a.accuracy < b.accuracy), "each child is more accurate than all cheaper ones");
    let (smallest, biggest) = (members[0].accuracy.unwrap(), members[members.len() - 1].accuracy.unwrap());
    assert!(smallest >= 0.90 && biggest >= 0.925, "smallest {smallest}, biggest {biggest}");
    let macs = |index: usize| Plan::new(&model.card.space, &members[index].child, 10).cost().macs.total();
    assert!(macs(members.len() - 1) >= 10 * macs(0), "the biggest child has at least ten times the smallest's multiply-adds");
}

/// It ships statistics instead of images: a server without any serves its family, and says what other children need.
#[test]
fn a_model_without_images_serves_its_family() {
    let directory = shipped("cifar10");
    let model = Model::open(&directory).unwrap();
    assert!(model.card.calibration.is_none() && model.statistics.len() == model.family.members.len());
    let accuracies: Vec<f64> = model.family.members.iter().map(|member| member.accuracy.unwrap()).collect();
    assert!(accuracies.len() >= 10 && accuracies.is_sorted_by(|a, b| a < b), "a front of at least ten: {accuracies:?}");
    let (smallest, biggest) = (accuracies[0], accuracies[accuracies.len() - 1]);
    assert!(smallest >= 0.84 && biggest >= 0.90, "smallest {smallest}, biggest {biggest}");
    let mflops = |child: &Child| Plan::new(&model.card.space, child, 10).cost().macs.millions();
    let range = [0, accuracies.len() - 1].map(|index| mflops(&model.family.members[index].child));
    assert!(range[0] < 3.0 && range[1] > 15.0, "from about 2 to about 20 million multiply-adds: {range:?}");

    let server = Server::start(&directory, &[]);
    server.wait_until_ready();
    assert_eq!(server.metric("bignas_child_builds_total{outcome=\"error\"}"), 0.0);
    let mut wrong = Vec::new();
    for example in &model.examples {
        let file = std::fs::read(&example.path).unwrap();
        if server.classify("", &file).json()["predictions"][0]["label"].as_str() != example.label.as_deref() {
            wrong.push(&example.file);
        }
        for member in &model.family.members {
            let answer = server.classify(&format!("?child={}&top_k=10", member.child.id()), &file).json();
            let predictions = answer["predictions"].as_array().unwrap();
            let sum: f64 = predictions.iter().map(|prediction| prediction["probability"].as_f64().unwrap()).sum();
            assert!(predictions.len() == 10 && (sum - 1.0).abs() < 1e-5, "{}: {answer}", example.file);
        }
    }
    // All but the photograph of a cat are drawings, which it was not trained on; and all are much larger than its input.
    assert!(wrong.len() <= 1, "{wrong:?}");

    let space = &model.card.space;
    let at = |&resolution: &usize| {
        let choices = Choices { resolution, ..space.biggest().choices().clone() };
        Child::new(space, choices).unwrap()
    };
    let known = |child: &Child| model.family.members.iter().any(|member| member.child.id() == child.id());
    let stranger = space.resolutions.iter().map(at).find(|child| !known(child)).unwrap();
    let stranger = serde_json::json!({ "choices": stranger.choices() });
    let refused = server.post("/children", "application/json", stranger.to_string().as_bytes());
    assert_eq!((refused.status, refused.json()["code"].as_str()), (501, Some("no_calibration")), "{}", refused.text());
    assert!(refused.json()["detail"].as_str().unwrap().contains("--calibration DIR"), "{}", refused.text());
}
