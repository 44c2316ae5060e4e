//! Which of the evaluated children make the family: the best of every budget that no other one beats.

use super::budget::bounded_costs;
use super::{Budget, Grid, Score, Scored};
use crate::space::{Child, Plan, SearchSpace};

/// The best of each budget, without those that another one beats: ascending in cost.
#[must_use]
pub fn select(space: &SearchSpace, classes: usize, scored: &[Scored], budgets: &[Budget]) -> Vec<Scored> {
    let best = budgets.iter().filter_map(|budget| best_within(space, classes, scored, budget).cloned());
    pareto_front(space, classes, best.collect(), budgets)
}

/// The budgets that none of `scored` keeps.
#[must_use]
pub fn unmet<'b>(space: &SearchSpace, classes: usize, scored: &[Scored], budgets: &'b [Budget]) -> Vec<&'b Budget> {
    budgets.iter().filter(|budget| best_within(space, classes, scored, budget).is_none()).collect()
}

/// The largest child of `grid` under each budget: a family for a model whose children nobody has evaluated.
#[must_use]
pub fn largest_within(space: &SearchSpace, classes: usize, grid: &Grid, budgets: &[Budget]) -> Vec<Child> {
    let as_scored = |child: Child| {
        let macs = macs(space, &child, classes);
        Scored { child, macs, score: Score { accuracy: macs as f64, latency_ms: None } }
    };
    let all: Vec<Scored> = grid.children(space).into_iter().map(as_scored).collect();
    select(space, classes, &all, budgets).into_iter().map(|scored| scored.child).collect()
}

/// The members that no other one beats, ascending in cost. Beaten is who costs as much or more in multiply-adds and in whatever one of
/// `budgets` bounds, takes as long or longer where both were measured, and is no more accurate.
#[must_use]
pub fn pareto_front(space: &SearchSpace, classes: usize, mut scored: Vec<Scored>, budgets: &[Budget]) -> Vec<Scored> {
    let costs = |scored: &Scored| bounded_costs(budgets, &Plan::new(space, &scored.child, classes));
    scored.sort_by(|a, b| a.macs.cmp(&b.macs).then(b.score.accuracy.total_cmp(&a.score.accuracy)));
    scored.dedup_by_key(|scored| scored.child.id());
    let no_slower = |a: &Scored, b: &Scored| match (a.score.latency_ms, b.score.latency_ms) {
        (Some(a), Some(b)) => a <= b,
        _ => true,
    };
    let mut front: Vec<Scored> = Vec::new();
    for candidate in scored {
        // In order of multiply-adds, only earlier ones can beat.
        let beats = |other: &Scored| {
            let (ours, theirs) = (costs(&candidate), costs(other));
            let no_dearer = theirs.iter().zip(&ours).all(|(theirs, ours)| theirs <= ours);
            other.score.accuracy >= candidate.score.accuracy && no_slower(other, &candidate) && no_dearer
        };
        if !front.iter().any(beats) {
            front.push(candidate);
        }
    }
    front
}

/// The most accurate of `scored` that `budget` allows.
pub(super) fn best_within<'s>(space: &SearchSpace, classes: usize, scored: &'s [Scored], budget: &Budget) -> Option<&'s Scored> {
    let affordable = scored.iter().filter(|scored| budget.allows(&Plan::new(space, &scored.child, classes), scored));
    // Of equally accurate children the cheaper one.
    affordable.max_by(|a, b| a.score.accuracy.total_cmp(&b.score.accuracy).then(b.macs.cmp(&a.macs)))
}

/// Multiply-adds of `child`.
pub(super) fn macs(space: &SearchSpace, child: &Child, classes: usize) -> u64 {
    Plan::new(space, child, classes).cost().macs.total()
}
