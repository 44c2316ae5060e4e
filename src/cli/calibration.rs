//! Which images a command recalibrates on: the model's own, a folder's, or a file's.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;

use super::common::progress_bar;
use crate::calibrate::{Batches, Calibrator};
use crate::checkpoint::{Model, ModelCard};
use crate::console::tell;
use crate::data::{Augment, CalibrationSet, DataError, PatchSet, calibration_indices, image_files};
use crate::deploy::{Deployed, Statistics, deploy};
use crate::image::{DecodeLimits, Pixels, Preprocessing, decode};
use crate::onnx::Input;
use crate::runtime::Runtime;
use crate::space::Child;

/// Flags that choose other calibration images than the model's.
#[derive(Debug, Args)]
pub(super) struct CalibrationArgs {
    /// Recalibrate on these images, not the model's own: a folder of images at any depth, which are cut and changed at random as in the
    /// model's training, or a safetensors file with one tensor `images` [N, C, S, S] of the model's crop, uint8, or float32 if
    /// normalised already. A server keeps the statistics that ship with a model for its family, and recalibrates other children
    #[arg(long, env = "BIGNAS_CALIBRATION", value_name = "DIR|FILE")]
    calibration: Option<PathBuf>,
    #[command(flatten)]
    sampling: Sampling,
}

/// How calibration images are drawn and grouped.
#[derive(Debug, Clone, Args)]
pub(super) struct Sampling {
    /// How many images to draw from a folder
    #[arg(long, env = "BIGNAS_CALIBRATION_IMAGES", default_value_t = 512, value_name = "IMAGES", value_parser = clap::value_parser!(u32).range(2..=100_000))]
    calibration_images: u32,
    /// Images in a batch of the recalibration; a partial last batch is dropped. The model's own, or 64 where it has none, if not
    /// given
    #[arg(long, env = "BIGNAS_CALIBRATION_BATCH", value_name = "IMAGES", value_parser = clap::value_parser!(u16).range(1..=4096))]
    calibration_batch: Option<u16>,
    /// Seed of the draw
    #[arg(long, env = "BIGNAS_CALIBRATION_SEED", default_value_t = 0, value_name = "SEED")]
    calibration_seed: u64,
}

/// Images in a batch of the recalibration, where nothing is said.
const BATCH: usize = 64;

/// A folder's unreadable images are left out, up to one in this many of those drawn.
const CORRUPT_SHARE: usize = 20;

impl CalibrationArgs {
    /// What children of `model` get their statistics from: these images; else what ships with the model, statistics before
    /// images.
    pub(super) fn load(&self, model: &Model) -> anyhow::Result<Recalibration> {
        let images = match &self.calibration {
            Some(path) => Some(self.sampling.read(path, &model.card.preprocessing, &model.card.augment())?),
            None => model.calibration_images()?,
        };
        let usual = usual_batch(&model.card).min(images.as_ref().map_or(usize::MAX, CalibrationSet::count));
        let batches = Batches::of(self.sampling.batch().unwrap_or(usual));
        let seed = match (&self.calibration, &model.card.calibration) {
            (None, Some(calibration)) => calibration.seed,
            _ => self.sampling.calibration_seed,
        };
        let told = self.calibration.is_some() || self.sampling.calibration_batch.is_some();
        Ok(Recalibration { images, batches, seed, told })
    }

    /// What the command line says of the images, if anything: those that it names, or the model's own, in batches as told, else of the
    /// model's size.
    pub(super) fn given(&self, model: &Model) -> anyhow::Result<Option<(CalibrationSet, usize)>> {
        let card = &model.card;
        let images = match (&self.calibration, self.sampling.batch()) {
            (Some(path), _) => Some(self.sampling.read(path, &card.preprocessing, &card.augment())?),
            (None, Some(_)) => model.calibration_images()?,
            (None, None) => None,
        };
        images.map(|images| self.sampling.grouped(images, usual_batch(card))).transpose()
    }
}

/// Images in a batch for children of a model where the command line says nothing.
fn usual_batch(card: &ModelCard) -> usize {
    let images = card.calibration.as_ref().map(|own| own.batch);
    images.or(card.statistics.as_ref().map(|own| own.batch)).unwrap_or(BATCH)
}

/// Where the statistics of children come from.
pub(super) struct Recalibration {
    images: Option<CalibrationSet>,
    batches: Batches,
    seed: u64,
    /// Whether the command line says which images or batches to use: they are, then, even where statistics are known.
    told: bool,
}

impl Recalibration {
    /// Makes `child` deployable, with the statistics that ship with it where they are to be used.
    pub(super) fn deploy(&self, model: &Model, child: &Child, runtime: &Runtime, threads: usize, input: Input) -> anyhow::Result<Deployed> {
        match model.statistics.get(&child.id()) {
            Some(known) if !self.told => Ok(deploy(model, child, Statistics::Known(known), input)?),
            _ => self.measure(model, child, runtime, threads, input),
        }
    }

    /// Makes `child` deployable, with statistics measured now.
    pub(super) fn measure(
        &self,
        model: &Model,
        child: &Child,
        runtime: &Runtime,
        threads: usize,
        input: Input,
    ) -> anyhow::Result<Deployed> {
        let calibrator = Calibrator { runtime, images: self.required()?, batches: self.batches, threads, stop: None };
        Ok(deploy(model, child, Statistics::Measured(&calibrator), input)?)
    }

    /// SHA-256 of the images, and the seed that they were drawn under.
    pub(super) fn images(&self) -> anyhow::Result<(String, u64)> {
        Ok((self.required()?.sha256(), self.seed))
    }

    /// SHA-256 of the images, and how many form a batch.
    pub(super) fn identity(&self) -> anyhow::Result<(String, usize)> {
        Ok((self.required()?.sha256(), self.batches.size()))
    }

    fn required(&self) -> anyhow::Result<&CalibrationSet> {
        self.images.as_ref().context("the model ships no calibration images: give some with --calibration DIR or FILE.safetensors")
    }
}

impl Sampling {
    /// Images in a batch, as far as the command line says.
    fn batch(&self) -> Option<usize> {
        self.calibration_batch.map(usize::from)
    }

    /// Images, the size of their batches, and the seed of the draw.
    pub(super) fn draft(
        &self,
        path: &Path,
        preprocessing: &Preprocessing,
        augment: &Augment,
    ) -> anyhow::Result<(CalibrationSet, usize, u64)> {
        let (images, batch) = self.grouped(self.read(path, preprocessing, augment)?, BATCH)?;
        Ok((images, batch, self.calibration_seed))
    }

    /// `images` and the size of their batches: as told, else `usual`, or as many as there are.
    fn grouped(&self, images: CalibrationSet, usual: usize) -> anyhow::Result<(CalibrationSet, usize)> {
        let batch = self.batch().unwrap_or(usual.min(images.count()));
        ensure!(
            batch <= images.count(),
            "{} calibration images do not fill a batch of {batch}: give a smaller --calibration-batch, or more images",
            images.count()
        );
        Ok((images, batch))
    }

    /// Reads a file as it is, or draws from a folder.
    fn read(&self, path: &Path, preprocessing: &Preprocessing, augment: &Augment) -> anyhow::Result<CalibrationSet> {
        if path.is_dir() {
            return Ok(self.draw(path, preprocessing, augment)?.into());
        }
        let images = CalibrationSet::read(path)?;
        let [_, channels, height, width] = images.shape();
        let (crop, expected) = (preprocessing.crop as usize, preprocessing.channels());
        ensure!(
            (channels, height, width) == (expected, crop, crop),
            "{}: the images are [{channels}, {height}, {width}], but the model's crop is [{expected}, {crop}, {crop}]",
            path.display()
        );
        Ok(images)
    }

    /// Draws images from a folder of any size, by the seed and the sorted paths alone, and cuts and changes them as the model's training
    /// did.
    fn draw(&self, folder: &Path, preprocessing: &Preprocessing, augment: &Augment) -> anyhow::Result<PatchSet> {
        let files = image_files(folder)?;
        let wanted = calibration_indices(files.len(), self.calibration_images as usize, self.calibration_seed);
        let bar = progress_bar(wanted.len(), "reading calibration images");
        let mut patches = Vec::with_capacity(wanted.len());
        let mut unreadable = Vec::new();
        for index in &wanted {
            match read_pixels(&files[*index], preprocessing) {
                Ok(pixels) => patches.push(augment.calibration_patch(&pixels, preprocessing, self.calibration_seed, *index)?),
                Err(error) => unreadable.push(error),
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        if unreadable.len() > wanted.len() / CORRUPT_SHARE {
            let count = unreadable.len();
            let first = unreadable.swap_remove(0);
            return Err(anyhow::Error::new(first).context(format!("{count} of {} calibration images cannot be read", wanted.len())));
        }
        for error in &unreadable {
            tell(format!("left out: {}", describe(error)));
        }
        if patches.is_empty() {
            bail!("no image in {} could be read", folder.display());
        }
        Ok(PatchSet::from_patches(&patches)?)
    }
}

fn read_pixels(path: &Path, preprocessing: &Preprocessing) -> Result<Pixels, DataError> {
    let bytes = std::fs::read(path).map_err(|source| DataError::Io { path: path.to_owned(), source })?;
    let pixels = decode(&bytes, &DecodeLimits::default(), preprocessing.channels(), preprocessing.background);
    pixels.map_err(|source| DataError::Decode { path: path.to_owned(), source })
}

/// An error and its causes in one line.
fn describe(error: &DataError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
