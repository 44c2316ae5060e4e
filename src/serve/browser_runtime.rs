//! onnxruntime-web, with which the playground runs a child in the visitor's own browser.
//!
//! Its files are no part of the binary: they are fetched with the other native parts, and lie in a directory that the server is
//! told at start.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use axum::routing::get;

use super::error::{ApiError, Code};
use super::etag::tagged;
use super::{AppState, Server};

/// Where the files are served.
const PATH: &str = "/playground/onnxruntime-web";
/// The module that a page imports; it fetches the other one from beside itself.
const MODULE: (&str, &str) = ("ort.wasm.bundle.min.mjs", "text/javascript; charset=utf-8");
/// The runtime, for CPUs.
const BINARY: (&str, &str) = ("ort-wasm-simd-threaded.wasm", "application/wasm");

/// Reads the flag that names the directory.
///
/// # Errors
/// A sentence that names the file which is not there.
pub(super) fn directory(text: &str) -> Result<PathBuf, String> {
    let directory = PathBuf::from(text);
    match [MODULE, BINARY].iter().find(|(file, _)| !directory.join(file).is_file()) {
        Some((file, _)) => Err(format!(
            "it holds no {file}; with BIGNAS_ONNXRUNTIME_WEB unset, `scripts/fetch.py onnxruntime-web` prints a folder that does"
        )),
        None => Ok(directory),
    }
}

/// The path of the module that a page imports.
pub(super) fn module_path() -> String {
    format!("{PATH}/{}", MODULE.0)
}

/// The routes of the files.
pub(super) fn files() -> Router<Server> {
    [MODULE, BINARY].into_iter().fold(Router::new(), |router, (file, media_type)| {
        let serve = move |State(state): State<AppState>, headers: HeaderMap| serve(state, headers, file, media_type);
        router.route(&format!("{PATH}/{file}"), get(serve))
    })
}

async fn serve(state: AppState, request: HeaderMap, file: &'static str, media_type: &'static str) -> Result<Response, ApiError> {
    let absent = || ApiError::new(Code::UnknownRoute, "the server was started without --onnxruntime-web");
    let path = state.onnxruntime_web.as_ref().ok_or_else(absent)?.join(file);
    let reading = tokio::task::spawn_blocking(move || Ok::<_, std::io::Error>((etag(&path)?, std::fs::read(&path)?)));
    let (etag, bytes) = reading.await.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    tagged(&request, &etag, (headers, bytes))
}

/// A tag by size and time of change, since a checksum of megabytes would cost more than sending them.
fn etag(path: &Path) -> std::io::Result<String> {
    let metadata = path.metadata()?;
    let changed = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    Ok(format!("W/\"{:x}-{changed:x}\"", metadata.len()))
}
