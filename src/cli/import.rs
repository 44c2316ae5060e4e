//! `bignas import`: a model directory from the public checkpoint of AttentiveNAS or AlphaNet.

use std::path::PathBuf;

use clap::ValueEnum;

use super::calibration::Sampling;
use super::common::Replace;
use super::shell::path_word;
use crate::data::Augment;
use crate::import::{Source, read_weights, write_model};

/// Arguments of `bignas import`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Whose checkpoint it is
    #[arg(value_enum)]
    source: Whose,
    /// The checkpoint: PyTorch's zip file as it was published, or a .safetensors file with the same names
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
    /// Images to recalibrate children on: a folder of photographs at any depth, such as ImageNet's training images, or a
    /// safetensors file with one tensor `images` [N, 3, 224, 224], uint8, or float32 if normalised already
    #[arg(long, value_name = "DIR|FILE")]
    calibration: PathBuf,
    #[command(flatten)]
    sampling: Sampling,
    /// Directory of the new model
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    replace: Replace,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Whose {
    /// AttentiveNAS (Wang et al., 2020)
    Attentivenas,
    /// AlphaNet (Wang et al., 2021)
    Alphanet,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let source = match args.source {
        Whose::Attentivenas => Source::AttentiveNas,
        Whose::Alphanet => Source::AlphaNet,
    };
    args.replace.check(&args.output)?;
    let weights = read_weights(&args.checkpoint)?;
    println!("{}: all tensors of the {} supernet, of the right shapes", args.checkpoint.display(), source.name());
    let calibration = args.sampling.draft(&args.calibration, &source.preprocessing(), &Augment::NONE)?;
    let (images, batch) = (calibration.0.count(), calibration.1);
    let model = write_model(&args.output, &args.replace.replaces(None), source, &args.checkpoint, weights, calibration)?;
    let (directory, children) = (args.output.display(), model.family.members.len());
    println!("wrote {directory}: {children} published children, {images} calibration images in batches of {batch}");
    println!("the weights are under {}: see {}", source.licence(), source.address());
    println!("next: bignas serve --model {}", path_word(&args.output));
    Ok(())
}
