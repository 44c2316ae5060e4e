//! `bignas bench`: load on a running server, and what it came to.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::ValueEnum;
use serde::Serialize;

use super::common::directory_to_write_into;
use super::shell::own_command;
use crate::console::tell;
use crate::files::write_atomically;
use crate::load::{self, Load, Mode, Outcome, Summary, Target, Windows, drive, summarise};
use crate::plot::{Chart, Mark, Series};

/// Arguments of `bignas bench`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address of the server, `http://` or `https://`, and what its routes begin with
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    url: String,
    /// Route that images are posted to as they are; with another than `/classify`, any server can be measured
    #[arg(long, default_value = "/classify", value_name = "PATH")]
    path: String,
    /// Image files to send, in turn
    #[arg(long, num_args = 1.., required = true, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// What to ask for, in turn, as a query: `mflops=3`, `latency_ms=2&min_accuracy=0.88&deadline_ms=50`
    #[arg(long, num_args = 1.., default_value = "", value_name = "QUERY")]
    ask: Vec<String>,
    /// Deadline of every request that does not ask for one, in milliseconds
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..))]
    deadline_ms: Option<u32>,
    /// How requests arrive
    #[arg(long, value_enum, default_value_t = Arrival::Closed)]
    arrivals: Arrival,
    /// Requests in flight of a closed loop; connections at most of an open one
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Requests a second of an open loop
    #[arg(long, value_name = "REQUESTS", required_if_eq_any = [("arrivals", "poisson"), ("arrivals", "gamma")])]
    rate: Option<f64>,
    /// Burstiness of gamma arrivals: the squared coefficient of variation of the times between requests
    #[arg(long, default_value_t = 4.0)]
    cv2: f64,
    /// Seconds that are not counted
    #[arg(long, default_value_t = 2, value_name = "SECONDS")]
    warm_up_s: u32,
    /// Seconds of a window of the measurement
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    window_s: u32,
    /// Windows at most; a closed loop ends as soon as the last three agree
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    windows: u32,
    /// Seconds that an answer is waited for; a server without answers does not hold up the end
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout_s: u32,
    /// Seed of the times of an open loop
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write NAME.json, NAME.svg and NAME.png
    #[arg(short, long, value_name = "NAME")]
    output: Option<PathBuf>,
    /// Write NAME.csv too: when each request was due, and what became of it
    #[arg(long, requires = "output")]
    requests: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Arrival {
    /// A number of requests in flight: what the server can do
    Closed,
    /// Independent clients
    Poisson,
    /// Independent clients in bursts
    Gamma,
}

/// What was measured, and how.
#[derive(Debug, Serialize)]
struct Report {
    command: Vec<String>,
    windows: Windows,
    stable: bool,
    summary: Summary,
}

/// Files of one name, which may have dots in it.
struct Files<'a> {
    directory: &'a Path,
    name: &'a str,
}

impl<'a> Files<'a> {
    fn named(path: &'a Path) -> anyhow::Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str()).context("the name to write under is no file name")?;
        Ok(Self { directory: directory_to_write_into(path)?, name })
    }

    fn ending(&self, ending: &str) -> PathBuf {
        self.directory.join(format!("{}.{ending}", self.name))
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let files = args.output.as_deref().map(Files::named).transpose()?;
    let load = load(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (outcomes, windows) = runtime.block_on(measure(args, &load))?;
    let length = Duration::from_secs(u64::from(args.window_s) * windows.0.len() as u64);
    let summary = summarise(&outcomes, length);
    print(&summary, &windows);
    if let Some(files) = &files {
        let report = Report { command: own_command().skip(1).collect(), stable: windows.stable(), windows, summary };
        if args.requests {
            write_requests(&files.ending("csv"), &outcomes)?;
        }
        write(files, &report, &outcomes)?;
    }
    let due = args.arrivals == Arrival::Closed || !outcomes.is_empty();
    ensure!(due, "no request was due in {} s: give a higher --rate, or more --windows", length.as_secs());
    ensure!(
        outcomes.iter().any(|outcome| outcome.reply.is_some()),
        "nothing was answered: see whether {} is ready, and if it is only slow, give a longer --timeout-s and --window-s",
        args.url
    );
    Ok(())
}

fn load(args: &Args) -> anyhow::Result<Load> {
    let images = args.image.iter().map(|path| {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Bytes::from(bytes))
    });
    let with_deadline = |ask: &String| match args.deadline_ms {
        Some(ms) if ask.is_empty() => format!("deadline_ms={ms}"),
        Some(ms) if !ask.contains("deadline_ms=") => format!("{ask}&deadline_ms={ms}"),
        _ => ask.clone(),
    };
    let (connections, rate) = (usize::from(args.connections), args.rate.unwrap_or_default());
    let mode = match args.arrivals {
        Arrival::Closed => Mode::Closed { connections },
        Arrival::Poisson => Mode::Open { rate, cv2: 1.0, connections },
        Arrival::Gamma => Mode::Open { rate, cv2: args.cv2, connections },
    };
    let sensible = args.arrivals == Arrival::Closed || (rate > 0.0 && rate.is_finite() && args.cv2 > 0.0 && args.cv2.is_finite());
    ensure!(sensible, "--rate {rate} and --cv2 {} must be above 0", args.cv2);
    let asks = args.ask.iter().map(with_deadline).collect();
    let (target, path) = (args.url.parse::<Target>()?, args.path.parse::<load::Path>()?);
    let (images, timeout) = (images.collect::<anyhow::Result<_>>()?, Duration::from_secs(args.timeout_s.into()));
    Ok(Load { target, path, mode, images, asks, seed: args.seed, timeout })
}

/// Warms up, then drives the load for as many windows as it takes.
async fn measure(args: &Args, load: &Load) -> anyhow::Result<(Vec<Outcome>, Windows)> {
    if args.warm_up_s > 0 {
        drive(load, Duration::from_secs(args.warm_up_s.into()), 1, |_| false).await?;
    }
    let settled = |windows: &Windows| {
        if let Some(last) = windows.0.last() {
            tell(format!("window {}: {last:.1} requests/s", windows.0.len()));
        }
        windows.stable()
    };
    Ok(drive(load, Duration::from_secs(args.window_s.into()), args.windows, settled).await?)
}

fn print(summary: &Summary, windows: &Windows) {
    let percent = |share: f64| 100.0 * share;
    let settled = if windows.stable() { "the last three windows agree" } else { "the windows do not agree within a tenth" };
    println!("{} requests in {:.0} s; {settled}", summary.requests, summary.seconds);
    println!("throughput {:.1}/s, in time {:.1}/s", summary.throughput, summary.goodput);
    let Summary { p50_ms, p90_ms, p99_ms, p999_ms, max_ms, .. } = summary;
    println!("latency ms: p50 {p50_ms:.2}, p90 {p90_ms:.2}, p99 {p99_ms:.2}, p99.9 {p999_ms:.2}, longest {max_ms:.2}");
    println!(
        "in time {:.3} %, refused {:.3} %, by a smaller child {:.3} %",
        percent(summary.in_time),
        percent(summary.refused),
        percent(summary.degraded)
    );
    if let Some(p99_ms) = summary.refusal_p99_ms {
        println!("refusals: p99 {p99_ms:.2} ms");
    }
    if let Some(accuracy) = summary.mean_accuracy {
        println!("mean accuracy {:.2} %", percent(accuracy));
    }
    let statuses: Vec<String> = summary.statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect();
    println!("answers by status: {}", statuses.join(", "));
    summary.children.iter().for_each(|(child, count)| println!("  child {child}: {count}"));
}

/// A line for each request, as they were due; what the server's answers do not say stays empty.
fn write_requests(file: &Path, outcomes: &[Outcome]) -> anyhow::Result<()> {
    let mut outcomes: Vec<&Outcome> = outcomes.iter().collect();
    outcomes.sort_by_key(|outcome| outcome.due);
    let mut text = "due_ms,latency_ms,status,child,batch,queue_ms,decode_ms,inference_ms\n".to_owned();
    for Outcome { due, latency, reply, .. } in outcomes {
        let status = reply.as_ref().map_or(0, |reply| reply.status);
        let child = reply.as_ref().and_then(|reply| reply.child).map(|child| child.to_string()).unwrap_or_default();
        let batch = reply.as_ref().and_then(|reply| reply.batch).map(|batch| batch.to_string()).unwrap_or_default();
        let timing = reply.as_ref().and_then(|reply| reply.timing);
        let timing = timing.map_or_else(|| ",,".to_owned(), |time| format!("{},{},{}", time.queue_ms, time.decode_ms, time.inference_ms));
        let [due_ms, latency_ms] = [due, latency].map(|time| time.as_secs_f64() * 1e3);
        writeln!(text, "{due_ms:.3},{latency_ms:.3},{status},{child},{batch},{timing}")?;
    }
    write_atomically(file, text.as_bytes()).with_context(|| format!("cannot write {}", file.display()))?;
    println!("wrote {}", file.display());
    Ok(())
}

/// The numbers, and the latencies by percentile where there are any.
fn write(files: &Files<'_>, report: &Report, outcomes: &[Outcome]) -> anyhow::Result<()> {
    let file = files.ending("json");
    write_atomically(&file, &serde_json::to_vec_pretty(report)?).with_context(|| format!("cannot write {}", file.display()))?;
    let answered = outcomes.iter().filter(|outcome| outcome.reply.as_ref().is_some_and(|reply| reply.status == 200));
    let mut latencies: Vec<f64> = answered.map(|outcome| outcome.latency.as_secs_f64() * 1e3).collect();
    latencies.sort_by(f64::total_cmp);
    if latencies.is_empty() {
        println!("wrote {}; nothing was answered, so there is no curve", file.display());
        return Ok(());
    }
    let points = (0..1000).filter_map(|rank| Some((f64::from(rank) / 10.0, *latencies.get(latencies.len() * rank as usize / 1000)?)));
    let chart = Chart {
        title: "Latency by percentile".to_owned(),
        x: "percentile".to_owned(),
        y: "latency, ms".to_owned(),
        series: vec![Series { name: "answers with status 200".to_owned(), mark: Mark::Line, points: points.collect() }],
    };
    chart.write(files.directory, files.name)?;
    println!("wrote {}/{}.{{json,svg,png}}", files.directory.display(), files.name);
    Ok(())
}
