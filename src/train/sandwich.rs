//! The sandwich rule with in-place distillation (paper, 3.1): the gradients of one step.
//!
//! A step trains the biggest child on the labels, and the smallest and some random ones on the biggest's predictions. Their
//! gradients add up to one update.

use tch::{Device, Kind, Tensor as Torch};

use super::TrainError;
use super::elastic::ElasticNet;
use super::lanes::learn;
use super::lesson::Lesson;
use super::norm::Norm;
use super::settings::{Regularise, Roster, TrainSettings};
use super::teacher::Teacher;
use crate::space::{Child, Choices, Draw, Plan, SearchSpace};

/// What the sandwich rule needs to know apart from the step.
#[derive(Debug)]
pub struct Sandwich<'a> {
    space: &'a SearchSpace,
    classes: usize,
    /// Who is trained at every step.
    regulars: Vec<(Role, Plan)>,
    teacher: Option<Teacher>,
    settings: TrainSettings,
}

/// What a child is to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Biggest,
    Smallest,
    Child,
    Random,
}

/// Which step of a run, and what it is computed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Its number, from 0.
    pub number: u64,
    /// Its epoch, from 0.
    pub epoch: u64,
    /// Cores.
    pub threads: usize,
}

/// Mean losses of one step: cross entropies with the smoothed labels, or with the predictions of whoever teaches.
#[derive(Debug, Clone, PartialEq)]
pub struct Losses {
    /// Of the biggest child, where it is trained at every step.
    pub biggest: Option<f64>,
    /// Of the smallest child, likewise.
    pub smallest: Option<f64>,
    /// Of the one child that is trained, alone or beside the biggest.
    pub child: Option<f64>,
    /// Of each random child.
    pub random: Vec<f64>,
}

impl Losses {
    /// Whether all are numbers.
    #[must_use]
    pub fn are_finite(&self) -> bool {
        self.random.iter().chain(&self.biggest).chain(&self.smallest).chain(&self.child).all(|loss| loss.is_finite())
    }
}

impl<'a> Sandwich<'a> {
    /// The rule over `space` for a classifier of `classes` classes; random choices depend on the seed and the step alone.
    ///
    /// With a `teacher`, whoever would learn from labels learns from its predictions.
    ///
    /// # Errors
    /// [`TrainError::Child`] where the roster's child is not of the space.
    pub fn new(space: &'a SearchSpace, classes: usize, settings: &TrainSettings, teacher: Option<Teacher>) -> Result<Self, TrainError> {
        let plan = |child: &Child| Plan::new(space, child, classes);
        let biggest = || (Role::Biggest, plan(&space.biggest()));
        let chosen = |choices: &Choices| Ok::<_, TrainError>((Role::Child, plan(&Child::new(space, choices.clone())?)));
        let regulars = match &settings.roster {
            Roster::Space if settings.sandwich => vec![biggest(), (Role::Smallest, plan(&space.smallest()))],
            Roster::Space => Vec::new(),
            Roster::Child(choices) => vec![chosen(choices)?],
            Roster::BiggestAnd(choices) => vec![biggest(), chosen(choices)?],
        };
        Ok(Self { space, classes, regulars, teacher, settings: settings.clone() })
    }

    /// Losses of one step, and its gradient, laid out as [`super::Parameters::flat`].
    ///
    /// `patches` are normalised images `[N·P, C, S, S]`, P patches of each image in a row, resized here to each child's resolution: one
    /// for all children, or one for each. `labels` are `[N]`. The same step always has the same gradient. Dropout takes from libtorch's
    /// generator, which the caller seeds.
    pub fn gradient(&self, net: &ElasticNet, patches: &Torch, labels: &Torch, step: Step) -> (Losses, Torch) {
        let (roles, plans): (Vec<Role>, Vec<Plan>) = self.regulars.iter().cloned().chain(self.random(step)).unzip();
        let taught = self.settings.distillation && step.epoch >= self.settings.label_epochs && roles[0] == Role::Biggest;
        let patches = of_each_child(patches, labels.size()[0]);
        let lesson = |(place, plan): (usize, Plan)| self.lesson(place, roles[place], plan, taught, &patches[place % patches.len()]);
        let lessons = plans.into_iter().enumerate().map(lesson).collect();
        let targets = self.teacher.as_ref().map_or_else(|| self.smoothed(labels), |teacher| teacher.predictions(&patches[0]));
        let (losses, gradient) = learn(net, lessons, &targets, step.threads);
        let of = |role| roles.iter().zip(&losses).filter(move |(other, _)| **other == role).map(|(_, &loss)| loss);
        let one = |role| of(role).next();
        let losses = Losses {
            biggest: one(Role::Biggest),
            smallest: one(Role::Smallest),
            child: one(Role::Child),
            random: of(Role::Random).collect(),
        };
        (losses, gradient)
    }

    /// The random children of `step`; without the sandwich rule, two more take the places of the biggest and the smallest.
    fn random(&self, step: Step) -> impl Iterator<Item = (Role, Plan)> {
        let count = match (&self.settings.roster, self.settings.sandwich) {
            (Roster::Space, true) => self.settings.random_children,
            (Roster::Space, false) => self.settings.random_children + 2,
            _ => 0,
        };
        let child = move |k| self.space.random(Draw::new(self.settings.seed, step.number, k));
        (0..count).map(move |k| (Role::Random, Plan::new(self.space, &child(k), self.classes)))
    }

    fn lesson(&self, place: usize, role: Role, plan: Plan, taught: bool, patches: &Torch) -> Lesson {
        let everyone = self.settings.regularise == Regularise::Everyone;
        // A child that is trained alone is the biggest there is.
        let regularised = everyone || place == 0 && role != Role::Random || plan.child == self.space.biggest();
        let kept = |rate: f64| {
            let chances = Torch::rand([patches.size()[0], plan.head.features as i64], (Kind::Float, Device::Cpu));
            (chances.ge(rate).to_kind(Kind::Float) / (1.0 - rate)).to_device(patches.device())
        };
        Lesson {
            dropout: (regularised && self.settings.dropout && plan.head.dropout > 0.0).then(|| kept(plan.head.dropout)),
            teaches: taught && place == 0,
            distils: taught && place > 0,
            weight_decay: if everyone { self.settings.optimiser.weight_decay } else { 0.0 },
            patches: patches.shallow_clone(),
            plan,
        }
    }

    /// The distributions `[N, classes]` that stand for `labels`, `[N]`.
    fn smoothed(&self, labels: &Torch) -> Torch {
        let smoothing = self.settings.label_smoothing;
        labels.one_hot(self.classes as i64).to_kind(Kind::Float) * (1.0 - smoothing) + smoothing / self.classes as f64
    }

    /// Whether all weights, and what the children of every step make of `patches`, are numbers.
    #[must_use]
    pub fn is_usable(&self, net: &ElasticNet, patches: &Torch) -> bool {
        let answers = |plan: &Plan| {
            let images = resize(patches, plan.child.resolution());
            all_finite(&tch::no_grad(|| net.forward(plan, &images, &mut Norm::Batch, None)))
        };
        all_finite(&net.parameters.flat()) && self.regulars.iter().all(|(_, plan)| answers(plan))
    }
}

/// The patches of each child, `[N, C, S, S]`: of `[N·P, C, S, S]`, the p-th of every image for the p-th.
fn of_each_child(patches: &Torch, images: i64) -> Vec<Torch> {
    let [all, channels, side] = [0, 1, 2].map(|dimension| patches.size()[dimension]);
    let each = all / images.max(1);
    let of_images = patches.reshape([images, each, channels, side, side]);
    (0..each).map(|place| of_images.select(1, place)).collect()
}

fn all_finite(tensor: &Torch) -> bool {
    tensor.isfinite().all().int64_value(&[]) == 1
}

/// Bicubic resize of `[N, C, S, S]` to `side` pixels.
pub fn resize(images: &Torch, side: usize) -> Torch {
    let side = side as i64;
    if images.size()[2] == side { images.shallow_clone() } else { images.upsample_bicubic2d([side, side], false, None, None) }
}

#[cfg(test)]
mod tests;
