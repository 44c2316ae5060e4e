//! The children of one step side by side, a thread each, instead of one after the other on all cores.
//!
//! Cores that share one child wait for each other at every layer, so they do that once a step: for the forward pass of the child that
//! teaches, whose predictions all others need, and whose own two passes would take one core longer than the others take the rest.
//! Then lanes take one child at a time, the most expensive first. Each child has gradients of its own, which are added in the
//! children's order, so that a step has one gradient whoever computed what.

use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread;

use tch::{Kind, Tensor as Torch};

use super::elastic::ElasticNet;
use super::lesson::Lesson;

/// Loss of every lesson, in their order, and the sum of their gradients, laid out as [`super::Parameters::flat`].
///
/// `labels` are the distributions `[N, classes]` that whoever does not distil learns from. Where some distil, exactly one teaches.
pub(super) fn learn(net: &ElasticNet, lessons: Vec<Lesson>, labels: &Torch, threads: usize) -> (Vec<f64>, Torch) {
    // A GPU is shared best by giving it one child after the other.
    let lanes = if net.parameters.device().is_cuda() { 1 } else { threads.clamp(1, lessons.len().max(1)) };
    let turns = Mutex::new(turns(net, lessons, labels, threads));
    let lane = || {
        use_cores(threads / lanes);
        let next = || turns.lock().unwrap_or_else(PoisonError::into_inner).pop();
        std::iter::from_fn(next).map(Turn::take).collect::<Vec<Done>>()
    };
    let mut done: Vec<Done> = thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().flat_map(|lane| lane.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    done.sort_by_key(|done| done.place);
    let mut gradient = net.parameters.flat().zeros_like();
    done.iter().for_each(|done| gradient += &done.gradient);
    (done.iter().map(|done| done.loss).collect(), gradient)
}

/// A lesson and all that a lane needs for it.
struct Turn {
    /// The lesson's place among the others.
    place: usize,
    lesson: Lesson,
    /// Gathers this child's gradients alone.
    net: ElasticNet,
    /// Of the forward pass, where it is done.
    logits: Option<Torch>,
    /// The distributions `[N, classes]` to learn.
    targets: Torch,
}

struct Done {
    place: usize,
    loss: f64,
    gradient: Torch,
}

/// What lanes take, the next one last. The forward pass of whoever teaches is done, on all cores.
fn turns(net: &ElasticNet, lessons: Vec<Lesson>, labels: &Torch, threads: usize) -> Vec<Turn> {
    let turn = |(place, lesson)| Turn { place, lesson, net: net.replica(), logits: None, targets: labels.shallow_clone() };
    let mut turns: Vec<Turn> = lessons.into_iter().enumerate().map(turn).collect();
    if let Some(teacher) = turns.iter_mut().find(|turn| turn.lesson.teaches) {
        use_cores(threads);
        let logits = teacher.lesson.logits(&teacher.net);
        let predictions = logits.detach().softmax(-1, Kind::Float);
        teacher.logits = Some(logits);
        turns.iter_mut().filter(|turn| turn.lesson.distils).for_each(|turn| turn.targets = predictions.shallow_clone());
    }
    turns.sort_by_key(|turn| turn.lesson.plan.cost().macs.total());
    turns
}

impl Turn {
    fn take(self) -> Done {
        let Self { place, lesson, net, logits, targets } = self;
        let logits = logits.unwrap_or_else(|| lesson.logits(&net));
        let loss = lesson.learn(&net, &logits, &targets);
        Done { place, loss, gradient: net.parameters.gradient() }
    }
}

/// Lets libtorch compute on so many cores what this thread asks of it.
fn use_cores(count: usize) {
    tch::set_num_threads(i32::try_from(count).unwrap_or(1));
}
