//! What is trained, as flags and files say, or as the run to resume does.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::augment::default_augment;
use super::defaults::{default_preprocessing, default_space};
use super::models::{Models, folders};
use super::{Args, read_json};
use crate::cli::init::read_space;
use crate::console::tell;
use crate::data::Augment;
use crate::image::Preprocessing;
use crate::space::SearchSpace;
use crate::train::{RunDirectory, RunState, TrainSettings, Wanted};

/// What is trained, as flags and files say, or as the run to resume does.
pub(super) struct What {
    pub(super) space: SearchSpace,
    pub(super) preprocessing: Preprocessing,
    pub(super) augment: Augment,
    pub(super) classes: Option<Vec<String>>,
    pub(super) settings: TrainSettings,
    pub(super) wanted: Wanted,
}

impl What {
    /// What the run did so far, but for what the flags say.
    pub(super) fn resumed(args: &Args, models: &Models) -> Result<Self> {
        let state = RunDirectory::peek(&args.run)?;
        refuse_changes(args, models, &state)?;
        let augment = args.augment.change(state.augment)?;
        let (seed, roster) = (args.seed.unwrap_or(state.settings.seed), state.settings.roster.clone());
        let settings = TrainSettings { seed, roster, ..args.settings.change(state.settings)? };
        let wanted = wanted(args, models).or(state.wanted);
        Ok(Self { space: state.space, preprocessing: state.preprocessing, augment, classes: Some(state.classes), settings, wanted })
    }

    pub(super) fn from_args(args: &Args, models: &Models) -> Result<Self> {
        let started = models.start.as_ref().or(models.teacher.as_ref()).map(|model| &model.card);
        let space = match (&args.space, started) {
            (Some(name), _) => read_space(name)?,
            (None, Some(card)) => card.space.clone(),
            (None, None) => {
                let name = default_space(&args.data)?;
                tell(format!("search space: {name}, after the first images (--space names another)"));
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
            wanted: wanted(args, models),
        })
    }
}

fn wanted(args: &Args, models: &Models) -> Wanted {
    let named = models.start.as_ref().map(|model| &model.card).filter(|card| card.class_folders.is_some());
    Wanted { name: args.name.clone(), calibration_images: args.calibration_images, labels: named.map(|card| card.labels.clone()) }
}

/// What a run is about is settled at its beginning: flags that say otherwise are refused.
fn refuse_changes(args: &Args, models: &Models, state: &RunState) -> Result<()> {
    let space = args.space.as_deref().map(read_space).transpose()?;
    let preprocessing: Option<Preprocessing> = args.preprocessing.as_deref().map(read_json).transpose()?;
    let labels = args.labels.as_deref().map(read_lines).transpose()?;
    let roster = models.roster(&args.models, &state.space)?;
    let zero_gamma = args.settings.change(state.settings.clone())?.zero_gamma;
    ensure!(
        state.settings.zero_gamma || !zero_gamma,
        "{} was begun without zero-gamma, and --settings switches it on: say --without zero-gamma too",
        args.run.display()
    );
    let same = [
        ("--space", space.is_none_or(|space| args.settings.change_space(space) == state.space)),
        ("--without zero-gamma", zero_gamma == state.settings.zero_gamma),
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

fn read_lines(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}
