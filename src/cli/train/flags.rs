//! What a training run is told on the command line.

use std::path::PathBuf;

use anyhow::{bail, ensure};
use clap::ValueEnum;

use super::read_json;
use crate::space::{SearchSpace, Shortcut};
use crate::train::{Decay, OptimiserKind, Regularise, Schedule, TrainSettings};

/// Flags that change single settings.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct SettingsFlags {
    /// JSON file of all training settings; the flags below change single ones. What neither says stays as it was where a run is
    /// resumed, and is else as told below
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Passes over the training images; 8 if not given, and 2 in an analysis
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    epochs: Option<u64>,
    /// Images a step; 128 if not given
    #[arg(long, value_parser = clap::value_parser!(u16).range(2..))]
    batch_size: Option<u16>,
    /// Learning rate for a batch of 256 images, scaled to the batch; 0.016 if not given
    #[arg(long)]
    learning_rate: Option<f64>,
    /// Constant ending: the learning rate never falls below this fraction of its highest; 0.05 if not given, and 0 with --schedule cosine or linear
    #[arg(long)]
    floor: Option<f64>,
    /// How the learning rate decays; exponential if not given
    #[arg(long, value_enum)]
    schedule: Option<Shape>,
    /// How gradients become updates; rmsprop if not given
    #[arg(long, value_enum)]
    optimiser: Option<Rule>,
    /// Keep an average of the weights with this decay, such as 0.999, and use it for validation and for the model
    #[arg(long, value_name = "DECAY")]
    average: Option<f64>,
    /// Random children a step, beside the smallest and the biggest; 2 if not given
    #[arg(long, value_name = "CHILDREN", value_parser = clap::value_parser!(u64).range(0..=64))]
    random_children: Option<u64>,
    /// Epochs at the start in which every child learns from the labels: for short runs, in which a teacher that knows nothing yet
    /// costs much of the time
    #[arg(long, value_name = "EPOCHS")]
    label_epochs: Option<u64>,
    /// Training images that are never trained on, drawn under the seed, for `bignas search --select-on held-out`
    #[arg(long, value_name = "IMAGES")]
    hold_out: Option<usize>,
    /// Switch a technique off, to see what it is worth
    #[arg(long, value_enum, num_args = 1.., value_name = "TECHNIQUE")]
    without: Vec<Technique>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shape {
    /// By a factor every few epochs, as in the paper
    Exponential,
    /// Half a cosine wave
    Cosine,
    /// Straight to zero
    Linear,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Rule {
    /// RMSProp with momentum as TensorFlow has it, as in the paper
    Rmsprop,
    /// Stochastic gradient descent with Nesterov's momentum
    Sgd,
}

/// What the paper adds to plain training of shared weights, and what it takes from EfficientNet. Augmentation has flags of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Technique {
    /// The smallest and the biggest child at every step; without it nobody distils either
    Sandwich,
    /// Children learn from the biggest's predictions
    Distillation,
    /// All children of a step see the same patch of each image, resized; without it, each a patch of its own
    SamePatch,
    /// The last batch norm of every block starts at zero
    ZeroGamma,
    /// Blocks that change channels or resolution have a skip connection too
    TransitionSkips,
    /// Weight decay and dropout for the biggest child only
    RegulariseBiggest,
    /// The learning rate ends at a floor; without it, it falls to the end, as with `--floor 0`
    ConstantEnding,
    /// The learning rate begins at zero
    WarmUp,
    /// A share of every label goes to the other classes
    LabelSmoothing,
    /// Large weights are drawn towards zero
    WeightDecay,
    /// Features are dropped before the classifier
    Dropout,
}

impl SettingsFlags {
    /// `space` without the skip connections that the flags switch off.
    pub(in crate::cli) fn change_space(&self, space: SearchSpace) -> SearchSpace {
        let skips = !self.without.contains(&Technique::TransitionSkips);
        if skips { space } else { SearchSpace { shortcut: Shortcut::IdentityOnly, ..space } }
    }

    /// Refuses flags that somebody gave and that are `decided` without them: they would change nothing.
    pub(in crate::cli) fn refuse(&self, decided: &[&str]) -> anyhow::Result<()> {
        let flags =
            [("--learning-rate", self.learning_rate.is_some()), ("--schedule", self.schedule.is_some()), ("--floor", self.floor.is_some())];
        let flags = flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag.to_owned());
        let names = self.without.iter().filter_map(ValueEnum::to_possible_value);
        let without = names.map(|name| format!("--without {}", name.get_name()));
        let refused = flags.chain(without).find(|flag| decided.contains(&flag.as_str()));
        refused.map_or(Ok(()), |flag| bail!("{flag} is what this analysis decides for every training: leave it out"))
    }

    /// Changes how the rate decays, and its floor: where nobody says one, another shape brings its own.
    fn change_shape(&self, schedule: &mut Schedule) {
        let told = self.schedule.map(|shape| match shape {
            Shape::Exponential => Decay::Exponential,
            Shape::Cosine => Decay::Cosine,
            Shape::Linear => Decay::Linear,
        });
        if let Some(shape) = told.filter(|shape| *shape != schedule.shape) {
            let default = Schedule::default();
            schedule.floor = if shape == default.shape { default.floor } else { 0.0 };
            schedule.shape = shape;
        }
        schedule.floor = self.floor.unwrap_or(schedule.floor);
    }

    /// The settings of the file, else `base`, with what the flags change.
    pub(in crate::cli) fn change(&self, base: TrainSettings) -> anyhow::Result<TrainSettings> {
        let mut settings: TrainSettings = self.settings.as_deref().map(read_json).transpose()?.unwrap_or(base);
        settings.epochs = self.epochs.unwrap_or(settings.epochs);
        settings.batch_size = self.batch_size.map_or(settings.batch_size, usize::from);
        settings.schedule.rate_per_256 = self.learning_rate.unwrap_or(settings.schedule.rate_per_256);
        settings.label_epochs = self.label_epochs.unwrap_or(settings.label_epochs);
        settings.average = self.average.or(settings.average);
        settings.held_out = self.hold_out.unwrap_or(settings.held_out);
        settings.random_children = self.random_children.unwrap_or(settings.random_children);
        self.change_shape(&mut settings.schedule);
        match self.optimiser {
            Some(Rule::Rmsprop) => settings.optimiser.kind = OptimiserKind::RmsProp,
            Some(Rule::Sgd) => settings.optimiser.kind = OptimiserKind::Sgd,
            None => {}
        }
        for technique in &self.without {
            match technique {
                Technique::Sandwich => (settings.sandwich, settings.distillation) = (false, false),
                Technique::Distillation => settings.distillation = false,
                Technique::SamePatch => settings.same_patch = false,
                Technique::ZeroGamma => settings.zero_gamma = false,
                // The network has them or not, not the training.
                Technique::TransitionSkips => {}
                Technique::RegulariseBiggest => settings.regularise = Regularise::Everyone,
                Technique::ConstantEnding => settings.schedule.floor = 0.0,
                Technique::WarmUp => settings.schedule.warmup_epochs = 0.0,
                Technique::LabelSmoothing => settings.label_smoothing = 0.0,
                Technique::WeightDecay => settings.optimiser.weight_decay = 0.0,
                Technique::Dropout => settings.dropout = false,
            }
        }
        let both = self.floor.is_some_and(|floor| floor > 0.0) && self.without.contains(&Technique::ConstantEnding);
        ensure!(!both, "--without constant-ending means --floor 0: leave one of the two out");
        settings.validate()?;
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        flags: SettingsFlags,
    }

    /// The floor that `text` makes of a schedule of `shape` with a floor of 1 %.
    fn floor(shape: Decay, text: &str) -> anyhow::Result<f64> {
        let schedule = Schedule { shape, floor: 0.01, ..Schedule::default() };
        let flags = Command::try_parse_from(std::iter::once("train").chain(text.split_whitespace()))?.flags;
        Ok(flags.change(TrainSettings { schedule, ..TrainSettings::default() })?.schedule.floor)
    }

    /// What `text` makes of the defaults.
    fn told(text: &str) -> TrainSettings {
        let flags = Command::try_parse_from(std::iter::once("train").chain(text.split_whitespace())).unwrap().flags;
        flags.change(TrainSettings::default()).unwrap()
    }

    /// Each flag changes what it names, and that alone.
    #[test]
    fn every_flag_changes_its_setting() {
        type Change = fn(&mut TrainSettings);
        let cases: [(&str, Change); 20] = [
            ("", |_| {}),
            ("--without sandwich", |s| (s.sandwich, s.distillation) = (false, false)),
            ("--without distillation", |s| s.distillation = false),
            ("--without same-patch", |s| s.same_patch = false),
            ("--without zero-gamma", |s| s.zero_gamma = false),
            ("--without transition-skips", |_| {}),
            ("--without regularise-biggest", |s| s.regularise = Regularise::Everyone),
            ("--without constant-ending", |s| s.schedule.floor = 0.0),
            ("--without warm-up", |s| s.schedule.warmup_epochs = 0.0),
            ("--without label-smoothing", |s| s.label_smoothing = 0.0),
            ("--without weight-decay dropout", |s| (s.optimiser.weight_decay, s.dropout) = (0.0, false)),
            ("--epochs 3", |s| s.epochs = 3),
            ("--batch-size 9", |s| s.batch_size = 9),
            ("--learning-rate 0.5", |s| s.schedule.rate_per_256 = 0.5),
            ("--optimiser sgd", |s| s.optimiser.kind = OptimiserKind::Sgd),
            ("--average 0.99", |s| s.average = Some(0.99)),
            ("--random-children 5", |s| s.random_children = 5),
            ("--label-epochs 4", |s| s.label_epochs = 4),
            ("--hold-out 7", |s| s.held_out = 7),
            ("--schedule linear", |s| (s.schedule.shape, s.schedule.floor) = (Decay::Linear, 0.0)),
        ];
        for (text, change) in cases {
            let mut expected = TrainSettings::default();
            change(&mut expected);
            assert_eq!(told(text), expected, "{text:?}");
        }
        let skips = |text: &str| {
            let flags = Command::try_parse_from(std::iter::once("train").chain(text.split_whitespace())).unwrap().flags;
            flags.change_space(crate::space::preset("bignas").unwrap()).skips_transitions()
        };
        assert!(skips("") && !skips("--without transition-skips"));
    }

    #[test]
    fn what_is_decided_elsewhere_is_refused_by_name() {
        let cases = [
            ("", None),
            ("--epochs 3 --without dropout", None),
            ("--floor 0.1", Some("--floor is")),
            ("--learning-rate 0.1 --without dropout warm-up", Some("--without warm-up is")),
        ];
        for (text, expected) in cases {
            let flags = Command::try_parse_from(std::iter::once("train").chain(text.split_whitespace())).unwrap().flags;
            let refused = flags.refuse(&["--schedule", "--floor", "--without warm-up"]).err().map(|error| error.to_string());
            assert_eq!(refused.is_some(), expected.is_some(), "{text:?}: {refused:?}");
            assert!(expected.is_none_or(|expected| refused.is_some_and(|refused| refused.starts_with(expected))), "{text:?}");
        }
    }

    #[test]
    fn another_shape_brings_its_own_floor() {
        let cases = [
            (Decay::Exponential, "", 0.01),
            (Decay::Exponential, "--schedule exponential", 0.01),
            (Decay::Exponential, "--schedule cosine", 0.0),
            (Decay::Exponential, "--schedule linear --floor 0.2", 0.2),
            (Decay::Cosine, "--schedule exponential", 0.05),
            (Decay::Cosine, "--schedule exponential --without constant-ending", 0.0),
            (Decay::Cosine, "--floor 0 --without constant-ending", 0.0),
        ];
        for (shape, text, expected) in cases {
            assert_eq!(floor(shape, text).unwrap(), expected, "{shape:?}, {text:?}");
        }
        let both = floor(Decay::Cosine, "--floor 0.1 --without constant-ending").unwrap_err().to_string();
        assert!(both.contains("leave one of the two out"), "{both}");
    }
}
