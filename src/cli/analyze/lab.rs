//! What analyses of a trained model share: drawing calibration images, recalibrating, and testing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;

use super::{Children, Common};
use crate::calibrate::{Batches, Calibrator, recalibrate};
use crate::checkpoint::{BnStats, LayerStats, Model};
use crate::cli::common::{find_child, open_images, tell_skipped};
use crate::cli::evaluate::evaluate;
use crate::data::{Augment, CalibrationSet, ImageSet, PatchSet, Source, Split, calibration_indices};
use crate::deploy::{Statistics, deploy};
use crate::evaluate::Tally;
use crate::image::Patch;
use crate::onnx::Input;
use crate::runtime::{Network, Runtime};
use crate::slice::slice;
use crate::space::{Child, Plan};

/// Images in a batch of the test.
const TEST_BATCH: usize = 64;

/// A model with its data, ready to be measured.
pub(super) struct Lab {
    pub(super) model: Model,
    /// When the analysis began.
    pub(super) opened: Instant,
    pub(super) children: Vec<(String, Child)>,
    train: ImageSet,
    test: Arc<Source>,
    runtime: Runtime,
    threads: usize,
    batches: Batches,
    seed: u64,
}

impl Lab {
    /// Opens the model and its data; calibration images are drawn under `seed`.
    pub(super) fn open(common: &Common, children: &Children, seed: u64) -> anyhow::Result<Self> {
        let (model, opened) = (Model::open(&common.model)?, Instant::now());
        let train = open_images(&model.card, &common.data, Split::Train, common.max_corrupt)?;
        let images = open_images(&model.card, &common.data, Split::Test, common.max_corrupt)?;
        let test = Arc::new(Source { images, preprocessing: model.card.preprocessing.clone(), augment: Augment::NONE });
        let children = children.child.iter().map(|name| Ok((name.clone(), find_child(&model, name)?))).collect::<anyhow::Result<_>>()?;
        let (runtime, threads) = (common.runtime.load()?, common.runtime.threads());
        let batches = Batches::of(usize::from(common.calibration_batch));
        Ok(Self { model, opened, children, train, test, runtime, threads, batches, seed })
    }

    /// Says what could not be read.
    pub(super) fn tell_skipped(&self) {
        [&self.train, &self.test.images].into_iter().for_each(tell_skipped);
    }

    /// Number of test images that were measured on: all but those that turned out to be unreadable.
    pub(super) fn test_images(&self) -> usize {
        self.test.images.len() - self.test.images.skipped().len()
    }

    /// Refuses to recalibrate on more images than there are, and on a number of which some would be dropped: a table that says 100 images
    /// is not to be one of 64.
    pub(super) fn check_calibration(&self, count: usize) -> anyhow::Result<()> {
        let all = self.train.len();
        ensure!(
            count <= all,
            "{count} calibration images are more than the {all} training images: ask for fewer, with --images, or with \
             --calibration-images where children are trained"
        );
        let batch = self.batches.size();
        ensure!(
            count.is_multiple_of(batch),
            "{count} calibration images are no whole batches of {batch}: ask for a multiple, or choose another --calibration-batch"
        );
        Ok(())
    }

    /// The first `count` of a seeded draw of training images, changed as `augment` says: a smaller set is part of a larger one.
    pub(super) fn calibration(&self, count: usize, augment: &Augment) -> anyhow::Result<CalibrationSet> {
        self.check_calibration(count)?;
        let mut patches: Vec<Patch> = Vec::with_capacity(count);
        for index in calibration_indices(self.train.len(), self.train.len(), self.seed) {
            if patches.len() == count {
                break;
            }
            if let Some(pixels) = self.train.pixels_or_skip(index)? {
                patches.push(augment.calibration_patch(&pixels, &self.model.card.preprocessing, self.seed, index)?);
            }
        }
        let read = patches.len();
        ensure!(read == count, "of the training images only {read} can be read, not {count}: ask for fewer calibration images");
        Ok(PatchSet::from_patches(&patches)?.into())
    }

    pub(super) fn plan(&self, child: &Child) -> Plan {
        Plan::new(&self.model.card.space, child, self.model.card.labels.len())
    }

    /// The child's own statistics on `images`.
    pub(super) fn statistics(&self, child: &Child, images: &CalibrationSet) -> anyhow::Result<BnStats> {
        let net = slice(&self.model.weights, &self.plan(child))?;
        let calibrator = Calibrator { runtime: &self.runtime, images, batches: self.batches, threads: self.threads, stop: None };
        Ok(recalibrate(&net, &self.model.card.preprocessing, &calibrator)?)
    }

    /// Statistics of the same layers, made layer by layer from the number of channels and the layer's name.
    pub(super) fn made(&self, child: &Child, layer: impl Fn(&str, usize) -> LayerStats) -> anyhow::Result<BnStats> {
        let plan = self.plan(child);
        let layers: BTreeMap<String, LayerStats> = plan.norms().map(|conv| (conv.name.clone(), layer(&conv.name, conv.c_out))).collect();
        Ok(BnStats::new(&plan, layers, 1, 1)?)
    }

    /// Accuracy on the whole test set with `statistics`.
    pub(super) fn accuracy(&self, child: &Child, statistics: &BnStats) -> anyhow::Result<f64> {
        Ok(self.tally(child, statistics)?.accuracy())
    }

    /// What the child gets right on the whole test set with `statistics`.
    pub(super) fn tally(&self, child: &Child, statistics: &BnStats) -> anyhow::Result<Tally> {
        let deployed = deploy(&self.model, child, Statistics::Known(statistics), Input::Resolution)?;
        let mut network = Network::load(&self.runtime, &deployed.onnx, &format!("child {}", child.id()), self.threads)?;
        evaluate(&mut network, &self.test, TEST_BATCH)
    }
}
