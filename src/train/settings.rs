//! What a training run is told.

use serde::{Deserialize, Serialize};

use super::TrainError;
use super::optimiser::OptimiserSettings;
use super::schedule::Schedule;
use crate::checkpoint::GammaInit;
use crate::space::Choices;

/// Settings of a training run. The defaults are the paper's, but for the length and the batch, which suit two CPU cores; each
/// technique can be switched off for an ablation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSettings {
    /// Passes over the training images.
    pub epochs: u64,
    /// Images a step.
    pub batch_size: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Training images that are drawn under the seed and never trained on, to select children on later.
    #[serde(skip_serializing_if = "is_zero")]
    pub held_out: usize,
    /// Which children are trained.
    #[serde(default, skip_serializing_if = "Roster::is_space")]
    pub roster: Roster,
    /// Sandwich rule: the smallest and the biggest child are trained at every step (paper, 3.1). Without it, two more random
    /// children take their places.
    pub sandwich: bool,
    /// Random children a step, beside the smallest and the biggest.
    pub random_children: u64,
    /// In-place distillation: all but the biggest child learn from its predictions (paper, 3.1). Without it, from the labels.
    pub distillation: bool,
    /// Epochs at the start in which everyone learns from the labels all the same. The paper has none: in a run of hundreds of epochs
    /// the time in which an untrained teacher teaches noise does not matter; in one of tens it does.
    pub label_epochs: u64,
    /// Whether all children of a step see the same patch of each image, resized (paper, 3.1), or each child a patch of its own, so that
    /// the teacher has seen another than the student.
    pub same_patch: bool,
    /// Which children are regularised.
    pub regularise: Regularise,
    /// Whether features are dropped before the classifier, at the rate of the search space.
    pub dropout: bool,
    /// Share of a target made from labels that is spread over all classes.
    pub label_smoothing: f64,
    /// Whether the last batch norm of every residual block starts at zero (paper, 3.1) or, naively, at one.
    pub zero_gamma: bool,
    /// Decay of an average of the weights over the steps, which is then what is validated and kept; none, no average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average: Option<f64>,
    /// The learning rate.
    pub schedule: Schedule,
    /// The optimiser.
    pub optimiser: OptimiserSettings,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks for it")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Which children a run trains.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Roster {
    /// Those of the whole search space, by the sandwich rule.
    #[default]
    Space,
    /// One child alone, regularised as the biggest is: what a model of this architecture reaches without a supernet.
    Child(Choices),
    /// The biggest child, and one that learns from its predictions in the same weights (paper, 5 and Table 3: "FromScratch, Distill (B)").
    BiggestAnd(Choices),
}

impl Roster {
    /// Whether the whole space is trained.
    #[must_use]
    pub fn is_space(&self) -> bool {
        *self == Self::Space
    }
}

/// Which children have weight decay and dropout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Regularise {
    /// The biggest alone: the others underfit as it is (paper, 3.1).
    #[default]
    Biggest,
    /// Every child.
    Everyone,
}

impl Default for TrainSettings {
    fn default() -> Self {
        Self {
            epochs: 8,
            batch_size: 128,
            seed: 0,
            held_out: 0,
            roster: Roster::Space,
            sandwich: true,
            random_children: 2,
            distillation: true,
            label_epochs: 0,
            same_patch: true,
            regularise: Regularise::Biggest,
            dropout: true,
            label_smoothing: 0.1,
            zero_gamma: true,
            average: None,
            schedule: Schedule::default(),
            optimiser: OptimiserSettings::default(),
        }
    }
}

impl TrainSettings {
    /// Checks every field.
    ///
    /// # Errors
    /// [`TrainError::Setting`] names the first that cannot be, and what is allowed.
    pub fn validate(&self) -> Result<(), TrainError> {
        let (schedule, optimiser) = (&self.schedule, &self.optimiser);
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let share = |value: f64| (0.0..1.0).contains(&value);
        let checks = [
            ("epochs", (1..=100_000).contains(&self.epochs), "from 1 to 100000"),
            ("batch_size", (2..=65_535).contains(&self.batch_size), "from 2 to 65535"),
            ("random_children", self.random_children <= 64, "at most 64"),
            ("distillation", self.sandwich || !self.distillation, "false where sandwich is: without the biggest child nobody teaches"),
            ("label_smoothing", share(self.label_smoothing), "from 0 to below 1"),
            ("average", self.average.is_none_or(|decay| decay > 0.0 && share(decay)), "between 0 and 1"),
            ("schedule.rate_per_256", positive(schedule.rate_per_256), "above 0"),
            ("schedule.reference_epochs", positive(schedule.reference_epochs), "above 0"),
            ("schedule.warmup_epochs", schedule.warmup_epochs >= 0.0 && schedule.warmup_epochs.is_finite(), "0 or more"),
            ("schedule.decay", positive(schedule.decay) && schedule.decay <= 1.0, "above 0 and at most 1"),
            ("schedule.decay_epochs", positive(schedule.decay_epochs), "above 0"),
            ("schedule.floor", (0.0..=1.0).contains(&schedule.floor), "from 0 to 1"),
            ("optimiser.decay", share(optimiser.decay), "from 0 to below 1"),
            ("optimiser.momentum", share(optimiser.momentum), "from 0 to below 1"),
            ("optimiser.epsilon", positive(optimiser.epsilon), "above 0"),
            ("optimiser.weight_decay", optimiser.weight_decay >= 0.0 && optimiser.weight_decay.is_finite(), "0 or more"),
        ];
        match checks.into_iter().find(|(_, holds, _)| !holds) {
            Some((name, _, allowed)) => Err(TrainError::Setting { name, allowed }),
            None => Ok(()),
        }
    }

    /// Patches that a step needs of each image: one, or one for each of its children.
    pub(super) fn patches(&self) -> usize {
        match self.roster {
            _ if self.same_patch => 1,
            Roster::Space => self.random_children as usize + 2,
            Roster::Child(_) => 1,
            Roster::BiggestAnd(_) => 2,
        }
    }

    pub(super) fn gamma(&self) -> GammaInit {
        if self.zero_gamma { GammaInit::ZeroLast } else { GammaInit::One }
    }

    /// Weight decay that the optimiser applies once a step; where everyone is regularised, every child's loss has its own.
    pub(super) fn optimiser(&self) -> OptimiserSettings {
        let weight_decay = match self.regularise {
            Regularise::Biggest => self.optimiser.weight_decay,
            Regularise::Everyone => 0.0,
        };
        OptimiserSettings { weight_decay, ..self.optimiser.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{Decay, OptimiserKind};

    #[test]
    fn impossible_settings_are_named() {
        type Break = fn(&mut TrainSettings);
        let cases: [(Break, &str); 11] = [
            (|s| s.schedule.rate_per_256 = -0.1, "schedule.rate_per_256 must be above 0"),
            (|s| s.schedule.rate_per_256 = f64::NAN, "schedule.rate_per_256 must be above 0"),
            (|s| s.schedule.floor = 1.5, "schedule.floor must be from 0 to 1"),
            (|s| s.sandwich = false, "distillation must be false where sandwich is"),
            (|s| s.label_smoothing = 1.0, "label_smoothing must be from 0 to below 1"),
            (|s| s.average = Some(1.0), "average must be between 0 and 1"),
            (|s| s.optimiser.weight_decay = -1.0, "optimiser.weight_decay must be 0 or more"),
            (|s| s.epochs = 0, "epochs must be from 1 to 100000"),
            (|s| s.epochs = u64::MAX / 2 + 1, "epochs must be from 1 to 100000"),
            (|s| s.batch_size = 1, "batch_size must be from 2 to 65535"),
            (|s| s.random_children = 65, "random_children must be at most 64"),
        ];
        assert!(TrainSettings::default().validate().is_ok());
        for (break_it, expected) in cases {
            let mut settings = TrainSettings::default();
            break_it(&mut settings);
            let message = settings.validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} should contain {expected:?}");
        }
    }

    /// What the paper does is on by default.
    #[test]
    fn the_defaults_are_the_papers() {
        let s = TrainSettings::default();
        assert!(s.sandwich && s.distillation && s.same_patch && s.dropout && s.zero_gamma);
        assert_eq!((s.random_children, s.label_epochs, s.average), (2, 0, None));
        assert_eq!((s.regularise, s.label_smoothing), (Regularise::Biggest, 0.1));
        let schedule = &s.schedule;
        assert_eq!((schedule.shape, schedule.decay, schedule.decay_epochs, schedule.floor), (Decay::Exponential, 0.97, 2.4, 0.05));
        let optimiser = &s.optimiser;
        assert_eq!((optimiser.kind, optimiser.momentum, optimiser.decay), (OptimiserKind::RmsProp, 0.9, 0.9));
        assert_eq!((optimiser.epsilon, optimiser.weight_decay), (0.001, 1e-5));
        assert!(schedule.warmup_epochs > 0.0);
    }

    /// Runs begun before a setting existed go on with its default.
    #[test]
    fn an_older_state_reads_as_the_paper_has_it() {
        let text = r#"{"epochs": 3, "optimiser": {"decay": 0.9, "momentum": 0.9, "epsilon": 0.001, "weight_decay": 0.00001},
            "schedule": {"rate_per_256": 0.016, "floor": 0.05}}"#;
        let settings: TrainSettings = serde_json::from_str(text).unwrap();
        assert_eq!(settings, TrainSettings { epochs: 3, ..TrainSettings::default() });
    }
}
