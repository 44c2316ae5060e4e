//! Measuring parts and children, in rounds.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use thiserror::Error;

use super::table::features;
use super::{BatchTable, Correction, Errors, Place, Table, TableError, inventory, sample};
use crate::checkpoint::{GammaInit, Weights};
use crate::onnx::segment;
use crate::runtime::{Network, Runtime, RuntimeError, processor};
use crate::slice::{SliceError, slice_segment};
use crate::space::{Child, Plan, SearchSpace, layout};

/// Children that a profile needs at least: four to fit the correction on, two to test it.
pub const MIN_CHILDREN: usize = 6;

/// Every so many-th child tests the predictions; the others, among them the smallest and the biggest, fit them.
const HELD_OUT: usize = 3;

/// Runs before measuring: ONNX Runtime plans a shape's memory after the first and moves into it on the second.
const WARM_UP_RUNS: usize = 2;
/// Measured runs in a round, at least: there are several rounds.
const LEAST_RUNS: usize = 2;
/// Measured runs in a round, at most.
const MOST_RUNS: usize = 100;
/// After this long, a measurement makes do with the least runs.
const LONGEST: Duration = Duration::from_millis(10);

/// How to measure.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Batch sizes in images.
    pub batch_sizes: Vec<usize>,
    /// Threads of a run.
    pub threads: usize,
    /// Whole children to measure, [`MIN_CHILDREN`] at least.
    pub children: usize,
    /// How often everything is measured, once at least.
    pub rounds: usize,
    /// Seed of the children, the weights and the order.
    pub seed: u64,
}

/// A profile that could not be made.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// ONNX Runtime did not load or run a graph.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The random weights do not hold a part.
    #[error(transparent)]
    Slice(#[from] SliceError),
    /// The table does not hold a part of a measured child.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The space has too few children to fit and to test on.
    #[error("search space {space} has {found} different children, and a latency table needs {MIN_CHILDREN}: time them one by one")]
    FewChildren {
        /// Name of the space.
        space: String,
        /// Children found.
        found: usize,
    },
}

/// Something to measure: some parts of a child, and the milliseconds of each round by batch size.
struct Item {
    child: Child,
    parts: Range<usize>,
    rounds_ms: BTreeMap<usize, Vec<f64>>,
}

/// Measures every part of `space` and some whole children, and returns the table. `tick` hears after every measurement how many are
/// done, and how many there are.
///
/// The rounds measure everything in another order each, and of a part's times the lower quartile counts: a slow spell of the machine
/// falls on many parts once rather than on a few in every round.
///
/// # Errors
/// [`ProfileError`] where a graph does not run, or the space has too few children.
pub fn profile(
    runtime: &Runtime,
    space: &SearchSpace,
    classes: usize,
    settings: &Settings,
    mut tick: impl FnMut(usize, usize),
) -> Result<Table, ProfileError> {
    let children = sample(space, settings.children.max(MIN_CHILDREN), settings.seed);
    if children.len() < MIN_CHILDREN {
        return Err(ProfileError::FewChildren { space: space.name.clone(), found: children.len() });
    }
    let (keys, places): (Vec<String>, Vec<Place>) = inventory(space, classes).into_iter().unzip();
    let parts = places.into_iter().map(|Place { child, index }| (child, index..index + 1));
    let whole = children.iter().map(|child| (child.clone(), 0..Plan::new(space, child, classes).parts().count()));
    let item = |(child, parts)| Item { child, parts, rounds_ms: BTreeMap::new() };
    let mut items: Vec<Item> = parts.chain(whole).map(item).collect();
    let weights = Weights::random(&layout(space, classes), settings.seed, GammaInit::Random);
    let bench = Bench { runtime, space, classes, settings, weights };
    bench.measure(&mut items, &mut tick)?;

    let device = (processor(), runtime.build_info().to_owned());
    let mut table = Table::new(space, classes, device, settings.threads);
    let plans: Vec<Plan> = children.iter().map(|child| Plan::new(space, child, classes)).collect();
    for &batch in &settings.batch_sizes {
        let mut times_ms = items.iter().map(|item| lower_quartile(&item.rounds_ms[&batch]));
        let parts_ms = keys.iter().cloned().zip(times_ms.by_ref()).collect();
        let measured: Vec<(&Plan, f64)> = plans.iter().zip(times_ms).collect();
        table.batches.insert(batch, fit(parts_ms, &measured, batch)?);
    }
    Ok(table)
}

/// Fits the correction on two in three of the measured children and tests it on the others.
fn fit(parts_ms: BTreeMap<String, f64>, measured: &[(&Plan, f64)], batch: usize) -> Result<BatchTable, TableError> {
    let of = |(plan, ms): &(&Plan, f64)| Ok::<_, TableError>((features(&parts_ms, plan, batch)?, *ms));
    let measured = measured.iter().map(of).collect::<Result<Vec<_>, _>>()?;
    let is_held_out = |index: usize| index % HELD_OUT == HELD_OUT - 1;
    let split =
        |held_out: bool| measured.iter().enumerate().filter(move |(index, _)| is_held_out(*index) == held_out).map(|(_, pair)| *pair);
    let fitted: Vec<_> = split(false).collect();
    let correction = Correction::fit(&fitted);
    let held_out = Errors::of(split(true).map(|(features, ms)| (correction.predict_ms(&features), ms)));
    Ok(BatchTable { correction, fitted_children: fitted.len(), held_out, parts_ms })
}

struct Bench<'a> {
    runtime: &'a Runtime,
    space: &'a SearchSpace,
    classes: usize,
    settings: &'a Settings,
    /// Random: values do not change the time.
    weights: Weights,
}

impl Bench<'_> {
    fn measure(&self, items: &mut [Item], tick: &mut impl FnMut(usize, usize)) -> Result<(), ProfileError> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.settings.seed);
        let mut order: Vec<usize> = (0..items.len()).collect();
        let rounds = self.settings.rounds.max(1);
        let total = rounds * items.len();
        for round in 0..rounds {
            order.shuffle(&mut rng);
            for (done, &index) in order.iter().enumerate() {
                self.measure_once(&mut items[index])?;
                tick(round * items.len() + done + 1, total);
            }
        }
        Ok(())
    }

    /// Loads the item anew each time: a space's parts do not fit into memory side by side.
    fn measure_once(&self, item: &mut Item) -> Result<(), ProfileError> {
        let plan = Plan::new(self.space, &item.child, self.classes);
        let onnx = segment(&slice_segment(&self.weights, &plan, item.parts.clone())?);
        let what = format!("parts {:?} of child {}", item.parts, item.child.id());
        let mut network = Network::load(self.runtime, &onnx, &what, self.settings.threads)?;
        for &batch in &self.settings.batch_sizes {
            let time_ms = median_ms(&mut network, batch)?;
            item.rounds_ms.entry(batch).or_default().push(time_ms);
        }
        Ok(())
    }
}

/// Median time of `batch` images through `network`, in milliseconds.
fn median_ms(network: &mut Network, batch: usize) -> Result<f64, RuntimeError> {
    let images = vec![0.5; batch * network.input_shape().iter().product::<usize>()];
    for _ in 0..WARM_UP_RUNS {
        network.time_run(&images, batch)?;
    }
    let begin = Instant::now();
    let mut times_ms = Vec::with_capacity(MOST_RUNS);
    while times_ms.len() < LEAST_RUNS || (times_ms.len() < MOST_RUNS && begin.elapsed() < LONGEST) {
        times_ms.push(network.time_run(&images, batch)?.as_secs_f64() * 1e3);
    }
    times_ms.sort_by(f64::total_cmp);
    Ok(times_ms[times_ms.len() / 2])
}

/// Of the times of one round or more, the one that a quarter of them do not exceed.
fn lower_quartile(times_ms: &[f64]) -> f64 {
    let mut sorted = times_ms.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) / 4]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::preset;

    #[test]
    fn a_slow_round_does_not_count() {
        let cases: [(&[f64], f64); 4] =
            [(&[3.0], 3.0), (&[9.0, 2.0], 2.0), (&[9.0, 2.0, 8.0, 1.0, 3.0], 2.0), (&[5.0, 4.0, 3.0, 2.0, 1.0, 9.0, 9.0, 9.0, 9.0], 3.0)];
        for (times_ms, expected) in cases {
            assert_eq!(lower_quartile(times_ms), expected, "{times_ms:?}");
        }
    }

    /// Were a held-out child fitted on, its error here would not be that of an outlier.
    #[test]
    fn errors_are_those_of_children_that_were_not_fitted_on() {
        let space = preset("fashion-mnist").unwrap();
        let parts_ms: BTreeMap<String, f64> = inventory(&space, 10).into_keys().map(|key| (key, 0.1)).collect();
        let plans: Vec<Plan> = sample(&space, 9, 0).iter().map(|child| Plan::new(&space, child, 10)).collect();
        let time = |(index, plan)| (plan, if index % 3 == 2 { 2.0 } else { 1.0 } * 0.1 * Plan::parts(plan).count() as f64);
        let measured: Vec<(&Plan, f64)> = plans.iter().enumerate().map(time).collect();
        let table = fit(parts_ms, &measured, 1).unwrap();
        let errors = table.held_out.unwrap();
        assert_eq!((table.fitted_children, errors.children), (6, 3));
        assert!((errors.median - 0.5).abs() < 1e-3 && (errors.worst - 0.5).abs() < 1e-3, "{errors:?}");
    }
}
