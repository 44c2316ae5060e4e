//! Coarse-to-fine selection: from a trained model to its family (paper, 3.2 and 4.4).
//!
//! The coarse phase evaluates a grid of skeletons. For each budget, the fine phase takes the best skeleton under it and mutates
//! it slightly at random. How a child is evaluated is the caller's business: search only ever sees an accuracy.

mod grid;

use serde::{Deserialize, Serialize};

pub use grid::Grid;

use crate::space::{Child, ChildId, Draw, Plan, SearchSpace};

/// What is searched, and how widely.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchSettings {
    /// The coarse grid.
    pub grid: Grid,
    /// Budgets in multiply-adds, one child each.
    pub budgets_macs: Vec<u64>,
    /// Mutations that are evaluated for each budget.
    pub mutations: usize,
    /// Probability that a mutation changes one choice.
    pub mutation_chance: f64,
    /// Seed of the mutations.
    pub seed: u64,
}

/// An evaluated child.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// The child.
    pub child: Child,
    /// Its multiply-adds.
    pub macs: u64,
    /// Its accuracy on the selection images, as a fraction.
    pub accuracy: f64,
}

/// How far a search has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Children evaluated.
    pub done: usize,
    /// Children to be evaluated at most.
    pub total: usize,
}

/// Mutations drawn per one evaluated at most: most of them may lie outside the budget.
const DRAWS_PER_MUTATION: u64 = 200;

/// `count` budgets between the costs of the smallest and the biggest child, evenly spaced on a logarithmic scale.
#[must_use]
pub fn spread_budgets(space: &SearchSpace, classes: usize, count: usize) -> Vec<u64> {
    let macs = |child: &Child| Plan::new(space, child, classes).cost().macs.total() as f64;
    let (low, high) = (macs(&space.smallest()), macs(&space.biggest()));
    let steps = count.saturating_sub(1).max(1) as f64;
    (0..count).map(|i| (low * (high / low).powf(i as f64 / steps)).ceil() as u64).collect()
}

/// Searches `space` and returns every evaluated child. `evaluate` gives a child's accuracy and is told the progress.
///
/// # Errors
/// Whatever `evaluate` returns, at its first error.
pub fn search<E>(
    space: &SearchSpace,
    classes: usize,
    settings: &SearchSettings,
    mut evaluate: impl FnMut(&Child, Progress) -> Result<f64, E>,
) -> Result<Vec<Scored>, E> {
    let skeletons = settings.grid.children(space);
    let total = skeletons.len() + settings.budgets_macs.len() * settings.mutations;
    let mut scored: Vec<Scored> = Vec::new();
    let mut score = |child: &Child, done: usize| -> Result<Scored, E> {
        let accuracy = evaluate(child, Progress { done, total })?;
        Ok(Scored { child: child.clone(), macs: macs(space, child, classes), accuracy })
    };
    for (done, child) in skeletons.iter().enumerate() {
        scored.push(score(child, done)?);
    }
    for (index, &budget) in settings.budgets_macs.iter().enumerate() {
        let Some(parent) = best_within(&scored, budget).cloned() else { continue };
        for (tried, child) in mutants(space, classes, settings, index, &parent, budget, &scored).iter().enumerate() {
            scored.push(score(child, skeletons.len() + index * settings.mutations + tried)?);
        }
    }
    Ok(scored)
}

/// The best of each budget, without those that a cheaper one equals or beats: a front, ascending in cost and accuracy.
#[must_use]
pub fn select(scored: &[Scored], budgets_macs: &[u64]) -> Vec<Scored> {
    let best: Vec<Scored> = budgets_macs.iter().filter_map(|&budget| best_within(scored, budget).cloned()).collect();
    pareto_front(best)
}

/// The largest child of `grid` under each budget: a family for a model whose children nobody has evaluated.
#[must_use]
pub fn largest_within(space: &SearchSpace, classes: usize, grid: &Grid, budgets_macs: &[u64]) -> Vec<Child> {
    let as_scored = |child: Child| {
        let macs = macs(space, &child, classes);
        Scored { child, macs, accuracy: macs as f64 }
    };
    let all: Vec<Scored> = grid.children(space).into_iter().map(as_scored).collect();
    select(&all, budgets_macs).into_iter().map(|scored| scored.child).collect()
}

/// The members that no cheaper or equally cheap one equals or beats, ascending in cost and accuracy.
#[must_use]
pub fn pareto_front(mut scored: Vec<Scored>) -> Vec<Scored> {
    scored.sort_by(|a, b| a.macs.cmp(&b.macs).then(b.accuracy.total_cmp(&a.accuracy)));
    let mut front: Vec<Scored> = Vec::new();
    for candidate in scored {
        if front.last().is_none_or(|last| candidate.accuracy > last.accuracy) {
            front.push(candidate);
        }
    }
    front
}

fn best_within(scored: &[Scored], budget_macs: u64) -> Option<&Scored> {
    let affordable = scored.iter().filter(|s| s.macs <= budget_macs);
    // Of equally accurate children the cheaper one.
    affordable.max_by(|a, b| a.accuracy.total_cmp(&b.accuracy).then(b.macs.cmp(&a.macs)))
}

/// New children near `parent` that cost at most the budget.
fn mutants(
    space: &SearchSpace,
    classes: usize,
    settings: &SearchSettings,
    index: usize,
    parent: &Scored,
    budget_macs: u64,
    known: &[Scored],
) -> Vec<Child> {
    let mut seen: Vec<ChildId> = known.iter().map(|s| s.child.id()).collect();
    let draws = DRAWS_PER_MUTATION * settings.mutations as u64;
    let candidates =
        (0..draws).map(|draw| space.mutate(&parent.child, Draw::new(settings.seed, index as u64, draw), settings.mutation_chance));
    let fresh = candidates.filter(|child| {
        let new = macs(space, child, classes) <= budget_macs && !seen.contains(&child.id());
        if new {
            seen.push(child.id());
        }
        new
    });
    fresh.take(settings.mutations).collect()
}

fn macs(space: &SearchSpace, child: &Child, classes: usize) -> u64 {
    Plan::new(space, child, classes).cost().macs.total()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::space::preset;

    fn settings(space: &SearchSpace) -> SearchSettings {
        let grid = Grid { resolutions: vec![20, 32], depth: vec![0.0, 1.0], width: vec![0.0, 1.0], kernel: vec![0.0, 1.0] };
        SearchSettings { grid, budgets_macs: spread_budgets(space, 10, 6), mutations: 8, mutation_chance: 0.2, seed: 1 }
    }

    /// An accuracy that grows with cost and prefers odd depths of the last stage: something for mutation to find.
    fn pretend(space: &SearchSpace, child: &Child) -> f64 {
        let bonus = if child.choices().stages[3].depth == 2 { 0.05 } else { 0.0 };
        (macs(space, child, 10) as f64).ln() / 100.0 + bonus
    }

    #[test]
    fn the_fine_phase_finds_what_the_grid_lacks_and_keeps_every_budget() {
        let space = preset("fashion-mnist").unwrap();
        let settings = settings(&space);
        let mut calls = 0;
        let scored = search(&space, 10, &settings, |child, progress| {
            assert_eq!(progress.total, 16 + 6 * 8);
            calls += 1;
            Ok::<_, Infallible>(pretend(&space, child))
        });
        let scored = scored.unwrap();
        assert_eq!(calls, scored.len(), "no child is evaluated twice");
        let front = select(&scored, &settings.budgets_macs);
        assert!(front.len() >= 4, "{} children on the front", front.len());
        assert!(front.iter().zip(&front[1..]).all(|(a, b)| a.macs < b.macs && a.accuracy < b.accuracy));
        assert!(front.iter().skip(1).all(|s| s.child.choices().stages[3].depth == 2), "mutation should find the better depth");
    }

    #[test]
    fn an_error_of_the_evaluator_ends_the_search() {
        let space = preset("fashion-mnist").unwrap();
        let result = search(&space, 10, &settings(&space), |_, progress| if progress.done == 3 { Err("broken") } else { Ok(0.5) });
        assert_eq!(result.unwrap_err(), "broken");
    }

    #[test]
    fn budgets_reach_from_the_smallest_to_the_biggest() {
        let space = preset("fashion-mnist").unwrap();
        let budgets = spread_budgets(&space, 10, 5);
        assert!(budgets.is_sorted());
        assert!(budgets[0] >= macs(&space, &space.smallest(), 10) && budgets[4] >= macs(&space, &space.biggest(), 10));
    }
}
