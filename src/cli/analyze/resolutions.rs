//! How children do at resolutions that training did not see (paper, 4.1).

use serde::Serialize;

use super::lab::Lab;
use super::report::Report;
use super::{Children, Common};
use crate::plot::{Chart, Mark, Series};
use crate::space::Child;

/// Arguments of `bignas analyze resolutions`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    children: Children,
    /// Calibration images of every child
    #[arg(long, default_value_t = 1024, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    images: u32,
}

/// A child at one resolution.
#[derive(Debug, Serialize)]
struct Row {
    child: String,
    id: String,
    resolution: usize,
    /// Whether training saw the resolution.
    seen: bool,
    mmacs: f64,
    accuracy: f64,
}

#[derive(Debug, Serialize)]
struct Numbers {
    test_images: usize,
    calibration_images: u32,
    seed: u64,
    rows: Vec<Row>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let seed = args.common.seed.unwrap_or(0);
    let lab = Lab::open(&args.common, &args.children, seed)?;
    let space = &lab.model.card.space;
    let images = lab.calibration(args.images as usize, &lab.model.card.augment())?;
    let mut rows = Vec::new();
    for (name, child) in &lab.children {
        for &resolution in &space.resolutions {
            let mut choices = child.choices().clone();
            choices.resolution = resolution;
            let child = Child::new(space, choices)?;
            let accuracy = lab.accuracy(&child, &lab.statistics(&child, &images)?)?;
            let (seen, mmacs) = (space.training_resolutions.contains(&resolution), lab.plan(&child).cost().macs.millions());
            rows.push(Row { child: name.clone(), id: child.id().to_string(), resolution, seen, mmacs, accuracy });
        }
    }
    let cells = |row: &Row| {
        let seen = if row.seen { "yes" } else { "no" };
        [
            row.child.clone(),
            row.resolution.to_string(),
            seen.to_owned(),
            format!("{:.2}", row.mmacs),
            format!("{:.2}", 100.0 * row.accuracy),
        ]
        .to_vec()
    };
    let series = |name: &String| {
        let points = rows.iter().filter(|row| row.child == *name).map(|row| (row.resolution as f64, 100.0 * row.accuracy)).collect();
        Series { name: name.clone(), mark: Mark::Line, points }
    };
    let unseen = Series {
        name: "unseen in training".to_owned(),
        mark: Mark::Markers,
        points: rows.iter().filter(|row| !row.seen).map(|row| (row.resolution as f64, 100.0 * row.accuracy)).collect(),
    };
    let chart = Chart {
        title: "Accuracy by resolution".to_owned(),
        x: "resolution, pixels".to_owned(),
        y: "top-1 accuracy, %".to_owned(),
        series: lab.children.iter().map(|(name, _)| series(name)).chain([unseen]).collect(),
    };
    let (test_images, calibration_images) = (lab.test_images(), args.images);
    let what = format!(
        "Top-1 accuracy (%) of children of {} on {test_images} test images at every resolution of the space, each recalibrated on \
         {calibration_images} training images, seed {seed}.",
        lab.model.card.name
    );
    let columns = ["child", "px", "seen in training", "MMACs", "accuracy %"].map(str::to_owned).to_vec();
    let rows_of_table = rows.iter().map(cells).collect();
    let numbers = Numbers { test_images, calibration_images, seed, rows };
    Report { name: "resolutions", what, columns, rows: rows_of_table, charts: vec![("resolutions".to_owned(), chart)], numbers }
        .publish(&lab, &args.common.output)
}
