//! `bignas analyze`: the paper's claims as commands, at the scale of the data at hand.
//!
//! Each analysis measures, prints a table, and writes the table, a curve and the numbers.

mod lab;
mod recalibration;
mod report;
mod resolutions;

use std::path::PathBuf;

use super::common::RuntimeArgs;

/// Arguments of `bignas analyze`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    analysis: Analysis,
}

#[derive(Debug, clap::Subcommand)]
enum Analysis {
    /// What recalibration is worth, and how many images it takes
    Recalibration(recalibration::Args),
    /// How children do at resolutions that training did not see
    Resolutions(resolutions::Args),
}

/// What every analysis of a trained model is told.
#[derive(Debug, clap::Args)]
struct Common {
    /// The model directory
    #[arg(long, env = "BIGNAS_MODEL", value_name = "DIR")]
    model: PathBuf,
    /// The data set: IDX files, CIFAR-10's binary batches, or folders `test/CLASS/*` and `train/CLASS/*`
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Children: `smallest`, `biggest`, ids of the family, JSON files of choices; the smallest and the biggest, if not given
    #[arg(long, num_args = 1.., value_name = "CHILD")]
    child: Vec<String>,
    /// Seed under which calibration images are drawn from the training images
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Images in a batch of the recalibration
    #[arg(long, default_value_t = 64, value_name = "IMAGES", value_parser = clap::value_parser!(u16).range(2..=1024))]
    calibration_batch: u16,
    /// Where the table, the curve and the numbers go
    #[arg(short, long, value_name = "DIR", default_value = "analysis")]
    output: PathBuf,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    match args.analysis {
        Analysis::Recalibration(args) => recalibration::run(&args),
        Analysis::Resolutions(args) => resolutions::run(&args),
    }
}
