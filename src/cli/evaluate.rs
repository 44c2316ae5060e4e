//! `bignas evaluate`: accuracy of children on a data set.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use indicatif::ProgressBar;

use super::calibration::CalibrationArgs;
use super::common::{RuntimeArgs, find_child, open_images, progress_bar, tell_skipped};
use crate::checkpoint::Model;
use crate::data::{Augment, BatchPlan, Batches, Mode, PatchSet, Source, Split};
use crate::evaluate::Tally;
use crate::files::write_atomically;
use crate::onnx::Input;
use crate::runtime::Network;
use crate::space::{Child, Plan};

/// Arguments of `bignas evaluate`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model directory
    #[arg(long, env = "BIGNAS_MODEL", value_name = "DIR")]
    model: PathBuf,
    /// A data set: IDX files, CIFAR-10's binary batches, or folders `test/CLASS/*` and `train/CLASS/*`
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Image files that cannot be read and are skipped, at most; each is named in the log
    #[arg(long, default_value_t = 0, value_name = "FILES")]
    max_corrupt: usize,
    /// Which part of the data set
    #[arg(long, value_enum, default_value_t = Part::Test)]
    split: Part,
    /// Children: `smallest`, `biggest`, ids of the family, JSON files of choices; the whole family, if not given
    #[arg(long, num_args = 1.., value_name = "CHILD")]
    child: Vec<String>,
    /// Images in a batch
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// Write each child's predicted classes, image by image, to this JSON file
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Part {
    /// Test images
    Test,
    /// Training images, without augmentation
    Train,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let model = Model::open(&args.model)?;
    let split = match args.split {
        Part::Test => Split::Test,
        Part::Train => Split::Train,
    };
    let images = open_images(&model.card, &args.data, split, args.max_corrupt)?;
    let preprocessing = model.card.preprocessing.clone();
    let source = Arc::new(Source { images, preprocessing, augment: Augment::NONE });
    let runtime = args.runtime.load()?;
    let recalibration = args.calibration.load(&model)?;
    let children = children(&model, &args.child)?;
    ensure!(
        !children.is_empty(),
        "{} has no family yet: name children with --child (smallest, biggest, a JSON file of choices), or let `bignas search` find one",
        model.directory().display()
    );
    println!("{:>16} {:>10} {:>6} {:>8} {:>8} {:>8}", "child", "MMACs", "px", "top-1 %", "top-5 %", "images");
    let mut predictions = serde_json::Map::new();
    let threads = args.runtime.threads();
    for child in &children {
        let deployed = recalibration.deploy(&model, child, &runtime, threads, Input::Resolution)?;
        let mut network = Network::load(&runtime, &deployed.onnx, &format!("child {}", child.id()), threads)?;
        let tally = evaluate(&mut network, &source, usize::from(args.batch))?;
        let macs = Plan::new(&model.card.space, child, model.card.labels.len()).cost().macs.millions();
        let (top1, top5) = (100.0 * tally.accuracy(), 100.0 * tally.top5_accuracy());
        println!("{:>16} {macs:>10.2} {:>6} {top1:>8.2} {top5:>8.2} {:>8}", child.id(), child.resolution(), tally.images);
        predictions.insert(child.id().to_string(), by_image(source.images.len(), &tally));
    }
    if let Some(path) = &args.predictions {
        write_atomically(path, &serde_json::to_vec(&predictions)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    tell_skipped(&source.images);
    Ok(())
}

/// The predicted classes of `count` images, one an image: null for one that was skipped.
fn by_image(count: usize, tally: &Tally) -> serde_json::Value {
    let mut classes = vec![None; count];
    for (&index, &class) in tally.indices.iter().zip(&tally.predictions) {
        classes[index] = Some(class);
    }
    classes.into()
}

fn children(model: &Model, named: &[String]) -> anyhow::Result<Vec<Child>> {
    if named.is_empty() {
        return Ok(model.family.members.iter().map(|member| member.child.clone()).collect());
    }
    named.iter().map(|text| find_child(model, text)).collect()
}

/// Runs `network` over the whole of `source`, with a progress bar.
pub(super) fn evaluate(network: &mut Network, source: &Arc<Source>, batch_size: usize) -> anyhow::Result<Tally> {
    let plan = BatchPlan { mode: Mode::Evaluation, batch_size, patches: 1, seed: 0, epoch: 0, skip: 0, threads: 1 };
    let bar: ProgressBar = progress_bar(source.images.len(), "evaluating");
    let preprocessing = &source.preprocessing;
    let mut tally = Tally::default();
    for batch in Batches::start(Arc::clone(source), plan)? {
        let batch = batch?;
        let (size, channels) = (preprocessing.crop, preprocessing.channels());
        let patches = PatchSet { size, channels, count: batch.labels.len(), data: batch.images };
        if patches.count > 0 {
            tally.add(network, &patches, &batch.labels, preprocessing)?;
            tally.indices.extend(batch.indices);
        }
        bar.inc(patches.count as u64);
        bar.set_message(format!("top-1 {:.2} %", 100.0 * tally.accuracy()));
    }
    bar.finish_and_clear();
    Ok(tally)
}
