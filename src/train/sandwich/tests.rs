use std::sync::Mutex;

use super::*;
use crate::checkpoint::{GammaInit, Tensor, Weights};
use crate::space::{layout, preset};
use crate::train::elastic::weight_names;
use crate::train::{Optimiser, OptimiserSettings};

const CLASSES: usize = 4;
const SEED: u64 = 3;
const STEP: Step = Step { number: 17, epoch: 2, threads: 1 };
/// libtorch's generator belongs to the process.
static GENERATOR: Mutex<()> = Mutex::new(());

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

fn network(weights: &Weights) -> ElasticNet {
    ElasticNet::from_weights(weights, Device::Cpu)
}

fn sandwich<'a>(space: &'a SearchSpace, settings: &TrainSettings) -> Sandwich<'a> {
    Sandwich::new(space, CLASSES, settings, None).unwrap()
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
    let net = network(&weights);
    let (losses, together) = sandwich(&space, &settings()).gradient(&net, &images, &labels, STEP);

    let logits = |net: &ElasticNet, child: &Child| {
        let plan = Plan::new(&space, child, CLASSES);
        net.forward(&plan, &resize(&images, child.resolution()), &mut Norm::Batch, None)
    };
    let smoothed = labels.one_hot(CLASSES as i64).to_kind(Kind::Float) * 0.9 + 0.1 / CLASSES as f64;
    let target = logits(&net, &space.biggest()).detach().softmax(-1, Kind::Float);
    let random = [0, 1].map(|k| space.random(Draw::new(SEED, STEP.number, k)));
    let children = [(space.biggest(), &smoothed), (space.smallest(), &target), (random[0].clone(), &target), (random[1].clone(), &target)];
    let mut apart = together.zeros_like();
    let mut expected = Vec::new();
    for (child, target) in &children {
        let net = network(&weights);
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

/// Interleaved, image by image, as [`crate::data::Batch`] has them.
fn interleave(patches: &[Torch]) -> Torch {
    Torch::stack(patches, 1).flatten(0, 1)
}

#[test]
fn children_may_see_patches_of_their_own() {
    let space = space();
    let (images, labels) = quarters(8);
    let net = network(&weights(&space, GammaInit::Random));
    let rule = sandwich(&space, &TrainSettings { same_patch: false, random_children: 1, ..settings() });
    let of = |patches: &Torch| rule.gradient(&net, patches, &labels, STEP);
    let one = of(&images);
    let alike = [images.shallow_clone(), images.shallow_clone(), images.shallow_clone()];
    assert_eq!(of(&interleave(&alike)), one);
    let places: [fn(&Losses) -> f64; 3] = [|l| l.biggest.unwrap(), |l| l.smallest.unwrap(), |l| l.random[0]];
    for changed in 0..3 {
        let mut patches = alike.each_ref().map(Torch::shallow_clone);
        patches[changed] = images.flip([3]);
        let (losses, _) = of(&interleave(&patches));
        for (place, loss) in places.iter().enumerate() {
            // What the biggest saw is also what the others learn from.
            assert_eq!(loss(&losses) != loss(&one.0), changed == 0 || place == changed, "patch {changed}, child {place}");
        }
    }
}

#[test]
fn dropout_can_be_switched_off() {
    let space = preset("fashion-mnist").unwrap();
    let (images, labels) = quarters(8);
    let net = network(&weights(&space, GammaInit::Random));
    let with = |dropout, seed| {
        let _alone = GENERATOR.lock().unwrap();
        tch::manual_seed(seed);
        sandwich(&space, &TrainSettings { dropout, ..settings() }).gradient(&net, &images, &labels, STEP).0.biggest
    };
    assert_ne!(with(true, 1), with(true, 2));
    assert_eq!(with(false, 1), with(false, 2));
}

/// Of whom features are dropped: of whoever is regularised, and a child alone is.
#[test]
fn dropout_is_for_those_who_are_regularised() {
    let space = preset("fashion-mnist").unwrap();
    let (images, _) = quarters(2);
    let middle = space.random(Draw::new(SEED, 0, 0));
    let _alone = GENERATOR.lock().unwrap();
    let who = |settings: TrainSettings, role: Role, place: usize, child: &Child| {
        let plan = Plan::new(&space, child, CLASSES);
        sandwich(&space, &settings).lesson(place, role, plan, false, &images).dropout.is_some()
    };
    let all = |settings: TrainSettings| {
        [
            who(settings.clone(), Role::Biggest, 0, &space.biggest()),
            who(settings.clone(), Role::Smallest, 1, &space.smallest()),
            who(settings, Role::Random, 2, &middle),
        ]
    };
    let everyone = TrainSettings { regularise: Regularise::Everyone, ..settings() };
    assert_eq!(all(settings()), [true, false, false]);
    assert_eq!(all(everyone.clone()), [true; 3]);
    assert_eq!(all(TrainSettings { dropout: false, ..everyone }), [false; 3]);
    let alone = TrainSettings { roster: Roster::Child(middle.choices().clone()), ..settings() };
    assert!(who(alone, Role::Child, 0, &middle));
}

/// Dropout is drawn before the children are shared out, so it takes part. The teacher's batch norms add up a part of the batch a thread,
/// which rounds otherwise on another number of threads, by at most 2.4e-4 of the gradient in sixteen random networks; without a teacher
/// nothing does.
#[test]
fn a_step_has_one_gradient_on_any_number_of_threads() {
    let space = preset("fashion-mnist").unwrap();
    let (images, labels) = quarters(8);
    let net = network(&weights(&space, GammaInit::Random));
    let each =
        |losses: &Losses| -> Vec<f64> { losses.biggest.into_iter().chain(losses.smallest).chain(losses.random.iter().copied()).collect() };
    let everyone = TrainSettings { regularise: Regularise::Everyone, random_children: 4, ..settings() };
    let cases = [(settings(), 5e-4), (everyone.clone(), 5e-4), (TrainSettings { distillation: false, ..everyone }, 1e-6)];
    for (settings, bound) in cases {
        let rule = sandwich(&space, &settings);
        let on = |threads| {
            let _alone = GENERATOR.lock().unwrap();
            tch::manual_seed(1);
            rule.gradient(&net, &images, &labels, Step { threads, ..STEP })
        };
        let (losses, gradient) = on(1);
        for threads in [2, 3, 7] {
            let (other_losses, other) = on(threads);
            let close = each(&other_losses).iter().zip(each(&losses)).all(|(other, loss)| (other / loss - 1.0).abs() < 1e-5);
            assert!(close && (settings.distillation || other_losses == losses), "{threads} threads: {other_losses:?} for {losses:?}");
            let difference = largest(&(&other - &gradient)) / largest(&gradient);
            assert!(difference < bound, "{threads} threads: {difference}");
            assert_eq!(on(threads), (other_losses, other), "{threads} threads, once more");
        }
    }
}

#[test]
fn only_the_biggest_sees_labels() {
    let space = space();
    let (images, labels) = quarters(8);
    let net = network(&weights(&space, GammaInit::Random));
    let rule = sandwich(&space, &settings());
    let (first, _) = rule.gradient(&net, &images, &labels, STEP);
    let (permuted, _) = rule.gradient(&net, &images, &labels.flip([0]), STEP);
    assert_ne!(first.biggest, permuted.biggest);
    assert_eq!((first.smallest, &first.random), (permuted.smallest, &permuted.random));
    let (another_step, _) = rule.gradient(&net, &images, &labels, Step { number: 18, ..STEP });
    assert_eq!(first.smallest, another_step.smallest);
    assert_ne!(first.random, another_step.random, "every step draws its own children");
}

#[test]
fn without_distillation_everyone_sees_labels() {
    let space = space();
    let (images, labels) = quarters(8);
    let net = network(&weights(&space, GammaInit::Random));
    let rule = sandwich(&space, &TrainSettings { distillation: false, ..settings() });
    let (first, _) = rule.gradient(&net, &images, &labels, STEP);
    let (permuted, _) = rule.gradient(&net, &images, &labels.flip([0]), STEP);
    assert!(first.smallest != permuted.smallest && first.random != permuted.random);
}

#[test]
fn a_run_can_begin_with_labels_for_everyone() {
    let space = space();
    let (images, labels) = quarters(8);
    let net = network(&weights(&space, GammaInit::Random));
    let smallest =
        |settings: TrainSettings, epoch| sandwich(&space, &settings).gradient(&net, &images, &labels, Step { epoch, ..STEP }).0.smallest;
    let later = || TrainSettings { label_epochs: 2, ..settings() };
    let (labelled, distilled) = (smallest(TrainSettings { distillation: false, ..settings() }, 0), smallest(settings(), 0));
    assert_ne!(labelled, distilled);
    assert_eq!([0, 1, 2, 3].map(|epoch| smallest(later(), epoch)), [labelled, labelled, distilled, distilled]);
}

#[test]
fn without_the_sandwich_rule_there_are_random_children_only() {
    let space = space();
    let (images, labels) = quarters(8);
    let net = network(&weights(&space, GammaInit::Random));
    let without = TrainSettings { sandwich: false, distillation: false, ..settings() };
    let (losses, _) = sandwich(&space, &without).gradient(&net, &images, &labels, STEP);
    assert_eq!((losses.biggest, losses.smallest, losses.random.len()), (None, None, 4));
    let random = sandwich(&space, &TrainSettings { distillation: false, ..settings() });
    let (with, _) = random.gradient(&net, &images, &labels, STEP);
    assert_eq!(losses.random[..2], with.random, "the same children as with it");
}

/// The penalty's gradient of a weight is the decay times the weight, once for every child that has the weight.
#[test]
fn everyone_is_penalised_for_the_weights_that_he_has() {
    let space = space();
    let (images, labels) = quarters(8);
    let start = weights(&space, GammaInit::Random);
    let gradient = |regularise: Regularise| {
        let net = network(&start);
        let optimiser = OptimiserSettings { weight_decay: 0.5, ..OptimiserSettings::default() };
        let settings = TrainSettings { regularise, optimiser, random_children: 0, ..settings() };
        let (_, gradient) = sandwich(&space, &settings).gradient(&net, &images, &labels, STEP);
        net.parameters.unflatten(&gradient)
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
            let [a, b] = [&start, &changed]
                .map(|weights| network(weights).forward(&plan, &resize(&images, child.resolution()), &mut Norm::Batch, None));
            assert_eq!(a == b, identity, "{gamma:?}, {child:?}");
        }
    }
}

#[test]
fn losses_fall_on_an_easy_problem() {
    let space = space();
    let (images, labels) = quarters(16);
    let net = network(&weights(&space, GammaInit::ZeroLast));
    let decayed = weight_names(&Plan::new(&space, &space.biggest(), CLASSES));
    let mut optimiser = Optimiser::new(OptimiserSettings::default(), &net.parameters, &decayed);
    let rule = sandwich(&space, &TrainSettings { label_smoothing: 0.0, ..settings() });
    let mut losses = Vec::new();
    for number in 0..30 {
        let (loss, gradient) = rule.gradient(&net, &images, &labels, Step { number, ..STEP });
        losses.push(loss);
        optimiser.update(&net.parameters, &gradient, 0.01);
    }
    // A random child is another one at every step, so its loss says little.
    let (first, last) = (&losses[0], &losses[29]);
    let (biggest, smallest) = (|losses: &Losses| losses.biggest.unwrap(), |losses: &Losses| losses.smallest.unwrap());
    let fell = biggest(last) < biggest(first) / 4.0 && smallest(last) < smallest(first) / 2.0;
    assert!(fell, "{first:?} became {last:?}");
}

/// Weights that the biggest child lacks are those of shortcuts that only blocks with fewer channels take.
#[test]
fn all_weights_are_the_biggest_childs_but_some_shortcuts() {
    let space = preset("bignas").unwrap();
    let names = weight_names(&Plan::new(&space, &space.biggest(), CLASSES));
    let all: Vec<String> = layout(&space, CLASSES).into_iter().filter(|tensor| tensor.shape.len() > 1).map(|tensor| tensor.name).collect();
    let lacking: Vec<&String> = all.iter().filter(|name| !names.contains(*name)).collect();
    assert!(!lacking.is_empty() && lacking.iter().all(|name| name.ends_with(".shortcut.weight")), "{lacking:?}");
    assert!(names.iter().all(|name| all.contains(name)), "{names:?}");
}
