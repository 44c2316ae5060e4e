//! How long batches of a network take on this device, measured, and predicted between the measured sizes.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::latency::measure_latency_ms;
use super::stopwatch::Stopwatch;
use super::{Device, Network, RuntimeError};

/// Batch sizes that are tried, as long as a larger one still gains.
const SIZES: [usize; 5] = [2, 4, 8, 16, 32];
/// Share of the time an image by which a larger batch must be faster for the next larger one to be tried.
const GAIN: f64 = 0.03;
/// Measured pairs of runs of a size and the one before; the median of their ratios is kept.
const RUNS: std::ops::RangeInclusive<usize> = 3..=9;
/// The longest run that a stored profile may claim, in milliseconds: most of a day.
const LONGEST_RUN_MS: f64 = 6e7;
/// After this long, the measurement of one size makes do with the pairs it has, if there are enough.
const LONGEST: Duration = Duration::from_millis(300);

/// Median times of a network's runs by batch size, in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(usize, f64)>", into = "Vec<(usize, f64)>")]
pub struct Profile {
    /// Batch size and time of a run, by rising size; the first is one image.
    runs_ms: Vec<(usize, f64)>,
    /// As [`Profile::best_batch`].
    best_batch: usize,
}

impl Profile {
    /// Measures `network` for one image, and for larger batches while they gain.
    ///
    /// # Errors
    /// [`RuntimeError`] where the network does not run.
    pub fn measure(network: &mut Network) -> Result<Self, RuntimeError> {
        let mut runs_ms = vec![(1, measure_latency_ms(network)?)];
        let image_values = network.input_shape().iter().product::<usize>();
        let images = vec![0.0; SIZES[SIZES.len() - 1] * image_values];
        let mut time_ms = |size: usize| {
            let watch = Stopwatch::start(network.computes_on_caller());
            network.run(&images[..size * image_values], size)?;
            Ok(watch.elapsed_ms())
        };
        for size in SIZES {
            let (before, before_ms) = runs_ms[runs_ms.len() - 1];
            let run_ms = before_ms * times_as_long(&mut time_ms, before, size)?;
            runs_ms.push((size, run_ms));
            if run_ms / size as f64 > (1.0 - GAIN) * before_ms / before as f64 {
                break;
            }
        }
        Ok(Self::new(runs_ms))
    }

    fn new(runs_ms: Vec<(usize, f64)>) -> Self {
        let least_ms = runs_ms.iter().map(|&(size, run_ms)| run_ms / size as f64).fold(f64::INFINITY, f64::min);
        let worthwhile = |run: &&(usize, f64)| (1.0 - GAIN) * run.1 / run.0 as f64 <= least_ms;
        let best_batch = runs_ms.iter().find(worthwhile).map_or(1, |&(size, _)| size);
        Self { runs_ms, best_batch }
    }

    /// A network of which nothing is known but one image's time.
    #[must_use]
    pub fn of_one_image(latency_ms: f64) -> Self {
        Self::new(vec![(1, latency_ms)])
    }

    /// Median time of one image, in milliseconds.
    #[must_use]
    pub fn latency_ms(&self) -> f64 {
        self.runs_ms[0].1
    }

    /// Most images that one run after another classifies in a millisecond, at the best of the measured batch sizes.
    #[must_use]
    pub fn images_per_ms(&self) -> f64 {
        self.runs_ms.iter().map(|&(size, run_ms)| size as f64 / run_ms).fold(0.0, f64::max)
    }

    /// The smallest batch size at which an image takes hardly longer than at the best: larger batches gain nothing, and take memory.
    #[must_use]
    pub fn best_batch(&self) -> usize {
        self.best_batch
    }

    /// Predicted time of `images` in batches of at most [`Self::best_batch`] on `device`, in milliseconds.
    #[must_use]
    pub fn predict_ms(&self, images: usize, device: &Device) -> f64 {
        let batch = self.best_batch;
        let (whole, rest) = (images / batch, images % batch);
        let rest_ms = if rest > 0 || whole == 0 { self.batch_ms(device.batch_size(rest)) } else { 0.0 };
        whole as f64 * self.batch_ms(batch) + rest_ms
    }

    /// Predicted time of one batch: on a line between measured sizes, at the largest size's pace beyond.
    fn batch_ms(&self, images: usize) -> f64 {
        let at = self.runs_ms.partition_point(|&(size, _)| size < images);
        match (at.checked_sub(1).map(|before| self.runs_ms[before]), self.runs_ms.get(at)) {
            (Some((low, low_ms)), Some(&(high, high_ms))) => low_ms + (high_ms - low_ms) * (images - low) as f64 / (high - low) as f64,
            (None, Some(&(_, run_ms))) => run_ms,
            (Some((size, run_ms)), None) => run_ms * images as f64 / size as f64,
            (None, None) => 0.0,
        }
    }
}

impl From<Profile> for Vec<(usize, f64)> {
    fn from(profile: Profile) -> Self {
        profile.runs_ms
    }
}

impl TryFrom<Vec<(usize, f64)>> for Profile {
    type Error = &'static str;

    fn try_from(runs_ms: Vec<(usize, f64)>) -> Result<Self, Self::Error> {
        let rises = runs_ms.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let sensible = runs_ms.iter().all(|&(_, run_ms)| run_ms > 0.0 && run_ms <= LONGEST_RUN_MS);
        let begins = runs_ms.first().is_some_and(|&(size, _)| size == 1);
        if rises && sensible && begins { Ok(Self::new(runs_ms)) } else { Err("a profile is times by rising batch size, from one image on") }
    }
}

/// How many times as long a run of `larger` images takes as one of `smaller`: the median over runs in turn, since a shared machine can be
/// half as fast a second later, which would make any batch look good or bad.
fn times_as_long(mut run_ms: impl FnMut(usize) -> Result<f64, RuntimeError>, smaller: usize, larger: usize) -> Result<f64, RuntimeError> {
    // The first run of a size is not like those that follow.
    run_ms(larger)?;
    let (begin, mut ratios) = (Instant::now(), Vec::with_capacity(*RUNS.end()));
    while ratios.len() < *RUNS.start() || (ratios.len() < *RUNS.end() && begin.elapsed() < LONGEST) {
        let smaller_ms = run_ms(smaller)?;
        ratios.push(run_ms(larger)? / smaller_ms.max(f64::MIN_POSITIVE));
    }
    ratios.sort_by(f64::total_cmp);
    Ok(ratios[ratios.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Provider;

    #[test]
    fn times_lie_on_lines_between_measured_sizes() {
        let profile = Profile::try_from(vec![(1, 1.0), (2, 1.5), (4, 2.0), (8, 4.0)]).unwrap();
        for (images, expected) in [(0, 1.0), (1, 1.0), (2, 1.5), (3, 1.75), (4, 2.0), (6, 3.5), (7, 3.75), (8, 4.0), (16, 8.0), (101, 51.0)]
        {
            let predicted = profile.predict_ms(images, &Device::default());
            assert!((predicted - expected).abs() < 1e-12, "{images}: {predicted}");
        }
        assert!((Profile::of_one_image(3.0).predict_ms(5, &Device::default()) - 15.0).abs() < 1e-12);
    }

    /// An accelerator computes whole buckets, whoever asked for less.
    #[test]
    fn an_accelerator_takes_as_long_as_its_next_batch_size() {
        let profile = Profile::try_from(vec![(1, 1.0), (2, 1.5), (4, 2.0), (8, 3.0)]).unwrap();
        let gpu = Device { provider: Provider::Cuda, ..Device::default() };
        for (images, expected) in [(0, 1.0), (1, 1.0), (2, 1.5), (3, 2.0), (4, 2.0), (5, 3.0), (8, 3.0), (11, 5.0), (13, 6.0)] {
            let predicted = profile.predict_ms(images, &gpu);
            assert!((predicted - expected).abs() < 1e-12, "{images}: {predicted}");
        }
    }

    #[test]
    fn batches_are_as_large_as_they_gain() {
        let cases: [(&[(usize, f64)], usize); 5] = [
            (&[(1, 16.0)], 1),
            (&[(1, 16.0), (2, 31.5)], 1),
            (&[(1, 1.0), (2, 1.5), (4, 2.0), (8, 4.0)], 4),
            (&[(1, 1.0), (2, 1.5), (4, 2.0), (8, 3.8)], 8),
            (&[(1, 1.0), (2, 1.5), (4, 3.6)], 2),
        ];
        for (runs_ms, batch) in cases {
            assert_eq!(Profile::try_from(runs_ms.to_vec()).unwrap().best_batch(), batch, "{runs_ms:?}");
        }
    }

    /// A machine that slows down for good while sizes are compared must not make the larger one look bad, nor one that stalls for a run.
    #[test]
    fn a_changing_machine_changes_no_ratio() {
        let steady: fn(usize) -> f64 = |_| 1.0;
        for pace in
            [steady, |run| if run < 9 { 1.0 } else { 2.0 }, |run| if run < 12 { 3.0 } else { 1.0 }, |run| if run == 8 { 50.0 } else { 1.0 }]
        {
            let mut runs = 0;
            let run_ms = |size: usize| {
                runs += 1;
                Ok(1.5 * size as f64 * pace(runs))
            };
            assert_eq!(times_as_long(run_ms, 4, 8).unwrap(), 2.0);
        }
    }

    #[test]
    fn throughput_is_that_of_the_best_batch() {
        assert_eq!(Profile::try_from(vec![(1, 1.0), (2, 1.5), (4, 2.0), (8, 4.5)]).unwrap().images_per_ms(), 2.0);
        assert_eq!(Profile::of_one_image(4.0).images_per_ms(), 0.25);
    }

    #[test]
    fn nonsense_from_a_file_is_refused() {
        for text in ["[]", "[[2, 1.0]]", "[[1, -1.0]]", "[[1, 1.0], [1, 2.0]]", "[[1, 1e999]]", "[[1, 1e300]]"] {
            assert!(serde_json::from_str::<Profile>(text).is_err(), "{text}");
        }
        let profile = Profile::try_from(vec![(1, 1.0), (2, 1.5)]).unwrap();
        assert_eq!(serde_json::from_str::<Profile>(&serde_json::to_string(&profile).unwrap()).unwrap(), profile);
    }
}
