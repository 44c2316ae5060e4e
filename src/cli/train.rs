//! `bignas train`: trains the single-stage model of a search space.

pub(super) mod augment;
mod defaults;
pub(super) mod flags;
pub(super) mod models;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use self::augment::{AugmentFlags, default_augment};
use self::defaults::{default_preprocessing, default_space};
use self::flags::SettingsFlags;
use self::models::{ModelFlags, Models, folders, given};
use super::common::{Replace, draw_calibration, tell_skipped};
use super::init::read_space;

use crate::checkpoint::{Draft, Model};
use crate::data::{Augment, DataError, DataOptions, ImageSet, Source, Split};
use crate::image::Preprocessing;
use crate::process::suit_training;
use crate::space::SearchSpace;
use crate::train::{Device, Job, Outcome, RunDirectory, RunState, TrainError, TrainSettings, gpu, loader_threads, run as train};

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
    /// Training images that the model ships for recalibration; 0 where their licence forbids it: `bignas search --calibration` then
    /// ships statistics of the family instead
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(0..=65_536))]
    calibration_images: u32,
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
    models.check(&what.space)?;
    let source = |split, augment: &Augment| -> Result<Source> {
        let options =
            DataOptions { class_names: what.classes.clone(), max_corrupt: args.max_corrupt, ..DataOptions::new(&what.preprocessing) };
        let images = ImageSet::open(&args.data, split, options)?;
        let images = if matches!(split, Split::Train) { trained_on(images, &what.settings)? } else { images };
        Ok(Source { images, preprocessing: what.preprocessing.clone(), augment: augment.clone() })
    };
    let train_images = source(Split::Train, &what.augment)?;
    models.check_classes(train_images.images.classes())?;
    models.warn_of_known_images(&what.settings);
    let validation = match source(Split::Test, &Augment::NONE) {
        Ok(validation) => Some(validation),
        Err(error) if matches!(error.downcast_ref(), Some(DataError::Layout { .. })) => {
            eprintln!(
                "{}: there are no test images (test/CLASS/ or val/CLASS/), so no accuracy is reported on the way",
                args.data.display()
            );
            None
        }
        Err(error) => return Err(error),
    };
    let threads = args.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
    let job = Job {
        space: &what.space,
        start: models.start.as_ref().map(given),
        teacher: models.teacher.as_ref().map(given),
        train: Arc::new(train_images),
        validation: validation.as_ref(),
        directory: &args.run,
        device: args.device.resolve()?,
        threads,
        loader_threads: args.loader_threads.map_or_else(|| loader_threads(threads), usize::from),
        stop: stop_flag()?,
    };
    let outcome = train(&job, &what.settings, args.resume)?;
    tell_skipped(&job.train.images);
    match outcome {
        Outcome::Stopped { checkpoint } => {
            println!("saved {}", checkpoint.display());
            println!("go on with: {}", resuming(std::env::args()));
        }
        Outcome::Finished { weights, provenance } => {
            let (images, preprocessing) = (&job.train.images, what.preprocessing.clone());
            let calibration = match args.calibration_images {
                0 => None,
                count => Some(draw_calibration(&job.train, count as usize, what.settings.seed)?),
            };
            // A small data set does not fill the usual batch.
            let calibration = calibration.map(|set| (set.count.min(CALIBRATION_BATCH), set));
            // What the classes are called to a person, where their folders have other names.
            let named = models.start.as_ref().map(|model| &model.card).filter(|card| card.class_folders.is_some());
            let draft = Draft {
                name: args.name.clone().unwrap_or_else(|| what.space.name.clone()),
                labels: named.map_or_else(|| images.classes().to_vec(), |card| card.labels.clone()),
                class_folders: named.and_then(|card| card.class_folders.clone()),
                preprocessing,
                space: what.space,
                calibration: calibration.map(|(batch, set)| (set.into(), batch, what.settings.seed)),
                training: Some(serde_json::to_value(&provenance)?),
            };
            let searched = Model::open(&args.model).is_ok_and(|before| !before.family.members.is_empty());
            let model = Model::create(&args.model, draft, weights)?;
            let (path, data) = (model.directory().display(), args.data.display());
            println!("trained {} steps; wrote {path}", provenance.steps);
            match (searched, model.family.members.is_empty()) {
                (_, false) => println!("the weights are those that its family was searched in"),
                (true, true) => println!("its family was searched in other weights, and is gone"),
                (false, true) => {}
            }
            let images = if model.card.calibration.is_some() { "" } else { " --calibration DIR" };
            println!("next: bignas search --model {path} --data {data}{images}");
        }
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
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    let quoted = |argument: String| match argument.chars().all(plain) && !argument.is_empty() {
        true => argument,
        false => format!("'{}'", argument.replace('\'', r"'\''")),
    };
    let given = arguments.filter(|argument| argument != "--resume").chain(["--resume".to_owned()]);
    given.map(quoted).collect::<Vec<_>>().join(" ")
}

/// Images in a batch of the recalibration.
const CALIBRATION_BATCH: usize = 64;

/// What is trained, as flags and files say, or as the run to resume does.
struct What {
    space: SearchSpace,
    preprocessing: Preprocessing,
    augment: Augment,
    classes: Option<Vec<String>>,
    settings: TrainSettings,
}

impl What {
    /// What the run did so far, but for what the flags say.
    fn resumed(args: &Args, models: &Models) -> Result<Self> {
        let state = RunDirectory::peek(&args.run)?;
        refuse_changes(args, models, &state)?;
        let augment = args.augment.change(state.augment)?;
        let (seed, roster) = (args.seed.unwrap_or(state.settings.seed), state.settings.roster.clone());
        let settings = TrainSettings { seed, roster, ..args.settings.change(state.settings)? };
        Ok(Self { space: state.space, preprocessing: state.preprocessing, augment, classes: Some(state.classes), settings })
    }

    fn from_args(args: &Args, models: &Models) -> Result<Self> {
        let started = models.start.as_ref().or(models.teacher.as_ref()).map(|model| &model.card);
        let space = match (&args.space, started) {
            (Some(name), _) => read_space(name)?,
            (None, Some(card)) => card.space.clone(),
            (None, None) => {
                let name = default_space(&args.data)?;
                eprintln!("search space: {name}, after the first images (--space names another)");
                read_space(name)?
            }
        };
        let space = args.settings.change_space(space);
        let preprocessing = match &args.preprocessing {
            Some(path) => read_json(path)?,
            None => match started {
                Some(card) => card.preprocessing.clone(),
                None => default_preprocessing(&space, &args.data)?,
            },
        };
        preprocessing.validate()?;
        let augment = args.augment.change(default_augment(&preprocessing))?;
        // What has a flag of its own goes before the file of settings.
        let told = args.settings.change(TrainSettings::default())?;
        let roster = models.roster(&args.models, &space)?.unwrap_or_else(|| told.roster.clone());
        let classes = args.labels.as_deref().map(read_lines).transpose()?;
        Ok(Self {
            classes: classes.or_else(|| started.map(|card| folders(card).to_vec())),
            settings: TrainSettings { roster, seed: args.seed.unwrap_or(told.seed), ..told },
            space,
            preprocessing,
            augment,
        })
    }
}

/// What a run is about is settled at its beginning: flags that say otherwise are refused.
fn refuse_changes(args: &Args, models: &Models, state: &RunState) -> Result<()> {
    let space = args.space.as_deref().map(read_space).transpose()?;
    let preprocessing: Option<Preprocessing> = args.preprocessing.as_deref().map(read_json).transpose()?;
    let labels = args.labels.as_deref().map(read_lines).transpose()?;
    let roster = models.roster(&args.models, &state.space)?;
    let same = [
        ("--space", space.is_none_or(|space| args.settings.change_space(space) == state.space)),
        ("--without zero-gamma", args.settings.change(state.settings.clone())?.zero_gamma == state.settings.zero_gamma),
        ("--without transition-skips", args.settings.change_space(state.space.clone()) == state.space),
        ("--preprocessing", preprocessing.is_none_or(|preprocessing| preprocessing == state.preprocessing)),
        ("--labels", labels.is_none_or(|labels| labels == state.classes)),
        ("--child or --with-biggest", roster.is_none_or(|roster| roster == state.settings.roster)),
    ];
    for (flag, same) in same {
        ensure!(same, "{flag} is not what {} was begun with: leave it out, or start a new run in another directory", args.run.display());
    }
    Ok(())
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not valid", path.display()))
}

fn read_lines(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// A flag that the first Ctrl-C or SIGTERM sets; the second ends the process.
pub(super) fn stop_flag() -> Result<&'static AtomicBool> {
    static STOP: AtomicBool = AtomicBool::new(false);
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("stopping after this step; once more to stop at once");
    })?;
    Ok(&STOP)
}

#[cfg(test)]
mod tests {
    use super::resuming;

    #[test]
    fn the_command_to_resume_can_be_pasted() {
        let cases: [(&[&str], &str); 3] = [
            (&["bignas", "train", "--run", "runs/a"], "bignas train --run runs/a --resume"),
            (&["bignas", "train", "--resume", "--run", "a b"], "bignas train --run 'a b' --resume"),
            (&["bignas", "--name", "it's", ""], r"bignas --name 'it'\''s' '' --resume"),
        ];
        for (arguments, expected) in cases {
            assert_eq!(resuming(arguments.iter().map(|&argument| argument.to_owned())), expected);
        }
    }
}
