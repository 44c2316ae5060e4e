//! `bignas init`: a model with seeded random weights, to try the machinery on.

use std::path::PathBuf;

use anyhow::Context;
use clap::ValueEnum;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::common::Replace;
use super::shell::path_word;
use crate::checkpoint::{Draft, Family, GammaInit, Member, Model, Weights};
use crate::data::PatchSet;
use crate::image::{Filter, Preprocessing};
use crate::search::{Grid, largest_within, spread_budgets};
use crate::space::{PRESETS, SearchSpace, layout, preset};

/// Arguments of `bignas init`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A preset search space (bignas, cifar10, fashion-mnist, attentivenas) or a search-space file
    #[arg(long, default_value = "bignas")]
    space: String,
    /// Directory of the new model
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    replace: Replace,
    /// Number of classes
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    classes: u32,
    /// Seed of the weights and of the calibration images, which are noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How the last batch norm of every block starts
    #[arg(long, value_enum, default_value_t = Gamma::Random)]
    gamma: Gamma,
    /// Calibration images
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..=4096))]
    calibration_images: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Gamma {
    /// Random: every layer matters
    Random,
    /// Zero: every block starts as the identity, as in the paper
    Zero,
    /// One: the paper's naive initialisation
    One,
}

/// Members of the family that a random model is given.
const FAMILY: usize = 8;

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    args.replace.check(&args.output)?;
    let space = read_space(&args.space)?;
    let classes = args.classes as usize;
    let gamma = match args.gamma {
        Gamma::Random => GammaInit::Random,
        Gamma::Zero => GammaInit::ZeroLast,
        Gamma::One => GammaInit::One,
    };
    let weights = Weights::random(&layout(&space, classes), args.seed, gamma);
    let preprocessing = plain_preprocessing(&space);
    let noise = noise(&preprocessing, args.calibration_images as usize, args.seed);
    let batch = (args.calibration_images as usize / 2).min(32);
    let draft = Draft {
        name: format!("{}-random", space.name),
        labels: (0..classes).map(|class| format!("class {class}")).collect(),
        class_folders: None,
        preprocessing,
        space: space.clone(),
        calibration: Some((noise.into(), batch, args.seed)),
        training: Some(serde_json::json!({ "random_weights": { "seed": args.seed, "gamma": format!("{gamma:?}") } })),
    };
    let mut model = Model::create(&args.output, draft, weights, &args.replace.replaces(None))?;
    let children = largest_within(&space, classes, &Grid::of(&space), &spread_budgets(&space, classes, FAMILY));
    let members = children.into_iter().map(|child| Member { child, accuracy: None, accuracy_source: None }).collect();
    model.write_family(Family::new(&space, classes, members, None))?;
    println!("created {} with random weights and {} children", args.output.display(), model.family.members.len());
    println!("next: bignas serve --model {}", path_word(&args.output));
    Ok(())
}

/// A preset by name, or a file.
pub(super) fn read_space(text: &str) -> anyhow::Result<SearchSpace> {
    if let Some(space) = preset(text) {
        return Ok(space);
    }
    let bytes = std::fs::read(text).with_context(|| format!("{text} is neither a preset ({}) nor a readable file", PRESETS.join(", ")))?;
    let space: SearchSpace = serde_json::from_slice(&bytes).with_context(|| format!("{text} is not a search space"))?;
    space.validate()?;
    Ok(space)
}

/// To which length the shorter side is resized, and the side of the crop, in pixels: ImageNet's habit of a crop of seven
/// eighths where the space is that large, else the middle training resolution, of the whole image.
pub(super) fn default_crop(space: &SearchSpace) -> (u32, u32) {
    let resolutions = &space.training_resolutions;
    let middle = resolutions[resolutions.len() / 2];
    if middle >= 192 { (256, 224) } else { (middle as u32, middle as u32) }
}

/// Pixels centred at zero.
fn plain_preprocessing(space: &SearchSpace) -> Preprocessing {
    let (resize, crop) = default_crop(space);
    let channels = space.input_channels;
    Preprocessing {
        resize: Some(resize),
        filter: Filter::Bicubic,
        crop,
        mean: vec![0.5; channels],
        std: vec![0.25; channels],
        background: [0; 3],
    }
}

fn noise(preprocessing: &Preprocessing, count: usize, seed: u64) -> PatchSet {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values = count * preprocessing.channels() * (preprocessing.crop * preprocessing.crop) as usize;
    let mut data = vec![0; values];
    rng.fill(&mut data[..]);
    PatchSet { size: preprocessing.crop, channels: preprocessing.channels(), count, data }
}
