//! `bignas export`: a child as an ONNX file, to run elsewhere.

use std::path::PathBuf;

use anyhow::Context;

use super::common::{RuntimeArgs, calibration, find_child};
use crate::checkpoint::Model;
use crate::deploy::deploy;
use crate::files::write_atomically;

/// Arguments of `bignas export`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model directory
    #[arg(long, env = "BIGNAS_MODEL", value_name = "DIR")]
    model: PathBuf,
    /// `smallest`, `biggest`, the id of a member of the family, or a JSON file of choices
    #[arg(long)]
    child: String,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let model = Model::open(&args.model)?;
    let child = find_child(&model, &args.child)?;
    let (images, batches) = calibration(&model)?;
    let runtime = args.runtime.load()?;
    let deployed = deploy(&model, &child, &runtime, &images, batches, args.runtime.threads())?;
    write_atomically(&args.output, &deployed.onnx).with_context(|| format!("cannot write {}", args.output.display()))?;
    println!(
        "wrote {} ({:.1} MB): child {}, recalibrated on {} images (statistics {})",
        args.output.display(),
        deployed.onnx.len() as f64 / 1e6,
        child.id(),
        deployed.stats.images(),
        &deployed.stats.checksum()[..16],
    );
    Ok(())
}
