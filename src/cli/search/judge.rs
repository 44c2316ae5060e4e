//! What the search asks of a child: recalibrate it, measure it, and test the best.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::ensure;
use sha2::{Digest, Sha256};

use crate::checkpoint::{BnStats, Model};
use crate::cli::calibration::Recalibration;
use crate::cli::common::tell_skipped;
use crate::cli::evaluate::evaluate;
use crate::data::{Augment, ImageSet, PatchSet, Source, calibration_indices};
use crate::evaluate::Tally;
use crate::onnx::Input;
use crate::runtime::{Network, Runtime, measure_latency_ms};
use crate::search::{Budget, Score, Scored, pareto_front, select};
use crate::space::{Child, Plan};

/// Images in a batch of the evaluation.
const BATCH: usize = 64;

/// The images that children are selected on, decoded once.
pub(super) struct Selection {
    batches: Vec<PatchSet>,
    pub(super) labels: Vec<i64>,
    /// SHA-256 of images and labels.
    pub(super) sha256: String,
}

impl Selection {
    pub(super) fn draw(model: &Model, images: &ImageSet, count: usize, seed: u64) -> anyhow::Result<Self> {
        // Another seed than the calibration set's, or the same images would serve both.
        let indices = calibration_indices(images.len(), count, seed.wrapping_add(1) ^ 0x5e1e_c710);
        let (mut patches, mut labels) = (Vec::new(), Vec::new());
        for index in indices {
            if let (Some(pixels), Some(label)) = (images.pixels_or_skip(index)?, images.label(index)) {
                patches.push(pixels.centre_crop(&model.card.preprocessing)?);
                labels.push(label as i64);
            }
        }
        ensure!(!patches.is_empty(), "there is no readable image to select on");
        let batches: Vec<PatchSet> = patches.chunks(BATCH).map(PatchSet::from_patches).collect::<Result<_, _>>()?;
        let mut hash = Sha256::new();
        batches.iter().for_each(|batch| hash.update(&batch.data));
        labels.iter().for_each(|label| hash.update(label.to_le_bytes()));
        let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { batches, labels, sha256 })
    }
}

/// Recalibrates children and measures them.
pub(super) struct Judge<'a> {
    pub(super) model: &'a Model,
    pub(super) recalibration: &'a Recalibration,
    pub(super) runtime: &'a Runtime,
    pub(super) threads: usize,
    /// Whether some budget bounds the latency, so that it is measured.
    pub(super) measures_latency: bool,
}

impl Judge<'_> {
    /// The child with statistics of its own, these, and its latency where it is asked for.
    fn network(&self, child: &Child) -> anyhow::Result<(Network, BnStats, Option<f64>)> {
        let deployed = self.recalibration.measure(self.model, child, self.runtime, self.threads, Input::Resolution)?;
        let load = |threads| Network::load(self.runtime, &deployed.onnx, &format!("child {}", child.id()), threads);
        // On one thread, as the latency that a server reports and is asked for.
        let latency_ms = self.measures_latency.then(|| measure_latency_ms(&mut load(1)?)).transpose()?;
        Ok((load(self.threads)?, deployed.stats, latency_ms))
    }

    pub(super) fn score(&self, child: &Child, selection: &Selection) -> anyhow::Result<Score> {
        let (mut network, _, latency_ms) = self.network(child)?;
        let mut tally = Tally::default();
        for (patches, labels) in selection.batches.iter().zip(selection.labels.chunks(BATCH)) {
            tally.add(&mut network, patches, labels, &self.model.card.preprocessing)?;
        }
        Ok(Score { accuracy: tally.accuracy(), latency_ms })
    }

    /// Measures the front on the test images, prints it, and leaves out what the test shows to be beaten; says which child is the
    /// best within each budget of `asked`. Returns those that are left, with their statistics, and how many images they were
    /// measured on.
    pub(super) fn test(
        &self,
        front: &[Scored],
        test: ImageSet,
        budgets: &[Budget],
        asked: &[Budget],
    ) -> anyhow::Result<(Vec<Scored>, Vec<BnStats>, usize)> {
        let preprocessing = self.model.card.preprocessing.clone();
        let source = Arc::new(Source { images: test, preprocessing, augment: Augment::NONE });
        println!("{:>16} {:>10} {:>10} {:>6} {:>12} {:>8}", "child", "MMACs", "parameters", "px", "selection %", "test %");
        let (mut tested, mut statistics, mut again_ms) = (Vec::new(), Vec::new(), BTreeMap::new());
        for scored in front {
            let (mut network, stats, latency_ms) = self.network(&scored.child)?;
            let accuracy = evaluate(&mut network, &source, BATCH)?.accuracy();
            statistics.push(stats);
            let (child, mmacs, parameters) = (&scored.child, scored.macs as f64 / 1e6, self.plan(&scored.child).cost().params.total());
            let (selected, measured) = (100.0 * scored.score.accuracy, 100.0 * accuracy);
            println!("{:>16} {mmacs:>10.2} {parameters:>10} {:>6} {selected:>12.2} {measured:>8.2}", child.id(), child.resolution());
            again_ms.extend(latency_ms.map(|latency_ms| (child.id(), latency_ms)));
            tested.push(Scored { score: Score { accuracy, ..scored.score }, ..scored.clone() });
        }
        let (space, classes) = (&self.model.card.space, self.model.card.labels.len());
        let front = pareto_front(space, classes, tested, budgets);
        for budget in asked {
            // A budget that no child keeps is named elsewhere.
            if let Some(best) = select(space, classes, &front, &[*budget]).pop() {
                let latency = latencies(budget, &best, again_ms.get(&best.child.id()));
                println!("{}: child {}, {:.2} %{latency}", budget, best.child.id(), 100.0 * best.score.accuracy);
            }
        }
        statistics.retain(|stats| front.iter().any(|scored| scored.child.id() == stats.child()));
        tell_skipped(&source.images);
        let images = source.images.len() - source.images.skipped().len();
        Ok((front, statistics, images))
    }

    fn plan(&self, child: &Child) -> Plan {
        Plan::new(&self.model.card.space, child, self.model.card.labels.len())
    }
}

/// What a child's latency was when it was selected and when it was measured once more: who is chosen for a low measurement is likely to
/// owe it to chance in part.
fn latencies(budget: &Budget, scored: &Scored, again_ms: Option<&f64>) -> String {
    match (budget.latency_ms, scored.score.latency_ms, again_ms) {
        (Some(bound), Some(selected), Some(&again)) => {
            let over = if again > bound { ": over the budget" } else { "" };
            format!(", {selected:.3} ms when it was selected, {again:.3} ms measured again{over}")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::preset;

    #[test]
    fn a_latency_over_its_budget_is_named() {
        let scored = |latency_ms| {
            let child = preset("fashion-mnist").unwrap().smallest();
            Scored { child, macs: 1, score: Score { accuracy: 0.5, latency_ms } }
        };
        let cases = [
            (None, Some(0.9), Some(1.2), ""),
            (Some(1.0), None, None, ""),
            (Some(1.0), Some(0.9), Some(0.95), ", 0.900 ms when it was selected, 0.950 ms measured again"),
            (Some(1.0), Some(0.9), Some(1.2), ", 0.900 ms when it was selected, 1.200 ms measured again: over the budget"),
        ];
        for (latency_ms, selected, again, expected) in cases {
            let budget = Budget { latency_ms, ..Budget::default() };
            assert_eq!(latencies(&budget, &scored(selected), again.as_ref()), expected);
        }
    }
}
