//! Accuracy of a network on labelled images.

use serde::Serialize;
use thiserror::Error;

use crate::data::PatchSet;
use crate::image::{Preprocessing, ShapeError};
use crate::runtime::{Network, RuntimeError};

/// Correct answers among those given so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Images seen.
    pub images: usize,
    /// Images whose label had the highest logit.
    pub top1: usize,
    /// Images whose label was among the five highest logits.
    pub top5: usize,
    /// The class with the highest logit, image by image.
    pub predictions: Vec<usize>,
    /// Whether that was the label, image by image.
    pub correct: Vec<bool>,
    /// Which images of a data set they are, where they come from one.
    pub indices: Vec<usize>,
}

/// How much more accurate one network is than another on the same images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Difference {
    /// Accuracy of the first minus that of the second, as a fraction.
    pub mean: f64,
    /// Half the width of the interval around it that holds the true difference with 95 % confidence.
    pub margin: f64,
}

/// The paired difference between two networks, from whether each was right, image by image.
///
/// Pairing leaves out what makes an image hard for both: the interval is narrower than that of two accuracies. It is the usual
/// one for the mean of many differences, each -1, 0 or 1.
#[must_use]
pub fn difference(first: &[bool], second: &[bool]) -> Difference {
    /// Standard errors on either side of the mean that hold 95 % of a normal distribution.
    const CONFIDENCE_95: f64 = 1.959_964;
    let differences: Vec<f64> = first.iter().zip(second).map(|(&a, &b)| f64::from(i8::from(a) - i8::from(b))).collect();
    let count = differences.len().max(1) as f64;
    let mean = differences.iter().sum::<f64>() / count;
    let squares: f64 = differences.iter().map(|difference| (difference - mean).powi(2)).sum();
    Difference { mean, margin: CONFIDENCE_95 * (squares / (count - 1.0).max(1.0) / count).sqrt() }
}

/// Images that could not be evaluated.
#[derive(Debug, Error)]
pub enum EvaluateError {
    /// The images have other channels or bytes than the model's input.
    #[error("the images do not fit the model")]
    Shape(#[from] ShapeError),
    /// ONNX Runtime failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl Tally {
    /// Top-1 accuracy as a fraction; of no images it is 0.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        self.top1 as f64 / self.images.max(1) as f64
    }

    /// Top-5 accuracy as a fraction; of no images it is 0.
    #[must_use]
    pub fn top5_accuracy(&self) -> f64 {
        self.top5 as f64 / self.images.max(1) as f64
    }

    /// Runs `network` over `patches`, which bear `labels`, and counts. All patches form one batch.
    ///
    /// # Errors
    /// [`EvaluateError`].
    pub fn add(
        &mut self,
        network: &mut Network,
        patches: &PatchSet,
        labels: &[i64],
        preprocessing: &Preprocessing,
    ) -> Result<(), EvaluateError> {
        let [channels, resolution, _] = network.input_shape();
        let mut input = vec![0.0; patches.count * channels * resolution * resolution];
        for (index, out) in input.chunks_exact_mut(channels * resolution * resolution).enumerate() {
            let missing = ShapeError { what: "patches", actual: patches.data.len(), expected: index + 1 };
            patches.patch(index).ok_or(missing)?.write_input(resolution as u32, preprocessing, out)?;
        }
        let logits = network.run(&input, patches.count)?;
        for (row, &label) in logits.chunks_exact(logits.len() / patches.count).zip(labels) {
            self.count(row, label);
        }
        Ok(())
    }

    fn count(&mut self, logits: &[f32], label: i64) {
        let ranked = best(logits, 5);
        let hit = |classes: &[usize]| usize::from(classes.iter().any(|&class| class as i64 == label));
        self.images += 1;
        self.top1 += hit(&ranked[..1]);
        self.top5 += hit(&ranked);
        self.predictions.push(ranked[0]);
        self.correct.push(ranked[0] as i64 == label);
    }
}

/// The `count` classes with the highest logits, best first; among equals the lower index first.
#[must_use]
pub fn best(logits: &[f32], count: usize) -> Vec<usize> {
    let mut classes: Vec<usize> = (0..logits.len()).collect();
    classes.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    classes.truncate(count);
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_classes_come_first_and_ties_by_index() {
        assert_eq!(best(&[0.1, 3.0, -1.0, 3.0], 3), [1, 3, 0]);
        assert_eq!(best(&[0.0, 1.0], 5), [1, 0]);
    }

    #[test]
    fn hits_are_counted_by_rank() {
        let mut tally = Tally::default();
        let logits = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0];
        for label in [0, 1, 4, 5, 6] {
            tally.count(&logits, label);
        }
        assert_eq!((tally.images, tally.top1, tally.top5), (5, 1, 3));
        assert_eq!((tally.accuracy(), tally.top5_accuracy()), (0.2, 0.6));
        assert_eq!(tally.predictions, [0; 5]);
        assert_eq!(tally.correct, [true, false, false, false, false]);
    }

    #[test]
    fn paired_differences_have_the_textbooks_interval() {
        // Of 100 images 80 are alike; of the others the first network gets 15 right and the second 5.
        let first: Vec<bool> = (0..100).map(|image| !(60..85).contains(&image)).collect();
        let second: Vec<bool> = (0..100).map(|image| image < 60 || (80..85).contains(&image)).collect();
        let found = difference(&first, &second);
        let sd = ((20.0 - 100.0 * 0.1f64.powi(2)) / 99.0).sqrt();
        assert!((found.mean - 0.10).abs() < 1e-12 && (found.margin - 1.959_964 * sd / 10.0).abs() < 1e-12, "{found:?}");
        assert_eq!(difference(&first, &first), Difference { mean: 0.0, margin: 0.0 });
        assert_eq!(difference(&[], &[]), Difference { mean: 0.0, margin: 0.0 });
    }
}
