//! Models that a run builds on, and the one child that it may train.

use std::path::{Path, PathBuf};

use anyhow::ensure;

use crate::checkpoint::{Model, ModelCard};
use crate::cli::common::{extreme, find_child, read_child};
use crate::console::tell;
use crate::image::Preprocessing;
use crate::space::SearchSpace;
use crate::train::{Given, Roster, TrainSettings};

/// Flags about other models, and about training one child only.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ModelFlags {
    /// Model whose weights the run starts from
    #[arg(long, value_name = "DIR")]
    start: Option<PathBuf>,
    /// Model whose biggest child, as it is, stands in for the labels
    #[arg(long, value_name = "DIR")]
    teacher: Option<PathBuf>,
    /// Train this child alone: `smallest`, `biggest`, a JSON file of choices, or an id from the family of the model to start from or
    /// of the teacher
    #[arg(long, value_name = "CHILD")]
    child: Option<String>,
    /// Train the biggest child beside it, in the same weights, as its teacher
    #[arg(long, requires = "child")]
    with_biggest: bool,
}

/// What the classes of a model are called in image data sets.
pub(super) fn folders(card: &ModelCard) -> &[String] {
    card.class_folders.as_ref().unwrap_or(&card.labels)
}

/// The weights of `model`, for a run.
pub(in crate::cli) fn given(model: &Model) -> Given<'_> {
    Given { weights: &model.weights, sha256: &model.card.weights_sha256 }
}

/// The models that the flags name.
pub(super) struct Models {
    pub(super) start: Option<Model>,
    pub(super) teacher: Option<Model>,
}

impl ModelFlags {
    pub(super) fn open(&self) -> anyhow::Result<Models> {
        let open = |path: &Option<PathBuf>| path.as_deref().map(Model::open).transpose();
        Ok(Models { start: open(&self.start)?, teacher: open(&self.teacher)? })
    }
}

impl Models {
    /// Checks that the models are of `space`.
    pub(super) fn check(&self, space: &SearchSpace) -> anyhow::Result<()> {
        for model in self.start.iter().chain(&self.teacher) {
            ensure!(
                model.card.space == *space,
                "{} has the search space {}, which is not the one to train: leave --space and --without transition-skips out",
                model.directory().display(),
                model.card.space.name
            );
        }
        Ok(())
    }

    /// Checks that the models tell the same classes apart, in the same order, as the images do.
    pub(super) fn check_classes(&self, classes: &[String]) -> anyhow::Result<()> {
        for model in self.start.iter().chain(&self.teacher) {
            let names = folders(&model.card);
            ensure!(
                names == classes,
                "{} tells {} classes apart, {}…, and the images {}, {}…: they must be the same, in the same order (--labels names them)",
                model.directory().display(),
                names.len(),
                names.first().map_or("", String::as_str),
                classes.len(),
                classes.first().map_or("", String::as_str),
            );
        }
        Ok(())
    }

    /// Warns where images that this run holds out may not be new to the weights that it starts from.
    pub(super) fn warn_of_known_images(&self, settings: &TrainSettings) {
        let Some((model, training)) = self.start.as_ref().and_then(|model| Some((model, model.card.training.as_ref()?))) else { return };
        let told = |name| training.get("settings").and_then(|settings| settings.get(name)?.as_u64()).unwrap_or_default();
        if settings.held_out > 0 && (told("held_out"), told("seed")) != (settings.held_out as u64, settings.seed) {
            tell(format!(
                "{} was not trained with --hold-out {} --seed {}: where it learned from the same data set, images held out now are not new \
                 to it",
                model.directory().display(),
                settings.held_out,
                settings.seed
            ));
        }
    }

    /// Warns where a teacher sees other patches than it learned from.
    pub(super) fn warn_of_other_patches(&self, preprocessing: &Preprocessing) {
        let other = self.teacher.as_ref().filter(|teacher| teacher.card.preprocessing != *preprocessing);
        if let Some(teacher) = other {
            tell(format!(
                "{} learned from patches that were cut, resized or normalised otherwise than those of this run, which it will see: \
                 --preprocessing names its own",
                teacher.directory().display(),
            ));
        }
    }

    /// Which children are trained, where the flags say so.
    pub(super) fn roster(&self, flags: &ModelFlags, space: &SearchSpace) -> anyhow::Result<Option<Roster>> {
        let Some(name) = &flags.child else { return Ok(None) };
        let child = match (self.start.as_ref().or(self.teacher.as_ref()), name.as_str()) {
            (Some(model), name) => find_child(model, name)?,
            (None, name @ ("smallest" | "biggest")) => extreme(space, name),
            (None, path) => read_child(space, Path::new(path))?,
        };
        let choices = child.choices().clone();
        Ok(Some(if flags.with_biggest { Roster::BiggestAnd(choices) } else { Roster::Child(choices) }))
    }
}
