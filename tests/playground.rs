//! The playground's files as the router serves them, without a browser. `make test-browser` clicks through the page itself.

mod common;

use std::path::Path;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use bignas::engine::{Engine, EngineOptions};
use bignas::metrics::Metrics;
use bignas::serve::{AppState, ServeOptions, app};
use clap::Parser;
use common::{TestModel, runtime};
use serde_json::{Value, json};
use tower::ServiceExt;

#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    http: ServeOptions,
    #[command(flatten)]
    engine: EngineOptions,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A server for `model`, without sockets.
struct Server {
    router: axum::Router,
    _cache: tempfile::TempDir,
}

impl Server {
    fn start(model: &TestModel, flags: &[&str]) -> Self {
        let cache = tempfile::tempdir().unwrap();
        let fixed = ["test", "--cache-dir", cache.path().to_str().unwrap(), "--workers", "1", "--warm-up", "false"];
        let has_runtime = flags.contains(&"--onnxruntime-web");
        let mut flags = Flags::parse_from(fixed.iter().chain(flags));
        // Whoever runs the tests may have the variable set.
        flags.http.onnxruntime_web.take_if(|_| !has_runtime);
        let engine = Engine::start(model.open(), runtime(), Arc::new(Metrics::new().unwrap()), flags.engine, None).unwrap();
        Self { router: app(AppState::new(engine, &flags.http)), _cache: cache }
    }

    async fn send(&self, request: Request<Body>) -> Reply {
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        Reply { status: parts.status, headers: parts.headers, body: axum::body::to_bytes(body, 1 << 24).await.unwrap() }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    /// Asks again with the tag that the first answer had.
    async fn ask_again(&self, path: &str, etag: &str) -> Reply {
        self.send(Request::get(path).header("if-none-match", etag).body(Body::empty()).unwrap()).await
    }
}

/// Every path of the playground that `text` has in quotes; modules name each other as they lie side by side.
fn references(text: &str) -> impl Iterator<Item = String> {
    let starts = [("\"/playground/", '"'), ("'/playground/", '\''), ("'./", '\'')];
    starts.into_iter().flat_map(|(start, quote)| {
        text.split(start).skip(1).filter_map(move |rest| Some(format!("/playground/{}", rest.split_once(quote)?.0)))
    })
}

/// The page and everything that it refers to, directly or through another file, with its path.
async fn files(server: &Server) -> Vec<(String, Reply)> {
    let mut paths = vec!["/".to_owned()];
    let mut files = Vec::new();
    while let Some(path) = paths.get(files.len()).cloned() {
        let reply = server.get(&path).await;
        assert_eq!(reply.status, StatusCode::OK, "{path} is referred to, but not there");
        for path in references(reply.text()) {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        files.push((path, reply));
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_and_its_files_are_served_as_what_they_are_under_a_strict_policy() {
    let model = TestModel::new();
    let server = Server::start(&model, &[]);
    let files = files(&server).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/serve/playground");
    assert_eq!(files.len(), std::fs::read_dir(folder).unwrap().count(), "every file of the folder is used by the page");
    for (path, reply) in &files {
        let media_type = match path.rsplit('.').next() {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(reply.headers["content-type"], media_type, "{path}");
        assert_eq!(reply.headers["x-content-type-options"], "nosniff", "{path}");
        let policy = reply.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self';"), "{path}: {policy}");
        assert!(!policy.contains("unsafe-inline") && !policy.contains("http") && !policy.contains('*'), "{path}: {policy}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_has_a_file_is_told_so() {
    let model = TestModel::new();
    let server = Server::start(&model, &[]);
    for (path, reply) in files(&server).await {
        assert_eq!(reply.headers["cache-control"], "no-cache", "{path}: a new server has a new page");
        let again = server.ask_again(&path, reply.headers["etag"].to_str().unwrap()).await;
        assert_eq!((again.status, again.body.len()), (StatusCode::NOT_MODIFIED, 0), "{path}");
        assert_eq!(server.ask_again(&path, "\"another\"").await.status, StatusCode::OK, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_refers_to_another_host_and_nothing_is_inline() {
    let model = TestModel::new();
    let server = Server::start(&model, &[]);
    for (path, reply) in files(&server).await {
        // The name of SVG's elements looks like an address, and is none.
        let text = reply.text().replace("http://www.w3.org/2000/svg", "");
        for forbidden in ["http:", "https:", "\"//", "'//", "url(", "@import", "<style", "style=\"", " onclick=\"", "javascript:", "eval("]
        {
            assert!(!text.contains(forbidden), "{path} contains {forbidden}");
        }
        assert_eq!(text.matches("<script").count(), text.matches("<script type=\"module\" src=\"/playground/").count(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_is_described_with_its_examples() {
    let model = TestModel::new();
    let picture = small_png();
    std::fs::write(model.path().join("example.png"), &picture).unwrap();
    let server = Server::start(&model, &[]);
    let described = server.get("/model").await.json();
    assert_eq!(described["name"], "test");
    assert_eq!(described["labels"].as_array().unwrap().len(), 10);
    assert_eq!(described["preprocessing"]["crop"], 28);
    let single = json!([{"url": "/model/examples/example.png", "label": null, "source": null, "licence": null}]);
    assert_eq!(described["examples"], single);
    let reply = server.get("/model/examples/example.png").await;
    assert_eq!(
        (reply.status, &reply.headers["content-type"], &reply.body[..]),
        (StatusCode::OK, &"image/png".parse().unwrap(), &picture[..])
    );
    let again = server.ask_again("/model/examples/example.png", reply.headers["etag"].to_str().unwrap()).await;
    assert_eq!(again.status, StatusCode::NOT_MODIFIED);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_examples_are_served() {
    let model = TestModel::new();
    let folder = model.path().join("examples");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a.png"), small_png()).unwrap();
    std::fs::write(folder.join("unlisted.png"), small_png()).unwrap();
    let index = json!({"examples": [{"file": "a.png", "label": "class 3", "source": "a test", "licence": "MIT"}]});
    std::fs::write(folder.join("examples.json"), index.to_string()).unwrap();
    let server = Server::start(&model, &[]);
    let listed = server.get("/model").await.json()["examples"].clone();
    assert_eq!(listed, json!([{"url": "/model/examples/a.png", "label": "class 3", "source": "a test", "licence": "MIT"}]));
    for path in ["/model/examples/unlisted.png", "/model/examples/examples.json", "/model/examples/..%2Fmodel.json"] {
        let reply = server.get(path).await;
        assert_eq!((reply.status, &reply.json()["code"]), (StatusCode::NOT_FOUND, &json!("unknown_example")), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runtime_for_browsers_is_there_if_its_directory_is_named() {
    let model = TestModel::new();
    let module = "/playground/onnxruntime-web/ort.wasm.bundle.min.mjs";
    let without = Server::start(&model, &[]);
    assert_eq!(without.get("/model").await.json()["onnxruntime_web"], Value::Null);
    assert_eq!(without.get(module).await.json()["code"], "unknown_route");

    let directory = tempfile::tempdir().unwrap();
    let flag = ["--onnxruntime-web", directory.path().to_str().unwrap()];
    let refusal = Flags::try_parse_from(std::iter::once("test").chain(flag)).unwrap_err().to_string();
    assert!(refusal.contains("ort.wasm.bundle.min.mjs") && refusal.contains("fetch.py"), "{refusal}");

    std::fs::write(directory.path().join("ort.wasm.bundle.min.mjs"), "export {}").unwrap();
    std::fs::write(directory.path().join("ort-wasm-simd-threaded.wasm"), b"\0asm").unwrap();
    let with = Server::start(&model, &flag);
    assert_eq!(with.get("/model").await.json()["onnxruntime_web"], module);
    let binary = "/playground/onnxruntime-web/ort-wasm-simd-threaded.wasm";
    for (path, media_type) in [(module, "text/javascript; charset=utf-8"), (binary, "application/wasm")] {
        let reply = with.get(path).await;
        assert_eq!((reply.status, &reply.headers["content-type"]), (StatusCode::OK, &media_type.parse().unwrap()), "{path}");
        let again = with.ask_again(path, reply.headers["etag"].to_str().unwrap()).await;
        assert_eq!(again.status, StatusCode::NOT_MODIFIED, "{path}");
    }
}

#[test]
fn the_shipped_model_shows_a_picture_of_every_class() {
    let model = bignas::checkpoint::Model::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fashion-mnist")).unwrap();
    for label in &model.card.labels {
        assert!(model.examples.iter().any(|example| example.label.as_ref() == Some(label)), "no example shows {label}");
    }
}

/// A small grey PNG.
fn small_png() -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    image::GrayImage::from_fn(28, 28, |x, y| image::Luma([(x * 9 + y) as u8])).write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}
