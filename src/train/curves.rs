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

/// Points of a series in a picture: about one a pixel.
const MOST_POINTS: usize = 1_000;

/// How a run went so far, as its metrics log tells.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Course {
    /// The accuracy after every epoch, from 1.
    pub epochs: Vec<(u64, Accuracy)>,
    /// Training time up to the last of them, in seconds.
    pub seconds: f64,
    /// Loss of the biggest child every few steps, after so many.
    pub losses_biggest: Vec<(u64, f64)>,
    /// The same of the smallest child.
    pub losses_smallest: Vec<(u64, f64)>,
}

impl Course {
    /// Reads the metrics `log` of a run.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub fn read(log: &Path) -> Result<Self, TrainError> {
        #[derive(Deserialize)]
        struct Epoch {
            epoch: u64,
            seconds: f64,
            #[serde(flatten)]
            accuracy: Accuracy,
        }
        let text = std::fs::read_to_string(log).map_err(|source| io(log, source))?;
        let mut course = Self::default();
        for line in text.lines() {
            // Lines about steps have a fractional epoch and no number of images.
            if let Ok(line) = serde_json::from_str::<Epoch>(line) {
                course.epochs.push((line.epoch, line.accuracy));
                course.seconds = line.seconds;
            } else if let Ok(line) = serde_json::from_str::<Line>(line) {
                course.losses_biggest.extend(line.loss_biggest.map(|loss| (line.step, loss)));
                course.losses_smallest.extend(line.loss_smallest.map(|loss| (line.step, loss)));
            }
        }
        Ok(course)
    }
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
        let points: Vec<_> = lines.iter().filter_map(|line| Some((line.step as f64, scale * value(line)?))).collect();
        Series { name: name.to_owned(), mark: Mark::Line, points: thinned(&points) }
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

/// `points`, in groups of which each is its mean where there are more than a picture can show.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mean = |group: &[(f64, f64)]| {
        let (x, y) = group.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
        (x / group.len() as f64, y / group.len() as f64)
    };
    points.chunks(points.len().div_ceil(MOST_POINTS).max(1)).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_have_no_more_points_than_a_picture_shows() {
        let line = |count: u32| (0..count).map(|i| (f64::from(i), f64::from(2 * i))).collect::<Vec<_>>();
        assert_eq!(thinned(&line(MOST_POINTS as u32)), line(MOST_POINTS as u32));
        let thin = thinned(&line(25_000));
        assert!(thin.len() <= MOST_POINTS && thin.len() > MOST_POINTS / 2, "{}", thin.len());
        assert!(thin.iter().all(|(x, y)| (y - 2.0 * x).abs() < 1e-6), "means lie on the same line");
        assert!(thinned(&[]).is_empty());
    }

    #[test]
    fn a_course_is_read_from_the_log_line_by_line() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("metrics.jsonl");
        let lines = [
            r#"{"kind":"step","step":20,"epoch":0.5,"rate":0.1,"loss_biggest":2.0,"loss_smallest":2.5,"loss_random":[]}"#,
            r#"{"kind":"epoch","step":40,"epoch":1,"seconds":12.5,"images":100,"accuracy_biggest":0.5,"accuracy_smallest":0.25}"#,
            r#"{"kind":"step","step":60,"epoch":1.5,"rate":0.1,"loss_biggest":1.0,"loss_smallest":null,"loss_random":[]}"#,
            "{cut off",
        ];
        std::fs::write(&log, lines.join("\n")).unwrap();
        let accuracy = Accuracy { images: 100, biggest: Some(0.5), smallest: Some(0.25), child: None };
        let expected = Course {
            epochs: vec![(1, accuracy)],
            seconds: 12.5,
            losses_biggest: vec![(20, 2.0), (60, 1.0)],
            losses_smallest: vec![(20, 2.5)],
        };
        assert_eq!(Course::read(&log).unwrap(), expected);
        assert!(matches!(Course::read(&directory.path().join("none")), Err(TrainError::Io { .. })));
    }
}
