//! `bignas health`: what a container asks, which has no other client.

use std::time::Duration;

use anyhow::{Context, bail};

use crate::load::{Target, get};

/// Arguments of `bignas health`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The server; by default the one on this machine's port
    #[arg(long, value_name = "URL")]
    url: Option<Target>,
    /// Its port, where no URL is given
    #[arg(long, env = "BIGNAS_PORT", default_value_t = 8080)]
    port: u16,
    /// Its port for probes, asked instead where it has one: it answers however many clients there are
    #[arg(long, env = "BIGNAS_PROBE_PORT", value_name = "PORT")]
    probe_port: Option<u16>,
    /// Ask whether it is ready to answer, not only whether it is alive
    #[arg(long)]
    ready: bool,
    /// How long to wait for an answer, in milliseconds
    #[arg(long, default_value_t = 4000)]
    timeout_ms: u64,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let target = args.url.clone().map_or_else(|| format!("http://127.0.0.1:{}", args.probe_port.unwrap_or(args.port)).parse(), Ok)?;
    let path = if args.ready { "/readyz" } else { "/healthz" };
    let limit = Duration::from_millis(args.timeout_ms);
    let threads = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let answer = threads.block_on(async { tokio::time::timeout(limit, get(&target, path)).await });
    // A name that is still being looked up would be waited for.
    threads.shutdown_background();
    let (status, text) = answer.with_context(|| format!("no answer within {} ms", args.timeout_ms))??;
    if status != 200 {
        bail!("{path} answered {status}: {}", text.trim());
    }
    println!("{}", text.trim());
    Ok(())
}
