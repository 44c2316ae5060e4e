//! What a child may cost: bounds on multiply-adds, size, memory and latency, alone or together.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Scored;
use crate::space::Plan;

/// Upper bounds, all of which hold; none is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Multiply-adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub macs: Option<u64>,
    /// Parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<u64>,
    /// Bytes of the weights, at four a parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_bytes: Option<u64>,
    /// Peak bytes of activations at batch 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation_bytes: Option<u64>,
    /// Latency measured on this device at batch 1, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
}

/// A text that is no budget.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseBudgetError {
    /// A bound without name or value.
    #[error("{0:?} is no bound: write NAME=NUMBER, as in mflops=300,latency_ms=5")]
    Bound(String),
    /// A name that nothing is called.
    #[error("there is no bound {0:?}; there are mflops, params, weight_mb, activation_mb and latency_ms")]
    Name(String),
    /// A bound that is given twice.
    #[error("{0} is bounded twice: name it once")]
    Twice(String),
    /// A value that is not a number above zero.
    #[error("{name} must be a number above 0, not {value:?}")]
    Value {
        /// The bound.
        name: String,
        /// What was given.
        value: String,
    },
}

/// Bytes of a float32 weight.
const WEIGHT_BYTES: u64 = 4;

impl Budget {
    /// At most `macs` multiply-adds.
    #[must_use]
    pub fn of_macs(macs: u64) -> Self {
        Self { macs: Some(macs), ..Self::default() }
    }

    /// Whether a child of `plan` keeps every bound that is known without running it.
    #[must_use]
    pub fn allows_plan(&self, plan: &Plan) -> bool {
        let cost = plan.cost();
        let (macs, params) = (cost.macs.total(), cost.params.total());
        let within = |bound: Option<u64>, value: u64| bound.is_none_or(|bound| value <= bound);
        within(self.macs, macs)
            && within(self.params, params)
            && within(self.weight_bytes, params * WEIGHT_BYTES)
            && within(self.activation_bytes, cost.peak_activation_bytes)
    }

    /// Whether `scored`, of `plan`, keeps every bound. A latency bound asks for a measured latency.
    #[must_use]
    pub fn allows(&self, plan: &Plan, scored: &Scored) -> bool {
        let fast = self.latency_ms.is_none_or(|bound| scored.score.latency_ms.is_some_and(|latency_ms| latency_ms <= bound));
        fast && self.allows_plan(plan)
    }

    /// The tightest budget that `scored`, of `plan`, keeps.
    pub(super) fn kept_by(plan: &Plan, scored: &Scored) -> Self {
        let cost = plan.cost();
        let params = cost.params.total();
        Self {
            macs: Some(cost.macs.total()),
            params: Some(params),
            weight_bytes: Some(params * WEIGHT_BYTES),
            activation_bytes: Some(cost.peak_activation_bytes),
            latency_ms: scored.score.latency_ms,
        }
    }

    /// Of each bound that lies below all of `costs`, the least of them.
    pub(super) fn missed_by_all(&self, costs: &[Self]) -> Self {
        let count =
            |of: fn(&Self) -> Option<u64>| costs.iter().filter_map(of).min().filter(|least| of(self).is_some_and(|bound| bound < *least));
        let least_ms = costs.iter().filter_map(|cost| cost.latency_ms).min_by(f64::total_cmp);
        let missed_ms = least_ms.filter(|least| self.latency_ms.is_some_and(|bound| bound < *least));
        Self {
            macs: count(|budget| budget.macs),
            params: count(|budget| budget.params),
            weight_bytes: count(|budget| budget.weight_bytes),
            activation_bytes: count(|budget| budget.activation_bytes),
            // Rounded up, to what can be read and still is kept.
            latency_ms: missed_ms.map(|ms| (1e3 * ms).ceil() / 1e3),
        }
    }
}

/// What of a child's cost, beyond multiply-adds and latency, one of `budgets` bounds.
pub(super) fn bounded_costs(budgets: &[Budget], plan: &Plan) -> Vec<u64> {
    let cost = plan.cost();
    let params = budgets.iter().any(|budget| budget.params.is_some() || budget.weight_bytes.is_some());
    let activation = budgets.iter().any(|budget| budget.activation_bytes.is_some());
    let costs = [(params, cost.params.total()), (activation, cost.peak_activation_bytes)];
    costs.into_iter().filter_map(|(bounded, cost)| bounded.then_some(cost)).collect()
}

/// As it is read: `mflops=300,latency_ms=5`.
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millions = |count: Option<u64>| count.map(|count| count as f64 / 1e6);
        let bounds = [
            ("mflops", millions(self.macs)),
            ("params", self.params.map(|count| count as f64)),
            ("weight_mb", millions(self.weight_bytes)),
            ("activation_mb", millions(self.activation_bytes)),
            ("latency_ms", self.latency_ms),
        ];
        let bounds = bounds.into_iter().filter_map(|(name, bound)| Some(format!("{name}={}", bound?)));
        f.write_str(&bounds.collect::<Vec<_>>().join(","))
    }
}

/// `mflops=300,latency_ms=5`; further `params`, `weight_mb` and `activation_mb`, in megabytes of 10⁶ bytes.
impl FromStr for Budget {
    type Err = ParseBudgetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut budget = Self::default();
        let mut names = Vec::new();
        for bound in text.split(',') {
            let (name, value) = bound.split_once('=').ok_or_else(|| ParseBudgetError::Bound(bound.to_owned()))?;
            if names.contains(&name.trim()) {
                return Err(ParseBudgetError::Twice(name.trim().to_owned()));
            }
            names.push(name.trim());
            let wrong = || ParseBudgetError::Value { name: name.to_owned(), value: value.to_owned() };
            let number: f64 = value.trim().parse().ok().filter(|n: &f64| n.is_finite() && *n > 0.0).ok_or_else(wrong)?;
            let millions = Some((number * 1e6).round() as u64);
            match name.trim() {
                "mflops" => budget.macs = millions,
                "params" => budget.params = Some(number as u64),
                "weight_mb" => budget.weight_bytes = millions,
                "activation_mb" => budget.activation_bytes = millions,
                "latency_ms" => budget.latency_ms = Some(number),
                other => return Err(ParseBudgetError::Name(other.to_owned())),
            }
        }
        Ok(budget)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::Score;
    use crate::space::{SearchSpace, preset};

    #[test]
    fn bounds_are_read_or_refused_by_name() {
        let budget: Budget = "mflops=1.5, params=20000,weight_mb=0.08,activation_mb=0.25,latency_ms=0.4".parse().unwrap();
        let expected = Budget {
            macs: Some(1_500_000),
            params: Some(20_000),
            weight_bytes: Some(80_000),
            activation_bytes: Some(250_000),
            latency_ms: Some(0.4),
        };
        assert_eq!(budget, expected);
        assert_eq!(budget.to_string(), "mflops=1.5,params=20000,weight_mb=0.08,activation_mb=0.25,latency_ms=0.4");
        let cases = [
            ("", "\"\" is no bound"),
            ("mflops", "\"mflops\" is no bound"),
            ("speed=3", "there is no bound \"speed\""),
            ("mflops=-1", "mflops must be a number above 0, not \"-1\""),
            ("mflops=3, mflops=5", "mflops is bounded twice"),
            ("latency_ms=NaN", "latency_ms must be a number above 0"),
        ];
        for (text, message) in cases {
            let error = text.parse::<Budget>().unwrap_err().to_string();
            assert!(error.starts_with(message), "{text:?}: {error}");
        }
    }

    #[test]
    fn every_bound_excludes_on_its_own() {
        let space = preset("fashion-mnist").unwrap();
        let [small, big] = [SearchSpace::smallest, SearchSpace::biggest].map(|pick| Plan::new(&space, &pick(&space), 10));
        let scored = |plan: &Plan, latency_ms| Scored {
            child: plan.child.clone(),
            macs: plan.cost().macs.total(),
            score: Score { accuracy: 0.5, latency_ms },
        };
        let cost = small.cost();
        let (macs, params) = (cost.macs.total(), cost.params.total());
        let tight = [
            Budget::of_macs(macs),
            Budget { params: Some(params), ..Budget::default() },
            Budget { weight_bytes: Some(4 * params), ..Budget::default() },
            Budget { activation_bytes: Some(cost.peak_activation_bytes), ..Budget::default() },
            Budget { latency_ms: Some(1.0), ..Budget::default() },
        ];
        for budget in tight {
            assert!(budget.allows(&small, &scored(&small, Some(1.0))), "{budget:?} allows the smallest child");
            assert!(!budget.allows(&big, &scored(&big, Some(1.1))), "{budget:?} excludes the biggest child");
        }
        assert!(!tight[4].allows(&small, &scored(&small, None)), "an unknown latency keeps no bound");
    }
}
