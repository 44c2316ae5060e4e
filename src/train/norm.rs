//! Batch norm in its three moods, and the recalibration of one child.
//!
//! Training keeps no running statistics: with an architecture that changes at every step they are ill-defined. A child's
//! statistics are measured when they are needed, as the mean over batches of the batch means and unbiased batch variances.

use std::collections::BTreeMap;

use tch::Tensor as Torch;

use super::elastic::ElasticNet;
use super::parameters::to_vec;
use crate::space::Plan;

/// Mean and variance of every channel, by the name of the convolution that the batch norm follows.
pub type Statistics = BTreeMap<String, (Vec<f32>, Vec<f32>)>;

/// Where a batch norm takes its mean and variance from.
#[derive(Debug)]
pub enum Norm<'a> {
    /// The batch itself; nothing is kept (training).
    Batch,
    /// The batch itself; sums of its means and unbiased variances are kept (recalibration).
    Record(&'a mut Recorder),
    /// Known statistics (evaluation).
    Fixed(&'a Statistics),
}

/// Sums of batch statistics.
#[derive(Debug, Default)]
pub struct Recorder {
    sums: BTreeMap<String, (Torch, Torch)>,
    batches: u32,
}

impl Norm<'_> {
    /// Normalises `x`, `[N, C, H, W]`, scales it by `weight` and shifts it by `bias`, both `[C]`.
    pub(super) fn apply(&mut self, name: &str, x: &Torch, weight: &Torch, bias: &Torch, eps: f64) -> Torch {
        match self {
            Self::Batch => x.batch_norm(Some(weight), Some(bias), None, None, true, 0.0, eps, false),
            Self::Record(recorder) => {
                // Not `batch_norm` in training mode: it adds up a channel's values one by one in float32, which loses up to 1e-4
                // of a large map's variance. This sums in double precision.
                let (variance, mean) = x.var_mean_dim([0i64, 2, 3].as_slice(), false, false);
                let y = x.batch_norm(Some(weight), Some(bias), Some(&mean), Some(&variance), false, 0.0, eps, false);
                let values = x.numel() as f64 / mean.numel() as f64;
                recorder.add(name, mean, variance * (values / (values - 1.0).max(1.0)));
                y
            }
            Self::Fixed(statistics) => {
                let (mean, variance) = &statistics[name];
                let [mean, variance] = [mean, variance].map(|values| Torch::from_slice(values).to_device(x.device()));
                x.batch_norm(Some(weight), Some(bias), Some(&mean), Some(&variance), false, 0.0, eps, false)
            }
        }
    }
}

impl Recorder {
    fn add(&mut self, name: &str, mean: Torch, variance: Torch) {
        match self.sums.get_mut(name) {
            None => {
                self.sums.insert(name.to_owned(), (mean, variance));
            }
            Some((means, variances)) => {
                *means += mean;
                *variances += variance;
            }
        }
    }

    fn means(&self) -> Statistics {
        let count = f64::from(self.batches.max(1));
        self.sums.iter().map(|(name, (mean, variance))| (name.clone(), (to_vec(&(mean / count)), to_vec(&(variance / count))))).collect()
    }
}

impl ElasticNet {
    /// Statistics of the child of `plan` over `batches` of normalised images at its resolution. They serve validation and teachers within
    /// a training, which on a GPU computes in TF32 where libtorch does; children that are served get theirs from `calibrate`, in float32.
    pub fn recalibrate(&self, plan: &Plan, batches: impl IntoIterator<Item = Torch>) -> Statistics {
        let mut recorder = Recorder::default();
        for images in batches {
            let _logits = tch::no_grad(|| self.forward(plan, &images, &mut Norm::Record(&mut recorder), None));
            recorder.batches += 1;
        }
        recorder.means()
    }

    /// Logits `[N, classes]` of the child of `plan` for normalised images at its resolution.
    pub fn logits(&self, plan: &Plan, images: &Torch, statistics: &Statistics) -> Torch {
        tch::no_grad(|| self.forward(plan, images, &mut Norm::Fixed(statistics), None))
    }
}
