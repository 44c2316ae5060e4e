//! `/children`: the family as an API.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::ask::positive;
use super::auth::Admin;
use super::docs::{AddProblems, ChildProblems, ListProblems, OnnxProblems, RemoveProblems};
use super::error::{ApiError, CREATED, Code, NO_CONTENT};
use super::etag::tagged;
use super::request::read_json;
use super::wire::{Asked, ChildDetails, Children, ChildrenFilter, File, NewChild};
use super::{AppState, Server};
use crate::engine::{Added, ClassifyError};
use crate::files::sha256;
use crate::space::{ChildId, ParseChildIdError};

/// List the children
///
/// The searched family and what clients added, cheapest first.
#[utoipa::path(
    get,
    path = "/children",
    tag = "children",
    params(ChildrenFilter),
    responses((status = 200, description = "The children that pass the filter.", body = Children), ListProblems)
)]
pub(super) async fn list(
    State(state): State<AppState>,
    filter: Result<Query<ChildrenFilter>, QueryRejection>,
) -> Result<Json<Children>, ApiError> {
    let Query(filter) = filter?;
    let bounds = check(&filter)?;
    let passes = |child: &ChildDetails| bounds.met_by(&child.summary) && filter.state.is_none_or(|state| child.state == state);
    let children = state.engine.children().iter().map(ChildDetails::from).filter(passes).collect();
    Ok(Json(Children { device: state.engine.device().into(), children }))
}

/// The bounds of a filter, where they make sense.
fn check(filter: &ChildrenFilter) -> Result<Asked, ApiError> {
    let &ChildrenFilter { max_mflops, max_params, max_latency_ms, min_accuracy, .. } = filter;
    for (name, value) in [("max_mflops", max_mflops), ("max_latency_ms", max_latency_ms), ("min_accuracy", min_accuracy)] {
        positive(name, value)?;
    }
    Ok(Asked { mflops: max_mflops, params: max_params, latency_ms: max_latency_ms, min_accuracy, child: None })
}

/// Show one child
#[utoipa::path(
    get,
    path = "/children/{id}",
    tag = "children",
    params(("id" = String, Path, description = "Id of the child.", pattern = "^[0-9a-f]{16}$", example = "0123456789abcdef")),
    responses((status = 200, description = "The child.", body = ChildDetails), ChildProblems)
)]
pub(super) async fn get(State(state): State<AppState>, id: Result<Path<String>, PathRejection>) -> Result<Json<ChildDetails>, ApiError> {
    let id = parse(id)?;
    let child = state.engine.child(id).ok_or(ClassifyError::Unknown(id))?;
    Ok(Json(ChildDetails::from(&child)))
}

/// Download a child as ONNX
///
/// The deployable graph with folded batch norms, to run in any ONNX Runtime; its metadata names the labels and the
/// preprocessing. A child that was not built yet is built first.
#[utoipa::path(
    get,
    path = "/children/{id}/model.onnx",
    tag = "children",
    params(
        ("id" = String, Path, description = "Id of the child.", pattern = "^[0-9a-f]{16}$", example = "0123456789abcdef"),
        ("if-none-match" = Option<String>, Header, description = "Entity tag of the graph that the client has.")
    ),
    responses(
        (
            status = 200,
            description = "The graph.",
            body = File,
            content_type = "application/octet-stream",
            headers(("etag" = String, description = "Names the graph's very bytes."))
        ),
        (status = 304, description = "The client has this graph already."),
        OnnxProblems
    )
)]
pub(super) async fn onnx(
    State(state): State<AppState>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = parse(id)?;
    let slot = Arc::clone(&state.downloads).acquire_owned().await.map_err(ApiError::internal)?;
    let graph = state.engine.onnx(id).await?;
    let hashing = tokio::task::spawn_blocking({
        let graph = Arc::clone(&graph);
        move || sha256(&graph)
    });
    let etag = format!("\"{}\"", hashing.await.map_err(ApiError::internal)?);
    let name = HeaderValue::from_str(&format!("attachment; filename=\"{id}.onnx\"")).map_err(ApiError::internal)?;
    let file = [(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")), (CONTENT_DISPOSITION, name)];
    tagged(&headers, &etag, (file, Body::from(Bytes::from_owner(Download { graph, _slot: slot }))))
}

/// Add a child
///
/// The child is sliced, recalibrated, measured and listed; from then on budgets consider it. Its accuracy stays `null`.
/// Where the server listens beyond loopback, or has an admin key, this needs the key.
#[utoipa::path(
    post,
    path = "/children",
    tag = "children",
    security((), ("admin_key" = [])),
    request_body(content = NewChild, description = "The choices that make the child."),
    responses(
        (status = 200, description = "The child was known already.", body = ChildDetails),
        (
            status = 201,
            description = "The child was added.",
            body = ChildDetails,
            headers(("location" = String, description = "Path of the child."))
        ),
        AddProblems
    )
)]
pub(super) async fn add(_: Admin, State(server): State<Server>, request: Request) -> Result<Response, ApiError> {
    let NewChild { choices } = read_json(request, &server.state().body_limits).await?;
    let (state, unreplaced) = server.change()?;
    // A client that leaves, or a deadline that passes, does not stop what has begun.
    let adding = tokio::spawn(async move {
        let added = state.engine.add(choices.0).await;
        drop(unreplaced);
        added
    });
    let Added { status, is_new } = adding.await.map_err(ApiError::internal)??;
    let details = Json(ChildDetails::from(&status));
    if !is_new {
        return Ok(details.into_response());
    }
    let location = HeaderValue::from_str(&format!("/children/{}", status.child.id())).map_err(ApiError::internal)?;
    Ok((CREATED, [(LOCATION, location)], details).into_response())
}

/// Remove an added child
///
/// From memory and from disk. A child of the model's family stays. Where the server listens beyond loopback, or has an admin
/// key, this needs the key.
#[utoipa::path(
    delete,
    path = "/children/{id}",
    tag = "children",
    security((), ("admin_key" = [])),
    params(("id" = String, Path, description = "Id of the child.", pattern = "^[0-9a-f]{16}$", example = "0123456789abcdef")),
    responses((status = 204, description = "The child is gone."), RemoveProblems)
)]
pub(super) async fn remove(_: Admin, State(server): State<Server>, id: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    let id = parse(id)?;
    let (state, unreplaced) = server.change()?;
    // Removing deletes files.
    let removing = tokio::task::spawn_blocking(move || {
        let removed = state.engine.remove(id);
        drop(unreplaced);
        removed
    });
    removing.await.map_err(ApiError::internal)??;
    Ok(NO_CONTENT.into_response())
}

/// An id in a path; what cannot be an id names no child.
fn parse(id: Result<Path<String>, PathRejection>) -> Result<ChildId, ApiError> {
    let Path(text) = id?;
    text.parse().map_err(|error: ParseChildIdError| ApiError::new(Code::UnknownChild, error.to_string()))
}

/// A graph on its way to a client, and its slot until it is there.
struct Download {
    graph: Arc<Vec<u8>>,
    _slot: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Download {
    fn as_ref(&self) -> &[u8] {
        &self.graph
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        let none = ChildrenFilter::default();
        let cases = [
            (none, true),
            (ChildrenFilter { max_mflops: Some(3.0), min_accuracy: Some(0.5), ..none }, true),
            (ChildrenFilter { max_mflops: Some(f64::NAN), ..none }, false),
            (ChildrenFilter { max_latency_ms: Some(-1.0), ..none }, false),
            (ChildrenFilter { min_accuracy: Some(f64::INFINITY), ..none }, false),
        ];
        for (filter, valid) in cases {
            assert_eq!(check(&filter).is_ok(), valid, "{filter:?}");
        }
    }
}
