//! Prometheus metrics: one struct, one field a metric, registered once.
//!
//! Times are in seconds and sizes in bytes, as Prometheus expects. Label values come from bounded sets.

use prometheus::core::Collector;
#[cfg(target_os = "linux")]
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    exponential_buckets, linear_buckets,
};

/// All metrics of a server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Time of each phase of a request, by phase.
    pub phase_seconds: HistogramVec,
    /// Images that wait for a worker.
    pub queue_depth: IntGauge,
    /// Images that nobody waited for any more, in the queue or while they were computed: the client had left, or the deadline had passed.
    pub cancelled_images: IntCounter,
    /// Requests that were not queued or not answered in time, by reason: `deadline`, `queue`, `builds` where too many children
    /// wait to be built, or `bodies` where those under way take too much memory.
    pub shed: IntCounterVec,
    /// Requests answered by a smaller child than an idle server would have taken.
    pub degraded: IntCounter,
    /// Bursts that missed deadlines, each of which halves the share of a deadline that better children may take.
    pub better_share_cuts: IntCounter,
    /// Predicted time of each run.
    pub predicted_run_seconds: Histogram,
    /// Predicted time of a run over what it took.
    pub prediction_ratio: Histogram,
    /// Time of a run as measured when its child was loaded, over what it took.
    pub profile_ratio: Histogram,
    /// Images that a worker runs together.
    pub batch_size: Histogram,
    /// Requests that found their child, by where: `memory`, `disk`, `shared` or `built`.
    pub child_source: IntCounterVec,
    /// Children dropped from memory for want of space.
    pub cache_evictions: IntCounter,
    /// Bytes of the children in memory.
    pub cache_bytes: IntGauge,
    /// Children in memory.
    pub loaded_children: IntGauge,
    /// Children built, by outcome: `ok` or `error`.
    pub builds: IntCounterVec,
    /// Time of each stage of building a child, by stage: `slice`, `calibrate`, `export`, `load`.
    pub build_seconds: HistogramVec,
    /// Bytes of built children on disk.
    pub disk_bytes: IntGauge,
    /// What became of requests to the artefact store: `hit`, `miss`, `stored`, `failed` or `skipped`.
    pub artefacts: IntCounterVec,
    /// Models replaced under traffic, by outcome: `ok` or `error`.
    pub model_reloads: IntCounterVec,
    /// Panics caught, anywhere.
    pub panics: IntCounter,
    /// Requests answered, by route and class of status; `aborted` where the client left before.
    pub http_requests: IntCounterVec,
    /// Time from a request's head to its answer's head, by route.
    pub http_request_seconds: HistogramVec,
    /// Requests being answered.
    pub http_requests_in_flight: IntGauge,
    /// Open connections.
    pub http_connections: IntGauge,
    /// Problem documents sent, by code.
    pub problems: IntCounterVec,
    /// Classifications answered, by child; added children share one label.
    pub child_requests: IntCounterVec,
    /// Classifications by whether their budget could be met, `true` or `false`.
    pub budget_met: IntCounterVec,
    /// Accuracy of the children that answered, where it is known; one observation a classification.
    pub served_accuracy: Histogram,
    /// Multiply-adds an image of the children that answered, in millions; one observation a classification.
    pub served_mflops: Histogram,
    /// What networks run on: 1 at the execution provider in use.
    pub execution_provider: IntGaugeVec,
    /// Networks that run side by side.
    pub workers: IntGauge,
}

/// Phases of a request that answers with a classification.
pub const PHASES: [&str; 4] = ["decode", "resolve", "queue", "inference"];
/// Why a request is refused for want of time or room.
const SHED_REASONS: [&str; 4] = ["deadline", "queue", "builds", "bodies"];

impl Metrics {
    /// Registers every metric; all that have a fixed set of labels start at zero.
    ///
    /// # Errors
    /// [`prometheus::Error`] where two metrics have the same name, which a test rules out.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new_custom(Some("bignas".to_owned()), None)?;
        let r = &registry;
        let metrics = Self {
            // 16 µs to 8 s by factors of two: a small child answers in tens of microseconds, a cold build takes seconds.
            phase_seconds: histograms(r, "phase_seconds", "Time of each phase of a request.", "phase", &PHASES, buckets(16e-6, 20)?)?,
            queue_depth: gauge(r, "queue_depth", "Images that wait for a worker.")?,
            cancelled_images: counter(r, "cancelled_images_total", "Images that nobody waited for any more, queued or running.")?,
            shed: counters(r, "shed_total", "Requests refused for want of time or room.", "reason", &SHED_REASONS)?,
            degraded: counter(r, "degraded_total", "Requests answered by a smaller child than an idle server would have taken.")?,
            better_share_cuts: counter(
                r,
                "better_share_cuts_total",
                "Bursts that missed deadlines and so leave better children less time.",
            )?,
            predicted_run_seconds: single(r, "predicted_run_seconds", "Predicted time of each run.", buckets(16e-6, 20)?)?,
            prediction_ratio: single(r, "prediction_ratio", "Predicted time of a run over what it took.", quarter_to_four()?)?,
            profile_ratio: single(
                r,
                "profile_ratio",
                "Time of a run as measured when its child was loaded, over what it took.",
                quarter_to_four()?,
            )?,
            batch_size: single(r, "batch_size", "Images that a worker runs together.", buckets(1.0, 8)?)?,
            child_source: counters(
                r,
                "child_source_total",
                "Requests by where their child was found.",
                "source",
                &["memory", "disk", "shared", "built"],
            )?,
            cache_evictions: counter(r, "child_cache_evictions_total", "Children dropped from memory for want of space.")?,
            cache_bytes: gauge(r, "child_cache_bytes", "Bytes of the children in memory.")?,
            loaded_children: gauge(r, "loaded_children", "Children in memory.")?,
            builds: counters(r, "child_builds_total", "Children built.", "outcome", &["ok", "error"])?,
            // 1 ms to 33 s: slicing takes milliseconds, recalibrating a large child half a minute.
            build_seconds: histograms(
                r,
                "child_build_seconds",
                "Time of each stage of building a child.",
                "stage",
                &["slice", "calibrate", "export", "load"],
                buckets(1e-3, 16)?,
            )?,
            disk_bytes: gauge(r, "child_disk_bytes", "Bytes of built children on disk.")?,
            artefacts: counters(
                r,
                "artefact_requests_total",
                "Requests to the artefact store.",
                "outcome",
                &["hit", "miss", "stored", "failed", "skipped"],
            )?,
            model_reloads: counters(r, "model_reloads_total", "Models replaced under traffic.", "outcome", &["ok", "error"])?,
            panics: counter(r, "panics_total", "Panics caught.")?,
            http_requests: register(
                r,
                IntCounterVec::new(Opts::new("http_requests_total", "Requests by route and class of status."), &["route", "status"])?,
            )?,
            http_request_seconds: histograms(r, "http_request_seconds", "Time of a request.", "route", &[], buckets(64e-6, 20)?)?,
            http_requests_in_flight: gauge(r, "http_requests_in_flight", "Requests being answered.")?,
            http_connections: gauge(r, "http_connections", "Open connections.")?,
            problems: counters(r, "problems_total", "Problem documents sent, by code.", "code", &[])?,
            child_requests: counters(r, "child_requests_total", "Classifications answered, by child.", "child", &[])?,
            budget_met: counters(
                r,
                "budget_met_total",
                "Classifications by whether their budget could be met.",
                "met",
                &["true", "false"],
            )?,
            // Half to all by steps of a fortieth, where families lie; what is below still counts in the mean.
            served_accuracy: single(
                r,
                "served_accuracy",
                "Accuracy of the children that answered, where it is known.",
                linear_buckets(0.5, 0.025, 20)?,
            )?,
            // A quarter of a million to two billion: from the smallest shipped child to beyond the biggest of Table 1.
            served_mflops: single(r, "served_mflops", "Millions of multiply-adds of the children that answered.", buckets(0.25, 14)?)?,
            execution_provider: register(
                r,
                IntGaugeVec::new(Opts::new("execution_provider_info", "What networks run on."), &["provider"])?,
            )?,
            workers: gauge(r, "workers", "Networks that run side by side.")?,
            registry,
        };
        Ok(metrics)
    }

    /// All metrics in Prometheus' text format, those of the process (memory, time, open files) included.
    ///
    /// # Errors
    /// [`prometheus::Error`] where a metric cannot be encoded.
    pub fn encode(&self) -> prometheus::Result<String> {
        let mut families = self.registry.gather();
        #[cfg(target_os = "linux")]
        families.extend(ProcessCollector::for_self().collect());
        TextEncoder::new().encode_to_string(&families)
    }
}

fn buckets(first: f64, count: usize) -> prometheus::Result<Vec<f64>> {
    exponential_buckets(first, 2.0, count)
}

/// Buckets for ratios of about one, by steps of a tenth.
fn quarter_to_four() -> prometheus::Result<Vec<f64>> {
    exponential_buckets(0.25, 1.1, 30)
}

fn histogram(name: &str, help: &str, buckets: Vec<f64>) -> HistogramOpts {
    HistogramOpts::new(name, help).buckets(buckets)
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    register(registry, IntGauge::new(name, help)?)
}

fn counter(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    register(registry, IntCounter::new(name, help)?)
}

fn single(registry: &Registry, name: &str, help: &str, buckets: Vec<f64>) -> prometheus::Result<Histogram> {
    register(registry, Histogram::with_opts(histogram(name, help, buckets))?)
}

fn counters(registry: &Registry, name: &str, help: &str, label: &str, values: &[&str]) -> prometheus::Result<IntCounterVec> {
    let counters = register(registry, IntCounterVec::new(Opts::new(name, help), &[label])?)?;
    values.iter().for_each(|value| drop(counters.with_label_values(&[value])));
    Ok(counters)
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
    values: &[&str],
    buckets: Vec<f64>,
) -> prometheus::Result<HistogramVec> {
    let histograms = register(registry, HistogramVec::new(histogram(name, help, buckets), &[label])?)?;
    values.iter().for_each(|value| drop(histograms.with_label_values(&[value])));
    Ok(histograms)
}
