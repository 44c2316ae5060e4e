//! The metrics log of a run as curves.

use std::path::Path;

use serde::Deserialize;

use super::TrainError;
use super::run_dir::io;
use super::validation::Accuracy;
use crate::plot::{Chart, Mark, Series};

/// What the curves need of a line of the log.
#[derive(Debug, Deserialize)]
struct Line {
    step: u64,
    loss_biggest: Option<f64>,
    loss_smallest: Option<f64>,
    rate: Option<f64>,
    loss_child: Option<f64>,
    accuracy_biggest: Option<f64>,
    accuracy_smallest: Option<f64>,
    accuracy_child: Option<f64>,
}

/// The accuracy after every epoch so far, from 1, as the metrics `log` of a run has it.
///
/// # Errors
/// Where the log cannot be read.
pub fn accuracies(log: &Path) -> Result<Vec<(u64, Accuracy)>, TrainError> {
    #[derive(Deserialize)]
    struct Epoch {
        epoch: u64,
        #[serde(flatten)]
        accuracy: Accuracy,
    }
    let text = std::fs::read_to_string(log).map_err(|source| io(log, source))?;
    // Lines about steps have a fractional epoch and no number of images.
    let epochs = text.lines().filter_map(|line| serde_json::from_str::<Epoch>(line).ok());
    Ok(epochs.map(|line| (line.epoch, line.accuracy)).collect())
}

/// Writes `loss`, `learning-rate` and, once there is one epoch, `accuracy` beside the metrics `log`, each as SVG and PNG.
///
/// # Errors
/// Where the log cannot be read or a chart cannot be written.
pub(super) fn write(log: &Path) -> Result<(), TrainError> {
    let text = std::fs::read_to_string(log).map_err(|source| io(log, source))?;
    // Lines of another kind have no part in the curves.
    let lines: Vec<Line> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let series = |name: &str, scale: f64, value: fn(&Line) -> Option<f64>| {
        let points = lines.iter().filter_map(|line| Some((line.step as f64, scale * value(line)?))).collect();
        Series { name: name.to_owned(), mark: Mark::Line, points }
    };
    let charts = [
        (
            "loss",
            "Loss",
            "cross entropy",
            vec![
                series("biggest child", 1.0, |line| line.loss_biggest),
                series("smallest child", 1.0, |line| line.loss_smallest),
                series("the child", 1.0, |line| line.loss_child),
            ],
        ),
        ("learning-rate", "Learning rate", "learning rate", vec![series("learning rate", 1.0, |line| line.rate)]),
        (
            "accuracy",
            "Accuracy after each epoch",
            "top-1 accuracy, %",
            vec![
                series("biggest child", 100.0, |line| line.accuracy_biggest),
                series("smallest child", 100.0, |line| line.accuracy_smallest),
                series("the child", 100.0, |line| line.accuracy_child),
            ],
        ),
    ];
    let directory = log.parent().unwrap_or(Path::new("."));
    for (name, title, y, mut series) in charts {
        series.retain(|series| !series.points.is_empty());
        if !series.is_empty() {
            Chart { title: title.to_owned(), x: "steps".to_owned(), y: y.to_owned(), series }.write(directory, name)?;
        }
    }
    Ok(())
}
