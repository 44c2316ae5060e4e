//! `bignas train`: trains the single-stage model of a search space.

pub(super) mod augment;
mod defaults;
pub(super) mod flags;
pub(super) mod models;
mod what;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use self::augment::AugmentFlags;
use self::flags::SettingsFlags;
use self::models::{ModelFlags, given};
use self::what::What;
use super::common::{Replace, tell_skipped};
use super::shell::{command_line, own_command, path_word};
use super::signals::stop_flag;
use super::stop::Stopped;
use crate::checkpoint::{Draft, Model, Weights};
use crate::console::tell;
use crate::data::{Augment, DataError, DataOptions, ImageSet, PatchSet, Source, Split};
use crate::process::suit_training;
use crate::train::{Device, Job, Outcome, Provenance, Roster, RunDirectory, TrainError, TrainSettings, gpu, loader_threads, run as train};

/// Arguments of `bignas train`.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    /// Directory of the images: IDX files (plain or .gz), CIFAR-10's binary batches, or train/CLASS/ and test/CLASS/ folders
    #[arg(long, env = "BIGNAS_DATA", value_name = "DIR")]
    data: PathBuf,
    /// Image files that cannot be read and are skipped, at most; each is named in the log
    #[arg(long, default_value_t = 0, value_name = "FILES")]
    max_corrupt: usize,
    /// Directory of the run: checkpoints and metrics
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Directory of the model that is written at the end
    #[arg(long, env = "BIGNAS_MODEL", value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    replace: Replace,
    /// Name of the model; the search space's, if not given
    #[arg(long)]
    name: Option<String>,
    /// Training images that the model ships for recalibration, 1,024 if not given; 0 where their licence forbids it: `bignas search
    /// --calibration` then ships statistics of the family instead
    #[arg(long, value_name = "IMAGES", value_parser = clap::value_parser!(u32).range(0..=65_536))]
    calibration_images: Option<u32>,
    /// Search space: the name of a preset (bignas, cifar10, fashion-mnist, attentivenas) or a JSON file; by default that of the model to start
    /// from, else what suits the images: fashion-mnist for grey ones, cifar10 for colour ones up to 64 pixels, bignas for larger ones
    #[arg(long)]
    space: Option<String>,
    #[command(flatten)]
    models: ModelFlags,
    /// JSON file of the preprocessing; by default what suits the space
    #[arg(long, value_name = "FILE")]
    preprocessing: Option<PathBuf>,
    /// Text file of the names of the classes, one a line, in the order of their labels
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingsFlags,
    /// Seed of everything random
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    augment: AugmentFlags,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = Compute::Cpu)]
    device: Compute,
    /// Threads to compute on; all cores, if not given
    #[arg(long, env = "BIGNAS_THREADS", value_name = "THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Threads that read, crop and change images; half as many as compute, if not given
    #[arg(long, value_name = "THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    loader_threads: Option<u16>,
    /// Go on from the newest checkpoint of the run, with its settings but for what other flags change from here on
    #[arg(long)]
    resume: bool,
}

/// What networks are trained on.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Compute {
    /// The cores of this machine
    Cpu,
    /// The first GPU that CUDA shows
    Cuda,
}

impl Compute {
    pub(super) fn resolve(self) -> Result<Device, TrainError> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda => gpu(),
        }
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    suit_training();
    if !args.resume {
        args.replace.check(&args.model)?;
    }
    let models = args.models.open()?;
    let what = if args.resume { What::resumed(args, &models)? } else { What::from_args(args, &models)? };
    if args.resume && !may_replace(args, &what)? {
        args.replace.check(&args.model)?;
    }
    models.check(&what.space)?;
    let train_images = trained_on(open(args, &what, Split::Train, what.classes.clone())?, &what.settings)?;
    models.check_classes(train_images.classes())?;
    models.warn_of_known_images(&what.settings);
    models.warn_of_other_patches(&what.preprocessing);
    if models.teacher.is_none() {
        warn_of_labels_alone(&what.settings);
    }
    warn_of_empty_classes(&train_images);
    let source = |images, augment: &Augment| Source { images, preprocessing: what.preprocessing.clone(), augment: augment.clone() };
    let validation = match open(args, &what, Split::Test, Some(train_images.classes().to_vec())) {
        Ok(images) => Some(source(images, &Augment::NONE)),
        Err(DataError::Layout { .. }) => {
            tell(format!(
                "{}: there are no test images (test/CLASS/ or val/CLASS/), so no accuracy is reported on the way",
                args.data.display()
            ));
            None
        }
        Err(error) => return Err(error.into()),
    };
    let threads = args.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
    let job = Job {
        space: &what.space,
        start: models.start.as_ref().map(given),
        teacher: models.teacher.as_ref().map(given),
        train: Arc::new(source(train_images, &what.augment)),
        validation: validation.as_ref(),
        wanted: what.wanted.clone(),
        directory: &args.run,
        device: args.device.resolve()?,
        threads,
        loader_threads: args.loader_threads.map_or_else(|| loader_threads(threads), usize::from),
        stop: stop_flag()?,
    };
    let outcome = train(&job, &what.settings, args.resume)?;
    tell_skipped(&job.train.images);
    match outcome {
        Outcome::Stopped { checkpoint } => Err(Stopped { checkpoint, go_on: resuming(own_command()) }.into()),
        Outcome::Finished { weights, provenance } => create_model(args, &what, &job, weights, &provenance),
    }
}

/// Whether a run that goes on may replace the model that lies there: its own, without a family, or with one that stays, as no step is made.
fn may_replace(args: &Args, what: &What) -> Result<bool> {
    let (own, Ok(model)) = (RunDirectory::model(&args.run), Model::open(&args.model)) else { return Ok(false) };
    let state = RunDirectory::peek(&args.run)?;
    let done = state.step >= what.settings.epochs * state.steps_per_epoch;
    Ok(own.as_deref() == Some(model.card.weights_sha256.as_str()) && (done || model.family.members.is_empty()))
}

/// Opens a part of the data set.
fn open(args: &Args, what: &What, split: Split, class_names: Option<Vec<String>>) -> Result<ImageSet, DataError> {
    let options = DataOptions { class_names, max_corrupt: args.max_corrupt, ..DataOptions::new(&what.preprocessing) };
    ImageSet::open(&args.data, split, options)
}

/// Warns of classes without a training image: with names of another data set, or a line too many, every label would be another's.
fn warn_of_empty_classes(images: &ImageSet) {
    let empty = images.classes_without_images();
    if let Some(first) = empty.first() {
        tell(format!(
            "{} of {} classes have no training image, the first of them {first}: does --labels name the data set's classes, in its order?",
            empty.len(),
            images.classes().len()
        ));
    }
}

/// Warns where children would distil but for the epochs in which they learn from labels, which are all there are.
fn warn_of_labels_alone(settings: &TrainSettings) {
    if settings.distillation && settings.label_epochs >= settings.epochs && !matches!(settings.roster, Roster::Child(_)) {
        tell(format!(
            "every one of the {} epochs is one of the {} in which children learn from labels (--label-epochs), so none distils",
            settings.epochs, settings.label_epochs
        ));
    }
}

/// Writes the model that a run ended in, and says what to do with it.
fn create_model(args: &Args, what: &What, job: &Job<'_>, weights: Weights, provenance: &Provenance) -> Result<()> {
    let images = &job.train.images;
    let calibration = match what.wanted.calibration_images.unwrap_or(CALIBRATION_IMAGES) {
        0 => None,
        count => Some(PatchSet::from_patches(&job.train.draw(count as usize, what.settings.seed)?.0)?),
    };
    // A small data set does not fill the usual batch.
    let calibration = calibration.map(|set| (set.count.min(CALIBRATION_BATCH), set));
    let draft = Draft {
        name: what.wanted.name.clone().unwrap_or_else(|| what.space.name.clone()),
        labels: what.wanted.labels.clone().unwrap_or_else(|| images.classes().to_vec()),
        class_folders: what.wanted.labels.as_ref().map(|_| images.classes().to_vec()),
        preprocessing: what.preprocessing.clone(),
        space: what.space.clone(),
        calibration: calibration.map(|(batch, set)| (set.into(), batch, what.settings.seed)),
        training: Some(serde_json::to_value(provenance)?),
    };
    let searched = Model::open(&args.model).is_ok_and(|before| !before.family.members.is_empty());
    // Much may have come to lie there since it was first asked.
    let replaces = args.replace.replaces(RunDirectory::model(&args.run));
    let model = Model::create(&args.model, draft, weights, &replaces)
        .with_context(|| format!("no model was written; {} keeps what was trained, and --resume goes on from there", args.run.display()))?;
    RunDirectory::remember_model(&args.run, &model.card.weights_sha256)?;
    let (path, data) = (model.directory().display(), args.data.display());
    println!("trained {} steps; wrote {path}", provenance.steps);
    match (searched, model.family.members.is_empty()) {
        (_, false) => println!("the weights are those that its family was searched in"),
        (true, true) => println!("its family was searched in other weights, and is gone"),
        (false, true) => {}
    }
    let images = if model.card.calibration.is_some() { "" } else { " --calibration DIR" };
    let corrupt = if args.max_corrupt > 0 { format!(" --max-corrupt {}", args.max_corrupt) } else { String::new() };
    let next = format!("bignas search --model {} --data {}{images}{corrupt}", path_word(&args.model), path_word(&args.data));
    match job.validation {
        Some(_) => println!("next: {next}"),
        None => println!("next: put test images into {data}/test/CLASS/, which a family is measured on, then: {next}"),
    }
    Ok(())
}

/// The training images that are not held out.
pub(super) fn trained_on(images: ImageSet, settings: &TrainSettings) -> Result<ImageSet> {
    let (held_out, all) = (settings.held_out, images.len());
    ensure!(held_out < all, "--hold-out {held_out}: there are {all} training images, and some must be left to train on");
    Ok(if held_out > 0 { images.without_held_out(held_out, settings.seed) } else { images })
}

/// The command line that this process was given, with `--resume`, ready to be pasted into a shell.
fn resuming(arguments: impl Iterator<Item = String>) -> String {
    command_line(arguments.filter(|argument| argument != "--resume").chain(["--resume".to_owned()]))
}

/// Images that a model ships for recalibration where nobody says how many, and in a batch of it.
const CALIBRATION_IMAGES: u32 = 1_024;
const CALIBRATION_BATCH: usize = 64;

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not valid", path.display()))
}

#[cfg(test)]
mod tests {
    use super::resuming;

    #[test]
    fn the_command_to_resume_can_be_pasted() {
        let cases: [(&[&str], &str); 2] = [
            (&["bignas", "train", "--run", "runs/a"], "bignas train --run runs/a --resume"),
            (&["bignas", "train", "--resume", "--run", "a b"], "bignas train --run 'a b' --resume"),
        ];
        for (arguments, expected) in cases {
            assert_eq!(resuming(arguments.iter().map(|&argument| argument.to_owned())), expected);
        }
    }
}
