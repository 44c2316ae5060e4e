//! One epoch of batches, made by background threads.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use rand::seq::SliceRandom;

use super::augment::Augment;
use super::error::DataError;
use super::image_set::ImageSet;
use super::rng::{Purpose, rng};
use crate::image::{Patch, Pixels, Preprocessing};

/// Finished batches that wait per thread: enough to ride out an uneven batch.
const PREFETCH: usize = 2;

/// Where batches come from.
#[derive(Debug)]
pub struct Source {
    /// The labelled images.
    pub images: ImageSet,
    /// How they are cropped; it also gives the side of the patches.
    pub preprocessing: Preprocessing,
    /// What changes at random, in [`Mode::Training`].
    pub augment: Augment,
}

/// What the batches are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Shuffled and augmented, every batch full, the remainder dropped. An image that may be skipped is replaced by the
    /// next in the data set.
    Training,
    /// In order, centre crops, the last batch as small as it must be. An image that may be skipped is left out.
    Evaluation,
}

/// Which batches are made, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchPlan {
    /// What the batches are for.
    pub mode: Mode,
    /// Images per batch.
    pub batch_size: usize,
    /// Patches of each image, at least 1, each with random changes of its own. The first is what it is without the others.
    pub patches: usize,
    /// Seed of the training run.
    pub seed: u64,
    /// The epoch, from 0.
    pub epoch: u64,
    /// How many batches at the start to leave out, to resume in the middle of an epoch.
    pub skip: usize,
    /// Background threads, at least 1. It changes the speed, never the batches.
    pub threads: usize,
}

/// Images and their labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// `[N, P, C, S, S]`: P patches of each image, channel by channel; not normalised.
    pub images: Vec<u8>,
    /// `[N]`: indices of the classes.
    pub labels: Vec<i64>,
    /// `[N]`: which images of the data set they are.
    pub indices: Vec<usize>,
}

/// The batches of one epoch, in order. Ends after the first error. Dropping it stops the threads.
#[derive(Debug)]
pub struct Batches {
    /// One channel per thread, the one that the next batch comes from in front. A full channel makes its thread wait.
    channels: Vec<Receiver<Result<Batch, DataError>>>,
    threads: Vec<JoinHandle<()>>,
    remaining: Range<usize>,
}

impl Batches {
    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// [`DataError::TooFew`] if there is not a single batch, [`DataError::Thread`] if a thread cannot start.
    pub fn start(source: Arc<Source>, plan: BatchPlan) -> Result<Self, DataError> {
        let len = source.images.len();
        let total = match plan.mode {
            Mode::Training => len.checked_div(plan.batch_size),
            Mode::Evaluation => (plan.batch_size > 0).then(|| len.div_ceil(plan.batch_size)),
        };
        let total = total.filter(|total| *total > 0);
        let total = total.ok_or(DataError::TooFew { len, batch_size: plan.batch_size })?;
        let order = Arc::new(order(len, &plan));
        let remaining = plan.skip.min(total)..total;
        let thread_count = plan.threads.clamp(1, remaining.len().max(1));
        let mut batches = Self { channels: Vec::new(), threads: Vec::new(), remaining };
        for thread in 0..thread_count {
            let (sender, receiver) = sync_channel(PREFETCH);
            let (source, order, range) = (Arc::clone(&source), Arc::clone(&order), batches.remaining.clone());
            let numbers = range.skip(thread).step_by(thread_count);
            let handle = Builder::new()
                .name(format!("batches-{thread}"))
                .spawn(move || produce(&source, &plan, &order, numbers, &sender))
                .map_err(|error| DataError::Thread(error.to_string()))?;
            batches.channels.push(receiver);
            batches.threads.push(handle);
        }
        Ok(batches)
    }

    fn stop(&mut self) {
        self.remaining = 0..0;
        self.channels.clear();
        for thread in self.threads.drain(..) {
            // A thread that panicked has already been reported as an error of its channel.
            let _ = thread.join();
        }
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.remaining.next()?;
        let result = self.channels.first().map(Receiver::recv);
        self.channels.rotate_left(1);
        let batch = match result {
            Some(Ok(batch)) => batch,
            _ => Err(DataError::Thread("it ended before its batches were done".to_owned())),
        };
        if batch.is_err() {
            self.stop();
        }
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.remaining.size_hint()
    }
}

impl ExactSizeIterator for Batches {}

impl Drop for Batches {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The order of the images in an epoch.
fn order(len: usize, plan: &BatchPlan) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    if plan.mode == Mode::Training {
        order.shuffle(&mut rng(Purpose::Order, plan.seed, plan.epoch, 0));
    }
    order
}

/// Makes the batches with these numbers until they are done, one fails, or nobody listens any more.
fn produce(
    source: &Source,
    plan: &BatchPlan,
    order: &[usize],
    numbers: impl Iterator<Item = usize>,
    sender: &SyncSender<Result<Batch, DataError>>,
) {
    for number in numbers {
        let start = number * plan.batch_size;
        let indices = &order[start..order.len().min(start + plan.batch_size)];
        let batch = make(source, plan, indices);
        let failed = batch.is_err();
        if sender.send(batch).is_err() || failed {
            return;
        }
    }
}

fn make(source: &Source, plan: &BatchPlan, indices: &[usize]) -> Result<Batch, DataError> {
    let mut batch = Batch { images: Vec::new(), labels: Vec::with_capacity(indices.len()), indices: Vec::with_capacity(indices.len()) };
    for &index in indices {
        let found = match plan.mode {
            Mode::Training => Some(next_readable(&source.images, index)?),
            Mode::Evaluation => source.images.pixels_or_skip(index)?.map(|pixels| (index, pixels)),
        };
        let Some((index, pixels)) = found else {
            continue;
        };
        let mut rng = rng(Purpose::Augment, plan.seed, plan.epoch, index as u64);
        for _ in 0..plan.patches.max(1) {
            let patch = match plan.mode {
                Mode::Training => source.augment.apply(&pixels, &source.preprocessing, &mut rng)?,
                Mode::Evaluation => pixels.centre_crop(&source.preprocessing)?,
            };
            if batch.images.is_empty() {
                batch.images.reserve_exact(patch.data.len() * plan.patches.max(1) * indices.len());
            }
            append_planar(&patch, &mut batch.images);
        }
        batch.labels.push(source.images.label(index).unwrap_or_default() as i64);
        batch.indices.push(index);
    }
    Ok(batch)
}

/// Image `index`, or the next one that can be decoded, from the start again after the last.
fn next_readable(images: &ImageSet, index: usize) -> Result<(usize, Pixels), DataError> {
    let len = images.len();
    for candidate in (index..len).chain(0..index) {
        if let Some(pixels) = images.pixels_or_skip(candidate)? {
            return Ok((candidate, pixels));
        }
    }
    let first = images.skipped().into_iter().next().unwrap_or_default();
    Err(DataError::TooManyCorrupt { count: len, limit: len.saturating_sub(1), first })
}

/// Appends a patch channel by channel.
pub(super) fn append_planar(patch: &Patch, planar: &mut Vec<u8>) {
    for channel in 0..patch.channels {
        planar.extend(patch.data.iter().skip(channel).step_by(patch.channels));
    }
}
