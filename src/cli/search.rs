//! `bignas search`: from a trained model to its family.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;

use super::calibration::{CalibrationArgs, Recalibration};
use super::common::{RuntimeArgs, open_images, progress_bar};
use super::evaluate::evaluate;
use crate::checkpoint::{AccuracyKind, AccuracySource, BnStats, Family, Member, Model};
use crate::data::{Augment, ImageSet, PatchSet, Source, Split, calibration_indices};
use crate::evaluate::Tally;
use crate::onnx::Input;
use crate::runtime::{Network, Runtime};
use crate::search::{Grid, Scored, SearchSettings, pareto_front, search, select, spread_budgets};
use crate::space::Child;

/// Arguments of `bignas search`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model directory; its family.json is replaced
    #[arg(long, env = "BIGNAS_MODEL", value_name = "DIR")]
    model: PathBuf,
    /// The data set: IDX files, or folders `test/CLASS/*` and `train/CLASS/*`
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Name of the data set, as the family will say where its accuracies come from
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// Budgets, spread evenly from the smallest to the biggest child
    #[arg(long, default_value_t = 14, value_parser = clap::value_parser!(u16).range(1..=1000))]
    budgets: u16,
    /// Mutations evaluated for each budget
    #[arg(long, default_value_t = 12)]
    mutations: u16,
    /// Training images that children are selected on
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(64..))]
    images: u32,
    /// Seed of the selection images and of the mutations
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

/// Probability that a mutation changes one choice.
const MUTATION_CHANCE: f64 = 0.15;
/// Images in a batch of the evaluation.
const BATCH: usize = 64;

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut model = Model::open(&args.model)?;
    let (space, classes) = (model.card.space.clone(), model.card.labels.len());
    let train = open_images(&model.card, &args.data, Split::Train)?;
    let test = open_images(&model.card, &args.data, Split::Test)?;
    let runtime = args.runtime.load()?;
    let recalibration = args.calibration.load(&model)?;
    let settings = SearchSettings {
        grid: Grid::of(&space),
        budgets_macs: spread_budgets(&space, classes, usize::from(args.budgets)),
        mutations: usize::from(args.mutations),
        mutation_chance: MUTATION_CHANCE,
        seed: args.seed,
    };
    let selection = Selection::draw(&model, &train, args.images as usize, args.seed)?;
    let judge = Judge { model: &model, recalibration: &recalibration, runtime: &runtime, threads: args.runtime.threads() };
    let bar = progress_bar(0, "searching");
    let scored = search(&space, classes, &settings, |child, progress| {
        bar.set_length(progress.total as u64);
        bar.set_position(progress.done as u64);
        judge.accuracy(child, &selection)
    })?;
    bar.finish_and_clear();
    let front = select(&scored, &settings.budgets_macs);
    println!("evaluated {} children on {} training images, {} on the front", scored.len(), selection.labels.len(), front.len());
    let dataset = args.dataset.clone().unwrap_or_else(|| model.card.name.clone());
    let source = AccuracySource { dataset, split: "test".into(), images: test.len(), kind: AccuracyKind::Measured };
    let (tested, statistics) = judge.test(&front, test)?;
    let members = tested.into_iter().map(|s| Member { child: s.child, accuracy: Some(s.accuracy), accuracy_source: Some(source.clone()) });
    let provenance = serde_json::json!({
        "settings": settings,
        "selection": { "split": "train", "images": selection.labels.len(), "seed": args.seed },
        "evaluated": scored.len(),
        "seconds": begin.elapsed().as_secs(),
    });
    let family = Family::new(&space, classes, members.collect(), Some(provenance));
    model.write_family(family)?;
    if let Some(images) = recalibration.images() {
        model.write_statistics(statistics, images)?;
    }
    println!("wrote {}/family.json with {} children", args.model.display(), model.family.members.len());
    println!("next: bignas serve --model {}", args.model.display());
    Ok(())
}

/// The training images that children are selected on, decoded once.
struct Selection {
    batches: Vec<PatchSet>,
    labels: Vec<i64>,
}

impl Selection {
    fn draw(model: &Model, train: &ImageSet, count: usize, seed: u64) -> anyhow::Result<Self> {
        // Another seed than the calibration set's, or the same images would serve both.
        let indices = calibration_indices(train.len(), count, seed.wrapping_add(1) ^ 0x5e1e_c710);
        let (mut patches, mut labels) = (Vec::new(), Vec::new());
        for index in indices {
            if let (Some(pixels), Some(label)) = (train.pixels_or_skip(index)?, train.label(index)) {
                patches.push(pixels.centre_crop(&model.card.preprocessing)?);
                labels.push(label as i64);
            }
        }
        ensure!(!patches.is_empty(), "the training split has no readable image to select on");
        let batches = patches.chunks(BATCH).map(PatchSet::from_patches).collect::<Result<_, _>>()?;
        Ok(Self { batches, labels })
    }
}

/// Recalibrates children and measures them.
struct Judge<'a> {
    model: &'a Model,
    recalibration: &'a Recalibration,
    runtime: &'a Runtime,
    threads: usize,
}

impl Judge<'_> {
    /// The child with statistics of its own, and these.
    fn network(&self, child: &Child) -> anyhow::Result<(Network, BnStats)> {
        let deployed = self.recalibration.measure(self.model, child, self.runtime, self.threads, Input::Resolution)?;
        let network = Network::load(self.runtime, &deployed.onnx, &format!("child {}", child.id()), self.threads)?;
        Ok((network, deployed.stats))
    }

    fn accuracy(&self, child: &Child, selection: &Selection) -> anyhow::Result<f64> {
        let (mut network, _) = self.network(child)?;
        let mut tally = Tally::default();
        for (patches, labels) in selection.batches.iter().zip(selection.labels.chunks(BATCH)) {
            tally.add(&mut network, patches, labels, &self.model.card.preprocessing)?;
        }
        Ok(tally.accuracy())
    }

    /// Measures the front on the test images, prints it, and leaves out what the test shows to be no better than a cheaper
    /// child.
    fn test(&self, front: &[Scored], test: ImageSet) -> anyhow::Result<(Vec<Scored>, Vec<BnStats>)> {
        let preprocessing = self.model.card.preprocessing.clone();
        let source = Arc::new(Source { images: test, preprocessing, augment: Augment::NONE });
        println!("{:>16} {:>10} {:>6} {:>12} {:>8}", "child", "MMACs", "px", "selection %", "test %");
        let (mut tested, mut statistics) = (Vec::new(), Vec::new());
        for scored in front {
            let (mut network, stats) = self.network(&scored.child)?;
            let accuracy = evaluate(&mut network, &source, BATCH)?.accuracy();
            statistics.push(stats);
            let (child, mmacs) = (&scored.child, scored.macs as f64 / 1e6);
            let (selected, measured) = (100.0 * scored.accuracy, 100.0 * accuracy);
            println!("{:>16} {mmacs:>10.2} {:>6} {selected:>12.2} {measured:>8.2}", child.id(), child.resolution());
            tested.push(Scored { accuracy, ..scored.clone() });
        }
        let front = pareto_front(tested);
        statistics.retain(|stats| front.iter().any(|scored| scored.child.id() == stats.child()));
        Ok((front, statistics))
    }
}
