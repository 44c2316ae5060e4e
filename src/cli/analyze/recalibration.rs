//! What recalibration is worth (paper, 3.1), and how many images it takes.
//!
//! Beside children with statistics of their own, measured on more and more images, stand two ways to do without: no statistics at
//! all (mean 0, variance 1), and the biggest child's, of which every child takes its share of the channels.

use serde::Serialize;

use super::lab::Lab;
use super::report::Report;
use super::{Children, Common};
use crate::checkpoint::{BnStats, LayerStats};
use crate::plot::{Chart, Mark, Series};
use crate::space::Child;

/// Arguments of `bignas analyze recalibration`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    children: Children,
    /// Numbers of calibration images to try
    #[arg(long, num_args = 1.., value_name = "COUNT", default_values_t = [64, 128, 256, 512, 1024, 2048, 4096],
          value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    images: Vec<u32>,
}

/// What one child reaches.
#[derive(Debug, Serialize)]
struct Row {
    child: String,
    id: String,
    mmacs: f64,
    /// Accuracy with mean 0 and variance 1 everywhere.
    no_statistics: f64,
    /// Accuracy with the biggest child's statistics.
    biggest_childs: f64,
    /// Number of calibration images, and the accuracy with the child's own statistics on them.
    recalibrated: Vec<(u32, f64)>,
}

#[derive(Debug, Serialize)]
struct Numbers {
    test_images: usize,
    seed: u64,
    calibration_batch: u16,
    rows: Vec<Row>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let seed = args.common.seed.unwrap_or(0);
    let lab = Lab::open(&args.common, &args.children, seed)?;
    let mut counts = args.images.clone();
    counts.sort_unstable();
    counts.dedup();
    for &count in &counts {
        lab.check_calibration(count as usize)?;
    }
    let most = counts.last().copied().unwrap_or_default() as usize;
    let biggest = lab.statistics(&lab.model.card.space.biggest(), &lab.calibration(most, &lab.model.card.augment())?)?;
    let mut rows = Vec::new();
    for (name, child) in &lab.children {
        rows.push(measure(&lab, name, child, &counts, &biggest)?);
    }
    let percent = |accuracy: f64| format!("{:.2}", 100.0 * accuracy);
    let fixed = ["child", "MMACs", "no statistics", "the biggest child's"].map(str::to_owned);
    let columns = fixed.into_iter().chain(counts.iter().map(|count| format!("own, {count} images"))).collect();
    let cells = |row: &Row| {
        let fixed = [row.child.clone(), format!("{:.2}", row.mmacs), percent(row.no_statistics), percent(row.biggest_childs)];
        fixed.into_iter().chain(row.recalibrated.iter().map(|(_, accuracy)| percent(*accuracy))).collect()
    };
    let series = |row: &Row| {
        let points = row.recalibrated.iter().map(|(count, accuracy)| (f64::from(*count).log2(), 100.0 * accuracy)).collect();
        Series { name: row.child.clone(), mark: Mark::Line, points }
    };
    let chart = Chart {
        title: "Accuracy by number of calibration images".to_owned(),
        x: "log2 of the number of calibration images".to_owned(),
        y: "top-1 accuracy, %".to_owned(),
        series: rows.iter().map(series).collect(),
    };
    let (test_images, calibration_batch) = (lab.test_images(), args.common.calibration_batch);
    let what = format!(
        "Top-1 accuracy (%) of children of {} on {test_images} test images, by where their batch-norm statistics come from; training \
         images in batches of {calibration_batch}, seed {seed}.",
        lab.model.card.name
    );
    let rows_of_table = rows.iter().map(cells).collect();
    let numbers = Numbers { test_images, seed, calibration_batch, rows };
    Report { name: "recalibration", what, columns, rows: rows_of_table, charts: vec![("recalibration".to_owned(), chart)], numbers }
        .publish(&lab, &args.common.output)
}

fn measure(lab: &Lab, name: &str, child: &Child, counts: &[u32], biggest: &BnStats) -> anyhow::Result<Row> {
    let none = lab.made(child, |_, channels| LayerStats { mean: vec![0.0; channels], variance: vec![1.0; channels] })?;
    let shared = lab.made(child, |layer, channels| first_channels(biggest, layer, channels))?;
    let mut recalibrated = Vec::new();
    for &count in counts {
        let own = lab.statistics(child, &lab.calibration(count as usize, &lab.model.card.augment())?)?;
        recalibrated.push((count, lab.accuracy(child, &own)?));
    }
    Ok(Row {
        child: name.to_owned(),
        id: child.id().to_string(),
        mmacs: lab.plan(child).cost().macs.millions(),
        no_statistics: lab.accuracy(child, &none)?,
        biggest_childs: lab.accuracy(child, &shared)?,
        recalibrated,
    })
}

/// The statistics of a layer's lowest channels, which are those that a smaller child uses.
fn first_channels(stats: &BnStats, layer: &str, channels: usize) -> LayerStats {
    let first = |values: &[f32]| values.iter().copied().take(channels).collect();
    let whole = stats.get(layer);
    LayerStats {
        mean: whole.map_or_else(Vec::new, |layer| first(&layer.mean)),
        variance: whole.map_or_else(Vec::new, |layer| first(&layer.variance)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::space::{Plan, preset};

    #[test]
    fn a_smaller_child_takes_the_first_channels() {
        let space = preset("fashion-mnist").unwrap();
        let [small, big] = [space.smallest(), space.biggest()].map(|child| Plan::new(&space, &child, 10));
        let counted = |channels: usize, from: f32| (0..channels).map(|channel| from + channel as f32).collect::<Vec<_>>();
        let layers = big.norms().map(|conv| {
            let stats = LayerStats { mean: counted(conv.c_out, 1.0), variance: counted(conv.c_out, 101.0) };
            (conv.name.clone(), stats)
        });
        let biggest = BnStats::new(&big, layers.collect::<BTreeMap<_, _>>(), 1, 1).unwrap();
        assert!(small.stem.c_out < big.stem.c_out, "there is something to leave out");
        for conv in small.norms() {
            let expected = LayerStats { mean: counted(conv.c_out, 1.0), variance: counted(conv.c_out, 101.0) };
            assert_eq!(first_channels(&biggest, &conv.name, conv.c_out), expected, "{}", conv.name);
        }
    }
}
