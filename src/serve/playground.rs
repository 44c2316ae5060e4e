//! The playground, at `/`: a page that shows what the server does.
//!
//! Its files are part of the binary as they lie in `playground/`. They use the API like any other client, and a
//! Content-Security-Policy keeps them from asking any other host.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use axum::routing::get;

use super::Server;
use super::error::ApiError;
use super::etag::tagged;
use crate::files::sha256;

/// What the page may do: run its own modules and WebAssembly, and talk to this server. A worker obeys the policy that comes with
/// its own file, so every file has it.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; \
     worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// A file of the page.
#[derive(Clone, Copy)]
struct Asset {
    path: &'static str,
    media_type: &'static str,
    content: &'static str,
}

/// Declares the files: each lies in `playground/` and is served under `/playground/`.
macro_rules! assets {
    ($($file:literal $media_type:ident;)*) => {
        [$(Asset { path: concat!("/playground/", $file), media_type: $media_type, content: include_str!(concat!("playground/", $file)) },)*]
    };
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SVG: &str = "image/svg+xml";

const PAGE: Asset = Asset { path: "/", media_type: "text/html; charset=utf-8", content: include_str!("playground/index.html") };

const ASSETS: [Asset; 20] = assets! {
    "answer.js" SCRIPT;
    "api.js" SCRIPT;
    "base.css" STYLE;
    "bicubic.js" SCRIPT;
    "configuration.js" SCRIPT;
    "dom.js" SCRIPT;
    "family.js" SCRIPT;
    "here.js" SCRIPT;
    "icon.svg" SVG;
    "key.js" SCRIPT;
    "ladder.js" SCRIPT;
    "live.js" SCRIPT;
    "main.js" SCRIPT;
    "panels.css" STYLE;
    "picture.js" SCRIPT;
    "plot.js" SCRIPT;
    "preprocess.js" SCRIPT;
    "prometheus.js" SCRIPT;
    "scale.js" SCRIPT;
    "worker.js" SCRIPT;
};

/// The routes of the page and its files.
pub(super) fn pages() -> Router<Server> {
    std::iter::once(PAGE).chain(ASSETS).fold(Router::new(), |router, asset| {
        let etag = format!("\"{}\"", sha256(asset.content.as_bytes()));
        let serve = move |request: HeaderMap| {
            let answer = asset.answer(&request, &etag);
            async move { answer }
        };
        router.route(asset.path, get(serve))
    })
}

impl Asset {
    fn answer(&self, request: &HeaderMap, etag: &str) -> Result<Response, ApiError> {
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static(self.media_type)),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
            // A browser asks each time whether it has the newest: a new server has a new page.
            (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        ];
        tagged(request, etag, (headers, self.content))
    }
}
