//! Trainings of a whole single-stage model that differ in one technique (paper, 4.3).

use anyhow::ensure;
use serde::Serialize;

use super::Children;
use super::report::Report;
use super::workshop::{Arm, Setup, Trained, Training, Workshop};
use crate::evaluate::{Difference, Tally, difference};
use crate::plot::{Chart, Mark, Series};
use crate::space::{SearchSpace, Shortcut};
use crate::train::{Accuracy, Course, Regularise, TrainSettings};

/// Arguments of `bignas analyze initialisation`.
#[derive(Debug, clap::Args)]
pub(super) struct Initialisation {
    #[command(flatten)]
    training: Training,
    /// The reduced learning rate, as a share of the full one
    #[arg(long, default_value_t = 0.3, value_name = "SHARE")]
    reduced: f64,
}

/// Arguments of `bignas analyze constant-ending`.
#[derive(Debug, clap::Args)]
pub(super) struct ConstantEnding {
    #[command(flatten)]
    training: Training,
    /// Floors of the learning rate, as shares of the highest; 0 decays to the end
    #[arg(long, num_args = 1.., value_name = "SHARE", default_values_t = [0.0, 0.03, 0.05, 0.08, 0.1])]
    floors: Vec<f64>,
}

/// Arguments of `bignas analyze regularisation`.
#[derive(Debug, clap::Args)]
pub(super) struct Regularisation {
    #[command(flatten)]
    training: Training,
}

/// What one arm reached.
#[derive(Debug, Serialize)]
struct Row {
    arm: String,
    /// The step at which the network was no longer a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    diverged_at_step: Option<u64>,
    smallest: Option<f64>,
    biggest: Option<f64>,
    /// How much better the smallest child is than that of the first arm.
    gain_smallest: Option<Difference>,
    /// The same of the biggest.
    gain_biggest: Option<Difference>,
    /// Of both, where both are numbers.
    average: Option<f64>,
    /// Training time, in seconds.
    seconds: f64,
    /// After every epoch, on some of the test images.
    epochs: Vec<(u64, Accuracy)>,
    /// Training losses of the smallest and the biggest child, which the run's own log has too.
    #[serde(skip)]
    losses: [Vec<(u64, f64)>; 2],
    /// What both children said of the test images, where they were numbers.
    #[serde(skip)]
    tallies: Option<[Tally; 2]>,
}

#[derive(Debug, Serialize)]
struct Numbers {
    #[serde(flatten)]
    setup: Setup,
    rows: Vec<Row>,
}

impl Initialisation {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let workshop = Workshop::open(&self.training, &Children::NONE, "initialisation", &["--without zero-gamma"])?;
        let (space, full) = (&workshop.lab.model.card.space, workshop.settings.schedule.rate_per_256);
        let naive = SearchSpace { shortcut: Shortcut::IdentityOnly, ..space.clone() };
        let mut arms = Vec::new();
        for (rate, share) in [("full rate", 1.0), ("reduced rate", self.reduced)] {
            for (start, space, zero_gamma) in [("identity", space, true), ("naive", &naive, false)] {
                let mut settings = TrainSettings { zero_gamma, ..workshop.settings.clone() };
                settings.schedule.rate_per_256 = full * share;
                arms.push(arm(&format!("{start}, {rate}"), space, settings));
            }
        }
        let what = "Blocks that all have a skip connection and start as the identity; and naive ones: without skip connections where \
                    channels or resolution change, and with every batch norm at one.";
        compare(workshop, &self.training, "initialisation", what, arms)
    }
}

impl ConstantEnding {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let workshop = Workshop::open(&self.training, &Children::NONE, "constant-ending", &["--floor", "--without constant-ending"])?;
        let with = |&floor: &f64| {
            let mut settings = workshop.settings.clone();
            settings.schedule.floor = floor;
            arm(&floor_name(floor), &workshop.lab.model.card.space, settings)
        };
        let arms = self.floors.iter().map(with).collect();
        compare(workshop, &self.training, "constant-ending", "Floors under the decaying learning rate.", arms)
    }
}

impl Regularisation {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let workshop = Workshop::open(&self.training, &Children::NONE, "regularisation", &["--without regularise-biggest"])?;
        ensure!(
            workshop.settings.optimiser.weight_decay > 0.0
                || (workshop.settings.dropout && workshop.lab.model.card.space.head.dropout > 0.0),
            "without weight decay and dropout nobody is regularised: leave one of the two in, and dropout in a space that has some"
        );
        let arms = [("the biggest alone", Regularise::Biggest), ("everyone", Regularise::Everyone)].map(|(name, regularise)| {
            let settings = TrainSettings { regularise, ..workshop.settings.clone() };
            arm(name, &workshop.lab.model.card.space, settings)
        });
        let arms = arms.into();
        compare(workshop, &self.training, "regularisation", "Weight decay and dropout for the biggest child alone, or for everyone.", arms)
    }
}

/// What an arm with this floor under its learning rate is called: in percent, without what binary fractions add to a decimal.
fn floor_name(floor: f64) -> String {
    format!("floor {} %", (1e12 * floor).round() / 1e10)
}

/// The training of a whole model from nothing.
fn arm(name: &str, space: &SearchSpace, settings: TrainSettings) -> Arm {
    Arm { name: name.to_owned(), space: space.clone(), settings, from_model: false, taught_by_model: false }
}

/// Trains every arm, and reports its smallest and biggest child.
fn compare(mut workshop: Workshop<'_>, args: &Training, name: &'static str, what: &str, arms: Vec<Arm>) -> anyhow::Result<()> {
    workshop.check(&arms)?;
    let mut rows: Vec<Row> = Vec::new();
    for arm in &arms {
        let row = measure(&mut workshop, arm, rows.first())?;
        rows.push(row);
    }
    let what = format!(
        "{what} Top-1 accuracy in %, and the paired difference to the first arm with its 95 % interval. {} {}",
        workshop.rate(),
        workshop.describe()
    );
    let columns = ["arm", "smallest child", "biggest child", "average", "training"].map(str::to_owned).to_vec();
    let table = rows.iter().map(cells).collect();
    let charts = [
        ("smallest", accuracies(&rows, "smallest", |accuracy| accuracy.smallest)),
        ("biggest", accuracies(&rows, "biggest", |accuracy| accuracy.biggest)),
        ("loss-smallest", losses(&rows, "smallest", 0)),
        ("loss-biggest", losses(&rows, "biggest", 1)),
    ];
    // A training that diverges in its first epoch has no accuracies, and a very short one no losses.
    let charts = charts.into_iter().filter(|(_, chart)| !chart.series.is_empty());
    let charts = charts.map(|(what, chart)| (format!("{name}-{what}"), chart)).collect();
    let numbers = Numbers { setup: workshop.setup(), rows };
    Report { name, what, columns, rows: table, charts, numbers }.publish(&workshop.lab, &args.common.output)
}

/// Trains `arm`, and compares its smallest and biggest child with those of the `first` arm.
fn measure(workshop: &mut Workshop<'_>, arm: &Arm, first: Option<&Row>) -> anyhow::Result<Row> {
    let (diverged_at_step, course, tallies) = match workshop.train(arm)? {
        Trained::Diverged { step, course } => (Some(step), course, None),
        Trained::Finished { weights, course } => {
            let smallest = workshop.test(arm, &weights, &arm.space.smallest())?;
            (None, course, Some([smallest, workshop.test(arm, &weights, &arm.space.biggest())?]))
        }
    };
    let [smallest, biggest] = [0, 1].map(|which| Some(tallies.as_ref()?[which].accuracy()));
    let [gain_smallest, gain_biggest] = gains(tallies.as_ref(), first.and_then(|first| first.tallies.as_ref()));
    let Course { epochs, seconds, losses_biggest, losses_smallest } = course;
    Ok(Row {
        arm: arm.name.clone(),
        diverged_at_step,
        smallest,
        biggest,
        gain_smallest,
        gain_biggest,
        average: smallest.zip(biggest).map(|(smallest, biggest)| f64::midpoint(smallest, biggest)),
        seconds,
        epochs,
        losses: [losses_smallest, losses_biggest],
        tallies,
    })
}

/// How much better the smallest and the biggest child are than those of the `first` arm.
fn gains(own: Option<&[Tally; 2]>, first: Option<&[Tally; 2]>) -> [Option<Difference>; 2] {
    [0, 1].map(|which| Some(difference(&own?[which].correct, &first?[which].correct)))
}

fn cells(row: &Row) -> Vec<String> {
    let percent = |accuracy: Option<f64>| accuracy.map_or_else(|| "–".to_owned(), |accuracy| format!("{:.2}", 100.0 * accuracy));
    let compared = |accuracy: Option<f64>, gain: Option<Difference>| match gain {
        Some(gain) => format!("{} ({:+.2} ± {:.2})", percent(accuracy), 100.0 * gain.mean, 100.0 * gain.margin),
        None => percent(accuracy),
    };
    let fate = row.diverged_at_step.map_or_else(|| format!("{:.1} min", row.seconds / 60.0), |step| format!("diverged at step {step}"));
    let children = [compared(row.smallest, row.gain_smallest), compared(row.biggest, row.gain_biggest)];
    [vec![row.arm.clone()], children.into(), vec![percent(row.average), fate]].concat()
}

/// Accuracy of one child of every arm, after each epoch.
fn accuracies(rows: &[Row], child: &str, of: fn(&Accuracy) -> Option<f64>) -> Chart {
    let line = |row: &Row| {
        let points = row.epochs.iter().filter_map(|(epoch, accuracy)| Some((*epoch as f64, 100.0 * of(accuracy)?))).collect();
        Series { name: row.arm.clone(), mark: Mark::Line, points }
    };
    Chart {
        title: format!("Accuracy of the {child} child after each epoch"),
        x: "epochs".to_owned(),
        y: "top-1 accuracy, %".to_owned(),
        series: rows.iter().map(line).filter(|series| !series.points.is_empty()).collect(),
    }
}

/// Training loss of one child of every arm: what shows first where a training goes wrong.
fn losses(rows: &[Row], child: &str, which: usize) -> Chart {
    let line = |row: &Row| {
        let points = row.losses[which].iter().map(|&(step, loss)| (step as f64, loss)).collect();
        Series { name: row.arm.clone(), mark: Mark::Line, points }
    };
    Chart {
        title: format!("Training loss of the {child} child"),
        x: "steps".to_owned(),
        y: "cross entropy".to_owned(),
        series: rows.iter().map(line).filter(|series| !series.points.is_empty()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gains_are_those_of_each_child_over_the_first_arm() {
        let tally =
            |right: usize| Tally { images: 4, top1: right, correct: (0..4).map(|image| image < right).collect(), ..Tally::default() };
        let (first, second) = ([tally(1), tally(3)], [tally(2), tally(1)]);
        let gained = gains(Some(&second), Some(&first)).map(|gain| gain.map(|gain| gain.mean));
        assert_eq!(gained, [Some(0.25), Some(-0.5)]);
        assert_eq!([gains(None, Some(&first)), gains(Some(&second), None)], [[None; 2]; 2]);
        let [gain_smallest, gain_biggest] = gains(Some(&second), Some(&first));
        let row = Row {
            arm: "second".to_owned(),
            diverged_at_step: None,
            smallest: Some(0.5),
            biggest: Some(0.25),
            gain_smallest,
            gain_biggest,
            average: Some(0.375),
            seconds: 90.0,
            epochs: Vec::new(),
            losses: [Vec::new(), Vec::new()],
            tallies: None,
        };
        assert_eq!(cells(&row), ["second", "50.00 (+25.00 ± 49.00)", "25.00 (-50.00 ± 56.58)", "37.50", "1.5 min"]);
        let diverged =
            Row { diverged_at_step: Some(7), smallest: None, biggest: None, gain_smallest: None, gain_biggest: None, average: None, ..row };
        assert_eq!(cells(&diverged), ["second", "–", "–", "–", "diverged at step 7"]);
    }

    #[test]
    fn a_floor_is_named_as_it_was_given() {
        for (floor, expected) in [(0.0, "0"), (0.07, "7"), (0.29, "29"), (0.125, "12.5"), (0.000_01, "0.001"), (1.0, "100")] {
            assert_eq!(floor_name(floor), format!("floor {expected} %"));
        }
    }
}
