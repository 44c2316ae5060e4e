//! `bignas export`: a child as an ONNX file, to run elsewhere.

use std::path::PathBuf;

use anyhow::Context;
use clap::ValueEnum;

use super::calibration::CalibrationArgs;
use super::common::{RuntimeArgs, directory_to_write_into, find_child};
use crate::checkpoint::Model;
use crate::files::write_atomically;
use crate::onnx::Input;

/// Arguments of `bignas export`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model directory
    #[arg(long, env = "BIGNAS_MODEL", value_name = "DIR")]
    model: PathBuf,
    /// `smallest`, `biggest`, the id of a member of the family, or a JSON file of choices
    #[arg(long)]
    child: String,
    /// What the graph takes: the image at the child's resolution, or the model's crop, which it then resamples itself
    #[arg(long, value_enum, default_value_t = InputForm::Resolution)]
    input: InputForm,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum InputForm {
    /// [N, C, R, R], R the child's resolution
    Resolution,
    /// [N, C, S, S], S the side of the crop
    Crop,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    directory_to_write_into(&args.output)?;
    let model = Model::open(&args.model)?;
    let child = find_child(&model, &args.child)?;
    let recalibration = args.calibration.load(&model)?;
    let runtime = args.runtime.load()?;
    let input = match args.input {
        InputForm::Resolution => Input::Resolution,
        InputForm::Crop => Input::Crop,
    };
    let deployed = recalibration.deploy(&model, &child, &runtime, args.runtime.threads(), input)?;
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
