//! The children of one step side by side, a thread each, instead of one after the other on all cores.
//!
//! Cores that share one child wait for each other at every layer. Lanes take whole passes from one list: forward passes until
//! the teacher's predictions are there, then backward passes, the most expensive first. Each child has gradients of its own,
//! which are added in the children's order, so that a step has one gradient whoever computed what.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use tch::{Kind, Tensor as Torch};

use super::elastic::ElasticNet;
use super::lesson::Lesson;

/// Loss of every lesson, in their order, and the sum of their gradients, laid out as [`super::Parameters::flat`].
///
/// `labels` are the distributions `[N, classes]` that whoever does not distil learns from. Where some distil, exactly one teaches.
pub(super) fn learn(net: &ElasticNet, lessons: Vec<Lesson>, labels: &Torch, threads: usize) -> (Vec<f64>, Torch) {
    let count = lessons.len();
    // A GPU is shared best by giving it one child after the other.
    let lanes = if net.parameters.device().is_cuda() { 1 } else { threads.clamp(1, count.max(1)) };
    let work = Work::new(net, lessons);
    thread::scope(|scope| {
        for _ in 0..lanes {
            let (work, labels) = (&work, labels.shallow_clone());
            scope.spawn(move || {
                tch::set_num_threads(i32::try_from(threads / lanes).unwrap_or(1));
                work.run(&labels);
            });
        }
    });
    let State { mut done, panic, .. } = work.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(panic) = panic {
        resume_unwind(panic);
    }
    done.sort_by_key(|done| done.place);
    let mut gradient = net.parameters.flat().zeros_like();
    done.iter().for_each(|done| gradient += &done.gradient);
    (done.iter().map(|done| done.loss).collect(), gradient)
}

/// What there is to do in a step.
struct Work {
    state: Mutex<State>,
    /// Signalled when there may be something new to do, or nothing any more.
    changed: Condvar,
}

struct State {
    /// Forward passes to do, the next one last.
    ahead: Vec<Forward>,
    /// Forward passes done whose backward pass is to do, with their logits.
    back: Vec<(Forward, Torch)>,
    /// The teacher's predictions.
    predictions: Option<Torch>,
    /// Passes that some lane is at.
    running: usize,
    done: Vec<Done>,
    /// What a lane panicked with.
    panic: Option<Box<dyn std::any::Any + Send>>,
}

/// A lesson with its place among the others, and a network that gathers its gradients alone.
struct Forward {
    place: usize,
    macs: u64,
    lesson: Lesson,
    net: ElasticNet,
}

struct Done {
    place: usize,
    loss: f64,
    gradient: Torch,
}

/// A pass for a lane.
enum Pass {
    Ahead(Forward),
    Back(Forward, Torch),
}

impl Work {
    fn new(net: &ElasticNet, lessons: Vec<Lesson>) -> Self {
        let forward =
            |(place, lesson): (usize, Lesson)| Forward { place, macs: lesson.plan.cost().macs.total(), net: net.replica(), lesson };
        let mut ahead: Vec<Forward> = lessons.into_iter().enumerate().map(forward).collect();
        // The teacher first, since others wait for it; then the most expensive.
        ahead.sort_by_key(|forward| (forward.lesson.teaches, forward.macs));
        let state = State { ahead, back: Vec::new(), predictions: None, running: 0, done: Vec::new(), panic: None };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes passes until none is left.
    fn run(&self, labels: &Torch) {
        while let Some((pass, predictions)) = self.take() {
            let computed = catch_unwind(AssertUnwindSafe(|| match pass {
                Pass::Ahead(forward) => {
                    let logits = forward.lesson.logits(&forward.net);
                    let predictions = forward.lesson.teaches.then(|| logits.detach().softmax(-1, Kind::Float));
                    let mut state = self.lock();
                    state.predictions = state.predictions.take().or(predictions);
                    state.back.push((forward, logits));
                }
                Pass::Back(Forward { place, lesson, net, .. }, logits) => {
                    let targets = predictions.as_ref().filter(|_| lesson.distils).unwrap_or(labels);
                    let loss = lesson.learn(&net, &logits, targets);
                    let gradient = net.parameters.gradient();
                    self.lock().done.push(Done { place, loss, gradient });
                }
            }));
            let mut state = self.lock();
            state.running -= 1;
            if let Err(panic) = computed {
                state.panic.get_or_insert(panic);
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    /// The next pass, and the teacher's predictions where they are there; waits where others have to come first. None where no pass
    /// is left, or a lane has panicked.
    fn take(&self) -> Option<(Pass, Option<Torch>)> {
        let mut state = self.lock();
        loop {
            if state.panic.is_some() {
                return None;
            }
            let taught = state.predictions.is_some();
            let ready = state.back.iter().enumerate().filter(|(_, (forward, _))| taught || !forward.lesson.distils);
            let pass = match ready.max_by_key(|(_, (forward, _))| forward.macs).map(|(index, _)| index) {
                Some(index) => {
                    let (forward, logits) = state.back.swap_remove(index);
                    Some(Pass::Back(forward, logits))
                }
                None => state.ahead.pop().map(Pass::Ahead),
            };
            if let Some(pass) = pass {
                state.running += 1;
                return Some((pass, state.predictions.as_ref().map(Torch::shallow_clone)));
            }
            if state.running == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
