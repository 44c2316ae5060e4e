//! The children of one step side by side, a thread each, instead of one after the other on all cores.
//!
//! A lane computes several children in turn and sums their gradients; the lanes' sums are added in a fixed order, so that the
//! same step always has the same gradient. Cores that share one child wait for each other at every layer; lanes wait once,
//! for the teacher's predictions, and spend that time on their own forward passes.

use std::cmp::Reverse;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use tch::{Kind, Tensor as Torch};

use super::elastic::ElasticNet;
use super::lesson::Lesson;

/// Loss of every lesson, in their order, and the sum of their gradients, laid out as [`super::Parameters::flat`].
///
/// `patches` are `[N, C, S, S]`, `labels` the distributions `[N, classes]` that whoever does not distil learns from. At most one
/// lesson teaches, and it comes first.
pub(super) fn learn(net: &ElasticNet, lessons: Vec<Lesson>, patches: &Torch, labels: &Torch, threads: usize) -> (Vec<f64>, Torch) {
    let mut losses = vec![0.0; lessons.len()];
    // A GPU is shared best by giving it one child after the other.
    let lanes = if net.parameters.device().is_cuda() { 1 } else { threads.clamp(1, lessons.len().max(1)) };
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..lanes).map(|_| sync_channel(1)).unzip();
    let mut senders = Some(senders);
    let mut gradient = net.parameters.flat().zeros_like();
    thread::scope(|scope| {
        let running: Vec<_> = share(lessons, lanes)
            .into_iter()
            .zip(receivers)
            .map(|(lessons, predictions)| {
                let (patches, labels) = (patches.shallow_clone(), labels.shallow_clone());
                // The teacher's lesson is the first of the first lane.
                let lane = Lane { net: net.replica(), patches, labels, predictions, announce: senders.take().unwrap_or_default() };
                scope.spawn(move || {
                    tch::set_num_threads(i32::try_from(threads / lanes).unwrap_or(1));
                    lane.run(lessons)
                })
            })
            .collect();
        for lane in running {
            let (lane_losses, lane_gradient) = lane.join().unwrap_or_else(|panic| resume_unwind(panic));
            lane_losses.into_iter().for_each(|(place, loss)| losses[place] = loss);
            gradient += lane_gradient;
        }
    });
    (losses, gradient)
}

/// Shares lessons out so that the lanes have about the same work: the first to the first lane, then the most expensive one left
/// to whoever has least to do. Each lesson keeps its place.
fn share(lessons: Vec<Lesson>, lanes: usize) -> Vec<Vec<(usize, Lesson)>> {
    let mut placed: Vec<_> =
        lessons.into_iter().enumerate().map(|(place, lesson)| (lesson.plan.cost().macs.total(), place, lesson)).collect();
    placed.sort_by_key(|&(macs, place, _)| (place > 0, Reverse(macs), place));
    let mut shares: Vec<(u64, Vec<(usize, Lesson)>)> = (0..lanes).map(|_| (0, Vec::new())).collect();
    for (macs, place, lesson) in placed {
        if let Some((load, share)) = shares.iter_mut().min_by_key(|(load, _)| *load) {
            *load += macs;
            share.push((place, lesson));
        }
    }
    shares.into_iter().map(|(_, share)| share).collect()
}

/// A forward pass: the lesson's place, the lesson, its logits.
type Forward = (usize, Lesson, Torch);

/// One thread's part of a step.
struct Lane {
    net: ElasticNet,
    patches: Torch,
    labels: Torch,
    /// The teacher's predictions, once there are any.
    predictions: Receiver<Torch>,
    /// Where the teacher's lane sends them.
    announce: Vec<SyncSender<Torch>>,
}

impl Lane {
    /// Losses by place, and the sum of the gradients.
    fn run(mut self, lessons: Vec<(usize, Lesson)>) -> (Vec<(usize, f64)>, Torch) {
        let announce = std::mem::take(&mut self.announce);
        let mut losses = Vec::new();
        let mut predictions = None;
        // Forward passes whose lesson has no target yet.
        let mut waiting: Vec<Forward> = Vec::new();
        for (place, lesson) in lessons {
            let logits = lesson.logits(&self.net, &self.patches);
            if lesson.teaches {
                let taught = logits.detach().softmax(-1, Kind::Float);
                // A lane that has gone needs nothing any more.
                announce.iter().for_each(|lane| drop(lane.send(taught.shallow_clone())));
            }
            waiting.push((place, lesson, logits));
            predictions = predictions.or_else(|| self.predictions.try_recv().ok());
            if predictions.is_some() || waiting.iter().all(|(_, lesson, _)| !lesson.distils) {
                losses.extend(waiting.drain(..).map(|forward| self.learn(forward, predictions.as_ref())));
            }
        }
        for forward in waiting {
            predictions = predictions.or_else(|| self.predictions.recv().ok());
            losses.push(self.learn(forward, predictions.as_ref()));
        }
        (losses, self.net.parameters.gradient())
    }

    /// The backward pass: the lesson's place and loss.
    fn learn(&self, (place, lesson, logits): Forward, predictions: Option<&Torch>) -> (usize, f64) {
        let targets = if lesson.distils { predictions } else { None };
        (place, lesson.learn(&self.net, &logits, targets.unwrap_or(&self.labels)))
    }
}
