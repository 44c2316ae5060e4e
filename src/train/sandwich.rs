//! The sandwich rule with in-place distillation (paper, 3.1 and 3.2): the gradients of one step.
//!
//! A step trains the biggest child on the labels, and the smallest and some random ones on the biggest's predictions. Their
//! gradients add up to one update.

use tch::{Kind, Reduction, Tensor as Torch};

use super::elastic::ElasticNet;
use super::norm::Norm;
use super::settings::{Regularise, TrainSettings};
use crate::space::{Child, Draw, Plan, SearchSpace};

/// What the sandwich rule needs to know apart from the step.
#[derive(Debug)]
pub struct Sandwich<'a> {
    space: &'a SearchSpace,
    classes: usize,
    biggest: Plan,
    smallest: Plan,
    settings: TrainSettings,
}

/// Mean losses of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Losses {
    /// Cross entropy of the biggest child with the smoothed labels; none without the sandwich rule.
    pub biggest: Option<f64>,
    /// Cross entropy of the smallest child with the biggest's predictions; none without the sandwich rule.
    pub smallest: Option<f64>,
    /// The same for each random child.
    pub random: Vec<f64>,
}

impl Losses {
    /// Whether all are numbers.
    #[must_use]
    pub fn are_finite(&self) -> bool {
        self.random.iter().chain(&self.biggest).chain(&self.smallest).all(|loss| loss.is_finite())
    }
}

/// What a child learns from.
enum Target<'t> {
    /// Classes, `[N]`.
    Labels(&'t Torch),
    /// The biggest child's predictions, `[N, classes]`.
    Predictions(&'t Torch),
}

impl<'a> Sandwich<'a> {
    /// The rule over `space` for a classifier of `classes` classes; random choices depend on the seed and the step alone.
    #[must_use]
    pub fn new(space: &'a SearchSpace, classes: usize, settings: &TrainSettings) -> Self {
        let plan = |child: &Child| Plan::new(space, child, classes);
        let (biggest, smallest) = (plan(&space.biggest()), plan(&space.smallest()));
        Self { space, classes, biggest, smallest, settings: settings.clone() }
    }

    /// Adds the gradients of one step to the parameters of `net`.
    ///
    /// `patches` are normalised images `[N, C, S, S]`, resized here to each child's resolution; `labels` are `[N]`.
    pub fn accumulate(&self, net: &ElasticNet, patches: &Torch, labels: &Torch, step: u64) -> Losses {
        let random = |k| Plan::new(self.space, &self.space.random(Draw::new(self.settings.seed, step, k)), self.classes);
        if !self.settings.sandwich {
            let learn = |k| self.learn(net, &random(k), patches, &Target::Labels(labels)).0;
            return Losses { biggest: None, smallest: None, random: (0..self.settings.random_children + 2).map(learn).collect() };
        }
        let (biggest, logits) = self.learn(net, &self.biggest, patches, &Target::Labels(labels));
        let predictions = logits.detach().softmax(-1, Kind::Float);
        let target = if self.settings.distillation { Target::Predictions(&predictions) } else { Target::Labels(labels) };
        let learn = |plan: &Plan| self.learn(net, plan, patches, &target).0;
        Losses {
            biggest: Some(biggest),
            smallest: Some(learn(&self.smallest)),
            random: (0..self.settings.random_children).map(|k| learn(&random(k))).collect(),
        }
    }

    /// Adds one child's gradients; returns its loss, without any penalty, and its logits.
    fn learn(&self, net: &ElasticNet, plan: &Plan, patches: &Torch, target: &Target<'_>) -> (f64, Torch) {
        let everyone = self.settings.regularise == Regularise::Everyone;
        let dropout = if everyone || plan.child == self.biggest.child { plan.head.dropout } else { 0.0 };
        let logits = net.forward(plan, &resize(patches, plan.child.resolution()), &mut Norm::Batch, dropout);
        let loss = match target {
            Target::Labels(labels) => {
                logits.cross_entropy_loss(labels, None::<Torch>, Reduction::Mean, -100, self.settings.label_smoothing)
            }
            Target::Predictions(predictions) => soft_cross_entropy(&logits, predictions),
        };
        let value = loss.double_value(&[]);
        let weight_decay = self.settings.optimiser.weight_decay;
        if everyone && weight_decay > 0.0 {
            (loss + net.squared_weights(plan) * (weight_decay / 2.0)).backward();
        } else {
            loss.backward();
        }
        (value, logits)
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
    use crate::train::{Optimiser, OptimiserSettings};

    const CLASSES: usize = 4;
    const SEED: u64 = 3;
    const STEP: u64 = 17;

    fn settings() -> TrainSettings {
        TrainSettings { seed: SEED, ..TrainSettings::default() }
    }

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
        let losses = Sandwich::new(&space, CLASSES, &settings()).accumulate(&net, &images, &labels, STEP);
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
        let found = [losses.biggest.unwrap(), losses.smallest.unwrap(), losses.random[0], losses.random[1]];
        found.iter().zip(&expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{found:?}, not {expected:?}"));
        let difference = largest(&(&together - &apart));
        assert!(largest(&apart) > 0.01 && difference < 1e-5 * largest(&apart), "{difference} of {}", largest(&apart));
    }

    #[test]
    fn only_the_biggest_sees_labels() {
        let space = space();
        let (images, labels) = quarters(8);
        let net = ElasticNet::from_weights(&weights(&space, GammaInit::Random));
        let sandwich = Sandwich::new(&space, CLASSES, &settings());
        let first = sandwich.accumulate(&net, &images, &labels, STEP);
        let permuted = sandwich.accumulate(&net, &images, &labels.flip([0]), STEP);
        assert_ne!(first.biggest, permuted.biggest);
        assert_eq!((first.smallest, &first.random), (permuted.smallest, &permuted.random));
        let another_step = sandwich.accumulate(&net, &images, &labels, STEP + 1);
        assert_eq!(first.smallest, another_step.smallest);
        assert_ne!(first.random, another_step.random, "every step draws its own children");
    }

    #[test]
    fn without_distillation_everyone_sees_labels() {
        let space = space();
        let (images, labels) = quarters(8);
        let net = ElasticNet::from_weights(&weights(&space, GammaInit::Random));
        let sandwich = Sandwich::new(&space, CLASSES, &TrainSettings { distillation: false, ..settings() });
        let first = sandwich.accumulate(&net, &images, &labels, STEP);
        let permuted = sandwich.accumulate(&net, &images, &labels.flip([0]), STEP);
        assert!(first.smallest != permuted.smallest && first.random != permuted.random);
    }

    #[test]
    fn without_the_sandwich_rule_there_are_random_children_only() {
        let space = space();
        let (images, labels) = quarters(8);
        let net = ElasticNet::from_weights(&weights(&space, GammaInit::Random));
        let without = TrainSettings { sandwich: false, distillation: false, ..settings() };
        let losses = Sandwich::new(&space, CLASSES, &without).accumulate(&net, &images, &labels, STEP);
        assert_eq!((losses.biggest, losses.smallest, losses.random.len()), (None, None, 4));
        let random = Sandwich::new(&space, CLASSES, &TrainSettings { distillation: false, ..settings() });
        assert_eq!(losses.random[..2], random.accumulate(&net, &images, &labels, STEP).random, "the same children as with it");
    }

    /// The penalty's gradient of a weight is the decay times the weight, once for every child that has the weight.
    #[test]
    fn everyone_is_penalised_for_the_weights_that_he_has() {
        let space = space();
        let (images, labels) = quarters(8);
        let start = weights(&space, GammaInit::Random);
        let gradient = |regularise: Regularise| {
            let net = ElasticNet::from_weights(&start);
            let optimiser = OptimiserSettings { weight_decay: 0.5, ..OptimiserSettings::default() };
            let settings = TrainSettings { regularise, optimiser, random_children: 0, ..settings() };
            Sandwich::new(&space, CLASSES, &settings).accumulate(&net, &images, &labels, STEP);
            net.parameters.unflatten(&net.parameters.gradient())
        };
        let (everyone, biggest) = (gradient(Regularise::Everyone), gradient(Regularise::Biggest));
        let [wide, narrow] = [space.biggest(), space.smallest()].map(|child| Plan::new(&space, &child, CLASSES).stem.c_out);
        let per_filter = start.get("stem.weight").unwrap().data.len() / wide;
        for (filter, times) in [(0, 2.0), (narrow - 1, 2.0), (wide - 1, 1.0)] {
            let at = filter * per_filter + 4;
            let value = |weights: &Weights| weights.get("stem.weight").unwrap().data[at];
            let penalty = value(&everyone) - value(&biggest);
            let expected = times * 0.5 * value(&start);
            assert!((penalty - expected).abs() < 1e-4, "filter {filter}: {penalty}, not {expected}");
        }
        assert_eq!(everyone.get("stem.bn.weight"), biggest.get("stem.bn.weight"), "batch norms have no penalty");
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
        let mut optimiser = Optimiser::new(OptimiserSettings::default(), &net.parameters);
        let sandwich = Sandwich::new(&space, CLASSES, &TrainSettings { label_smoothing: 0.0, ..settings() });
        let mut losses = Vec::new();
        for step in 0..30 {
            losses.push(sandwich.accumulate(&net, &images, &labels, step));
            optimiser.update(&mut net.parameters, 0.01);
        }
        // A random child is another one at every step, so its loss says little.
        let (first, last) = (&losses[0], &losses[29]);
        let (biggest, smallest) = (|losses: &Losses| losses.biggest.unwrap(), |losses: &Losses| losses.smallest.unwrap());
        let fell = biggest(last) < biggest(first) / 4.0 && smallest(last) < smallest(first) / 2.0;
        assert!(fell, "{first:?} became {last:?}");
    }
}
