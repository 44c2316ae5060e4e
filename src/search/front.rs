//! Which of the evaluated children make the family: the best of every budget that no other one beats.

use std::fmt;

use super::budget::bounded_costs;
use super::{Budget, Grid, Score, Scored};
use crate::space::{Child, Plan, SearchSpace};

/// The best of each budget, without those that another one beats: ascending in cost.
#[must_use]
pub fn select(space: &SearchSpace, classes: usize, scored: &[Scored], budgets: &[Budget]) -> Vec<Scored> {
    let best = budgets.iter().filter_map(|budget| best_within(space, classes, scored, budget).cloned());
    pareto_front(space, classes, best.collect(), budgets)
}

/// A budget that no evaluated child keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Unmet {
    /// The budget.
    pub budget: Budget,
    /// Of each bound that no child keeps, what the cheapest costs; empty where each is kept, but not all by one child.
    pub least: Budget,
}

/// As a person reads it, with what to do.
impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no child that was evaluated keeps the budget {}: ", self.budget)?;
        match self.least == Budget::default() {
            true => write!(f, "some child keeps each of its bounds alone, and none keeps all")?,
            false => write!(f, "every one costs at least {}", self.least)?,
        }
        write!(f, "; raise it, or widen --grid")
    }
}

/// The budgets that none of `scored` keeps.
#[must_use]
pub fn unmet(space: &SearchSpace, classes: usize, scored: &[Scored], budgets: &[Budget]) -> Vec<Unmet> {
    let missed = budgets.iter().filter(|budget| best_within(space, classes, scored, budget).is_none());
    let costs: Vec<Budget> = scored.iter().map(|scored| Budget::kept_by(&Plan::new(space, &scored.child, classes), scored)).collect();
    missed.map(|&budget| Unmet { budget, least: budget.missed_by_all(&costs) }).collect()
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
    // Whoever beats another stands before it, also among those with the same multiply-adds; the last word makes the order one of its own.
    let latency = |scored: &Scored| scored.score.latency_ms.unwrap_or(f64::INFINITY);
    scored.sort_by(|a, b| {
        let by_rank = a.macs.cmp(&b.macs).then(b.score.accuracy.total_cmp(&a.score.accuracy)).then_with(|| costs(a).cmp(&costs(b)));
        by_rank.then(latency(a).total_cmp(&latency(b))).then_with(|| a.child.id().cmp(&b.child.id()))
    });
    scored.dedup_by_key(|scored| scored.child.id());
    let no_slower = |a: &Scored, b: &Scored| match (a.score.latency_ms, b.score.latency_ms) {
        (Some(a), Some(b)) => a <= b,
        _ => true,
    };
    let mut front: Vec<Scored> = Vec::new();
    for candidate in scored {
        // Only earlier ones can beat.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::preset;

    /// Two layers of one shape with their kernels exchanged cost the same, and need not take the same time.
    #[test]
    fn who_is_beaten_is_left_out_in_whatever_order_they_come() {
        let space = preset("fashion-mnist").unwrap();
        let (child, other) = (space.biggest(), space.smallest());
        let scored = |child: &Child, latency_ms| Scored { child: child.clone(), macs: 7, score: Score { accuracy: 0.5, latency_ms } };
        let cases = [
            ([scored(&child, Some(2.0)), scored(&other, Some(1.0))], &other),
            ([scored(&child, Some(1.0)), scored(&other, Some(2.0))], &child),
            ([scored(&child, None), scored(&other, Some(2.0))], &other),
        ];
        for (mut pair, expected) in cases {
            for _ in 0..2 {
                let front = pareto_front(&space, 10, pair.to_vec(), &[]);
                assert_eq!(front.iter().map(|scored| &scored.child).collect::<Vec<_>>(), [expected], "{pair:?}");
                pair.reverse();
            }
        }
    }

    #[test]
    fn a_budget_that_nobody_keeps_is_told_what_children_cost_at_least() {
        let space = preset("fashion-mnist").unwrap();
        let scored: Vec<Scored> = [space.smallest(), space.biggest()]
            .into_iter()
            .zip([2.0, 1.234_56])
            .map(|(child, ms)| Scored { macs: macs(&space, &child, 10), child, score: Score { accuracy: 0.5, latency_ms: Some(ms) } })
            .collect();
        let [small, big] = [&scored[0], &scored[1]].map(|scored| Plan::new(&space, &scored.child, 10));
        let (params, least) = (small.cost().params.total(), scored[0].macs as f64 / 1e6);
        let cases = [
            (format!("params={params}"), None),
            ("params=1,latency_ms=5".to_owned(), Some(format!("costs at least params={params}"))),
            ("mflops=0.001,params=1".to_owned(), Some(format!("costs at least mflops={least},params={params}"))),
            ("latency_ms=1".to_owned(), Some("costs at least latency_ms=1.235".to_owned())),
            (format!("params={params},latency_ms=1.5"), Some("keeps each of its bounds alone".to_owned())),
            ("weight_mb=0.001".to_owned(), Some(format!("costs at least weight_mb={}", 4.0 * params as f64 / 1e6))),
        ];
        assert!(big.cost().params.total() > params);
        for (text, expected) in cases {
            let budget: Budget = text.parse().unwrap();
            let said = unmet(&space, 10, &scored, &[budget]).first().map(ToString::to_string);
            match (&said, expected) {
                (None, None) => {}
                (Some(said), Some(expected)) => {
                    let begin = format!("no child that was evaluated keeps the budget {text}: ");
                    assert!(said.starts_with(&begin) && said.contains(&expected) && said.ends_with("raise it, or widen --grid"), "{said}");
                }
                (said, expected) => panic!("{text}: {said:?}, not {expected:?}"),
            }
            // What is named can be asked for.
            if let Some((_, least)) = said.as_deref().and_then(|said| said.split_once("at least ")) {
                let least: Budget = least.split(';').next().unwrap().parse().unwrap();
                assert_eq!(unmet(&space, 10, &scored, &[least]), []);
            }
        }
    }
}
