//! How the server is: for orchestrators and monitoring.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::AppState;
use super::docs::{MetricsProblems, NoProblems, ReadyProblems};
use super::error::{ApiError, Code};
use super::wire::{Health, Readiness};

/// Prometheus' text format.
const PROMETHEUS_TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Is the process alive?
#[utoipa::path(get, path = "/healthz", tag = "operation", responses((status = 200, description = "It is.", body = Health), NoProblems))]
pub(super) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Should requests be sent here?
///
/// Not before the children are built and their latencies on this device known, and not once the server is shutting down; the problem's code
/// says which. Requests are answered in both cases nevertheless.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operation",
    responses((status = 200, description = "Yes: this is what serves here.", body = Readiness), ReadyProblems)
)]
pub(super) async fn readyz(State(state): State<AppState>) -> Result<Json<Readiness>, ApiError> {
    if state.is_draining() {
        return Err(ApiError::new(Code::ShuttingDown, "the server finishes what it has accepted and then stops"));
    }
    if !state.engine.ready() {
        return Err(ApiError::new(Code::NotReady, "the server still builds children or measures their latency on this device"));
    }
    Ok(Json(Readiness::of(&state.engine)))
}

/// Metrics for Prometheus
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operation",
    responses((status = 200, description = "All metrics, in Prometheus' text format.", body = String, content_type = "text/plain"), MetricsProblems)
)]
pub(super) async fn metrics(State(state): State<AppState>) -> Result<Response, ApiError> {
    let text = state.engine.metrics().encode().map_err(ApiError::internal)?;
    Ok(([(CONTENT_TYPE, PROMETHEUS_TEXT)], text).into_response())
}
