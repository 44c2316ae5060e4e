//! `bignas serve`: one model behind HTTP.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::calibration::CalibrationArgs;
use super::common::load_runtime;
use super::logging::{self, LogOptions};
use super::traces::{self, TraceOptions};
use crate::checkpoint::Model;
use crate::engine::{Engine, EngineOptions};
use crate::metrics::Metrics;
use crate::serve::{AppState, ServeOptions, Server, Sockets, announcement, hangups, listen};

/// Arguments of `bignas serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model's directory
    #[arg(long, env = "BIGNAS_MODEL", value_name = "DIR", default_value = "models/cifar10")]
    model: PathBuf,
    #[command(flatten)]
    http: ServeOptions,
    #[command(flatten, next_help_heading = "Engine")]
    engine: EngineOptions,
    #[command(flatten, next_help_heading = "Engine")]
    calibration: CalibrationArgs,
    #[command(flatten)]
    traces: TraceOptions,
    #[command(flatten)]
    log: LogOptions,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    logging::start(&args.log);
    let traces = traces::start(&args.traces)?;
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("http").build().context("cannot start threads")?;
    let served = threads.block_on(serve(args));
    // Work that nobody waits for any more ends with the process.
    threads.shutdown_background();
    traces.stop();
    served
}

async fn serve(args: Args) -> anyhow::Result<()> {
    // First, because a taken port is found in no time, and a model takes a while to read.
    let sockets = Sockets::bind(&args.http).await?;
    let hangups = hangups().context("cannot wait for signals")?;
    let address = sockets.address().context("cannot tell which port it is")?;
    let Args { model, http, engine: options, calibration, .. } = args;
    // Whoever waited longer would be answered by the timeout, and computed for in vain.
    let options = EngineOptions { queue_limit_ms: options.queue_limit_ms.min(http.timeout_ms), ..options };
    let (directory, metrics) = (model.clone(), Arc::new(Metrics::new()?));
    let open = move || start_engine(&model, options.clone(), &calibration, Arc::clone(&metrics));
    let (open, engine) = tokio::task::spawn_blocking(move || open().map(|engine| (open, engine))).await??;
    let said = announcement(&engine, &directory, address);
    let server = Server::new(AppState::new(engine, &http), Arc::new(move || open().map_err(Into::into)));
    // Whoever started the server may not read what it prints.
    let _ = writeln!(std::io::stdout(), "{said}");
    let served = listen(sockets, server.clone(), &http, hangups).await.context("cannot wait for signals");
    // ONNX Runtime cleans up after itself when the process ends, and nothing may run in it then.
    tokio::task::spawn_blocking(move || server.stop(STOP_LIMIT)).await?;
    served
}

/// How long to wait at the end for a child that is being built: a recalibration stops before its next batch.
const STOP_LIMIT: Duration = Duration::from_secs(5);

fn start_engine(model: &Path, options: EngineOptions, calibration: &CalibrationArgs, metrics: Arc<Metrics>) -> anyhow::Result<Engine> {
    let runtime = load_runtime(options.onnxruntime.as_deref())?.on(options.device()?)?;
    tracing::info!(device = %runtime.device(), runtime = runtime.build_info(), "networks run here");
    // Where a link is turned to another directory, what was opened stays what it was.
    let model = Model::open(&model.canonicalize().unwrap_or_else(|_| model.to_owned()))?;
    let calibration = calibration.given(&model)?;
    Ok(Engine::start(model, runtime, metrics, options, calibration)?)
}
