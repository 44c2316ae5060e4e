//! The command line: one file a subcommand.
//!
//! Errors end here: they are printed once, with their causes, and the process exits with status 1, or [`STOPPED`] where it was stopped.

mod analyze;
mod bench;
mod calibration;
mod common;
mod evaluate;
mod export;
mod health;
mod import;
mod init;
mod inspect;
mod logging;
mod openapi;
mod profile;
mod progress;
mod search;
mod serve;
mod shell;
#[cfg(feature = "train")]
mod signals;
mod stop;
mod traces;
#[cfg(feature = "train")]
mod train;

use clap::{Parser, Subcommand};

pub use self::stop::{STOPPED, Stopped};

/// Train one single-stage model (BigNAS), and serve every network inside it by budget.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a model over HTTP
    Serve(Box<serve::Args>),
    /// Ask a running server whether it is alive: for a container's health check
    Health(health::Args),
    /// Create a model with seeded random weights
    Init(init::Args),
    /// Make a model from the public ImageNet weights of AttentiveNAS or AlphaNet
    Import(import::Args),
    /// Show what a child costs, layer by layer kind
    Inspect(inspect::Args),
    /// Train a single-stage model with the sandwich rule and in-place distillation
    #[cfg(feature = "train")]
    Train(train::Args),
    /// Train a single-stage model (this binary was built without training: `make build-train`)
    #[cfg(not(feature = "train"))]
    Train {
        /// Arguments for the binary that trains
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        arguments: Vec<String>,
    },
    /// Search a trained model for its family
    Search(search::Args),
    /// Put the paper's claims to the test on a model and its data
    Analyze(analyze::Args),
    /// Put load on a running server, and measure what it does
    Bench(bench::Args),
    /// Measure the accuracy of children on a data set
    Evaluate(evaluate::Args),
    /// Measure this device's latency table, which predicts the time of any child
    Profile(profile::Args),
    /// Write a child as an ONNX file
    Export(export::Args),
    /// Print the description of the HTTP interface (OpenAPI)
    Openapi,
}

impl Cli {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// [`Stopped`] where a signal ended a training early; else whatever the subcommand reports, meant for a person.
    pub fn run(self) -> anyhow::Result<()> {
        if !matches!(self.command, Command::Serve(_)) {
            logging::start_warnings();
        }
        match self.command {
            Command::Serve(args) => serve::run(*args),
            Command::Health(args) => health::run(&args),
            Command::Init(args) => init::run(args),
            Command::Import(args) => import::run(args),
            Command::Inspect(args) => inspect::run(args),
            #[cfg(feature = "train")]
            Command::Train(args) => train::run(&args),
            #[cfg(not(feature = "train"))]
            Command::Train { arguments } => anyhow::bail!(
                "this binary serves and does not train: run `make build-train`, then `target/train/release/bignas train {}`",
                shell::command_line(arguments)
            ),
            Command::Analyze(args) => analyze::run(args),
            Command::Bench(args) => bench::run(&args),
            Command::Search(args) => search::run(args),
            Command::Evaluate(args) => evaluate::run(args),
            Command::Profile(args) => profile::run(args),
            Command::Export(args) => export::run(args),
            Command::Openapi => openapi::run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn every_flag_is_well_formed() {
        Cli::command().debug_assert();
    }
}
