//! From the sum of a child's parts to the child's own time.

use serde::{Deserialize, Serialize};

use crate::space::Plan;

/// What a child's time is predicted from, at one batch size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Features {
    /// Sum of the times of the child's parts, each measured alone, in milliseconds.
    pub parts_ms: f64,
    /// Number of parts.
    pub parts: usize,
    /// Megabytes (10⁶ bytes) at the borders between parts, over the whole batch.
    pub border_mb: f64,
}

/// A linear model of a child's time in milliseconds.
///
/// The four numbers explain the time together; one of them alone means little, as bigger children have more of everything.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Correction {
    /// Times the sum of the parts' milliseconds.
    pub factor: f64,
    /// Added for every part: a part alone pays for its own call of ONNX Runtime.
    pub per_part_ms: f64,
    /// Added for every megabyte (10⁶ bytes) at a border between two parts: a part alone reorders its input and its output.
    pub per_border_mb_ms: f64,
    /// Added once.
    pub constant_ms: f64,
}

const COEFFICIENTS: usize = 4;

/// Weight of the plain sum of parts against one measured child: decides only what the measured children leave open.
const RIDGE: f64 = 1e-5;

impl Features {
    /// Those of the child of `plan` in batches of `batch`, whose parts take `parts_ms` in all.
    #[must_use]
    pub fn new(plan: &Plan, batch: usize, parts_ms: f64) -> Self {
        let outputs: Vec<usize> = plan.parts().map(|part| part.output_shape().iter().product()).collect();
        let borders: usize = outputs[..outputs.len() - 1].iter().sum();
        Self { parts_ms, parts: outputs.len(), border_mb: (4 * batch * borders) as f64 / 1e6 }
    }

    fn row(&self) -> [f64; COEFFICIENTS] {
        [self.parts_ms, self.parts as f64, self.border_mb, 1.0]
    }
}

impl Correction {
    /// The plain sum of parts.
    pub const NONE: Self = Self { factor: 1.0, per_part_ms: 0.0, per_border_mb_ms: 0.0, constant_ms: 0.0 };

    /// The child's time in milliseconds.
    #[must_use]
    pub fn predict_ms(&self, features: &Features) -> f64 {
        let coefficients = [self.factor, self.per_part_ms, self.per_border_mb_ms, self.constant_ms];
        features.row().iter().zip(coefficients).map(|(value, coefficient)| value * coefficient).sum()
    }

    /// The model with the least squared *relative* error over `measured`, pairs of features and measured milliseconds above 0; what
    /// they leave open is decided in favour of the plain sum.
    #[must_use]
    pub fn fit(measured: &[(Features, f64)]) -> Self {
        let plain = Self::NONE;
        // Unknown is what is to be added to the plain sum, in units in which every column has the same size.
        let rows = measured.iter().map(|(features, ms)| (features.row().map(|value| value / ms), 1.0 - plain.predict_ms(features) / ms));
        let rows: Vec<([f64; COEFFICIENTS], f64)> = rows.collect();
        let size = |column: usize| rows.iter().map(|(row, _)| row[column].powi(2)).sum::<f64>().sqrt();
        let sizes: [f64; COEFFICIENTS] = std::array::from_fn(|column| if size(column) > 0.0 { size(column) } else { 1.0 });
        let mut equations = [[0.0; COEFFICIENTS + 1]; COEFFICIENTS];
        for (i, equation) in equations.iter_mut().enumerate() {
            for (row, residual) in &rows {
                for j in 0..COEFFICIENTS {
                    equation[j] += row[i] / sizes[i] * row[j] / sizes[j];
                }
                equation[COEFFICIENTS] += row[i] / sizes[i] * residual;
            }
            equation[i] += RIDGE;
        }
        let solution = solve(equations);
        let [factor, per_part_ms, per_border_mb_ms, constant_ms] = std::array::from_fn(|column| solution[column] / sizes[column]);
        Self { factor: plain.factor + factor, per_part_ms, per_border_mb_ms, constant_ms }
    }
}

/// Gaussian elimination of a symmetric positive definite system, whose right side is the last column; needs no pivoting.
fn solve<const N: usize, const M: usize>(mut equations: [[f64; M]; N]) -> [f64; N] {
    for pivot in 0..N {
        let row = equations[pivot];
        for equation in equations.iter_mut().skip(pivot + 1) {
            let factor = equation[pivot] / row[pivot];
            equation.iter_mut().zip(row).for_each(|(value, above)| *value -= factor * above);
        }
    }
    let mut solution = [0.0; N];
    for i in (0..N).rev() {
        let known: f64 = (i + 1..N).map(|j| equations[i][j] * solution[j]).sum();
        solution[i] = (equations[i][N] - known) / equations[i][i];
    }
    solution
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::preset;

    fn features(parts_ms: f64, parts: usize, border_mb: f64) -> Features {
        Features { parts_ms, parts, border_mb }
    }

    #[test]
    fn a_prediction_is_the_sum_by_hand() {
        let correction = Correction { factor: 0.9, per_part_ms: -0.01, per_border_mb_ms: -0.5, constant_ms: 0.03 };
        let predicted = correction.predict_ms(&features(2.0, 7, 0.4));
        assert!((predicted - (1.8 - 0.07 - 0.2 + 0.03)).abs() < 1e-12, "{predicted}");
        assert_eq!(Correction::NONE.predict_ms(&features(2.0, 7, 0.4)), 2.0);
    }

    #[test]
    fn a_fit_finds_the_law_that_made_the_numbers() {
        let law = Correction { factor: 0.8, per_part_ms: -0.02, per_border_mb_ms: -0.3, constant_ms: 0.1 };
        let children = (0..12).map(|i| features(1.0 + f64::from(i) * 0.37, 6 + (i as usize * 5) % 9, 0.1 + f64::from((i * 7) % 11) * 0.2));
        let measured: Vec<_> = children.map(|child| (child, law.predict_ms(&child))).collect();
        let fitted = Correction::fit(&measured);
        for (child, ms) in &measured {
            assert!((fitted.predict_ms(child) / ms - 1.0).abs() < 1e-3, "{fitted:?}");
        }
    }

    #[test]
    fn what_the_children_leave_open_stays_finite_and_near_the_plain_sum() {
        let alike = [(features(2.0, 7, 0.4), 1.0); 5];
        for measured in [&alike[..], &alike[..1], &[]] {
            let fitted = Correction::fit(measured);
            let predicted = fitted.predict_ms(&features(2.0, 7, 0.4));
            let expected = if measured.is_empty() { 2.0 } else { 1.0 };
            assert!((predicted - expected).abs() < 1e-3, "{fitted:?} predicts {predicted}");
        }
    }

    #[test]
    fn borders_are_what_one_part_hands_to_the_next() {
        let space = preset("fashion-mnist").unwrap();
        let plan = Plan::new(&space, &space.smallest(), 10);
        // Outputs of the stem and of the four blocks of the smallest child, at 20 px.
        let values = 8 * 20 * 20 + 8 * 20 * 20 + 12 * 10 * 10 + 20 * 10 * 10 + 32 * 5 * 5;
        let found = Features::new(&plan, 8, 1.5);
        assert_eq!(found, features(1.5, 6, (4 * 8 * values) as f64 / 1e6));
    }
}
