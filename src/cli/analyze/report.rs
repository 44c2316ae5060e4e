//! What an analysis leaves behind: a table for people, a curve, and the numbers with how they came about.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use super::lab::Lab;
use crate::cli::shell::{command_line, own_command};
use crate::files::write_atomically;
use crate::plot::Chart;
use crate::runtime::processor;

/// A finished analysis.
pub(super) struct Report<'a, Numbers> {
    /// Its name, which the files bear.
    pub(super) name: &'a str,
    /// What was measured, in a sentence.
    pub(super) what: String,
    /// Names of the columns.
    pub(super) columns: Vec<String>,
    /// One row a line.
    pub(super) rows: Vec<Vec<String>>,
    /// Charts, by the names of their files.
    pub(super) charts: Vec<(String, Chart)>,
    /// Everything measured, and the settings.
    pub(super) numbers: Numbers,
}

/// What was measured, and how it came about.
#[derive(Debug, Serialize)]
struct Record<'a, Numbers> {
    command: String,
    /// The model's name.
    model: &'a str,
    weights_sha256: &'a str,
    machine: String,
    /// What this command took. What it finds trained it does not train again, so that after an interruption it takes less; a training
    /// that diverged does so again, from its last checkpoint on.
    seconds: u64,
    #[serde(flatten)]
    numbers: &'a Numbers,
}

impl<Numbers: Serialize> Report<'_, Numbers> {
    /// Prints the table, and writes `NAME.md`, `NAME.json`, and every chart as SVG and PNG into `directory`.
    pub(super) fn publish(&self, lab: &Lab, directory: &Path) -> anyhow::Result<()> {
        let table = self.table();
        println!("{table}");
        lab.tell_skipped();
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let command = command_line(std::iter::once("bignas".to_owned()).chain(own_command().skip(1)));
        let record = Record {
            command,
            model: &lab.model.card.name,
            weights_sha256: &lab.model.card.weights_sha256,
            machine: processor(),
            seconds: lab.opened.elapsed().as_secs(),
            numbers: &self.numbers,
        };
        let Record { command, weights_sha256, machine, seconds, .. } = &record;
        let made = format!("`{command}`, weights `{}…`, {seconds} s on {machine}", &weights_sha256[..8]);
        let markdown = format!("{}\n\n{table}\n{made}\n", self.what);
        for (ending, bytes) in [("md", markdown.into_bytes()), ("json", serde_json::to_vec_pretty(&record)?)] {
            let path = directory.join(format!("{}.{ending}", self.name));
            write_atomically(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
        }
        println!("wrote {}/{}.{{md,json}}", directory.display(), self.name);
        for (name, chart) in &self.charts {
            chart.write(directory, name)?;
            println!("wrote {}/{name}.{{svg,png}}", directory.display());
        }
        Ok(())
    }

    fn table(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule = vec!["---".to_owned(); self.columns.len()];
        [&self.columns, &rule].into_iter().chain(&self.rows).map(|cells| line(cells)).collect()
    }
}
