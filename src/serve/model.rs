//! `/model`: what the children are cut from.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;

use super::AppState;
use super::browser_runtime;
use super::docs::{ExampleProblems, NoProblems};
use super::error::{ApiError, Code};
use super::etag::tagged;
use super::wire::{ExampleDetails, File, ModelDetails};
use crate::files::sha256;
use crate::image::MediaType;

/// Show the model
///
/// Its labels, how an image becomes a network's input, and pictures to try it with: what it takes to run a child elsewhere just as
/// here.
#[utoipa::path(get, path = "/model", tag = "model", responses((status = 200, description = "The model.", body = ModelDetails), NoProblems))]
pub(super) async fn show(State(state): State<AppState>) -> Json<ModelDetails> {
    let card = state.engine.card();
    Json(ModelDetails {
        name: card.name.clone(),
        weights_sha256: card.weights_sha256.clone(),
        labels: card.labels.clone(),
        preprocessing: card.preprocessing.clone(),
        examples: state.engine.examples().iter().map(ExampleDetails::from).collect(),
        onnxruntime_web: state.onnxruntime_web.as_ref().map(|_| browser_runtime::module_path()),
    })
}

/// Show an example
#[utoipa::path(
    get,
    path = "/model/examples/{file}",
    tag = "model",
    params(
        ("file" = String, Path, description = "Name of the file, as `GET /model` lists it.", example = "example.png"),
        ("if-none-match" = Option<String>, Header, description = "Entity tag of the picture that the client has.")
    ),
    responses(
        (
            status = 200,
            description = "The picture as it lies in the model's directory.",
            body = File,
            content_type = "image/png",
            headers(("etag" = String, description = "Names the picture's very bytes."))
        ),
        (status = 304, description = "The client has this picture already."),
        ExampleProblems
    )
)]
pub(super) async fn example(
    State(state): State<AppState>,
    file: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Path(file) = file?;
    // Only what the index lists is opened, whatever the path says.
    let example = state.engine.examples().iter().find(|example| example.file == file);
    let unknown = || ApiError::new(Code::UnknownExample, format!("there is no example {file:?}: `GET /model` lists them"));
    let path = example.ok_or_else(unknown)?.path.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let bytes = std::fs::read(path)?;
        Ok::<_, std::io::Error>((sha256(&bytes), bytes))
    });
    let (digest, bytes) = reading.await.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
    let media_type = MediaType::sniff(&bytes).map_or("application/octet-stream", MediaType::as_str);
    tagged(&headers, &format!("\"{digest}\""), ([(CONTENT_TYPE, HeaderValue::from_static(media_type))], bytes))
}
