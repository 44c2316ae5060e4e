//! The HTTP interface on a real engine with a small random model, request by request, without sockets.

#[path = "../common/mod.rs"]
mod common;

mod children;
mod classify;
mod service;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use bignas::engine::{Engine, EngineOptions};
use bignas::metrics::Metrics;
use bignas::serve::{AppState, ServeOptions, app};
use clap::Parser;
use serde_json::Value;
use tower::ServiceExt;

use common::{TestModel, runtime};

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    http: ServeOptions,
    #[command(flatten)]
    engine: EngineOptions,
}

/// A server without sockets, and what it needs as long as it lives.
struct Server {
    router: Router,
    state: AppState,
    engine: Engine,
    _model: TestModel,
    _cache: tempfile::TempDir,
}

/// An answer, read completely.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Server {
    fn start(flags: &[&str]) -> Self {
        Self::start_with(TestModel::new(), tempfile::tempdir().unwrap(), flags)
    }

    /// One that finds what is in `cache`.
    fn start_with(model: TestModel, cache: tempfile::TempDir, flags: &[&str]) -> Self {
        let fixed = ["test", "--cache-dir", cache.path().to_str().unwrap(), "--workers", "2"];
        let warm_up: &[&str] = if flags.contains(&"--warm-up") { &[] } else { &["--warm-up", "false"] };
        let flags = Flags::parse_from(fixed.iter().chain(warm_up).chain(flags));
        let engine = Engine::start(model.open(), runtime(), Arc::new(Metrics::new().unwrap()), flags.engine, None).unwrap();
        let state = AppState::new(engine.clone(), &flags.http);
        Self { router: app(state.clone()), state, engine, _model: model, _cache: cache }
    }

    async fn send(&self, request: Request<Body>) -> Reply {
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let body = axum::body::to_bytes(body, 1 << 24).await.unwrap();
        Reply { status: parts.status, headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, content_type: &str, body: impl Into<Body>) -> Reply {
        self.send(Request::post(path).header("content-type", content_type).body(body.into()).unwrap()).await
    }

    /// Classifies one image under a query.
    async fn classify(&self, query: &str) -> Reply {
        self.post(&format!("/classify?{query}"), "image/png", png(28, 28)).await
    }

    async fn children(&self) -> Vec<Value> {
        self.get("/children").await.json()["children"].as_array().unwrap().clone()
    }
}

fn delete(path: &str) -> Request<Body> {
    Request::delete(path).body(Body::empty()).unwrap()
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Checks that this is a problem document, and returns its code.
    fn problem(&self) -> String {
        let problem = self.json();
        assert_eq!(self.headers["content-type"], "application/problem+json", "{problem}");
        assert_eq!(problem["status"], self.status.as_u16());
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
        assert!(self.headers.contains_key("x-request-id"));
        problem["code"].as_str().unwrap().to_owned()
    }
}

/// A grey PNG with a gradient.
fn png(width: u32, height: u32) -> Vec<u8> {
    let image = image::GrayImage::from_fn(width, height, |x, y| image::Luma([(x * 9 + y * 5) as u8]));
    let mut file = std::io::Cursor::new(Vec::new());
    image.write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}
