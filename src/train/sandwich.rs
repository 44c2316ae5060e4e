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

    /// Whether all weights, and what the biggest and the smallest child make of `patches`, are numbers.
    #[must_use]
    pub fn is_usable(&self, net: &ElasticNet, patches: &Torch) -> bool {
        let answers = |plan: &Plan| {
            let images = resize(patches, plan.child.resolution());
            all_finite(&tch::no_grad(|| net.forward(plan, &images, &mut Norm::Batch, 0.0)))
        };
        all_finite(&net.parameters.flat()) && answers(&self.biggest) && answers(&self.smallest)
    }
}

fn all_finite(tensor: &Torch) -> bool {
    tensor.isfinite().all().int64_value(&[]) == 1
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{GammaInit, Tensor, Weights};
    use crate::space::{layout, preset};
    use crate::train::{RmsProp, RmsPropSettings};

    const CLASSES: usize = 4;
    const SEED: u64 = 3;
    const STEP: u64 = 17;

    /// Without dropout, whose generator all tests of the process share.
    fn space() -> SearchSpace {
        tch::set_num_threads(1);
        let mut space = preset("fashion-mnist").unwrap();
        space.head.dropout = 0.0;
        space
    }

    fn weights(space: &SearchSpace, gamma: GammaInit) -> Weights {
        Weights::random(&layout(space, CLASSES), 1, gamma)
    }

    /// Grey images in which the quarter of the image's class is bright; image i is of class i mod 4.
    fn quarters(count: i64) -> (Torch, Torch) {
        let images = Torch::zeros([count, 1, 28, 28], (Kind::Float, tch::Device::Cpu));
        for image in 0..count {
            let (class, brightness) = (image % 4, 1.0 + image as f64 / count as f64);
            let quarter = images.narrow(0, image, 1).narrow(2, class / 2 * 14, 14).narrow(3, class % 2 * 14, 14);
            let _ = quarter.shallow_clone().fill_(brightness);
        }
        let labels = Torch::from_slice(&(0..count).map(|image| image % 4).collect::<Vec<i64>>());
        (images, labels)
    }

    fn largest(tensor: &Torch) -> f64 {
        tensor.abs().max().double_value(&[])
    }

    #[test]
    fn a_steps_gradient_is_the_sum_of_its_childrens() {
        let space = space();
        let (images, labels) = quarters(8);
        let weights = weights(&space, GammaInit::Random);
        let net = ElasticNet::from_weights(&weights);
        let losses = Sandwich::new(&space, CLASSES, 2, 0.1, SEED).accumulate(&net, &images, &labels, STEP);
        let together = net.parameters.gradient();

        let logits = |net: &ElasticNet, child: &Child| {
            let plan = Plan::new(&space, child, CLASSES);
            net.forward(&plan, &resize(&images, child.resolution()), &mut Norm::Batch, 0.0)
        };
        let smoothed = labels.one_hot(CLASSES as i64).to_kind(Kind::Float) * 0.9 + 0.1 / CLASSES as f64;
        let target = logits(&net, &space.biggest()).detach().softmax(-1, Kind::Float);
        let random = [0, 1].map(|k| space.random(Draw::new(SEED, STEP, k)));
        let children =
            [(space.biggest(), &smoothed), (space.smallest(), &target), (random[0].clone(), &target), (random[1].clone(), &target)];
        let mut apart = together.zeros_like();
        let mut expected = Vec::new();
        for (child, target) in &children {
            let net = ElasticNet::from_weights(&weights);
            let loss = -(*target * logits(&net, child).log_softmax(-1, Kind::Float)).sum(Kind::Float) / 8.0;
            loss.backward();
            expected.push(loss.double_value(&[]));
            apart += net.parameters.gradient();
        }
        let found = [losses.biggest, losses.smallest, losses.random[0], losses.random[1]];
        found.iter().zip(&expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{found:?}, not {expected:?}"));
        let difference = largest(&(&together - &apart));
        assert!(largest(&apart) > 0.01 && difference < 1e-5 * largest(&apart), "{difference} of {}", largest(&apart));
    }

    #[test]
    fn only_the_biggest_sees_labels() {
        let space = space();
        let (images, labels) = quarters(8);
        let net = ElasticNet::from_weights(&weights(&space, GammaInit::Random));
        let sandwich = Sandwich::new(&space, CLASSES, 2, 0.1, SEED);
        let first = sandwich.accumulate(&net, &images, &labels, STEP);
        let permuted = sandwich.accumulate(&net, &images, &labels.flip([0]), STEP);
        assert_ne!(first.biggest, permuted.biggest);
        assert_eq!((first.smallest, &first.random), (permuted.smallest, &permuted.random));
        let another_step = sandwich.accumulate(&net, &images, &labels, STEP + 1);
        assert_eq!(first.smallest, another_step.smallest);
        assert_ne!(first.random, another_step.random, "every step draws its own children");
    }

    /// With a zero scale in its last batch norm, a block adds nothing to its shortcut, whatever its other weights.
    #[test]
    fn blocks_start_as_the_identity() {
        let space = space();
        let (images, _) = quarters(4);
        for (gamma, identity) in [(GammaInit::ZeroLast, true), (GammaInit::One, false)] {
            let start = weights(&space, gamma);
            let inside =
                |name: &str| name.starts_with("stages.") && name.ends_with(".weight") && !name.contains("bn") && !name.contains("shortcut");
            let halved = start.iter().map(|(name, tensor)| {
                let factor = if inside(name) { -0.5 } else { 1.0 };
                let data = tensor.data.iter().map(|value| value * factor).collect();
                (name.to_owned(), Tensor { shape: tensor.shape.clone(), data })
            });
            let changed = Weights::new(halved.collect());
            for child in [space.smallest(), space.biggest()] {
                let plan = Plan::new(&space, &child, CLASSES);
                let [a, b] = [&start, &changed].map(|weights| {
                    ElasticNet::from_weights(weights).forward(&plan, &resize(&images, child.resolution()), &mut Norm::Batch, 0.0)
                });
                assert_eq!(a == b, identity, "{gamma:?}, {child:?}");
            }
        }
    }

    #[test]
    fn losses_fall_on_an_easy_problem() {
        let space = space();
        let (images, labels) = quarters(16);
        let mut net = ElasticNet::from_weights(&weights(&space, GammaInit::ZeroLast));
        let mut optimiser = RmsProp::new(RmsPropSettings::default(), &net.parameters);
        let sandwich = Sandwich::new(&space, CLASSES, 2, 0.0, SEED);
        let mut losses = Vec::new();
        for step in 0..30 {
            losses.push(sandwich.accumulate(&net, &images, &labels, step));
            optimiser.update(&mut net.parameters, 0.01);
        }
        // A random child is another one at every step, so its loss says little.
        let (first, last) = (&losses[0], &losses[29]);
        assert!(last.biggest < first.biggest / 4.0 && last.smallest < first.smallest / 2.0, "{first:?} became {last:?}");
    }
}
