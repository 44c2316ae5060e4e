//! One child's part in a step: its forward pass, its loss, and its gradients.

use tch::{Kind, Tensor as Torch};

use super::elastic::ElasticNet;
use super::norm::Norm;
use super::sandwich::resize;
use crate::space::Plan;

/// What one child does in one step.
#[derive(Debug)]
pub(super) struct Lesson {
    /// The child.
    pub plan: Plan,
    /// What it sees, `[N, C, S, S]`.
    pub patches: Torch,
    /// Whether its predictions are what the others learn from.
    pub teaches: bool,
    /// Whether it learns from those predictions; otherwise from the labels.
    pub distils: bool,
    /// What its features are multiplied with before the classifier, `[N, features]`.
    pub dropout: Option<Torch>,
    /// L2 penalty on the weights that this child has, in its own loss.
    pub weight_decay: f64,
}

impl Lesson {
    /// Logits `[N, classes]` of the patches, resized to the child's resolution.
    pub fn logits(&self, net: &ElasticNet) -> Torch {
        net.forward(&self.plan, &resize(&self.patches, self.plan.child.resolution()), &mut Norm::Batch, self.dropout.as_ref())
    }

    /// Adds to the gradients of `net`; returns the cross entropy between the distributions `targets`, `[N, classes]`, and
    /// `logits`, without any penalty.
    pub fn learn(&self, net: &ElasticNet, logits: &Torch, targets: &Torch) -> f64 {
        let loss = cross_entropy(logits, targets);
        let value = loss.double_value(&[]);
        if self.weight_decay > 0.0 {
            (loss + net.squared_weights(&self.plan) * (self.weight_decay / 2.0)).backward();
        } else {
            loss.backward();
        }
        value
    }
}

/// Mean cross entropy between the distributions `targets`, `[N, classes]`, and the softmax of `logits`.
fn cross_entropy(logits: &Torch, targets: &Torch) -> Torch {
    let summed = (targets * logits.log_softmax(-1, Kind::Float)).sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
    -summed.mean(Kind::Float)
}
