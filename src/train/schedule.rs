//! The learning rate: linear warm-up, exponential decay, constant ending (paper, 3.1); other decays to compare with.

use serde::{Deserialize, Serialize};

/// The shape of the learning rate over a training run.
///
/// Lengths are in epochs of a reference run; a run of another length stretches the whole curve, so that the constant ending
/// always takes the same share of it. By default that is the paper's: 236 of 350 epochs until the floor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// How the rate decays.
    pub shape: Decay,
    /// Learning rate of a batch of 256 images; proportional to the batch.
    pub rate_per_256: f64,
    /// Length of the reference run.
    pub reference_epochs: f64,
    /// Length of the linear warm-up from zero.
    pub warmup_epochs: f64,
    /// Factor of the exponential decay.
    pub decay: f64,
    /// Epochs in which the rate falls by `decay`.
    pub decay_epochs: f64,
    /// Constant ending: share of the initial rate at which the decay stops, whatever its shape; 0 decays to the end.
    pub floor: f64,
}

/// How a learning rate decays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// By a factor every few epochs (EfficientNet; the paper).
    #[default]
    Exponential,
    /// Half a cosine wave, to zero at the end where there is no floor.
    Cosine,
    /// Straight to zero at the end where there is no floor.
    Linear,
}

impl Default for Schedule {
    fn default() -> Self {
        let shape = Decay::Exponential;
        Self { shape, rate_per_256: 0.016, reference_epochs: 350.0, warmup_epochs: 5.0, decay: 0.97, decay_epochs: 2.4, floor: 0.05 }
    }
}

impl Schedule {
    /// Learning rate of update number `step`, counted from 0, of `steps` updates with `batch` images each.
    #[must_use]
    pub fn rate(&self, step: u64, steps: u64, batch: usize) -> f64 {
        let epoch = step as f64 / steps.max(1) as f64 * self.reference_epochs;
        // The first update already moves: its share is that of a step's end, not of its start.
        let after = (step + 1) as f64 / steps.max(1) as f64 * self.reference_epochs;
        let warmup = if after < self.warmup_epochs { after / self.warmup_epochs } else { 1.0 };
        let share = epoch / self.reference_epochs;
        let decay = match self.shape {
            Decay::Exponential => self.decay.powf(epoch / self.decay_epochs),
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * share).cos()),
            Decay::Linear => 1.0 - share,
        };
        self.rate_per_256 * batch as f64 / 256.0 * warmup * decay.max(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_of_the_paper() {
        // 350 epochs of 100 steps; the batch of 4096 has the paper's rate of 0.256.
        let expected = [
            (0, 0.256 / 500.0),
            (249, 0.256 * 0.5 * 0.97f64.powf(2.49 / 2.4)),
            (499, 0.256 * 0.97f64.powf(4.99 / 2.4)),
            (2_400, 0.256 * 0.97f64.powi(10)),
            (23_500, 0.256 * 0.97f64.powf(235.0 / 2.4)),
            (23_700, 0.0128),
            (34_999, 0.0128),
        ];
        for (step, rate) in expected {
            let got = Schedule::default().rate(step, 35_000, 4096);
            assert!((got - rate).abs() < 1e-12, "step {step}: {got}, not {rate}");
        }
    }

    #[test]
    fn other_shapes_fall_to_zero_or_to_the_floor() {
        let cases = [
            (Decay::Cosine, 0.0, [(25, 0.853_553), (50, 0.5), (75, 0.146_447)]),
            (Decay::Linear, 0.0, [(25, 0.75), (50, 0.5), (75, 0.25)]),
            (Decay::Cosine, 0.2, [(25, 0.853_553), (50, 0.5), (75, 0.2)]),
            (Decay::Exponential, 0.0, [(25, 0.329_397), (50, 0.108_502), (75, 0.035_740)]),
        ];
        for (shape, floor, expected) in cases {
            let schedule = Schedule { shape, floor, warmup_epochs: 0.0, reference_epochs: 350.0, ..Schedule::default() };
            for (step, share) in expected {
                let got = schedule.rate(step, 100, 256) / 0.016;
                assert!((got - share).abs() < 1e-6, "{shape:?}, floor {floor}, step {step}: {got}, not {share}");
            }
        }
    }

    #[test]
    fn a_shorter_run_ends_at_the_same_floor_in_the_same_share() {
        let schedule = Schedule::default();
        let floor = 0.008 * 0.05;
        assert!(schedule.rate(3_700 * 67 / 100, 3_700, 128) > floor);
        assert!((schedule.rate(3_700 * 68 / 100, 3_700, 128) - floor).abs() < 1e-12);
    }
}
