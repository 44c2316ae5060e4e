//! How far predictions are from measurements.

use serde::{Deserialize, Serialize};

/// Relative errors of predictions over some measured children, as fractions of the measured time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Errors {
    /// Number of children.
    pub children: usize,
    /// The middle of the errors.
    pub median: f64,
    /// Nine in ten errors are no larger.
    pub percentile_90: f64,
    /// The largest error.
    pub worst: f64,
}

impl Errors {
    /// Of pairs of predicted and measured times; `None` where there are none.
    #[must_use]
    pub fn of(pairs: impl Iterator<Item = (f64, f64)>) -> Option<Self> {
        let mut errors: Vec<f64> = pairs.map(|(predicted, measured)| (predicted / measured - 1.0).abs()).collect();
        errors.sort_by(f64::total_cmp);
        let children = errors.len();
        let rank = |share: f64| ((children as f64 * share).ceil() as usize).clamp(1, children) - 1;
        let worst = *errors.last()?;
        Some(Self { children, median: errors[rank(0.5)], percentile_90: errors[rank(0.9)], worst })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_to_the_measurement_and_ranked() {
        let pairs = [(1.1, 1.0), (1.8, 2.0), (4.0, 4.0), (3.0, 2.0), (10.2, 10.0)];
        let found = Errors::of(pairs.into_iter()).unwrap();
        let close = |found: f64, expected: f64| (found - expected).abs() < 1e-12;
        assert_eq!(found.children, 5);
        assert!(close(found.median, 0.1) && close(found.percentile_90, 0.5) && close(found.worst, 0.5), "{found:?}");
    }

    #[test]
    fn no_children_have_no_error() {
        assert_eq!(Errors::of(std::iter::empty()), None);
    }
}
