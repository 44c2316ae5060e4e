//! How far predictions are from measurements.

use serde::{Deserialize, Serialize};

/// Relative errors of predictions over some measured children, as fractions of the measured time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Errors {
    /// Number of children.
    pub children: usize,
    /// The middle of the errors; between the two middle ones of an even number.
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
        let worst = *errors.last()?;
        let median = f64::midpoint(errors[(children - 1) / 2], errors[children / 2]);
        Some(Self { children, median, percentile_90: errors[(9 * children).div_ceil(10) - 1], worst })
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
        let ten = Errors::of((1..=10).map(|n| (1.0 + f64::from(n) / 10.0, 1.0))).unwrap();
        assert!(close(ten.median, 0.55) && close(ten.percentile_90, 0.9) && close(ten.worst, 1.0), "{ten:?}");
    }

    #[test]
    fn no_children_have_no_error() {
        assert_eq!(Errors::of(std::iter::empty()), None);
    }
}
