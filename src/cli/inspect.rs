//! `bignas inspect`: what a child costs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::common::{extreme, find_child, read_child};
use super::init::read_space;
use crate::checkpoint::Model;
use crate::profile::Table;
use crate::space::{Breakdown, Child, Plan, SearchSpace};

/// Arguments of `bignas inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A model directory
    #[arg(long, value_name = "DIR", conflicts_with = "space")]
    model: Option<PathBuf>,
    /// A preset search space (bignas, cifar10, fashion-mnist, attentivenas) or a search-space file
    #[arg(long, default_value = "bignas")]
    space: String,
    /// Number of classes, where no model says it
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    classes: u32,
    /// `smallest`, `biggest`, the id of a member of the model's family, or a JSON file of choices
    #[arg(long, default_value = "biggest")]
    child: String,
    /// A latency table that `bignas profile` wrote: also predict the child's milliseconds
    #[arg(long, value_name = "FILE")]
    latency_table: Option<PathBuf>,
    /// Print the choices and the cost as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let (space, classes, child) = subject(&args)?;
    let plan = Plan::new(&space, &child, classes);
    let cost = plan.cost();
    let predicted = args.latency_table.as_deref().map(|path| predict(path, &space, &plan)).transpose()?;
    if args.json {
        let mut value = serde_json::json!({ "id": child.id(), "choices": child.choices(), "cost": cost });
        if let Some((table, predicted_ms)) = &predicted {
            value["predicted_latency_ms"] = serde_json::to_value(predicted_ms)?;
            let Table { device, threads, onnxruntime, .. } = table;
            value["latency_table"] = serde_json::json!({ "device": device, "threads": threads, "onnxruntime": onnxruntime });
        }
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(());
    }
    println!("child {} of {} at {} px", child.id(), space.name, child.resolution());
    println!("{:>16} {:>12} {:>12}", "", "MMACs", "M params");
    for ((name, macs), (_, params)) in rows(&cost.macs).into_iter().zip(rows(&cost.params)) {
        println!("{name:>16} {:>12.3} {:>12.4}", macs as f64 / 1e6, params as f64 / 1e6);
    }
    println!("{:>16} {:>12.3} {:>12.4}", "total", cost.macs.millions(), cost.params.millions());
    println!("peak activation memory {:.2} MB at batch 1", cost.peak_activation_bytes as f64 / 1e6);
    if let Some((table, predicted_ms)) = &predicted {
        print_predictions(table, predicted_ms);
    }
    Ok(())
}

/// The table and the child's milliseconds by batch size.
fn predict(path: &Path, space: &SearchSpace, plan: &Plan) -> anyhow::Result<(Table, BTreeMap<usize, f64>)> {
    let table = Table::read(path)?;
    table.check(space, plan.classes)?;
    let predicted_ms = table.predict_ms(plan)?;
    Ok((table, predicted_ms))
}

fn print_predictions(table: &Table, predicted_ms: &BTreeMap<usize, f64>) {
    println!("predicted latency on {}, threads a run: {}", table.device, table.threads);
    for (batch, ms) in predicted_ms {
        let errors = table.batches.get(batch).and_then(|batch| batch.held_out);
        let error = errors.map(|e| format!(" (median error {:.1} % on {} children)", 100.0 * e.median, e.children)).unwrap_or_default();
        println!("{:>16} {ms:>12.3} ms{error}", format!("batch {batch}"));
    }
}

fn subject(args: &Args) -> anyhow::Result<(SearchSpace, usize, Child)> {
    if let Some(directory) = &args.model {
        let model = Model::open(directory)?;
        let child = find_child(&model, &args.child)?;
        return Ok((model.card.space.clone(), model.card.labels.len(), child));
    }
    let space = read_space(&args.space)?;
    let child = match args.child.as_str() {
        name @ ("smallest" | "biggest") => extreme(&space, name),
        path => read_child(&space, Path::new(path))?,
    };
    Ok((space, args.classes as usize, child))
}

fn rows(b: &Breakdown) -> [(&'static str, u64); 6] {
    [
        ("convolution", b.convolution),
        ("depthwise", b.depthwise),
        ("squeeze-excite", b.squeeze_excite),
        ("shortcut", b.shortcut),
        ("head", b.head),
        ("classifier", b.classifier),
    ]
}
