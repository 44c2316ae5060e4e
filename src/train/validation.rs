//! A quick look at the accuracy of the biggest and the smallest child between epochs.

use tch::{Device, IndexOp, Kind, Tensor as Torch};

use super::TrainError;
use super::elastic::ElasticNet;
use super::input::Normaliser;
use super::sandwich::resize;
use super::trainer::Job;
use crate::data::{DataError, PatchSet, Source, calibration_indices};
use crate::space::{Child, Plan};

/// Batches of training images over which statistics are measured.
const CALIBRATION_BATCHES: usize = 10;
/// Images that accuracy is measured on.
const IMAGES: usize = 2_000;
/// Images a batch.
const BATCH: usize = 128;

/// Share of images that were classified correctly, in 0..=1.
#[derive(Debug, Clone, PartialEq)]
pub struct Accuracy {
    /// Of the biggest child.
    pub biggest: f64,
    /// Of the smallest child.
    pub smallest: f64,
    /// Images that it was measured on.
    pub images: usize,
}

/// Images for a quick validation, in memory.
#[derive(Debug)]
pub struct Validation {
    calibration: Torch,
    images: Torch,
    labels: Torch,
    biggest: Plan,
    smallest: Plan,
}

impl Validation {
    /// A seeded choice of images: for the statistics from the training images, for the accuracy from `test`.
    ///
    /// # Errors
    /// Where an image cannot be read.
    pub fn new(job: &Job<'_>, test: &Source, seed: u64) -> Result<Self, TrainError> {
        let (space, train) = (job.space, &job.train);
        let plan = |child: &Child| Plan::new(space, child, train.images.classes().len());
        // Whole batches, or one of all images where they fill none.
        let whole = train.images.len() / BATCH * BATCH;
        let count = (CALIBRATION_BATCHES * BATCH).min(if whole == 0 { train.images.len() } else { whole });
        let (calibration, _) = patches(train, count, seed, job.device)?;
        let (images, labels) = patches(test, IMAGES, seed, job.device)?;
        Ok(Self { calibration, images, labels, biggest: plan(&space.biggest()), smallest: plan(&space.smallest()) })
    }

    /// Recalibrates and measures both children.
    #[must_use]
    pub fn accuracy(&self, net: &ElasticNet) -> Accuracy {
        let of = |plan: &Plan| self.accuracy_of(net, plan);
        Accuracy { biggest: of(&self.biggest), smallest: of(&self.smallest), images: self.labels.size()[0] as usize }
    }

    fn accuracy_of(&self, net: &ElasticNet, plan: &Plan) -> f64 {
        let side = plan.child.resolution();
        let statistics = net.recalibrate(plan, batches(&self.calibration).map(|batch| resize(&batch, side)));
        let mut correct = 0.0;
        for (images, labels) in batches(&self.images).zip(batches(&self.labels)) {
            let predicted = net.logits(plan, &resize(&images, side), &statistics).argmax(-1, false);
            correct += predicted.eq_tensor(&labels).sum(Kind::Float).double_value(&[]);
        }
        correct / self.labels.size()[0] as f64
    }
}

fn batches(all: &Torch) -> impl Iterator<Item = Torch> {
    let count = all.size()[0];
    (0..count).step_by(BATCH).map(move |start| all.i(start..count.min(start + BATCH as i64)))
}

/// Normalised centre crops `[N, C, S, S]` and labels `[N]` of `count` images.
fn patches(source: &Source, count: usize, seed: u64, device: Device) -> Result<(Torch, Torch), TrainError> {
    let (mut patches, mut labels) = (Vec::new(), Vec::new());
    for index in calibration_indices(source.images.len(), count, seed) {
        if let Some(pixels) = source.images.pixels_or_skip(index)? {
            patches.push(pixels.centre_crop(&source.preprocessing).map_err(DataError::from)?);
            labels.push(source.images.label(index).unwrap_or_default() as i64);
        }
    }
    let set = PatchSet::from_patches(&patches).map_err(DataError::from)?;
    Ok((Normaliser::new(&source.preprocessing, device).apply(&set.data), Torch::from_slice(&labels).to_device(device)))
}
