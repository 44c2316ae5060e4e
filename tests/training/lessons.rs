//! Who learns what, from whom, and how well.

use std::fs;

use bignas::checkpoint::{GammaInit, Weights};
use bignas::space::layout;
use bignas::train::{OptimiserKind, Outcome, Regularise, Roster};

use crate::{Bench, lines};

/// A classifier that says the same of every image is right as often as the class occurs, and an average of weights is what is validated.
#[test]
fn the_accuracy_told_is_that_of_the_weights() {
    let mut bench = Bench::new();
    let labels = bench.directory.path().join("t10k-labels-idx1-ubyte");
    let header = fs::read(&labels).expect("reads")[..8].to_vec();
    fs::write(&labels, [&header[..], &[1, 0, 0, 1, 2, 0, 0, 2, 1]].concat()).expect("writes");
    bench.settings.schedule.rate_per_256 = 1e-12;
    for (average, class, expected) in [(None, 0, 4.0), (None, 1, 3.0), (Some(0.999), 2, 2.0)] {
        let start = Weights::random(&layout(&bench.space, 3), 99, GammaInit::Random);
        let constant = start.iter().map(|(name, tensor)| {
            let mut tensor = tensor.clone();
            match name {
                "classifier.weight" => tensor.data.fill(0.0),
                "classifier.bias" => tensor.data = (0..3).map(|other| if other == class { 9.0 } else { 0.0 }).collect(),
                _ => {}
            }
            (name.to_owned(), tensor)
        });
        bench.start = Some((Weights::new(constant.collect()), "constant"));
        bench.settings.average = average;
        let name = format!("class {class}");
        bench.run(&name, false).expect("trains");
        for line in lines(&bench.path(&name).join("metrics.jsonl")) {
            let told = [&line["accuracy_biggest"], &line["accuracy_smallest"]].map(serde_json::Value::as_f64);
            assert_eq!(told, [Some(expected / 9.0); 2], "{line}");
        }
    }
}

/// A child that is trained alone, and one beside the biggest, each with its own accuracy; the alone one leaves alone what it does
/// not have.
#[test]
fn one_child_can_be_trained() {
    let mut bench = Bench::new();
    let smallest = bench.space.smallest().choices().clone();
    bench.settings.roster = Roster::Child(smallest.clone());
    let Outcome::Finished { weights, .. } = bench.run("alone", false).expect("trains") else { panic!("not stopped") };
    let before = Weights::random(&layout(&bench.space, 3), bench.settings.seed, GammaInit::ZeroLast);
    let stem = |weights: &Weights| weights.get("stem.weight").expect("a stem").data.clone();
    let (whole, per_filter) = (stem(&before), 9);
    let changed: Vec<bool> = whole.chunks(per_filter).zip(stem(&weights).chunks(per_filter)).map(|(a, b)| a != b).collect();
    // Weight decay reaches every weight; only what the child has moves further than that.
    let moved = |filter: usize| {
        let pairs = whole.iter().zip(stem(&weights)).skip(filter * per_filter).take(per_filter);
        pairs.map(|(a, b)| (a - b).abs() / a.abs().max(1e-3)).fold(0.0, f32::max)
    };
    assert!(changed[0] && moved(0) > 1e-4, "{}", moved(0));
    assert!(moved(whole.len() / per_filter - 1) < 1e-4, "{}", moved(whole.len() / per_filter - 1));
    let last = lines(&bench.path("alone").join("metrics.jsonl")).pop().expect("an epoch");
    assert!(last["accuracy_child"].is_f64() && last["accuracy_biggest"].is_null(), "{last}");

    bench.settings.roster = Roster::BiggestAnd(smallest);
    bench.run("both", false).expect("trains");
    let last = lines(&bench.path("both").join("metrics.jsonl")).pop().expect("an epoch");
    assert!(last["accuracy_child"].is_f64() && last["accuracy_biggest"].is_f64() && last["accuracy_smallest"].is_null(), "{last}");
}

/// Weight decay draws at whole tensors of the child that is regularised, as the optimiser's; where everyone is, at his own part of them.
#[test]
fn weight_decay_reaches_what_the_regularised_child_has() {
    let mut bench = Bench::new();
    bench.settings.roster = Roster::Child(bench.space.smallest().choices().clone());
    bench.settings.optimiser.kind = OptimiserKind::Sgd;
    let before = Weights::random(&layout(&bench.space, 3), bench.settings.seed, GammaInit::ZeroLast);
    for (decay, regularise, shrinks) in
        [(0.0, Regularise::Biggest, false), (0.1, Regularise::Biggest, true), (0.1, Regularise::Everyone, false)]
    {
        bench.settings.optimiser.weight_decay = decay;
        bench.settings.regularise = regularise;
        let Outcome::Finished { weights, .. } = bench.run(&format!("{decay} {regularise:?}"), false).expect("trains") else {
            panic!("not stopped")
        };
        let last = |weights: &Weights, name: &str| weights.get(name).expect("there").data.last().copied().expect("values");
        let (old, new) = (last(&before, "stem.weight"), last(&weights, "stem.weight"));
        let shrank = new != old && (new / old) > 0.9 && (new / old) < 1.0;
        assert!(shrank == shrinks && (shrinks || new == old), "{decay}, {regularise:?}: {old} became {new}");
        let lacking = "stages.3.2.expand.weight";
        assert_eq!(last(&before, lacking), last(&weights, lacking), "a layer that the child does not have");
    }
}

#[test]
fn a_run_starts_from_given_weights_and_learns_from_a_given_teacher() {
    let mut bench = Bench::new();
    let start = Weights::random(&layout(&bench.space, 3), 99, GammaInit::Random);
    bench.settings.schedule.rate_per_256 = 1e-12;
    bench.start = Some((start.clone(), "a"));
    let Outcome::Finished { weights, provenance } = bench.run("started", false).expect("trains") else { panic!("not stopped") };
    let (a, b) = (&start.get("classifier.weight").expect("there").data, &weights.get("classifier.weight").expect("there").data);
    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "the weights are those given");
    assert_eq!((provenance.start_sha256.as_deref(), provenance.teacher_sha256), (Some("a"), None));
    bench.start = Some((start.clone(), "b"));
    let message = bench.run("started", true).expect_err("begun from another").to_string();
    assert!(message.contains("did not start from the weights that --start names now: leave --start out"), "{message}");
    bench.start = None;
    bench.one_step("random", false);
    bench.start = Some((start.clone(), "a"));
    let message = bench.run("random", true).expect_err("begun from none").to_string();
    assert!(message.contains("leave --start out"), "{message}");

    bench.settings.schedule.rate_per_256 = 0.01;
    bench.settings.distillation = false;
    let trained = |bench: &Bench, name: &str| match bench.run(name, false).expect("trains") {
        Outcome::Finished { weights, .. } => weights,
        Outcome::Stopped { .. } => panic!("not stopped"),
    };
    let labels = trained(&bench, "labels");
    bench.teacher = Some((start.clone(), "c"));
    let taught = trained(&bench, "taught");
    assert!(labels != taught, "the teacher stands in for the labels");
    for other in [None, Some((start, "d"))] {
        bench.teacher = other;
        let message = bench.run("taught", true).expect_err("the teacher is missing, or another").to_string();
        assert!(message.contains("teacher (--teacher) changed"), "{message}");
    }
}
