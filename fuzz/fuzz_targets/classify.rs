//! Whatever the body of a `POST /classify` holds, the server neither panics nor blames itself.
//!
//! An input is two bytes that choose the content type and the query, and the body. The server is a shipped model without
//! sockets; it finds ONNX Runtime as `bignas serve` does.

#![no_main]

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use bignas::checkpoint::Model;
use bignas::engine::{Engine, EngineOptions};
use bignas::metrics::Metrics;
use bignas::runtime::{Runtime, default_library};
use bignas::serve::{AppState, ServeOptions, app};
use clap::Parser;
use libfuzzer_sys::fuzz_target;
use tower::ServiceExt;

const TYPES: [&str; 4] = ["multipart/form-data; boundary=xx", "application/json", "image/jpeg", "application/octet-stream"];
const QUERIES: [&str; 4] = ["", "?mflops=3&top_k=2", "?deadline_ms=1000&min_accuracy=0.5", "?latency_ms=5"];

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    http: ServeOptions,
    #[command(flatten)]
    engine: EngineOptions,
}

struct Server {
    tokio: tokio::runtime::Runtime,
    router: Router,
    _cache: tempfile::TempDir,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let tokio = tokio::runtime::Runtime::new().expect("tokio starts");
    let inside = tokio.enter();
    let cache = tempfile::tempdir().expect("a directory for built children");
    let model = Model::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/fashion-mnist")).expect("the shipped model opens");
    let library = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from).or_else(default_library).expect("ORT_DYLIB_PATH is set");
    let runtime = Runtime::load(&library).expect("ONNX Runtime loads");
    let flags = ["fuzz", "--cache-dir", cache.path().to_str().expect("a path in UTF-8"), "--workers", "1", "--warm-up", "false"];
    let Flags { http, engine } = Flags::parse_from(flags);
    let metrics = Arc::new(Metrics::new().expect("metrics register"));
    let engine = Engine::start(model, runtime, metrics, engine, None).expect("the engine starts");
    let router = app(AppState::new(engine, &http));
    drop(inside);
    Server { tokio, router, _cache: cache }
});

fuzz_target!(|input: &[u8]| {
    let [content_type, query, body @ ..] = input else { return };
    let content_type = TYPES[usize::from(*content_type) % TYPES.len()];
    let query = QUERIES[usize::from(*query) % QUERIES.len()];
    let request = Request::post(format!("/classify{query}")).header("content-type", content_type);
    let request = request.body(Body::from(body.to_vec())).expect("a request");
    let reply = SERVER.tokio.block_on(SERVER.router.clone().oneshot(request)).expect("a router always answers");
    let status = reply.status();
    // A 504 says that the deadline of the request itself could not be kept.
    assert!(!status.is_server_error() || status == StatusCode::GATEWAY_TIMEOUT, "{content_type}, {query}: {status}");
});
