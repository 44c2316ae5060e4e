//! Latency tables: parts that make up the child, and the whole way with the real binary.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use bignas::checkpoint::{BnStats, GammaInit, LayerStats, Weights};
use bignas::onnx::{Input, Metadata, deployable, segment};
use bignas::profile::{Settings, Table, profile};
use bignas::runtime::Network;
use bignas::slice::{slice, slice_segment};
use bignas::space::{Child, Draw, Plan, SearchSpace, layout, preset};
use common::{preprocessing, runtime, space};

const BATCH: usize = 2;

fn run(onnx: &[u8], input: &[f32]) -> Vec<f32> {
    Network::load(&runtime(), onnx, "a segment", 1).unwrap().run(input, BATCH).unwrap()
}

/// The logits of the child by the graph that ships, with mean 0 and variance 1 everywhere.
fn shipped_logits(weights: &Weights, plan: &Plan, images: &[f32]) -> Vec<f32> {
    let unit = |channels: usize| LayerStats { mean: vec![0.0; channels], variance: vec![1.0; channels] };
    let layers = plan.norms().map(|conv| (conv.name.clone(), unit(conv.c_out))).collect();
    let stats = BnStats::new(plan, layers, 1, 1).unwrap();
    let preprocessing = preprocessing();
    let metadata = Metadata { model: "m", weights_sha256: "", labels: &[], preprocessing: &preprocessing, input: Input::Resolution };
    run(&deployable(&slice(weights, plan).unwrap(), &stats, metadata).unwrap(), images)
}

#[test]
fn parts_in_a_chain_answer_as_the_child_does() {
    let [fashion_mnist, cifar10, attentivenas] = ["fashion-mnist", "cifar10", "attentivenas"].map(|name| preset(name).unwrap());
    let mut cases: Vec<(SearchSpace, Child)> = (0..3).map(|step| (space(), space().random(Draw::new(11, step, 0)))).collect();
    cases.extend([(fashion_mnist.clone(), fashion_mnist.biggest()), (cifar10.clone(), cifar10.smallest())]);
    cases.push((attentivenas.clone(), attentivenas.smallest()));
    for (space, child) in cases {
        let weights = Weights::random(&layout(&space, 7), 5, GammaInit::Random);
        let plan = Plan::new(&space, &child, 7);
        let values = BATCH * space.input_channels * child.resolution().pow(2);
        let images: Vec<f32> = (0..values).map(|i| (i as f32 * 0.37).sin()).collect();
        let parts = plan.parts().count();
        let mut value = images.clone();
        for part in 0..parts {
            value = run(&segment(&slice_segment(&weights, &plan, part..part + 1).unwrap()), &value);
        }
        let whole = run(&segment(&slice_segment(&weights, &plan, 0..parts).unwrap()), &images);
        let shipped = shipped_logits(&weights, &plan, &images);
        let size = shipped.iter().fold(0f32, |size, logit| size.max(logit.abs()));
        assert_eq!((value.len(), whole.len(), shipped.len()), (BATCH * 7, BATCH * 7, BATCH * 7));
        for ((chained, whole), shipped) in value.iter().zip(&whole).zip(&shipped) {
            let close = |other: f32| (other - shipped).abs() <= 1e-4 * size;
            assert!(close(*chained) && close(*whole), "{}: {chained}, {whole} and {shipped}", space.name);
        }
    }
}

fn bignas(here: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bignas")).current_dir(here).args(arguments).output().unwrap()
}

fn succeed(here: &Path, arguments: &[&str]) -> String {
    let output = bignas(here, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refusal(here: &Path, arguments: &[&str]) -> String {
    let output = bignas(here, arguments);
    assert!(!output.status.success(), "{arguments:?} went well");
    String::from_utf8(output.stderr).unwrap()
}

/// A space of few parts, at two resolutions.
fn small_space() -> SearchSpace {
    let mut space = SearchSpace { name: "small".into(), ..space() };
    (space.resolutions, space.training_resolutions) = (vec![20, 24], vec![20]);
    (space.stem.channels, space.head.channels) = (vec![8], vec![128]);
    for stage in &mut space.stages {
        stage.channels.truncate(1);
        stage.kernel.truncate(1);
    }
    space
}

#[test]
fn a_space_with_too_few_children_says_so() {
    let mut space = SearchSpace { name: "lonely".into(), resolutions: vec![20], ..small_space() };
    for stage in &mut space.stages {
        stage.depth.truncate(1);
    }
    let settings = Settings { batch_sizes: vec![1], threads: 1, children: 30, rounds: 1, seed: 0 };
    let found = profile(&runtime(), &space, 10, &settings, |_, _| panic!("there is nothing to measure"));
    let message = found.unwrap_err().to_string();
    assert!(message.contains("lonely has 1 different children") && message.contains("needs 6"), "{message}");
}

#[test]
fn a_table_predicts_any_child_of_its_space_and_of_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    fs::write(here.join("small.json"), serde_json::to_vec(&small_space()).unwrap()).unwrap();
    succeed(here, &["init", "--space", "small.json", "--classes", "10", "-o", "model"]);

    let quick = ["--children", "6", "--rounds", "2", "--batch-sizes", "2", "1"];
    let said = succeed(here, &[&["profile", "--model", "model", "--output", "table.json"], &quick[..]].concat());
    // At each resolution a stem, a first block of each stage, a later one of each but the first stage, and a head.
    for expected in ["measured all 18 parts of small and 6 children, 2 times", "on 2 children", "fitted on the other 4", "wrote table.json"]
    {
        assert!(said.contains(expected), "{expected:?} is not in {said}");
    }
    let table = Table::read(&here.join("table.json")).unwrap();
    assert_eq!(table.batches.keys().collect::<Vec<_>>(), [&1, &2]);
    for batch in table.batches.values() {
        assert!(batch.parts_ms.values().all(|ms| *ms > 0.0), "{batch:?}");
    }

    let next = said.lines().find_map(|line| line.strip_prefix("next: bignas ")).expect("the next command");
    let next = next.replace("CHILD", "biggest");
    let text = succeed(here, &next.split(' ').collect::<Vec<_>>());
    assert!(text.contains("batch 1 ") && text.contains("batch 2 ") && text.contains("on 2 children"), "{text}");
    let on_table = ["inspect", "--latency-table", "table.json", "--classes", "10", "--space"];
    let json: serde_json::Value = serde_json::from_str(&succeed(here, &[&on_table[..], &["small.json", "--json"]].concat())).unwrap();
    let predicted = json["predicted_latency_ms"].as_object().unwrap();
    assert_eq!(predicted.keys().collect::<Vec<_>>(), ["1", "2"]);
    let measured_on = serde_json::json!({ "device": table.device, "threads": table.threads, "onnxruntime": table.onnxruntime });
    assert_eq!(json["latency_table"], measured_on);

    let said = refusal(here, &[&on_table[..], &["fashion-mnist"]].concat());
    assert!(said.contains("is of search space small, not of fashion-mnist") && said.contains("bignas profile"), "{said}");
    let said = refusal(here, &["profile", "--space", "small.json", "--output", "absent/table.json"]);
    assert!(said.contains("absent"), "{said}");
    let said = refusal(here, &["profile", "--space", "small.json", "--children", "5"]);
    assert!(said.contains("--children"), "{said}");
}
