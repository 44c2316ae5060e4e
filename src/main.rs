//! The `bignas` command line.

use clap::{Parser, Subcommand};

/// BigNAS: train one single-stage model, serve every network inside it.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[cfg(feature = "train")]
    Train(bignas::cli::train::TrainArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        #[cfg(feature = "train")]
        Command::Train(args) => bignas::cli::train::run(&args),
    }
}
