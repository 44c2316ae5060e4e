//! The sandwich rule with in-place distillation (paper, 3.1 and 3.2): the gradients of one step.
//!
//! A step trains the biggest child on the labels, and the smallest and some random ones on the biggest's predictions. Their
//! gradients add up to one update.

use tch::{Kind, Reduction, Tensor as Torch};

use super::elastic::ElasticNet;
use super::norm::Norm;
use crate::space::{Child, Draw, Plan, SearchSpace};

/// What the sandwich rule needs to know apart from the step.
#[derive(Debug)]
pub struct Sandwich<'a> {
    space: &'a SearchSpace,
    classes: usize,
    biggest: Plan,
    smallest: Plan,
    /// Random children a step.
    random_children: u64,
    label_smoothing: f64,
    seed: u64,
}

/// Mean losses of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Losses {
    /// Cross entropy of the biggest child with the smoothed labels.
    pub biggest: f64,
    /// Cross entropy of the smallest child with the biggest's predictions.
    pub smallest: f64,
    /// The same for each random child.
    pub random: Vec<f64>,
}

impl Losses {
    /// Whether all are numbers.
    #[must_use]
    pub fn are_finite(&self) -> bool {
        self.random.iter().chain([&self.biggest, &self.smallest]).all(|loss| loss.is_finite())
    }
}

impl<'a> Sandwich<'a> {
    /// The rule over `space` for a classifier of `classes` classes; random choices depend on `seed` and the step alone.
    #[must_use]
    pub fn new(space: &'a SearchSpace, classes: usize, random_children: u64, label_smoothing: f64, seed: u64) -> Self {
        let plan = |child: &Child| Plan::new(space, child, classes);
        let (biggest, smallest) = (plan(&space.biggest()), plan(&space.smallest()));
        Self { space, classes, biggest, smallest, random_children, label_smoothing, seed }
    }

    /// Adds the gradients of one step to the parameters of `net`.
    ///
    /// `patches` are normalised images `[N, C, S, S]`, resized here to each child's resolution; `labels` are `[N]`.
    pub fn accumulate(&self, net: &ElasticNet, patches: &Torch, labels: &Torch, step: u64) -> Losses {
        let logits =
            net.forward(&self.biggest, &resize(patches, self.biggest.child.resolution()), &mut Norm::Batch, self.biggest.head.dropout);
        let loss = logits.cross_entropy_loss(labels, None::<Torch>, Reduction::Mean, -100, self.label_smoothing);
        loss.backward();
        let target = logits.detach().softmax(-1, Kind::Float);
        let distil = |plan: &Plan| {
            let logits = net.forward(plan, &resize(patches, plan.child.resolution()), &mut Norm::Batch, 0.0);
            let loss = soft_cross_entropy(&logits, &target);
            loss.backward();
            loss.double_value(&[])
        };
        let random = |k| Plan::new(self.space, &self.space.random(Draw::new(self.seed, step, k)), self.classes);
        Losses {
            biggest: loss.double_value(&[]),
            smallest: distil(&self.smallest),
            random: (0..self.random_children).map(|k| distil(&random(k))).collect(),
        }
    }
}

/// Bicubic resize of `[N, C, S, S]` to `side` pixels.
pub fn resize(images: &Torch, side: usize) -> Torch {
    let side = side as i64;
    if images.size()[2] == side { images.shallow_clone() } else { images.upsample_bicubic2d([side, side], false, None, None) }
}

/// Mean cross entropy between the distributions `target`, `[N, classes]`, and the softmax of `logits`.
fn soft_cross_entropy(logits: &Torch, target: &Torch) -> Torch {
    let summed = (target * logits.log_softmax(-1, Kind::Float)).sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
    -summed.mean(Kind::Float)
}
