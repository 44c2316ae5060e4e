//! Recalibration by itself: what it measures, whatever computes it, and what it refuses.

mod common;

use bignas::calibrate::{Batches, CalibrateError, Calibrator, recalibrate};
use bignas::checkpoint::{BnStats, GammaInit, Tensor, Weights};
use bignas::data::CalibrationSet;
use bignas::slice::{SlicedNet, slice};
use bignas::space::{Plan, layout};

const CLASSES: usize = 10;

fn net_of(weights: &Weights) -> SlicedNet {
    let space = common::space();
    slice(weights, &Plan::new(&space, &space.smallest(), CLASSES)).unwrap()
}

fn weights() -> Weights {
    Weights::random(&layout(&common::space(), CLASSES), 7, GammaInit::Random)
}

fn measure(net: &SlicedNet, images: &CalibrationSet, batch: usize, threads: usize) -> Result<BnStats, CalibrateError> {
    let runtime = common::runtime();
    let calibrator = Calibrator { runtime: &runtime, images, batches: Batches::of(batch), threads, stop: None };
    recalibrate(net, &common::preprocessing(), &calibrator)
}

/// Every batch counts once, whoever computes it: statistics, and what is cached under their checksum, are those of any machine.
#[test]
fn statistics_depend_on_the_batches_and_not_on_the_threads() {
    let (net, images) = (net_of(&weights()), CalibrationSet::from(common::noise(29, 28, 1)));
    let one = measure(&net, &images, 4, 1).unwrap();
    assert_eq!((one.images(), one.batch()), (28, 4), "the last image fills no batch");
    for threads in [2, 3, 7, 50] {
        assert_eq!(measure(&net, &images, 4, threads).unwrap(), one, "{threads} threads");
    }
    let first_28 = CalibrationSet::from(common::noise(28, 28, 1));
    assert_eq!(measure(&net, &first_28, 4, 1).unwrap(), one);
    assert_ne!(measure(&net, &images, 7, 1).unwrap().checksum(), one.checksum());
}

#[test]
fn images_that_cannot_serve_are_refused_with_a_remedy() {
    let (grey, colour) = (CalibrationSet::from(common::noise(8, 28, 1)), CalibrationSet::from(common::noise(8, 28, 3)));
    let weights = weights();
    let usual = net_of(&weights);
    // Finite, and its activations are too, but not their squares.
    let huge = |tensor: &Tensor| Tensor { shape: tensor.shape.clone(), data: tensor.data.iter().map(|value| value * 1e25).collect() };
    let named = |(name, tensor)| (str::to_owned(name), if name == "head.conv.weight" { huge(tensor) } else { Tensor::clone(tensor) });
    let overflowing = net_of(&Weights::new(weights.iter().map(named).collect()));
    for (net, images, batch, expected) in [
        (&usual, &grey, 9, "8 calibration images do not fill one batch of 9: give more images, or a smaller batch of at least 1"),
        (&usual, &grey, 0, "8 calibration images do not fill one batch of 0: give more images, or a smaller batch of at least 1"),
        (&usual, &colour, 4, "the calibration images do not fit the model"),
        (&overflowing, &grey, 4, "these images bring the network beyond what float32 holds: use images like those it was trained on"),
    ] {
        let message = measure(net, images, batch, 1).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
    }
}
