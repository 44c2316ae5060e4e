//! A teacher that was trained before and no longer changes (paper, 5 and Table 3: "FromScratch, Distill (A)").

use tch::{Kind, Tensor as Torch};

use super::elastic::ElasticNet;
use super::norm::Statistics;
use super::sandwich::resize;
use crate::space::Plan;

/// One child of a trained network, with its statistics.
#[derive(Debug)]
pub struct Teacher {
    net: ElasticNet,
    plan: Plan,
    statistics: Statistics,
}

impl Teacher {
    /// The child of `plan` in `net`, recalibrated on batches of normalised patches, `[N, C, S, S]` each.
    #[must_use]
    pub fn new(net: ElasticNet, plan: Plan, batches: impl IntoIterator<Item = Torch>) -> Self {
        let side = plan.child.resolution();
        let statistics = net.recalibrate(&plan, batches.into_iter().map(|batch| resize(&batch, side)));
        Self { net, plan, statistics }
    }

    /// What it takes `patches`, `[N, C, S, S]`, for: distributions `[N, classes]`.
    pub fn predictions(&self, patches: &Torch) -> Torch {
        let images = resize(patches, self.plan.child.resolution());
        self.net.logits(&self.plan, &images, &self.statistics).softmax(-1, Kind::Float)
    }
}
