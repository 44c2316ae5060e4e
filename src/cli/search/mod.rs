//! `bignas search`: from a trained model to its family.

mod figures;
mod judge;
mod share;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;

use super::calibration::CalibrationArgs;
use super::common::{RuntimeArgs, open_images, tell_skipped};
use super::progress::Progress;
use super::shell::path_word;
use crate::checkpoint::{AccuracyKind, AccuracySource, BnStats, Family, Member, Model, ModelCard};
use crate::data::{ImageSet, Split};
use crate::onnx::EXPORTER_VERSION;
use crate::runtime::device_and_runtime;
use crate::search::{
    Aim, Basis, Budget, Grid, Outcome, Results, Scored, SearchSettings, Share, merge, search, select, spread_budgets, unmet,
};
use judge::{Judge, Selection};
use share::{parse_share, results_name};

/// Arguments of `bignas search`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    search: SearchArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Join the results of several machines
    Merge {
        /// Files that `bignas search --shard` wrote
        #[arg(required = true, value_name = "FILE")]
        parts: Vec<PathBuf>,
        /// The file to add them to, which is made where it is missing; every machine goes on from its own copy of it
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct SearchArgs {
    /// The model directory; its family.json is replaced
    #[arg(long, env = "BIGNAS_MODEL", value_name = "DIR", required = true)]
    model: Option<PathBuf>,
    /// The data set: IDX files, CIFAR-10's binary batches, or folders `test/CLASS/*` and `train/CLASS/*`
    #[arg(long, value_name = "DIR", required = true)]
    data: Option<PathBuf>,
    /// Image files that cannot be read and are skipped, at most; each is named in the log
    #[arg(long, default_value_t = 0, value_name = "FILES")]
    max_corrupt: usize,
    /// Name of the data set, as the family will say where its accuracies come from; that of its directory, if not given
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// Budgets of multiply-adds, spread evenly from the smallest to the biggest child
    #[arg(long, default_value_t = 14, value_parser = clap::value_parser!(u16).range(1..=1000))]
    budgets: u16,
    /// A budget of one's own, in place of those: NAME=NUMBER of mflops, params, weight_mb, activation_mb, latency_ms (measured here), or
    /// several of them with commas between; may be given often
    #[arg(long, value_name = "BOUNDS", value_parser = Budget::from_str)]
    budget: Vec<Budget>,
    /// JSON file of the coarse grid: resolutions, and multipliers of depth, width and kernel
    #[arg(long, value_name = "FILE")]
    grid: Option<PathBuf>,
    /// Mutations evaluated for each budget
    #[arg(long, default_value_t = 12)]
    mutations: u16,
    /// Which images children are selected on
    #[arg(long, value_enum, default_value_t = SelectOn::Train)]
    select_on: SelectOn,
    /// How many images children are selected on
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(64..))]
    images: u32,
    /// Seed of the selection images and of the mutations
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where scores are kept as they come, so that an interrupted search goes on, and one with other budgets, mutations or grid begins with
    /// what is known; if not given, `search-WEIGHTS.jsonl` in the model's directory, where WEIGHTS is the beginning of their SHA-256,
    /// and with --shard `search-WEIGHTS-I-of-N.jsonl`
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Evaluate part I of N only, counted from 1; between the two phases, and at the end, `bignas search merge` joins the parts
    #[arg(long, value_name = "I/N", value_parser = parse_share)]
    shard: Option<Share>,
    /// Where scatter plots of the search and the family's curve go, as SVG and PNG; `plots` in the model's directory, if not given
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SelectOn {
    /// Training images, as in the paper
    Train,
    /// Those that training left out (`bignas train --hold-out`)
    HeldOut,
    /// Test images: what the family then says of them is a little too good
    Test,
}

/// What a search came to.
struct Found {
    /// All that were evaluated.
    scored: Vec<Scored>,
    /// The best of them, with the accuracies that they were selected by.
    front: Vec<Scored>,
    /// The same, without those no better than a cheaper one, with their accuracies on the test images.
    tested: Vec<Scored>,
    /// How many test images.
    images: usize,
}

/// Probability that a mutation changes one choice.
const MUTATION_CHANCE: f64 = 0.15;

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Some(Command::Merge { parts, output }) => {
            let children = merge(&parts, &output)?;
            println!("wrote {} with {children} children", output.display());
            println!("next: `bignas search --results COPY` on every machine, with its own copy of it and the flags as before");
            Ok(())
        }
        None => args.search.run(),
    }
}

impl SearchArgs {
    fn run(self) -> anyhow::Result<()> {
        let begin = Instant::now();
        let (directory, data) = (self.model.clone().context("--model is missing")?, self.data.clone().context("--data is missing")?);
        let mut model = Model::open(&directory)?;
        let test = open_images(&model.card, &data, Split::Test, self.max_corrupt)?;
        let settings = self.settings(&model)?;
        let runtime = self.runtime.load()?;
        let recalibration = self.calibration.load(&model)?;
        let selection = self.selection(&model, &data)?;
        let measures_latency = settings.budgets.iter().any(|budget| budget.latency_ms.is_some());
        let judge =
            Judge { model: &model, recalibration: &recalibration, runtime: &runtime, threads: self.runtime.threads(), measures_latency };
        let Some(scored) = self.evaluate(&judge, &selection, &settings)? else { return Ok(()) };
        let (found, statistics) = self.choose(&judge, &settings, &selection, scored, test)?;
        let provenance = serde_json::json!({
            "settings": settings,
            "selection": { "split": self.select_on.name(), "images": selection.labels.len(), "seed": self.seed },
            "evaluated": found.scored.len(),
            "seconds": begin.elapsed().as_secs(),
        });
        let members = self.members(&model.card, &found);
        model.write_family(Family::new(&model.card.space, model.card.labels.len(), members, Some(provenance)))?;
        model.write_statistics(statistics, recalibration.images()?)?;
        println!("wrote {}/family.json with {} children", directory.display(), model.family.members.len());
        let plots = self.plots.clone().unwrap_or_else(|| directory.join("plots"));
        let about = (&model.card.space, model.card.labels.len(), &settings);
        figures::write(&plots, about, &found.scored, &found.front, &found.tested)?;
        println!("wrote {}/{{coarse,fine,family}}.{{svg,png}}", plots.display());
        println!("next: bignas serve --model {}", path_word(&directory));
        Ok(())
    }

    /// Evaluates both phases, or this part of one: then it says how to go on, and there is no result yet.
    fn evaluate(&self, judge: &Judge<'_>, selection: &Selection, settings: &SearchSettings) -> anyhow::Result<Option<Vec<Scored>>> {
        let card = &judge.model.card;
        let mut results = self.results(judge, selection, settings)?;
        let mut known = results.scores.clone();
        let mut bar = Progress::new("searching");
        let share = self.shard.unwrap_or(Share::WHOLE);
        let outcome = search(&card.space, card.labels.len(), settings, share, &mut known, |child, progress| {
            bar.at(progress.done, progress.total);
            let score = judge.score(child, selection)?;
            results.add(child, score)?;
            Ok::<_, anyhow::Error>(score)
        })?;
        bar.finish();
        match outcome {
            Outcome::Complete(scored) => Ok(Some(scored)),
            Outcome::Missing { children } => {
                println!("this part of the phase is done; {children} children of other parts are missing");
                println!("next: bignas search merge PART... -o ALL, then go on, on every machine, with --results and its own copy of ALL");
                Ok(None)
            }
        }
    }

    /// Selects the front of `scored`, and measures it on the test images.
    fn choose(
        &self,
        judge: &Judge<'_>,
        settings: &SearchSettings,
        selection: &Selection,
        scored: Vec<Scored>,
        test: ImageSet,
    ) -> anyhow::Result<(Found, Vec<BnStats>)> {
        let card = &judge.model.card;
        let (space, classes) = (&card.space, card.labels.len());
        let front = select(space, classes, &scored, &settings.budgets);
        for unmet in unmet(space, classes, &scored, &settings.budgets) {
            println!("{unmet}");
        }
        ensure!(!front.is_empty(), "no child keeps any of the budgets: raise them, or widen --grid");
        println!("evaluated {} children on {} images, {} on the front", scored.len(), selection.labels.len(), front.len());
        let (tested, statistics, images) = judge.test(&front, test, &settings.budgets, &self.budget)?;
        Ok((Found { scored, front, tested, images }, statistics))
    }

    /// The family that was found, and where its accuracies come from.
    fn members(&self, card: &ModelCard, found: &Found) -> Vec<Member> {
        let dataset = self.dataset.clone().or_else(|| directory_name(self.data.as_deref()?)).unwrap_or_else(|| card.name.clone());
        let source = AccuracySource { dataset, split: "test".into(), images: found.images, kind: AccuracyKind::Measured };
        let member =
            |s: &Scored| Member { child: s.child.clone(), accuracy: Some(s.score.accuracy), accuracy_source: Some(source.clone()) };
        found.tested.iter().map(member).collect()
    }

    fn settings(&self, model: &Model) -> anyhow::Result<SearchSettings> {
        let (space, classes) = (&model.card.space, model.card.labels.len());
        let grid = match &self.grid {
            Some(path) => {
                let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
                serde_json::from_slice(&text).with_context(|| format!("{} is no grid", path.display()))?
            }
            None => Grid::of(space),
        };
        grid.check(space)?;
        let budgets = if self.budget.is_empty() { spread_budgets(space, classes, usize::from(self.budgets)) } else { self.budget.clone() };
        Ok(SearchSettings { grid, budgets, mutations: usize::from(self.mutations), mutation_chance: MUTATION_CHANCE, seed: self.seed })
    }

    fn selection(&self, model: &Model, data: &Path) -> anyhow::Result<Selection> {
        let split = match self.select_on {
            SelectOn::Train | SelectOn::HeldOut => Split::Train,
            SelectOn::Test => Split::Test,
        };
        let images: ImageSet = open_images(&model.card, data, split, self.max_corrupt)?;
        let training = |name| model.card.training.as_ref()?.get(name)?.as_u64();
        let told = |name| model.card.training.as_ref()?.get("settings")?.get(name)?.as_u64();
        let images = match (self.select_on, told("held_out"), told("seed")) {
            (SelectOn::HeldOut, Some(count), Some(seed)) => {
                let trained = training("images").unwrap_or(0) + training("skipped").unwrap_or(0);
                ensure!(
                    images.len() as u64 == trained + count,
                    "{} holds {} training images, and {} was trained on {trained} and left out {count}: which ones cannot be told from \
                     another set; name the one that it was trained on",
                    data.display(),
                    images.len(),
                    model.card.name
                );
                images.held_out(count as usize, seed)
            }
            (SelectOn::HeldOut, ..) => bail!("{} was trained on all images: train with --hold-out, or select on others", model.card.name),
            _ => images,
        };
        let selection = Selection::draw(model, &images, self.images as usize, self.seed);
        tell_skipped(&images);
        selection
    }

    fn results(&self, judge: &Judge<'_>, selection: &Selection, settings: &SearchSettings) -> anyhow::Result<Results> {
        let card = &judge.model.card;
        let basis = Basis {
            weights_sha256: card.weights_sha256.clone(),
            space_sha256: card.space.sha256(),
            calibration: judge.recalibration.identity()?,
            selection: (self.select_on.name().to_owned(), selection.labels.len(), selection.sha256.clone()),
            preprocessing: card.preprocessing.clone(),
            exporter: EXPORTER_VERSION,
            onnxruntime: judge.runtime.build_info().to_owned(),
        };
        let device = judge.measures_latency.then(|| device_and_runtime(judge.runtime, 1));
        let path = self.results.clone().unwrap_or_else(|| judge.model.directory().join(results_name(&card.weights_sha256, self.shard)));
        let results = Results::open(&path, &basis, &Aim { device, settings: settings.clone() })?;
        if !results.scores.is_empty() {
            println!("going on from {} children in {}", results.scores.len(), path.display());
        }
        Ok(results)
    }
}

impl SelectOn {
    fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::HeldOut => "held-out",
            Self::Test => "test",
        }
    }
}

/// What the directory at `path` is called.
fn directory_name(path: &Path) -> Option<String> {
    Some(path.canonicalize().ok()?.file_name()?.to_string_lossy().into_owned())
}
