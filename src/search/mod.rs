//! Coarse-to-fine selection: from a trained model to its family (paper, 3.2 and 4.4).
//!
//! The coarse phase evaluates a grid of skeletons. For each budget, the fine phase takes the best skeleton under it and mutates
//! it slightly at random. How a child is evaluated is the caller's business: search only ever sees a score.
//!
//! Both phases are lists of children that follow from the settings and the scores so far. So a search goes on where it stopped,
//! and machines that each take a share of a list come to the same end as one that does all.

mod basis;
mod budget;
mod error;
mod front;
mod grid;
mod merge;
mod results;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use basis::{Aim, Basis};
pub use budget::{Budget, ParseBudgetError};
pub use error::{Purpose, ResultsError};
pub use front::{Unmet, largest_within, pareto_front, select, unmet};
pub use grid::{Grid, GridError};
pub use merge::merge;
pub use results::Results;

use self::front::{best_within, macs};
use crate::space::{Child, ChildId, Draw, Plan, SearchSpace};

/// What is searched, and how widely.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchSettings {
    /// The coarse grid.
    pub grid: Grid,
    /// Budgets, one child each.
    pub budgets: Vec<Budget>,
    /// Mutations that are evaluated for each budget.
    pub mutations: usize,
    /// Probability that a mutation changes one choice.
    pub mutation_chance: f64,
    /// Seed of the mutations.
    pub seed: u64,
}

/// What an evaluation found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// Accuracy on the selection images, as a fraction.
    pub accuracy: f64,
    /// Latency on this device at batch 1, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
}

/// An evaluated child.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// The child.
    pub child: Child,
    /// Its multiply-adds.
    pub macs: u64,
    /// What its evaluation found.
    pub score: Score,
}

/// How far a search has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Children of this phase that are evaluated.
    pub done: usize,
    /// Children of this phase, in this share.
    pub total: usize,
}

/// Part `index`, counted from 0, of `count`: every `count`-th child of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Which part.
    pub index: usize,
    /// Of how many.
    pub count: usize,
}

impl Share {
    /// Everything.
    pub const WHOLE: Self = Self { index: 0, count: 1 };
}

/// What a search came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Every child is evaluated: all of them.
    Complete(Vec<Scored>),
    /// The share of a phase is done, but other shares are missing: to go on, merge the results.
    Missing {
        /// Children of the phase that nobody has evaluated yet.
        children: usize,
    },
}

/// Mutations drawn per one evaluated at most: most of them may lie outside the budget.
const DRAWS_PER_MUTATION: u64 = 200;

/// `count` budgets between the costs of the smallest and the biggest child, evenly spaced on a logarithmic scale.
#[must_use]
pub fn spread_budgets(space: &SearchSpace, classes: usize, count: usize) -> Vec<Budget> {
    let macs = |child: &Child| Plan::new(space, child, classes).cost().macs.total() as f64;
    let (low, high) = (macs(&space.smallest()), macs(&space.biggest()));
    let steps = count.saturating_sub(1).max(1) as f64;
    (0..count).map(|i| Budget::of_macs((low * (high / low).powf(i as f64 / steps)).ceil() as u64)).collect()
}

/// Searches `space`: evaluates what `known` lacks of this share, phase by phase, and adds it there. `evaluate` gives a child's
/// score and is told the progress.
///
/// # Errors
/// Whatever `evaluate` returns, at its first error; `known` keeps what was found before.
pub fn search<E>(
    space: &SearchSpace,
    classes: usize,
    settings: &SearchSettings,
    share: Share,
    known: &mut BTreeMap<ChildId, Score>,
    mut evaluate: impl FnMut(&Child, Progress) -> Result<Score, E>,
) -> Result<Outcome, E> {
    let mut scored = Vec::new();
    for phase in [coarse, fine] {
        let children = phase(space, classes, settings, &scored);
        let mine: Vec<&Child> = children.iter().skip(share.index).step_by(share.count).collect();
        for (done, child) in mine.iter().enumerate() {
            if let Entry::Vacant(unknown) = known.entry(child.id()) {
                unknown.insert(evaluate(child, Progress { done, total: mine.len() })?);
            }
        }
        let missing = children.iter().filter(|child| !known.contains_key(&child.id())).count();
        if missing > 0 {
            return Ok(Outcome::Missing { children: missing });
        }
        let score = |child: Child| Some(Scored { macs: macs(space, &child, classes), score: *known.get(&child.id())?, child });
        scored.extend(children.into_iter().filter_map(score));
    }
    Ok(Outcome::Complete(scored))
}

/// The children of the grid.
fn coarse(space: &SearchSpace, _classes: usize, settings: &SearchSettings, _scored: &[Scored]) -> Vec<Child> {
    settings.grid.children(space)
}

/// The child that is mutated for every budget: the best of the `skeletons` under it; none where there is none.
pub fn parents<'s>(
    space: &SearchSpace,
    classes: usize,
    settings: &SearchSettings,
    skeletons: &'s [Scored],
) -> impl Iterator<Item = Option<&'s Scored>> {
    settings.budgets.iter().map(move |budget| best_within(space, classes, skeletons, budget))
}

/// For every budget, children near its parent.
fn fine(space: &SearchSpace, classes: usize, settings: &SearchSettings, skeletons: &[Scored]) -> Vec<Child> {
    let mut seen: BTreeSet<ChildId> = skeletons.iter().map(|scored| scored.child.id()).collect();
    let mut children = Vec::new();
    let parents = parents(space, classes, settings, skeletons);
    for (index, (budget, parent)) in settings.budgets.iter().zip(parents).enumerate() {
        let Some(parent) = parent else { continue };
        let draws = DRAWS_PER_MUTATION * settings.mutations as u64;
        let mutate = |draw| space.mutate(&parent.child, Draw::new(settings.seed, index as u64, draw), settings.mutation_chance);
        let fresh = (0..draws).map(mutate).filter(|child| {
            // Whether a child is fast enough shows when it is measured.
            budget.allows_plan(&Plan::new(space, child, classes)) && seen.insert(child.id())
        });
        children.extend(fresh.take(settings.mutations));
    }
    children
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::space::preset;

    fn settings(space: &SearchSpace) -> SearchSettings {
        let grid = Grid { resolutions: vec![20, 32], depth: vec![0.0, 1.0], width: vec![0.0, 1.0], kernel: vec![0.0, 1.0] };
        SearchSettings { grid, budgets: spread_budgets(space, 10, 6), mutations: 8, mutation_chance: 0.2, seed: 1 }
    }

    /// An accuracy that grows with cost and prefers odd depths of the last stage: something for mutation to find. A latency
    /// that does not follow the cost.
    fn pretend(space: &SearchSpace, child: &Child) -> Score {
        let bonus = if child.choices().stages[3].depth == 2 { 0.05 } else { 0.0 };
        let accuracy = (macs(space, child, 10) as f64).ln() / 100.0 + bonus;
        Score { accuracy, latency_ms: Some(child.resolution() as f64 / 10.0) }
    }

    fn whole(space: &SearchSpace, settings: &SearchSettings) -> Vec<Scored> {
        let mut known = BTreeMap::new();
        let outcome = search(space, 10, settings, Share::WHOLE, &mut known, |child, _| Ok::<_, Infallible>(pretend(space, child)));
        let Ok(Outcome::Complete(scored)) = outcome else { panic!("{outcome:?}") };
        scored
    }

    #[test]
    fn the_fine_phase_finds_what_the_grid_lacks_and_keeps_every_budget() {
        let space = preset("fashion-mnist").unwrap();
        let settings = settings(&space);
        let (mut calls, mut known) = (0, BTreeMap::new());
        let outcome = search(&space, 10, &settings, Share::WHOLE, &mut known, |child, progress| {
            assert!(progress.done < progress.total && progress.total <= 6 * 8);
            calls += 1;
            Ok::<_, Infallible>(pretend(&space, child))
        });
        let Ok(Outcome::Complete(scored)) = outcome else { panic!("{outcome:?}") };
        assert_eq!((calls, known.len()), (scored.len(), scored.len()), "no child is evaluated twice");
        let front = select(&space, 10, &scored, &settings.budgets);
        assert!(front.len() >= 4, "{} children on the front", front.len());
        assert!(front.iter().zip(&front[1..]).all(|(a, b)| a.macs < b.macs && a.score.accuracy < b.score.accuracy));
        assert!(front.iter().skip(1).all(|s| s.child.choices().stages[3].depth == 2), "mutation should find the better depth");
    }

    #[test]
    fn an_error_of_the_evaluator_ends_the_search_but_what_is_known_stays() {
        let space = preset("fashion-mnist").unwrap();
        let settings = settings(&space);
        let mut known = BTreeMap::new();
        let broken = search(&space, 10, &settings, Share::WHOLE, &mut known, |child, progress| {
            if progress.done == 3 { Err("broken") } else { Ok(pretend(&space, child)) }
        });
        assert_eq!((broken.unwrap_err(), known.len()), ("broken", 3));
        let mut calls = 0;
        let outcome = search(&space, 10, &settings, Share::WHOLE, &mut known, |child, _| {
            calls += 1;
            Ok::<_, Infallible>(pretend(&space, child))
        });
        let expected = whole(&space, &settings);
        assert_eq!(calls, expected.len() - 3);
        assert_eq!(outcome, Ok(Outcome::Complete(expected)));
    }

    #[test]
    fn shares_that_are_merged_between_the_phases_come_to_the_same_end() {
        let space = preset("fashion-mnist").unwrap();
        let settings = settings(&space);
        let mut merged = BTreeMap::new();
        for phase in 0..2 {
            let mut parts = Vec::new();
            for index in 0..3 {
                let mut known = merged.clone();
                let share = Share { index, count: 3 };
                let outcome = search(&space, 10, &settings, share, &mut known, |child, _| Ok::<_, Infallible>(pretend(&space, child)));
                assert!(matches!(outcome, Ok(Outcome::Missing { children }) if children > 0), "phase {phase}, share {index}: {outcome:?}");
                parts.push(known);
            }
            parts.into_iter().for_each(|part| merged.extend(part));
        }
        let outcome = search(&space, 10, &settings, Share::WHOLE, &mut merged, |child, _| Err(format!("{child:?} is not known")));
        assert_eq!(outcome, Ok(Outcome::Complete(whole(&space, &settings))));
    }

    #[test]
    fn a_latency_budget_is_kept_and_slower_but_cheaper_children_do_not_push_out_faster_ones() {
        let space = preset("fashion-mnist").unwrap();
        let mut settings = settings(&space);
        let fast = Budget { latency_ms: Some(2.4), ..Budget::default() };
        settings.budgets.push(fast);
        let scored = whole(&space, &settings);
        let front = select(&space, 10, &scored, &settings.budgets);
        let best_fast =
            scored.iter().filter(|s| s.score.latency_ms <= Some(2.4)).max_by(|a, b| a.score.accuracy.total_cmp(&b.score.accuracy));
        assert!(front.contains(best_fast.unwrap()), "the best within the latency is on the front");
    }

    /// Within its budget of parameters, a child is the best, whoever has fewer multiply-adds, more parameters and more accuracy.
    #[test]
    fn every_budget_keeps_its_best_whatever_it_bounds() {
        let space = preset("fashion-mnist").unwrap();
        let params = |scored: &Scored| Plan::new(&space, &scored.child, 10).cost().params.total();
        let all = whole(&space, &settings(&space));
        let pairs = all.iter().flat_map(|a| all.iter().map(move |b| (a, b)));
        let (small, cheap) = pairs.into_iter().find(|(a, b)| params(a) < params(b) && a.macs > b.macs).unwrap();
        let with = |scored: &Scored, accuracy| Scored { score: Score { accuracy, latency_ms: None }, ..scored.clone() };
        let scored = [with(small, 0.8), with(cheap, 0.9)];
        let few = Budget { params: Some(params(small)), ..Budget::default() };
        let front = select(&space, 10, &scored, &[Budget::of_macs(u64::MAX), few]);
        assert_eq!(front, [scored[1].clone(), scored[0].clone()]);
        assert_eq!(select(&space, 10, &scored, &[Budget::of_macs(u64::MAX)]).len(), 1);
    }

    #[test]
    fn budgets_reach_from_the_smallest_to_the_biggest() {
        let space = preset("fashion-mnist").unwrap();
        let budgets: Vec<u64> = spread_budgets(&space, 10, 5).iter().filter_map(|budget| budget.macs).collect();
        assert!(budgets.is_sorted() && budgets.len() == 5);
        assert!(budgets[0] >= macs(&space, &space.smallest(), 10) && budgets[4] >= macs(&space, &space.biggest(), 10));
    }
}
