//! The outermost layer: every request has an id, a span, a line in the log, and says in `Server-Timing` how long it took.
//!
//! The span goes on from the client's `traceparent` (W3C Trace Context) where there is one, and leaves the process where an
//! exporter is set up; without one it costs next to nothing. What a handler did inside it becomes [`phases`].

use std::time::{Duration, Instant, SystemTime};

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use opentelemetry::propagation::Extractor;
use opentelemetry::trace::{SpanBuilder, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue, global};
use tracing::Instrument;

use super::error::Code;

pub(super) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A client's own request id is at most this long, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 64;
/// What emitted the spans.
const SCOPE: &str = "bignas";

/// The span of a request, among its extensions.
#[derive(Clone)]
pub(super) struct RequestSpan(Context);

/// Names the request, traces it, and logs how it ended.
pub(super) async fn trace<F: Future<Output = Response>>(mut request: Request, next: impl FnOnce(Request) -> F) -> Response {
    let id = request_id(&request);
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let shown = id.to_str().unwrap_or_default();
    let is_probe = matches!(request.uri().path(), "/healthz" | "/readyz" | "/metrics");
    let context = open(&request);
    let span = tracing::info_span!("request", id = shown, method = %request.method(), path = request.uri().path());
    request.extensions_mut().insert(RequestSpan(context.clone()));
    let begin = Instant::now();
    let mut response = next(request).instrument(span.clone()).await;
    response.headers_mut().insert(REQUEST_ID, id);

    let latency_ms = (begin.elapsed().as_secs_f64() * 1e6).round() / 1e3;
    if let Ok(timing) = HeaderValue::from_str(&format!("total;dur={latency_ms:.3}")) {
        // A handler that knows its phases has said more.
        response.headers_mut().entry(SERVER_TIMING).or_insert(timing);
    }
    let status = response.status().as_u16();
    let code = response.extensions().get::<Code>().map(|code| code.name());
    close(&context, status, code);
    let trace_id = context.has_active_span().then(|| context.span().span_context().clone());
    let trace_id = trace_id.filter(|of| of.is_valid()).map(|of| of.trace_id().to_string());
    span.in_scope(|| {
        if is_probe {
            tracing::debug!(status, latency_ms, code, trace_id, "answered");
        } else {
            tracing::info!(status, latency_ms, code, trace_id, "answered");
        }
    });
    response
}

/// Adds what a handler did to the request's span: names and durations of phases that followed each other from `begin` on.
pub(super) fn phases(span: Option<&RequestSpan>, begin: SystemTime, phases: &[(&'static str, Duration)]) {
    let Some(RequestSpan(context)) = span.filter(|RequestSpan(context)| context.span().is_recording()) else { return };
    let (tracer, mut start) = (global::tracer(SCOPE), begin);
    for &(name, duration) in phases {
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Internal).with_start_time(start);
        start += duration;
        let mut span = tracer.build_with_context(builder, context);
        opentelemetry::trace::Span::end_with_timestamp(&mut span, start);
    }
}

/// Starts the request's span, under its client's where it names one.
fn open(request: &Request) -> Context {
    let parent = global::get_text_map_propagator(|propagator| propagator.extract(&Headers(request.headers())));
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let method = request.method().as_str();
    let mut attributes =
        vec![KeyValue::new("http.request.method", method.to_owned()), KeyValue::new("url.path", request.uri().path().to_owned())];
    attributes.extend(route.map(|route| KeyValue::new("http.route", route.to_owned())));
    let name = route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}"));
    let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Server).with_attributes(attributes);
    let span = global::tracer(SCOPE).build_with_context(builder, &parent);
    parent.with_span(span)
}

/// Ends the span of a request that was answered. A client's mistake is no error of the server's.
fn close(context: &Context, status: u16, code: Option<&'static str>) {
    let span = context.span();
    span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
    if let Some(code) = code {
        span.set_attribute(KeyValue::new("error.type", code));
    }
    if status >= 500 {
        span.set_status(Status::error(code.unwrap_or_default()));
    }
    span.end();
}

/// Lets the propagator read headers.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

/// The client's id for the request where it is short and harmless in a log, else a random one.
fn request_id(request: &Request) -> HeaderValue {
    let harmless = |id: &&HeaderValue| {
        let bytes = id.as_bytes();
        (1..=MAX_REQUEST_ID_BYTES).contains(&bytes.len()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
    };
    let random = || HeaderValue::from_str(&format!("{:016x}", rand::random::<u64>()));
    let own = request.headers().get(REQUEST_ID).filter(harmless).cloned();
    own.or_else(|| random().ok()).unwrap_or_else(|| HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn harmless_request_ids_are_kept() {
        let cases = [("abc-1.2_X", true), ("", false), ("a b", false), ("a\"b", false), ("a{b}", false)];
        for (id, kept) in cases {
            let request = Request::builder().header(REQUEST_ID, id).body(Body::empty()).unwrap();
            assert_eq!(request_id(&request) == id, kept, "{id:?}");
        }
        let long = Request::builder().header(REQUEST_ID, "a".repeat(65)).body(Body::empty()).unwrap();
        assert_eq!(request_id(&long).len(), 16);
    }
}
