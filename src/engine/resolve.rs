//! From a budget to a child: the most accurate one that respects every bound.

use super::types::{Budget, ChildStatus, ResolveError};

/// The most accurate of `children` within `budget`; among equals the larger. An unknown accuracy ranks below every known one.
///
/// # Errors
/// [`ResolveError`] says what the smallest child costs, or how accurate the best within the bounds is.
pub fn resolve<'a>(children: &'a [ChildStatus], budget: &Budget) -> Result<&'a ChildStatus, ResolveError> {
    let unmeasured = budget.latency_ms.is_some() && children.iter().all(|child| child.latency_ms.is_none());
    if unmeasured {
        return Err(ResolveError::Unmeasured);
    }
    let rank = |child: &ChildStatus| (child.accuracy.unwrap_or(-1.0), child.cost.macs.total());
    let affordable = children.iter().filter(|child| respects(child, budget));
    let best = affordable.max_by(|a, b| rank(a).partial_cmp(&rank(b)).unwrap_or(std::cmp::Ordering::Equal));
    let best = best.ok_or_else(|| smallest(children))?;
    match budget.min_accuracy {
        Some(asked) if best.accuracy.is_none_or(|accuracy| accuracy < asked) => Err(ResolveError::Accuracy { asked, best: best.accuracy }),
        _ => Ok(best),
    }
}

/// The children that `budget` allows, the most accurate first; among equals the larger.
pub fn within<'a>(children: &'a [ChildStatus], budget: &Budget) -> Vec<&'a ChildStatus> {
    let accurate = |child: &ChildStatus| budget.min_accuracy.is_none_or(|asked| child.accuracy.is_some_and(|accuracy| accuracy >= asked));
    let mut within: Vec<_> = children.iter().filter(|child| respects(child, budget) && accurate(child)).collect();
    within.sort_by(|a, b| {
        b.accuracy.unwrap_or(-1.0).total_cmp(&a.accuracy.unwrap_or(-1.0)).then(b.cost.macs.total().cmp(&a.cost.macs.total()))
    });
    within
}

fn respects(child: &ChildStatus, budget: &Budget) -> bool {
    let mflops = budget.mflops.is_none_or(|limit| child.cost.macs.millions() <= limit);
    let params = budget.params.is_none_or(|limit| child.cost.params.total() <= limit);
    let latency = budget.latency_ms.is_none_or(|limit| child.latency_ms.is_some_and(|ms| ms <= limit));
    mflops && params && latency
}

fn smallest(children: &[ChildStatus]) -> ResolveError {
    let macs = children.iter().map(|child| child.cost.macs.total()).min().unwrap_or(0);
    let params = children.iter().map(|child| child.cost.params.total()).min().unwrap_or(0);
    let latency_ms = children.iter().filter_map(|child| child.latency_ms).min_by(f64::total_cmp);
    ResolveError::Budget { mflops: macs as f64 / 1e6, params, latency_ms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ChildState;
    use crate::space::{Draw, Plan, preset};

    /// Three children of ascending cost with accuracies and latencies as given.
    fn children(facts: [(Option<f64>, Option<f64>); 3]) -> Vec<ChildStatus> {
        let space = preset("fashion-mnist").unwrap();
        let [small, middle, big] = [space.smallest(), space.random(Draw::new(1, 0, 0)), space.biggest()];
        let status = |(child, (accuracy, latency_ms)): (_, (Option<f64>, Option<f64>))| {
            let cost = Plan::new(&space, &child, 10).cost();
            ChildStatus { child: child.into(), cost, accuracy, accuracy_source: None, latency_ms, state: ChildState::Unbuilt, added: false }
        };
        [small, middle, big].into_iter().zip(facts).map(status).collect()
    }

    #[test]
    fn the_most_accurate_child_within_all_bounds_answers() {
        let all = children([(Some(0.87), Some(0.1)), (Some(0.89), Some(0.5)), (Some(0.91), Some(0.9))]);
        let middle = all[1].cost;
        let cases = [
            (Budget::default(), 2),
            (Budget { mflops: Some(1e9), ..Budget::default() }, 2),
            (Budget { mflops: Some(middle.macs.millions()), ..Budget::default() }, 1),
            (Budget { mflops: Some(middle.macs.millions() - 1e-5), ..Budget::default() }, 0),
            (Budget { params: Some(middle.params.total()), ..Budget::default() }, 1),
            (Budget { latency_ms: Some(0.5), ..Budget::default() }, 1),
            (Budget { latency_ms: Some(0.7), mflops: Some(middle.macs.millions() - 1e-5), ..Budget::default() }, 0),
            (Budget { min_accuracy: Some(0.91), ..Budget::default() }, 2),
        ];
        for (budget, expected) in cases {
            assert_eq!(resolve(&all, &budget).unwrap().child.id(), all[expected].child.id(), "{budget:?}");
        }
    }

    #[test]
    fn a_larger_child_that_is_worse_is_passed_over() {
        let all = children([(Some(0.9), None), (Some(0.85), None), (None, None)]);
        assert_eq!(resolve(&all, &Budget::default()).unwrap().child.id(), all[0].child.id());
    }

    #[test]
    fn without_accuracies_the_largest_answers() {
        let all = children([(None, None); 3]);
        assert_eq!(resolve(&all, &Budget::default()).unwrap().child.id(), all[2].child.id());
    }

    #[test]
    fn what_cannot_be_had_is_refused_with_what_can() {
        let all = children([(Some(0.87), Some(0.1)), (None, None), (Some(0.91), Some(0.9))]);
        let refused = |budget: Budget| resolve(&all, &budget).unwrap_err();
        let smallest = refused(Budget { mflops: Some(0.1), ..Budget::default() });
        assert!(matches!(smallest, ResolveError::Budget { mflops, .. } if mflops == all[0].cost.macs.millions()));
        let fastest = refused(Budget { latency_ms: Some(0.01), ..Budget::default() });
        assert!(matches!(fastest, ResolveError::Budget { latency_ms: Some(0.1), .. }));
        let floor = refused(Budget { min_accuracy: Some(0.9), mflops: Some(all[0].cost.macs.millions()), ..Budget::default() });
        assert_eq!(floor, ResolveError::Accuracy { asked: 0.9, best: Some(0.87) });
        let unmeasured = children([(None, None); 3]);
        let refused = resolve(&unmeasured, &Budget { latency_ms: Some(1.0), ..Budget::default() }).unwrap_err();
        assert_eq!(refused, ResolveError::Unmeasured);
    }
}
