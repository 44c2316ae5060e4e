//! Whatever is asked, the HTTP interface neither panics nor blames itself: random methods, routes, queries, headers and bodies.
//!
//! `PROPTEST_CASES=100000 cargo test --release --test http_fuzz` looks for longer.

mod common;

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use bignas::engine::{Engine, EngineOptions};
use bignas::metrics::Metrics;
use bignas::serve::{AppState, ServeOptions, app};
use clap::Parser;
use common::{TestModel, runtime};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tower::ServiceExt;

const METHODS: [Method; 8] =
    [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::HEAD, Method::OPTIONS, Method::TRACE];
const ROUTES: [&str; 20] = [
    "/",
    "/classify",
    "/children",
    "/children/",
    "/children/0123456789abcdef",
    "/children/0123456789abcdef/model.onnx",
    "/children/%00/model.onnx",
    "/children/../model",
    "/model",
    "/model/reload",
    "/model/examples/..%2f..%2flabels.txt",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/docs/../../etc/passwd",
    "/playground/",
    "/playground/onnxruntime-web/..%2fx",
    "//",
];
const KEYS: [&str; 10] = ["mflops", "params", "latency_ms", "min_accuracy", "child", "deadline_ms", "top_k", "state", "image", "%ff"];
const VALUES: [&str; 14] =
    ["3", "0", "-1", "1e400", "NaN", "inf", "0.5", "99999999999999999999", "", "null", "0123456789abcdef", "%00", "%F0%9F%98%80", "true"];
const TYPES: [&str; 8] = [
    "",
    "image/png",
    "image/jpeg; q=\"",
    "application/json",
    "application/json; charset=\u{ff}",
    "multipart/form-data; boundary=xx",
    "multipart/form-data",
    "text/plain",
];
const BODIES: [&str; 9] = [
    "",
    "{}",
    r#"{"image": "aGVsbG8=", "mflops": 3}"#,
    r#"{"image": ["", {}], "deadline_ms": -1}"#,
    r#"{"choices": {"resolution": 1e9, "width": [], "depth": [-1], "kernel_size": null, "expand_ratio": [[]]}}"#,
    "[[[[[[[[[[[[[[[[",
    "--xx\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\nGIF89a\r\n--xx--\r\n",
    "--xx\r\nContent-Disposition: form-data; name=\"mflops\"\r\n\r\n-\r\n--xx\r\nContent-Disposition: form-data\r\n\r\n",
    "\x00\x01\x02\x03",
];

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    http: ServeOptions,
    #[command(flatten)]
    engine: EngineOptions,
}

/// The interface on a small random model, without sockets, and what it needs as long as it lives.
struct Server {
    tokio: tokio::runtime::Runtime,
    router: Router,
    metrics: Arc<Metrics>,
    _model: TestModel,
    _cache: tempfile::TempDir,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let tokio = tokio::runtime::Runtime::new().unwrap();
    let inside = tokio.enter();
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let flags = ["test", "--cache-dir", cache.path().to_str().unwrap(), "--workers", "2", "--warm-up", "false", "--max-body-bytes", "4000"];
    let flags = Flags::parse_from(flags);
    let metrics = Arc::new(Metrics::new().unwrap());
    let engine = Engine::start(model.open(), runtime(), metrics.clone(), flags.engine, None).unwrap();
    let router = app(AppState::new(engine, &flags.http));
    drop(inside);
    Server { tokio, router, metrics, _model: model, _cache: cache }
});

/// A body from the list with some bytes replaced, sometimes with a long tail.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((any::<Index>(), any::<u8>()), 0..4);
    (select(&BODIES[..]), changes, prop_oneof![9 => Just(0), 1 => 0..6000_usize]).prop_map(|(body, changes, tail)| {
        let mut body = body.as_bytes().to_vec();
        for (position, byte) in changes {
            if body.is_empty() {
                break;
            }
            let position = position.index(body.len());
            body[position] = byte;
        }
        body.extend(std::iter::repeat_n(b'x', tail));
        body
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_is_asked_is_the_servers_fault(
        method in select(&METHODS[..]),
        route in select(&ROUTES[..]),
        query in proptest::collection::vec((select(&KEYS[..]), select(&VALUES[..])), 0..4),
        content_type in select(&TYPES[..]),
        encoding in select(&["", "", "", "gzip", "identity"][..]),
        body in bodies(),
    ) {
        let query: String = query.iter().map(|(key, value)| format!("&{key}={value}")).collect();
        let request = Request::builder().method(&method).uri(format!("{route}?{}", query.trim_start_matches('&')));
        let request = [("content-type", content_type), ("content-encoding", encoding)]
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .fold(request, |request, (name, value)| request.header(name, value.as_bytes()));
        let asked = format!("{method} {route}?{query} as {content_type:?}");
        let reply = SERVER.tokio.block_on(SERVER.router.clone().oneshot(request.body(Body::from(body)).unwrap())).unwrap();
        let status = reply.status();
        // A 503 is how `/readyz` says that the family has not been built, and no fault.
        prop_assert!(!status.is_server_error() || (route == "/readyz" && status == StatusCode::SERVICE_UNAVAILABLE), "{asked}: {status}");
        if status.is_client_error() && method != Method::HEAD {
            prop_assert_eq!(&reply.headers()["content-type"], "application/problem+json", "{}: {}", asked, status);
        }
        let panics = SERVER.metrics.encode().unwrap();
        prop_assert!(panics.contains("bignas_panics_total 0\n"), "{asked}");
    }
}
