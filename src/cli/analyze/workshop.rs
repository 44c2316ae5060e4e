//! What analyses that train share: arms, each a training of its own that can be interrupted, and their accuracies.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, ensure};
use serde::Serialize;

use super::lab::Lab;
use super::{Children, Common};
use crate::checkpoint::Weights;
use crate::cli::common::open_images;
use crate::cli::shell::{command_line, own_command};
use crate::cli::signals::stop_flag;
use crate::cli::stop::Stopped;
use crate::cli::train::augment::{AugmentFlags, default_augment};
use crate::cli::train::flags::SettingsFlags;
use crate::cli::train::models::given;
use crate::cli::train::{Compute, trained_on};
use crate::console::tell;
use crate::data::{Augment, Source, Split};
use crate::evaluate::Tally;
use crate::space::{Child, SearchSpace};
use crate::train::{Course, Job, Outcome, RunDirectory, TrainError, TrainSettings, Wanted, loader_threads, run as train};

/// What every analysis that trains is told.
#[derive(Debug, clap::Args)]
pub(super) struct Training {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    settings: SettingsFlags,
    #[command(flatten)]
    augment: AugmentFlags,
    /// Training images, a seeded choice; all, if not given
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(2..))]
    train_images: Option<u32>,
    /// Where the runs lie; the same command goes on with those that are there
    #[arg(long, value_name = "DIR", default_value = "runs/analysis")]
    runs: PathBuf,
    /// Where to train; children are measured on the CPU
    #[arg(long, value_enum, default_value_t = Compute::Cpu)]
    device: Compute,
    /// Calibration images of every child that is measured
    #[arg(long, default_value_t = 1024, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    calibration_images: u32,
}

/// One training of several that are compared.
pub(super) struct Arm {
    /// What distinguishes it, in words.
    pub(super) name: String,
    /// The model's, or one that differs from it in its skip connections.
    pub(super) space: SearchSpace,
    pub(super) settings: TrainSettings,
    /// Whether it starts from the model's weights.
    pub(super) from_model: bool,
    /// Whether the model's biggest child stands in for the labels.
    pub(super) taught_by_model: bool,
}

/// What became of an arm.
pub(super) enum Trained {
    Finished {
        weights: Box<Weights>,
        course: Course,
    },
    /// The network was no longer a number.
    Diverged {
        /// At this step.
        step: u64,
        /// Up to then.
        course: Course,
    },
}

/// A model, its data, and what is trained beside it.
pub(super) struct Workshop<'a> {
    pub(super) lab: Lab,
    pub(super) settings: TrainSettings,
    args: &'a Training,
    train: Arc<Source>,
    validation: Source,
    directory: PathBuf,
    stop: &'static AtomicBool,
}

/// What the numbers of an analysis say about its trainings.
#[derive(Debug, Serialize)]
pub(super) struct Setup {
    /// What the arms have in common.
    pub(super) settings: TrainSettings,
    pub(super) augment: Augment,
    pub(super) training_images: usize,
    pub(super) test_images: usize,
    pub(super) calibration_images: u32,
}

impl<'a> Workshop<'a> {
    /// Opens the model and its data for the analysis `name`, which looks at `children` and decides itself on what the flags `decided` say.
    pub(super) fn open(args: &'a Training, children: &Children, name: &str, decided: &[&str]) -> anyhow::Result<Self> {
        args.settings.refuse(decided)?;
        let settings = args.settings.change(TrainSettings { epochs: 2, ..TrainSettings::default() })?;
        let seed = args.common.seed.unwrap_or(settings.seed);
        let settings = TrainSettings { seed, ..settings };
        let lab = Lab::open(&args.common, children, seed)?;
        lab.check_calibration(args.calibration_images as usize)?;
        let space = &lab.model.card.space;
        ensure!(
            args.settings.change_space(space.clone()) == *space,
            "{} has skip connections at transitions, and so has everything that is compared with it: leave --without transition-skips \
             out; `bignas analyze initialisation` also trains networks without them",
            lab.model.directory().display()
        );
        let preprocessing = &lab.model.card.preprocessing;
        let source = |split, augment| -> anyhow::Result<Source> {
            let images = open_images(&lab.model.card, &args.common.data, split, args.common.max_corrupt)?;
            let images = if matches!(split, Split::Train) { trained_on(images, &settings)? } else { images };
            Ok(Source { images, preprocessing: preprocessing.clone(), augment })
        };
        // As the model was trained, where it says how.
        let augment = lab.model.card.told_augment().unwrap_or_else(|| default_augment(preprocessing));
        let mut train = source(Split::Train, args.augment.change(augment)?)?;
        if let Some(count) = args.train_images {
            train.images = train.images.sample(count as usize, seed);
        }
        let validation = source(Split::Test, Augment::NONE)?;
        let (train, directory, stop) = (Arc::new(train), args.runs.join(name), stop_flag()?);
        Ok(Self { train, validation, settings, args, directory, stop, lab })
    }

    /// Refuses arms that cannot be trained, before hours go into those that stand before them.
    pub(super) fn check<'b>(&self, arms: impl IntoIterator<Item = &'b Arm>) -> anyhow::Result<()> {
        arms.into_iter().try_for_each(|arm| arm.settings.validate().with_context(|| arm.name.clone()))
    }

    /// Trains an arm, or goes on with it where it was interrupted.
    pub(super) fn train(&self, arm: &Arm) -> anyhow::Result<Trained> {
        let run = self.directory.join(self.folder(arm));
        tell(format!("{}: training in {}", arm.name, run.display()));
        let resume = self.prepare(&run, arm)?;
        let threads = self.args.common.runtime.threads();
        let job = Job {
            space: &arm.space,
            train: Arc::clone(&self.train),
            validation: Some(&self.validation),
            start: arm.from_model.then(|| given(&self.lab.model)),
            teacher: arm.taught_by_model.then(|| given(&self.lab.model)),
            wanted: Wanted::default(),
            directory: &run,
            device: self.args.device.resolve()?,
            threads,
            loader_threads: loader_threads(threads),
            stop: self.stop,
        };
        let course = || Course::read(&run.join("metrics.jsonl"));
        match train(&job, &arm.settings, resume) {
            Ok(Outcome::Finished { weights, .. }) => Ok(Trained::Finished { weights: Box::new(weights), course: course()? }),
            Ok(Outcome::Stopped { checkpoint }) => Err(Stopped { checkpoint, go_on: command_line(own_command()) }.into()),
            Err(TrainError::NotFinite { step, .. }) => Ok(Trained::Diverged { step, course: course()? }),
            Err(error) => Err(error.into()),
        }
    }

    /// Where an arm is trained; one that builds on the model's weights is another with other weights.
    fn folder(&self, arm: &Arm) -> String {
        match arm.from_model || arm.taught_by_model {
            true => slug(&format!("{} {}", arm.name, &self.lab.model.card.weights_sha256[..8])),
            false => slug(&arm.name),
        }
    }

    /// Whether the run is there already and goes on.
    fn prepare(&self, run: &Path, arm: &Arm) -> anyhow::Result<bool> {
        match RunDirectory::peek(run) {
            Ok(state) => {
                let same = state.settings == arm.settings && state.space == arm.space && state.augment == self.train.augment;
                ensure!(same, "{} holds a run with other settings: choose another --runs directory, or delete it", run.display());
                Ok(true)
            }
            Err(TrainError::NothingToResume { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What `child` gets right on the whole test set with the weights that `arm` trained, recalibrated.
    pub(super) fn test(&mut self, arm: &Arm, weights: &Weights, child: &Child) -> anyhow::Result<Tally> {
        let model = &mut self.lab.model;
        let own = (std::mem::replace(&mut model.weights, weights.clone()), std::mem::replace(&mut model.card.space, arm.space.clone()));
        let tally = self.tally(child, &self.train.augment);
        (self.lab.model.weights, self.lab.model.card.space) = own;
        tally
    }

    /// The same with the model's own weights.
    pub(super) fn test_model(&self, child: &Child) -> anyhow::Result<Tally> {
        self.tally(child, &self.lab.model.card.augment())
    }

    /// The same of the weights that stand in the lab, recalibrated on images that are changed as those that they were trained on.
    fn tally(&self, child: &Child, augment: &Augment) -> anyhow::Result<Tally> {
        let images = self.lab.calibration(self.args.calibration_images as usize, augment)?;
        self.lab.tally(child, &self.lab.statistics(child, &images)?)
    }

    /// The learning rate that arms have where they do not say another.
    pub(super) fn rate(&self) -> String {
        format!("Learning rate {} per 256.", self.settings.schedule.rate_per_256)
    }

    pub(super) fn setup(&self) -> Setup {
        Setup {
            settings: self.settings.clone(),
            augment: self.train.augment.clone(),
            training_images: self.train.images.len(),
            test_images: self.lab.test_images(),
            calibration_images: self.args.calibration_images,
        }
    }

    /// What the arms have in common, in a sentence; those that differ in their learning rates say them themselves.
    pub(super) fn describe(&self) -> String {
        let Setup { settings, training_images, test_images, calibration_images, .. } = self.setup();
        format!(
            "{} epoch{} over {training_images} training images, batch {}, {:?}, seed {}; tested on {test_images} \
             images, recalibrated on {calibration_images} training images.",
            settings.epochs,
            if settings.epochs == 1 { "" } else { "s" },
            settings.batch_size,
            settings.optimiser.kind,
            settings.seed
        )
    }
}

/// A name for a directory.
fn slug(name: &str) -> String {
    let plain = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { ' ' });
    plain.collect::<String>().split_whitespace().collect::<Vec<_>>().join("-")
}
