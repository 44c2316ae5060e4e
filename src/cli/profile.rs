//! `bignas profile`: a latency table of this device.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::common::{directory_to_write_into, load_runtime};
use super::init::read_space;
use super::progress::Progress;
use super::shell::path_word;
use crate::checkpoint::Model;
use crate::profile::{BatchTable, MIN_CHILDREN, Settings, Table, profile};
use crate::space::SearchSpace;

/// Arguments of `bignas profile`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A model directory, for its search space and number of classes
    #[arg(long, value_name = "DIR", conflicts_with_all = ["space", "classes"])]
    model: Option<PathBuf>,
    /// A preset search space (attentivenas, bignas, cifar10, fashion-mnist) or a search-space file
    #[arg(long, required_unless_present = "model")]
    space: Option<String>,
    /// Number of classes, where no model says it
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    classes: u32,
    /// The file to write; `latency-SPACE.json`, if not given
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Images of a run
    #[arg(long, num_args = 1.., default_values_t = [1, 8], value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch_sizes: Vec<u16>,
    /// Threads of a run; a server's `latency_ms` is that of one
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Whole children to measure: two in three to fit the predictions on, the others to test them
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(MIN_CHILDREN as i64..=10_000))]
    children: u16,
    /// How often everything is measured; more rounds take longer and suffer less from what else the machine does
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Seed of the children and of the order of measuring
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The ONNX Runtime library; where `make fetch` puts it, if not given
    #[arg(long, env = "ORT_DYLIB_PATH", value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let begin = Instant::now();
    let (space, classes, subject) = subject(&args)?;
    let output = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("latency-{}.json", space.name)));
    directory_to_write_into(&output)?;
    let runtime = load_runtime(args.onnxruntime.as_deref())?;
    let batch_sizes: BTreeSet<usize> = args.batch_sizes.iter().map(|&batch| usize::from(batch)).collect();
    let settings = Settings {
        batch_sizes: batch_sizes.into_iter().collect(),
        threads: usize::from(args.threads),
        children: usize::from(args.children),
        rounds: usize::from(args.rounds),
        seed: args.seed,
    };
    let mut bar = Progress::new("measuring");
    let table = profile(&runtime, &space, classes, &settings, |done, total| bar.at(done, total))?;
    bar.finish();
    table.write(&output)?;
    report(&table, settings.rounds, begin.elapsed().as_secs());
    println!("wrote {}", output.display());
    println!("next: bignas inspect {subject} --child CHILD --latency-table {}", path_word(&output));
    Ok(())
}

/// The space, the number of classes, and the flags that name both.
fn subject(args: &Args) -> anyhow::Result<(SearchSpace, usize, String)> {
    if let Some(directory) = &args.model {
        let card = Model::open(directory)?.card;
        return Ok((card.space, card.labels.len(), format!("--model {}", path_word(directory))));
    }
    let name = args.space.as_deref().unwrap_or_default();
    Ok((read_space(name)?, args.classes as usize, format!("--space {} --classes {}", path_word(Path::new(name)), args.classes)))
}

fn report(table: &Table, rounds: usize, seconds: u64) {
    let parts = table.batches.values().next().map_or(0, |batch| batch.parts_ms.len());
    let children = |count: fn(&BatchTable) -> usize| table.batches.values().next().map_or(0, count);
    let (fitted, tested) = (children(|batch| batch.fitted_children), children(|batch| batch.held_out.map_or(0, |e| e.children)));
    println!("measured all {parts} parts of {} and {} children, {rounds} times in {seconds} s", table.space, fitted + tested);
    println!("on {}, threads a run: {}", table.device, table.threads);
    println!("error of predictions on {tested} children, the correction being fitted on the other {fitted}:");
    println!("{:>8} {:>10} {:>10} {:>10}", "batch", "median %", "90th %", "worst %");
    for (batch, measured) in &table.batches {
        if let Some(errors) = &measured.held_out {
            let [median, percentile_90, worst] = [errors.median, errors.percentile_90, errors.worst].map(|error| 100.0 * error);
            println!("{batch:>8} {median:>10.2} {percentile_90:>10.2} {worst:>10.2}");
        }
    }
}
