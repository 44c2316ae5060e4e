//! What several subcommands share.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::checkpoint::{Model, ModelCard, ModelError, Replaces};
use crate::console::tell;
use crate::data::{DataOptions, ImageSet, Split};
use crate::runtime::{Runtime, default_library};
use crate::space::{ByStage, Child, ChildId, Choices, SearchSpace};

/// Where ONNX Runtime lies, and how many threads it may use.
#[derive(Debug, Args)]
pub(super) struct RuntimeArgs {
    /// The ONNX Runtime library; where `make fetch` puts it, if not given
    #[arg(long, env = "ORT_DYLIB_PATH", value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
    /// Threads to compute on; all cores, if not given
    #[arg(long, env = "BIGNAS_THREADS", value_name = "THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl RuntimeArgs {
    pub(super) fn load(&self) -> anyhow::Result<Runtime> {
        load_runtime(self.onnxruntime.as_deref())
    }

    pub(super) fn threads(&self) -> usize {
        self.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from)
    }
}

/// The directory of a file that will be written: refused where it is missing, before anything takes its time.
pub(super) fn directory_to_write_into(file: &Path) -> anyhow::Result<&Path> {
    let directory = file.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(directory.is_dir(), "there is no directory {} to write {} into: make it first", directory.display(), file.display());
    Ok(directory)
}

/// Loads ONNX Runtime from `path`, or from where it is fetched to.
pub(super) fn load_runtime(path: Option<&Path>) -> anyhow::Result<Runtime> {
    let path = path.map(Path::to_owned).or_else(default_library);
    let path = path.context("there is no home directory to look for ONNX Runtime in: set ORT_DYLIB_PATH")?;
    Ok(Runtime::load(&path)?)
}

/// Whether a command that makes a model may replace one.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Replace {
    /// Replace the model that the directory holds already, and its family
    #[arg(long)]
    replace: bool,
}

impl Replace {
    /// Refuses a directory that holds a model, unless it may be replaced.
    pub(super) fn check(&self, directory: &Path) -> Result<(), ModelError> {
        match self.replace || !Model::is_in(directory) {
            true => Ok(()),
            false => Err(ModelError::Exists { path: directory.to_owned() }),
        }
    }

    /// What may be replaced: anything if so said, else the `own` model alone.
    pub(super) fn replaces(&self, own: Option<String>) -> Replaces {
        if self.replace { Replaces::Any } else { Replaces::Own(own) }
    }
}

/// Opens a labelled data set as a model wants its images; up to `max_corrupt` files are skipped.
pub(super) fn open_images(card: &ModelCard, dir: &Path, split: Split, max_corrupt: usize) -> anyhow::Result<ImageSet> {
    let mut options = DataOptions { max_corrupt, ..DataOptions::new(&card.preprocessing) };
    options.class_names = Some(card.class_folders.as_ref().unwrap_or(&card.labels).clone());
    Ok(ImageSet::open(dir, split, options)?)
}

/// Says how many files of `images` were skipped, if any; each was named when it was met.
pub(super) fn tell_skipped(images: &ImageSet) {
    let skipped = images.skipped();
    if let Some(first) = skipped.first() {
        tell(format!("{} images could not be read and were skipped, the first of them {}", skipped.len(), first.display()));
    }
}

/// Finds the child that `text` names: `smallest`, `biggest`, the id of a member of the family, or a JSON file of choices.
pub(super) fn find_child(model: &Model, text: &str) -> anyhow::Result<Child> {
    match text {
        "smallest" | "biggest" => Ok(extreme(&model.card.space, text)),
        _ => match text.parse::<ChildId>() {
            Ok(id) => {
                let member = model.family.members.iter().find(|member| member.child.id() == id);
                Ok(member.with_context(|| format!("{id} is not in the family of {}", model.card.name))?.child.clone())
            }
            Err(_) => read_child(&model.card.space, Path::new(text)),
        },
    }
}

/// The smallest or the biggest child of `space`.
pub(super) fn extreme(space: &SearchSpace, name: &str) -> Child {
    if name == "smallest" { space.smallest() } else { space.biggest() }
}

/// Reads a child from a JSON file of choices.
pub(super) fn read_child(space: &SearchSpace, path: &Path) -> anyhow::Result<Child> {
    let hint = || match path.to_str().and_then(|text| text.parse::<ChildId>().ok()) {
        Some(id) => {
            format!("{id} is no file, and an id names a child of a model's family: name the model too, or give the child's choices")
        }
        None => format!("{} is neither smallest, biggest, a child id nor a readable file of choices", path.display()),
    };
    let text = std::fs::read(path).with_context(hint)?;
    let choices = parse_choices(&text).with_context(|| format!("{} holds no choices of a child", path.display()))?;
    Ok(Child::new(space, choices)?)
}

/// Choices in the form of the space file, or as AttentiveNAS and AlphaNet publish them.
fn parse_choices(text: &[u8]) -> anyhow::Result<Choices> {
    let json: serde_json::Value = serde_json::from_slice(text)?;
    if json.get("width").is_some() {
        return Ok(serde_json::from_value::<ByStage>(json)?.try_into()?);
    }
    Ok(serde_json::from_slice(text)?)
}

/// A progress bar of `total` steps on standard error; silent where that is no terminal.
pub(super) fn progress_bar(total: usize, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(total as u64);
    let template = "{prefix} {bar:30} {pos}/{len} {msg} {elapsed} gone, {eta} left";
    // The template is fixed and well-formed; the plain style is a fair substitute all the same.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    bar.set_prefix(what);
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
