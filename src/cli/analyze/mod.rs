//! `bignas analyze`: the paper's claims as commands, at the scale of the data at hand.
//!
//! Each analysis measures, prints a table, and writes the table, a curve and the numbers.

#[cfg(feature = "train")]
mod children;
mod lab;
mod recalibration;
mod report;
mod resolutions;
#[cfg(feature = "train")]
mod supernets;
#[cfg(feature = "train")]
mod workshop;

use std::path::PathBuf;

use super::common::RuntimeArgs;
#[cfg(not(feature = "train"))]
use super::shell::command_line;

/// Arguments of `bignas analyze`.
#[derive(Debug, clap::Args)]
#[cfg_attr(
    not(feature = "train"),
    command(
        after_help = "fine-tuning, from-scratch, initialisation, constant-ending and regularisation train: `make build-train` builds the binary that has them"
    )
)]
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
    /// Whether fine-tuning improves children that are sliced from the model (Table 2)
    #[cfg(feature = "train")]
    FineTuning(children::FineTuning),
    /// What the same architectures reach when trained from scratch, without and with distillation (Table 3)
    #[cfg(feature = "train")]
    FromScratch(children::FromScratch),
    /// Blocks that start as the identity, at full and reduced learning rate (Figs 4 and 5)
    #[cfg(feature = "train")]
    Initialisation(supernets::Initialisation),
    /// Floors under the learning rate (Fig 6 and Appendix B)
    #[cfg(feature = "train")]
    ConstantEnding(supernets::ConstantEnding),
    /// Weight decay and dropout for the biggest child or for everyone (Fig 7)
    #[cfg(feature = "train")]
    Regularisation(supernets::Regularisation),
    /// Those that train, which this binary does not
    #[cfg(not(feature = "train"))]
    #[command(external_subcommand)]
    Training(Vec<String>),
}

/// The analyses that train, which are in the binary that does.
#[cfg(not(feature = "train"))]
const TRAINING: [&str; 5] = ["fine-tuning", "from-scratch", "initialisation", "constant-ending", "regularisation"];

/// What every analysis of a trained model is told.
#[derive(Debug, clap::Args)]
struct Common {
    /// The model directory
    #[arg(long, env = "BIGNAS_MODEL", value_name = "DIR")]
    model: PathBuf,
    /// The data set: IDX files, CIFAR-10's binary batches, or folders `test/CLASS/*` and `train/CLASS/*`
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Image files that cannot be read and are skipped in each of the two parts, at most; each is named in the log
    #[arg(long, default_value_t = 0, value_name = "FILES")]
    max_corrupt: usize,
    /// Seed of everything random: the draw of calibration images, and trainings where there are any; 0, or what --settings says, if not
    /// given
    #[arg(long)]
    seed: Option<u64>,
    /// Images in a batch of the recalibration
    #[arg(long, default_value_t = 64, value_name = "IMAGES", value_parser = clap::value_parser!(u16).range(2..=1024))]
    calibration_batch: u16,
    /// Where the table, the curve and the numbers go
    #[arg(short, long, value_name = "DIR", default_value = "analysis")]
    output: PathBuf,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

/// Which children an analysis looks at.
#[derive(Debug, clap::Args)]
struct Children {
    /// Children: `smallest`, `biggest`, ids of the family, JSON files of choices
    #[arg(long, num_args = 1.., value_name = "CHILD", default_values_t = ["smallest".to_owned(), "biggest".to_owned()])]
    child: Vec<String>,
}

#[cfg(feature = "train")]
impl Children {
    /// For analyses that train whole models, and look at both ends of each.
    const NONE: Self = Self { child: Vec::new() };
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    crate::process::suit_training();
    match args.analysis {
        Analysis::Recalibration(args) => recalibration::run(&args),
        Analysis::Resolutions(args) => resolutions::run(&args),
        #[cfg(feature = "train")]
        Analysis::FineTuning(args) => args.run(),
        #[cfg(feature = "train")]
        Analysis::FromScratch(args) => args.run(),
        #[cfg(feature = "train")]
        Analysis::Initialisation(args) => args.run(),
        #[cfg(feature = "train")]
        Analysis::ConstantEnding(args) => args.run(),
        #[cfg(feature = "train")]
        Analysis::Regularisation(args) => args.run(),
        #[cfg(not(feature = "train"))]
        Analysis::Training(words) => refuse(&words),
    }
}

/// Says where the analysis that `words` begin with is to be had.
#[cfg(not(feature = "train"))]
fn refuse(words: &[String]) -> anyhow::Result<()> {
    let name = words.first().map_or("", String::as_str);
    anyhow::ensure!(TRAINING.contains(&name), "there is no analysis {name}: `bignas analyze --help` lists them");
    anyhow::bail!(
        "this binary serves and does not train, as this analysis does: run `make build-train`, then `target/train/release/bignas analyze {}`",
        command_line(words.iter().cloned())
    )
}
