//! A quick look at the accuracy of the biggest and the smallest child between epochs.

use serde::{Deserialize, Serialize};
use tch::{Device, IndexOp, Kind, Tensor as Torch};

use super::TrainError;
use super::elastic::ElasticNet;
use super::input::Normaliser;
use super::job::Job;
use super::sandwich::resize;
use super::settings::{Roster, TrainSettings};
use crate::data::{DataError, PatchSet, Source};
use crate::space::{Child, Plan};

/// Batches of training images over which statistics are measured.
const CALIBRATION_BATCHES: usize = 10;
/// Images that accuracy is measured on.
const IMAGES: usize = 2_000;
/// Images a batch.
const BATCH: usize = 128;

/// Share of images that were classified correctly, in 0..=1: by both ends of the space, or by those children that the
/// roster names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Images that it was measured on.
    pub images: usize,
    /// Of the biggest child.
    #[serde(rename = "accuracy_biggest", default, skip_serializing_if = "Option::is_none")]
    pub biggest: Option<f64>,
    /// Of the smallest child.
    #[serde(rename = "accuracy_smallest", default, skip_serializing_if = "Option::is_none")]
    pub smallest: Option<f64>,
    /// Of the one child that is trained.
    #[serde(rename = "accuracy_child", default, skip_serializing_if = "Option::is_none")]
    pub child: Option<f64>,
}

/// Images for a quick validation, in memory.
#[derive(Debug)]
pub struct Validation {
    calibration: Torch,
    images: Torch,
    labels: Torch,
    biggest: Option<Plan>,
    smallest: Option<Plan>,
    child: Option<Plan>,
}

impl Validation {
    /// A seeded choice of images: for the statistics from the training images, for the accuracy from `test`.
    ///
    /// # Errors
    /// Where an image cannot be read, or the roster's child is not of the space.
    pub fn new(job: &Job<'_>, test: &Source, settings: &TrainSettings) -> Result<Self, TrainError> {
        let plan = |child: &Child| Plan::new(job.space, child, job.train.images.classes().len());
        let (biggest, smallest, child) = match &settings.roster {
            Roster::Space => (Some(job.space.biggest()), Some(job.space.smallest()), None),
            Roster::Child(choices) => (None, None, Some(Child::new(job.space, choices.clone())?)),
            Roster::BiggestAnd(choices) => (Some(job.space.biggest()), None, Some(Child::new(job.space, choices.clone())?)),
        };
        let [biggest, smallest, child] = [biggest, smallest, child].map(|child| child.as_ref().map(plan));
        let calibration = calibration(&job.train, settings.seed, job.device)?;
        let (images, labels) = patches(test, IMAGES, settings.seed, job.device)?;
        Ok(Self { calibration, images, labels, biggest, smallest, child })
    }

    /// Recalibrates and measures the children.
    #[must_use]
    pub fn accuracy(&self, net: &ElasticNet) -> Accuracy {
        let of = |plan: &Option<Plan>| plan.as_ref().map(|plan| self.accuracy_of(net, plan));
        let images = self.labels.size()[0] as usize;
        Accuracy { images, biggest: of(&self.biggest), smallest: of(&self.smallest), child: of(&self.child) }
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

/// Training images as statistics are measured on: normalised, in whole batches, or one of all images where they fill none.
pub(super) fn calibration(train: &Source, seed: u64, device: Device) -> Result<Torch, TrainError> {
    let images = patches(train, whole_batches(train.images.len()).min(CALIBRATION_BATCHES * BATCH), seed, device)?.0;
    // Some of them may have been unreadable.
    let read = whole_batches(images.size()[0] as usize);
    Ok(images.narrow(0, 0, read as i64))
}

/// How many of `images` fill whole batches; all of them, where there is not one.
fn whole_batches(images: usize) -> usize {
    if images < BATCH { images } else { images / BATCH * BATCH }
}

pub(super) fn batches(all: &Torch) -> impl Iterator<Item = Torch> {
    let count = all.size()[0];
    (0..count).step_by(BATCH).map(move |start| all.i(start..count.min(start + BATCH as i64)))
}

/// Normalised patches `[N, C, S, S]` and labels `[N]` of `count` images, changed at random as far as `source` says.
fn patches(source: &Source, count: usize, seed: u64, device: Device) -> Result<(Torch, Torch), TrainError> {
    let (patches, labels) = source.draw(count, seed)?;
    let labels: Vec<i64> = labels.into_iter().map(|label| label as i64).collect();
    let set = PatchSet::from_patches(&patches).map_err(DataError::from)?;
    Ok((Normaliser::new(&source.preprocessing, device).apply(&set.data), Torch::from_slice(&labels).to_device(device)))
}
