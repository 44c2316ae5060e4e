//! Structured logs on standard error, so that standard output stays for results.

use std::io::Stderr;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;
use tracing_subscriber::fmt::format::{DefaultFields, Format};

/// How much is logged, and in which form.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logs")]
pub(super) struct LogOptions {
    /// Form of a line in the log
    #[arg(long, env = "BIGNAS_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Least level that is logged, or directives such as `warn,bignas::engine=debug`
    #[arg(long, env = "BIGNAS_LOG_LEVEL", value_name = "LEVEL", default_value = "info,ort=warn")]
    log_level: Directives,
}

/// Form of a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// Directives that were found valid.
#[derive(Debug, Clone)]
struct Directives(String);

impl std::str::FromStr for Directives {
    type Err = tracing_subscriber::filter::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        EnvFilter::try_new(text).map(|_| Self(text.to_owned()))
    }
}

/// Lines on standard error. Where nobody reads them any more, they are lost without a word: the usual word would be a panic.
fn lines(level: &str) -> SubscriberBuilder<DefaultFields, Format, EnvFilter, fn() -> Stderr> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level))
        .with_writer(std::io::stderr as fn() -> Stderr)
        .log_internal_errors(false)
}

/// Starts logging for commands without flags for it: warnings, for the person at the terminal.
pub(super) fn start_warnings() {
    let lines = lines("bignas=warn");
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // Whoever embeds this has a log already.
    if let Err(error) = lines.with_ansi(ansi).without_time().with_target(false).try_init() {
        tracing::debug!(error, "logging runs already");
    }
}

/// Starts logging for the whole process; a second start changes nothing.
pub(super) fn start(options: &LogOptions) {
    let lines = lines(&options.log_level.0);
    let started = match options.log_format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    // Whoever embeds this has a log already.
    if let Err(error) = started {
        tracing::debug!(error, "logging runs already");
    }
}
