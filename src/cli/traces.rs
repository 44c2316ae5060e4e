//! Where the spans of requests go: to a collector that speaks OTLP, where one is named.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use opentelemetry::global;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use url::Url;

/// What spans are said to come from, unless `OTEL_SERVICE_NAME` says otherwise.
const SERVICE: &str = "bignas";
/// How long the last spans may take to leave.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Where spans go.
#[derive(Debug, Args)]
#[command(next_help_heading = "Traces")]
pub(super) struct TraceOptions {
    /// Collector that is sent a span of every request over OTLP (HTTP, protobuf), such as http://localhost:4318; none, if not given.
    /// The SDK's variables for sampling, headers and the service's name hold too, such as OTEL_TRACES_SAMPLER and OTEL_SERVICE_NAME
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<Url>,
}

/// What sends spans, until it is stopped.
#[derive(Debug)]
pub(super) struct Traces(Option<SdkTracerProvider>);

/// Sends the spans of this process to where `options` say. Not to be called from an asynchronous thread.
pub(super) fn start(options: &TraceOptions) -> anyhow::Result<Traces> {
    let Some(endpoint) = &options.otlp_endpoint else { return Ok(Traces(None)) };
    let traces = format!("{}/v1/traces", endpoint.as_str().trim_end_matches('/'));
    let exporter = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary).with_endpoint(traces).build();
    let exporter = exporter.with_context(|| format!("cannot send traces to {endpoint}"))?;
    let resource = Resource::builder();
    let resource = if std::env::var_os("OTEL_SERVICE_NAME").is_none() { resource.with_service_name(SERVICE) } else { resource };
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build();
    global::set_text_map_propagator(TraceContextPropagator::new());
    global::set_tracer_provider(provider.clone());
    Ok(Traces(Some(provider)))
}

impl Traces {
    /// Sends what is left.
    pub(super) fn stop(self) {
        if let Some(Err(error)) = self.0.map(|provider| provider.shutdown_with_timeout(LAST_WAIT)) {
            tracing::warn!(%error, "the last spans may be lost");
        }
    }
}
