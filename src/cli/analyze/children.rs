//! Children of a trained model against the same architectures trained further, or from scratch (paper, 5).

use anyhow::ensure;
use serde::Serialize;

use super::Children;
use super::report::Report;
use super::workshop::{Arm, Setup, Trained, Training, Workshop};
use crate::evaluate::{Difference, difference};
use crate::plot::{Chart, Mark, Series};
use crate::space::Child;
use crate::train::{Decay, Roster, Schedule, TrainSettings};

/// Arguments of `bignas analyze fine-tuning`.
#[derive(Debug, clap::Args)]
pub(super) struct FineTuning {
    #[command(flatten)]
    training: Training,
    #[command(flatten)]
    children: Children,
    /// Constant learning rates for a batch of 256 images
    #[arg(long, num_args = 1.., value_name = "RATE", default_values_t = [0.01, 0.001, 0.0001])]
    rates: Vec<f64>,
}

/// Arguments of `bignas analyze from-scratch`.
#[derive(Debug, clap::Args)]
pub(super) struct FromScratch {
    #[command(flatten)]
    training: Training,
    #[command(flatten)]
    children: Children,
    /// From what the children learn; all three, if not given
    #[arg(long, value_enum, num_args = 1.., value_name = "TEACHER", default_values_t = [Lessons::Labels, Lessons::Model, Lessons::InPlace])]
    from: Vec<Lessons>,
}

/// What a child that is trained from scratch learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Lessons {
    /// The labels
    Labels,
    /// The predictions of the model's biggest child, as it is: the paper's distillation A
    Model,
    /// The predictions of a biggest child trained beside it in the same weights: the paper's distillation B
    InPlace,
}

/// A child, sliced and as every arm trained it.
#[derive(Debug, Serialize)]
struct Row {
    child: String,
    id: String,
    mmacs: f64,
    /// Sliced from the model, recalibrated, nothing else.
    sliced: f64,
    trained: Vec<Outcome>,
}

/// What a child reached that was trained on its own.
#[derive(Debug, Serialize)]
struct Outcome {
    method: String,
    /// Whether the method can be had of this child: the biggest has no bigger one beside it to learn from.
    applies: bool,
    /// None where it diverged, or does not apply.
    accuracy: Option<f64>,
    /// Accuracy of the trained child minus that of the sliced one, on the same images.
    gain: Option<Difference>,
}

#[derive(Debug, Serialize)]
struct Numbers {
    #[serde(flatten)]
    setup: Setup,
    rows: Vec<Row>,
}

/// A way to train one child; none where it makes no sense of this one.
type Method = (String, Box<dyn Fn(&Child) -> Option<Arm>>);

impl FineTuning {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let decided = ["--learning-rate", "--schedule", "--floor", "--without constant-ending", "--without warm-up"];
        let workshop = Workshop::open(&self.training, &self.children, "fine-tuning", &decided)?;
        let method = |rate: f64| -> Method {
            let (space, base) = (workshop.lab.model.card.space.clone(), workshop.settings.clone());
            let arm = move |child: &Child| {
                let schedule =
                    Schedule { rate_per_256: rate, warmup_epochs: 0.0, floor: 1.0, shape: Decay::Exponential, ..base.schedule.clone() };
                let settings = TrainSettings { roster: Roster::Child(child.choices().clone()), schedule, ..base.clone() };
                let name = format!("{} at {rate}", child.id());
                Some(Arm { name, space: space.clone(), settings, from_model: true, taught_by_model: false })
            };
            (format!("fine-tuned at {rate}"), Box::new(arm))
        };
        let methods = self.rates.iter().map(|&rate| method(rate)).collect();
        compare(workshop, &self.training, "fine-tuning", "Children sliced from {}, and fine-tuned at constant learning rates.", methods)
    }
}

impl FromScratch {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let workshop = Workshop::open(&self.training, &self.children, "from-scratch", &[])?;
        let TrainSettings { distillation, label_epochs, epochs, .. } = workshop.settings;
        ensure!(
            !self.from.contains(&Lessons::InPlace) || distillation && label_epochs < epochs,
            "nobody would be distilled in place: it takes distillation, and more epochs than the {label_epochs} of labels alone \
             (--label-epochs); or leave in-place out of --from"
        );
        let method = |name: &str, roster: fn(&Child) -> Roster, taught_by_model: bool| -> Method {
            let (space, base, title) = (workshop.lab.model.card.space.clone(), workshop.settings.clone(), name.to_owned());
            let arm = move |child: &Child| {
                let roster = roster(child);
                if matches!(roster, Roster::BiggestAnd(_)) && *child == space.biggest() {
                    return None;
                }
                let settings = TrainSettings { roster, ..base.clone() };
                let name = format!("{} {title}", child.id());
                Some(Arm { name, space: space.clone(), settings, from_model: false, taught_by_model })
            };
            (name.to_owned(), Box::new(arm))
        };
        let alone: fn(&Child) -> Roster = |child| Roster::Child(child.choices().clone());
        let methods = self.from.iter().map(|lessons| match lessons {
            Lessons::Labels => method("from scratch", alone, false),
            Lessons::Model => method("distilled from the model (A)", alone, true),
            Lessons::InPlace => method("distilled in place (B)", |child| Roster::BiggestAnd(child.choices().clone()), false),
        });
        let methods = methods.collect();
        let what = format!("Children sliced from {{}}, and the same architectures trained from scratch. {}", workshop.rate());
        compare(workshop, &self.training, "from-scratch", &what, methods)
    }
}

/// Trains every child by every method, and reports.
fn compare(mut workshop: Workshop<'_>, args: &Training, name: &'static str, what: &str, methods: Vec<Method>) -> anyhow::Result<()> {
    let children = workshop.lab.children.clone();
    let arms: Vec<Vec<Option<Arm>>> = children.iter().map(|(_, child)| methods.iter().map(|(_, arm)| arm(child)).collect()).collect();
    workshop.check(arms.iter().flatten().flatten())?;
    let mut rows = Vec::new();
    for ((child_name, child), arms) in children.into_iter().zip(&arms) {
        let sliced = workshop.test_model(&child)?;
        let mut trained = Vec::new();
        for ((method, _), arm) in methods.iter().zip(arms) {
            let tally = match arm {
                None => None,
                Some(arm) => match workshop.train(arm)? {
                    Trained::Finished { weights, .. } => Some(workshop.test(arm, &weights, &child)?),
                    Trained::Diverged { .. } => None,
                },
            };
            let gain = tally.as_ref().map(|tally| difference(&tally.correct, &sliced.correct));
            let accuracy = tally.map(|tally| tally.accuracy());
            trained.push(Outcome { method: method.clone(), applies: arm.is_some(), accuracy, gain });
        }
        let mmacs = workshop.lab.plan(&child).cost().macs.millions();
        rows.push(Row { child: child_name, id: child.id().to_string(), mmacs, sliced: sliced.accuracy(), trained });
    }
    let what = format!(
        "{} Top-1 accuracy in %, and the paired difference to the sliced child with its 95 % interval. {}",
        what.replace("{}", &workshop.lab.model.card.name),
        workshop.describe()
    );
    let fixed = ["child", "MMACs", "sliced"].map(str::to_owned);
    let columns = fixed.into_iter().chain(methods.iter().map(|(method, _)| method.clone())).collect();
    let chart = chart(&rows, &methods);
    let table = rows.iter().map(cells).collect();
    let numbers = Numbers { setup: workshop.setup(), rows };
    Report { name, what, columns, rows: table, charts: vec![(name.to_owned(), chart)], numbers }.publish(&workshop.lab, &args.common.output)
}

fn cells(row: &Row) -> Vec<String> {
    let outcome = |outcome: &Outcome| match (outcome.accuracy, outcome.gain) {
        (Some(accuracy), Some(gain)) => format!("{:.2} ({:+.2} ± {:.2})", 100.0 * accuracy, 100.0 * gain.mean, 100.0 * gain.margin),
        _ if outcome.applies => "diverged".to_owned(),
        _ => "–".to_owned(),
    };
    let fixed = [row.child.clone(), format!("{:.2}", row.mmacs), format!("{:.2}", 100.0 * row.sliced)];
    fixed.into_iter().chain(row.trained.iter().map(outcome)).collect()
}

fn chart(rows: &[Row], methods: &[Method]) -> Chart {
    let line = |name: &str, accuracy: &dyn Fn(&Row) -> Option<f64>| {
        let mut points: Vec<_> = rows.iter().filter_map(|row| Some((row.mmacs, 100.0 * accuracy(row)?))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { name: name.to_owned(), mark: Mark::Line, points }
    };
    let trained = methods.iter().enumerate().map(|(at, (method, _))| line(method, &|row| row.trained.get(at)?.accuracy));
    Chart {
        title: "The same architectures, trained in several ways".to_owned(),
        x: "MMACs".to_owned(),
        y: "top-1 accuracy, %".to_owned(),
        series: std::iter::once(line("sliced from the model", &|row| Some(row.sliced))).chain(trained).collect(),
    }
}
