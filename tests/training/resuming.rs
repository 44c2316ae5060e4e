//! Runs that are resumed, exactly or as they are told.

use std::fs;

use bignas::data::Policy;
use bignas::train::{Decay, OptimiserKind, Outcome, Regularise, TrainSettings};

use crate::{Bench, lines};

#[test]
fn a_resumed_run_is_the_uninterrupted_one_bit_for_bit() {
    let bench = Bench::new();
    let Outcome::Finished { weights, provenance } = bench.run("whole", false).expect("trains") else { panic!("it was not stopped") };
    assert_eq!((provenance.steps, provenance.images), (4, 9));

    // In the middle of an epoch, at its end, and to the end of the run.
    let first = bench.one_step("parts", false);
    assert!(first.ends_with("checkpoints/step-00000001"), "{}", first.display());
    assert_eq!(bench.newest("parts").state.step, 1);
    bench.one_step("parts", true);
    assert_eq!(bench.newest("parts").state.step, 2);
    let Outcome::Finished { weights: resumed, provenance } = bench.run("parts", true).expect("resumes") else { panic!("not stopped") };

    assert!(weights == resumed, "the weights differ");
    assert_eq!(provenance.steps, 4);
    let (whole, parts) = (bench.newest("whole"), bench.newest("parts"));
    assert!(whole.weights == weights && whole.weights == parts.weights && whole.optimiser == parts.optimiser);
    let kept = |run: &str| fs::read_dir(bench.path(run).join("checkpoints")).expect("checkpoints").count();
    assert_eq!((kept("whole"), kept("parts")), (2, 2), "the newest, and one to fall back on");

    let epochs = lines(&bench.path("whole").join("metrics.jsonl"));
    let curve = fs::read_to_string(bench.path("whole").join("accuracy.svg")).expect("drawn");
    assert_eq!(curve.matches("<circle").count(), 2 * 2 + 2, "two children after two epochs, and the legend");
    assert!(bench.path("whole").join("accuracy.png").exists());
    let accuracies = |epoch: &serde_json::Value| (epoch["accuracy_biggest"].clone(), epoch["accuracy_smallest"].clone());
    assert_eq!(epochs.len(), 2);
    let parts = lines(&bench.path("parts").join("metrics.jsonl"));
    let of = |epochs: &[serde_json::Value]| epochs.iter().map(accuracies).collect::<Vec<_>>();
    assert_eq!(of(&epochs), of(&parts), "who stops at the end of an epoch still validates");
}

/// The same with everything that a run can keep beside its weights, each technique off, and as the command line has it: two threads,
/// labels at first, images changed by a policy.
#[test]
fn averages_and_ablations_are_resumed_exactly_too() {
    type Change = fn(&mut TrainSettings);
    let cases: [(&str, Change); 5] = [
        ("usual", |s| s.label_epochs = 1),
        ("average", |s| (s.average, s.schedule.shape) = (Some(0.9), Decay::Cosine)),
        ("sgd", |s| (s.optimiser.kind, s.regularise, s.schedule.shape) = (OptimiserKind::Sgd, Regularise::Everyone, Decay::Linear)),
        ("patches", |s| (s.same_patch, s.dropout) = (false, false)),
        ("plain", |s| (s.sandwich, s.distillation, s.zero_gamma) = (false, false, false)),
    ];
    for (name, change) in cases {
        let mut bench = Bench::new();
        change(&mut bench.settings);
        if name == "usual" {
            (bench.threads, bench.policy) = (2, Some(Policy::Cifar10));
        }
        let Ok(Outcome::Finished { weights, provenance }) = bench.run("whole", false) else { panic!("{name} should finish") };
        bench.one_step("parts", false);
        let Ok(Outcome::Finished { weights: resumed, .. }) = bench.run("parts", true) else { panic!("{name} should finish") };
        assert!(weights == resumed, "{name}: the weights differ");
        assert_eq!(provenance.settings, bench.settings);
        let newest = bench.newest("parts");
        assert_eq!(newest.average.is_some(), name == "average");
        assert_eq!(newest.weights == weights, name != "average", "{name}: the model is the average where there is one");
    }
}

#[test]
fn a_resumed_run_may_be_told_otherwise_and_remembers_what_held_before() {
    let mut bench = Bench::new();
    bench.one_step("run", false);
    let before = bench.settings.clone();
    bench.settings.schedule.rate_per_256 /= 2.0;
    let Ok(Outcome::Finished { provenance, .. }) = bench.run("run", true) else { panic!("the run should finish") };
    assert_eq!(provenance.settings, bench.settings);
    let history: Vec<_> = provenance.history.iter().map(|phase| (phase.until_step, &phase.settings)).collect();
    assert_eq!(history, [(1, &before)]);
}

#[test]
fn a_run_never_goes_back() {
    let mut bench = Bench::new();
    bench.run("run", false).expect("trains");
    assert!(matches!(bench.run("run", true), Ok(Outcome::Finished { .. })), "what is done is done");
    bench.settings.epochs = 1;
    let message = bench.run("run", true).expect_err("two are done").to_string();
    assert!(message.contains("is in epoch 2 already: --epochs 1 would have to go back; ask for 2 or more"), "{message}");
}

/// What the checkpoints before had of it is nothing that the next ones lack.
#[test]
fn an_average_may_be_given_up() {
    let mut bench = Bench::new();
    bench.settings.average = Some(0.9);
    bench.one_step("run", false);
    bench.settings.average = None;
    bench.one_step("run", true);
    assert!(bench.newest("run").average.is_none());
    assert!(matches!(bench.run("run", true), Ok(Outcome::Finished { .. })));
}

/// Who is killed between a checkpoint and the validation of its epoch makes up for it.
#[test]
fn an_epoch_that_was_not_validated_is_when_the_run_goes_on() {
    let bench = Bench::new();
    bench.run("run", false).expect("trains");
    let log = bench.path("run").join("metrics.jsonl");
    let whole = lines(&log);
    let text = fs::read_to_string(&log).expect("reads");
    fs::write(&log, text.lines().next().expect("the first epoch").to_owned() + "\n").expect("writes");
    for _ in 0..2 {
        assert!(matches!(bench.run("run", true), Ok(Outcome::Finished { .. })));
        assert_eq!(lines(&log), whole, "once, and no more");
    }
}
