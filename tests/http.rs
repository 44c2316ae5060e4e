//! The HTTP interface on a real engine with a small random model, request by request, without sockets.

mod common;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bignas::engine::{Engine, EngineOptions};
use bignas::metrics::Metrics;
use bignas::runtime::Network;
use bignas::serve::{AppState, Opener, ServeOptions, app};
use clap::Parser;
use common::{TestModel, runtime};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tower::ServiceExt;

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

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_what_clients_rely_on() {
    let server = Server::start(&[]);
    let reply = server.classify("mflops=3&top_k=3").await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.json());
    let answer = reply.json();

    let predictions = answer["predictions"].as_array().unwrap();
    assert_eq!(predictions.len(), 3);
    let probabilities: Vec<f64> = predictions.iter().map(|prediction| prediction["probability"].as_f64().unwrap()).collect();
    assert!(probabilities.is_sorted_by(|a, b| a >= b) && probabilities.iter().all(|p| (0.0..=1.0).contains(p)), "{probabilities:?}");
    assert_eq!(predictions[0]["label"], format!("class {}", predictions[0]["index"]));

    let child = &answer["child"];
    assert!(child["mflops"].as_f64().is_some_and(|mflops| mflops <= 3.0), "{child}");
    assert_eq!(child["id"].as_str().map(str::len), Some(16));
    assert!(child["accuracy"].is_f64() && child["accuracy_source"]["dataset"].is_string() && child["latency_ms"].is_null(), "{child}");
    assert_eq!(answer["budget"], json!({"asked": {"mflops": 3.0}, "met": true}));
    assert_eq!(answer["source"], "built");
    for phase in ["decode", "resolve", "queue", "inference", "total"] {
        assert!(answer["timing_ms"][phase].is_f64(), "{phase} is missing: {answer}");
    }
    assert!(reply.headers["server-timing"].to_str().unwrap().starts_with("decode;dur="));

    let again = server.classify("mflops=3&top_k=3").await.json();
    assert_eq!((&again["source"], &again["predictions"]), (&json!("memory"), &answer["predictions"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_child_asked_for_answers() {
    let server = Server::start(&[]);
    let children = server.children().await;
    let smallest = children[0]["id"].as_str().unwrap();
    let most_accurate = children.last().unwrap()["id"].clone();
    let params = children[1]["params"].as_u64().unwrap();
    let cases = [
        (format!("child={smallest}"), children[0]["id"].clone()),
        (String::new(), most_accurate.clone()),
        (format!("params={params}"), children[1]["id"].clone()),
        (format!("mflops={}", children[2]["mflops"]), children[2]["id"].clone()),
        ("mflops=1e9".to_owned(), most_accurate),
    ];
    for (query, expected) in cases {
        let answer = server.classify(&query).await.json();
        assert_eq!(answer["child"]["id"], expected, "{query}");
        assert_eq!(answer["budget"]["met"], true, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hopeless_budgets_learn_what_there_is() {
    let server = Server::start(&[]);
    let smallest = &server.children().await[0];
    for query in ["mflops=0.001", "params=1"] {
        let reply = server.classify(query).await;
        assert_eq!((reply.status.as_u16(), reply.problem().as_str()), (422, "budget_too_small"), "{query}");
        let known = reply.json()["smallest"].clone();
        assert_eq!((&known["mflops"], &known["params"]), (&smallest["mflops"], &smallest["params"]));
    }
    let reply = server.classify("mflops=2&min_accuracy=0.999").await;
    assert_eq!((reply.status.as_u16(), reply.problem().as_str()), (422, "accuracy_out_of_reach"));
    assert!(reply.json()["best_accuracy"].is_f64());

    let reply = server.classify("latency_ms=5").await;
    assert_eq!((reply.status.as_u16(), reply.problem().as_str()), (503, "not_ready"), "without warm-up nothing is measured");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense_are_refused() {
    let server = Server::start(&[]);
    let cases = [
        ("GET", "/nowhere", 404, "unknown_route"),
        ("GET", "/docs/nowhere", 404, "unknown_route"),
        ("GET", "/classify", 405, "method_not_allowed"),
        ("PUT", "/children", 405, "method_not_allowed"),
        ("GET", "/children/0123456789abcdef", 404, "unknown_child"),
        ("GET", "/children/nonsense", 404, "unknown_child"),
        ("GET", "/children/%ff", 404, "unknown_route"),
        ("GET", "/children/0123456789abcdef/model.onnx", 404, "unknown_child"),
        ("DELETE", "/children/0123456789abcdef", 404, "unknown_child"),
        ("GET", "/children?max_mflops=cheap", 400, "invalid_request"),
        ("GET", "/children?max_mflops=NaN", 400, "invalid_budget"),
        ("GET", "/children?max_mflops=1&max_mflops=2", 400, "invalid_request"),
        ("GET", "/children?colour=red", 400, "invalid_request"),
        ("GET", "/children?state=asleep", 400, "invalid_request"),
        ("POST", "/children", 415, "unsupported_media_type"),
        ("POST", "/classify?child=0123456789abcdef", 404, "unknown_child"),
        ("POST", "/classify?child=0123456789abcdef&mflops=3", 400, "invalid_budget"),
        ("POST", "/classify?mflops=-3", 400, "invalid_budget"),
        ("POST", "/classify?top_k=11", 400, "invalid_request"),
    ];
    for (method, path, status, code) in cases {
        let body = if path.starts_with("/classify") { png(28, 28).into() } else { Body::empty() };
        let reply = server.send(Request::builder().method(method).uri(path).body(body).unwrap()).await;
        assert_eq!((reply.status.as_u16(), reply.problem().as_str()), (status, code), "{method} {path}");
    }
}

/// What clients add and remove while the next model has read already which children there are would be lost with this one.
#[tokio::test(flavor = "multi_thread")]
async fn children_stay_as_they_are_while_the_model_is_replaced() {
    let mut server = Server::start(&[]);
    let choices = json!({ "choices": server.children().await[0]["choices"] }).to_string();
    let (begin, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let opener: Opener = Arc::new(move || {
        begin.send(()).unwrap();
        gate.lock().unwrap().recv().unwrap();
        Err("there is no other model".into())
    });
    server.router = app(bignas::serve::Server::new(server.state.clone(), opener));
    let replacing = async {
        let reply = server.post("/model/reload", "application/json", Body::empty()).await;
        assert_eq!(reply.problem(), "invalid_model");
    };
    let changing = async {
        begun.recv().await.unwrap();
        assert_eq!(server.post("/children", "application/json", choices.clone()).await.problem(), "being_replaced");
        assert_eq!(server.send(delete("/children/0123456789abcdef")).await.problem(), "being_replaced");
        release.send(()).unwrap();
    };
    tokio::join!(replacing, changing);
    assert_eq!(server.post("/children", "application/json", choices).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_sorted_and_can_be_filtered() {
    let server = Server::start(&[]);
    let children = server.children().await;
    let mflops: Vec<f64> = children.iter().map(|child| child["mflops"].as_f64().unwrap()).collect();
    assert!(children.len() == 6 && mflops.is_sorted(), "{mflops:?}");
    assert!(children.iter().all(|child| child["state"] == "unbuilt" && child["added"] == false && child["choices"]["stages"].is_array()));

    let measured = server.get("/children?max_latency_ms=1000").await.json();
    assert_eq!(measured["children"], json!([]), "without warm-up nothing is measured before it is used");
    server.classify(&format!("child={}", children[1]["id"].as_str().unwrap())).await;
    let cases = [
        (format!("max_mflops={}", mflops[2]), 3),
        (format!("max_params={}", children[0]["params"]), 1),
        ("min_accuracy=0.835".to_owned(), 2),
        ("state=loaded".to_owned(), 1),
        ("state=unbuilt&max_mflops=1000".to_owned(), 5),
    ];
    for (query, expected) in cases {
        let listed = server.get(&format!("/children?{query}")).await.json();
        assert_eq!(listed["children"].as_array().unwrap().len(), expected, "{query}");
    }
    let id = children[1]["id"].as_str().unwrap();
    let one = server.get(&format!("/children/{id}")).await.json();
    assert_eq!((&one["id"], &one["state"], &one["choices"]), (&children[1]["id"], &json!("loaded"), &children[1]["choices"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn children_come_and_go() {
    let server = Server::start(&[]);
    let children = server.children().await;
    let mut choices = children[0]["choices"].clone();
    choices["stages"][3]["kernel"] = json!(5);
    let body = json!({"choices": choices}).to_string();
    let reply = server.post("/children", "application/json", body.clone()).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.json());
    let added = reply.json();
    assert!(added["added"] == true && added["accuracy"].is_null() && added["latency_ms"].is_f64(), "{added}");
    let path = reply.headers["location"].to_str().unwrap().to_owned();
    assert_eq!(server.get(&path).await.json()["id"], added["id"]);
    assert_eq!(server.post("/children", "application/json", body).await.status, StatusCode::OK, "it is known by now");

    let query = format!("child={}", added["id"].as_str().unwrap());
    assert_eq!(server.classify(&query).await.json()["child"]["id"], added["id"]);
    let metrics = String::from_utf8(server.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("bignas_child_requests_total{child=\"added\"} 1"), "added children share a label");

    assert_eq!(server.send(delete(&path)).await.status, StatusCode::NO_CONTENT);
    assert_eq!(server.send(delete(&path)).await.problem(), "unknown_child");
    let family = format!("/children/{}", children[0]["id"].as_str().unwrap());
    assert_eq!(server.send(delete(&family)).await.problem(), "family_member");

    let mut outside = children[0]["choices"].clone();
    outside["stages"][3]["kernel"] = json!(7);
    for (body, code) in [
        (json!({"choices": outside}).to_string(), "outside_space"),
        (json!({"choices": {}}).to_string(), "invalid_request"),
        (json!({"kernel": 5}).to_string(), "invalid_request"),
        ("{".to_owned(), "invalid_request"),
        (String::new(), "empty_body"),
    ] {
        assert_eq!(server.post("/children", "application/json", body.clone()).await.problem(), code, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_can_be_downloaded_and_kept() {
    let server = Server::start(&[]);
    let id = server.children().await[0]["id"].as_str().unwrap().to_owned();
    let path = format!("/children/{id}/model.onnx");
    let reply = server.get(&path).await;
    assert_eq!((reply.status, &reply.headers["content-type"]), (StatusCode::OK, &"application/octet-stream".parse().unwrap()));
    assert_eq!(reply.headers["content-disposition"], format!("attachment; filename=\"{id}.onnx\""));
    let etag = reply.headers["etag"].clone();
    let network = Network::load(&runtime(), &reply.body, "the download", 1).unwrap();
    assert_eq!(network.input_shape()[0], 1);

    let again = Request::get(&path).header("if-none-match", &etag).body(Body::empty()).unwrap();
    let reply = server.send(again).await;
    assert_eq!((reply.status, reply.body.len(), &reply.headers["etag"]), (StatusCode::NOT_MODIFIED, 0, &etag));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_when_to_try_again() {
    let server = Arc::new(Server::start(&["--queue-limit-images", "1"]));
    let image = BASE64_STANDARD.encode(png(28, 28));
    let body = json!({"image": vec![image; 8]}).to_string();
    // All wait for the child to be built, and then all want a place in the queue.
    let requests: Vec<_> = (0..20)
        .map(|_| {
            let (server, body) = (Arc::clone(&server), body.clone());
            tokio::spawn(async move { server.post("/classify", "application/json", body).await })
        })
        .collect();
    let (mut answered, mut refused) = (0, 0);
    for request in requests {
        let reply = request.await.unwrap();
        if reply.status == StatusCode::OK {
            answered += 1;
            continue;
        }
        assert_eq!((reply.status.as_u16(), reply.problem().as_str()), (429, "overloaded"));
        let seconds: u64 = reply.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!(seconds >= 1 && reply.json()["retry_after_s"] == seconds, "{}", reply.json());
        refused += 1;
    }
    assert!(answered >= 1 && refused >= 1, "{answered} answered, {refused} refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_kept_or_refused() {
    let server = Server::start(&[]);
    assert_eq!(server.classify("").await.status, StatusCode::OK);
    let reply = server.classify("deadline_ms=20000").await;
    assert_eq!(reply.status, StatusCode::OK);
    assert!(reply.json().get("degraded_from").is_none(), "nothing else runs");
    let reply = server.classify("deadline_ms=0.001").await;
    assert_eq!((reply.status.as_u16(), reply.problem().as_str()), (504, "deadline_exceeded"));
    let metrics = String::from_utf8(server.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("bignas_shed_total{reason=\"deadline\"} 1"), "{metrics}");
}

/// The server answers nobody later than its own limit: who asks for longer has no place behind everyone else.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_beyond_the_servers_limit_counts_as_that() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    common::measure(&model, cache.path()).await;
    common::claim_latencies(cache.path(), |_| 20_000.0);
    let server = Server::start_with(model, cache, &["--timeout-ms", "10000"]);
    for deadline_ms in [9_000, 600_000] {
        let reply = server.classify(&format!("deadline_ms={deadline_ms}")).await;
        assert_eq!((reply.status.as_u16(), reply.problem().as_str()), (504, "deadline_exceeded"), "{deadline_ms}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_warm_up_and_draining() {
    let server = Server::start(&["--warm-up", "true"]);
    let ready = loop {
        let reply = server.get("/readyz").await;
        if reply.status == StatusCode::OK {
            break reply.json();
        }
        assert_eq!((reply.status.as_u16(), reply.problem().as_str()), (503, "not_ready"));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!((&ready["model"], &ready["children"], &ready["device"]["provider"]), (&json!("test"), &json!(6), &json!("cpu")));
    assert!(server.children().await.iter().all(|child| child["latency_ms"].is_f64() && child["state"] == "loaded"));
    assert_eq!(server.classify("latency_ms=1000").await.json()["budget"]["met"], true);

    server.state.start_draining();
    let reply = server.get("/readyz").await;
    assert_eq!((reply.status.as_u16(), reply.problem().as_str()), (503, "shutting_down"));
    assert_eq!((server.get("/healthz").await.status, server.classify("").await.status), (StatusCode::OK, StatusCode::OK));
    server.engine.drain();
    assert_eq!(server.classify("").await.problem(), "shutting_down");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_happened() {
    let server = Server::start(&[]);
    let id = server.children().await[0]["id"].as_str().unwrap().to_owned();
    server.classify(&format!("child={id}")).await;
    server.classify("mflops=0.001").await;
    let reply = server.get("/metrics").await;
    assert_eq!(reply.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = String::from_utf8(reply.body.to_vec()).unwrap();
    for line in [
        &format!("bignas_child_requests_total{{child=\"{id}\"}} 1"),
        "bignas_child_requests_total{child=\"added\"} 0",
        "bignas_budget_met_total{met=\"true\"} 1",
        "bignas_budget_met_total{met=\"false\"} 1",
        "bignas_phase_seconds_count{phase=\"decode\"} 1",
        "bignas_phase_seconds_count{phase=\"inference\"} 1",
        "bignas_problems_total{code=\"budget_too_small\"} 1",
        "bignas_problems_total{code=\"internal\"} 0",
        "bignas_http_requests_total{route=\"/classify\",status=\"2xx\"} 1",
        "bignas_http_requests_total{route=\"/classify\",status=\"4xx\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_are_there() {
    let server = Server::start(&[]);
    assert!(String::from_utf8_lossy(&server.get("/docs/").await.body).contains("Swagger UI"));
    assert_eq!(server.get("/openapi.json").await.json(), serde_json::to_value(bignas::serve::openapi()).unwrap());
    assert_eq!(server.get("/healthz").await.json(), json!({"status": "ok"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_status_seen_here_is_documented() {
    let server = Server::start(&["--max-body-bytes", "5000", "--admin-key", "correct-horse"]);
    let description = serde_json::to_value(bignas::serve::openapi()).unwrap();
    let cases = [
        ("POST", "/classify", "/classify?mflops=x", 400),
        ("POST", "/classify", "/classify?mflops=0.001", 422),
        ("POST", "/classify", "/classify?child=0123456789abcdef", 404),
        ("DELETE", "/children/{id}", "/children/0123456789abcdef", 401),
        ("POST", "/children", "/children", 401),
        ("GET", "/children/{id}", "/children/x", 404),
        ("GET", "/children", "/children?x=1", 400),
        ("PATCH", "/children", "/children", 405),
    ];
    for (method, route, path, status) in cases {
        let reply = server.send(Request::builder().method(method).uri(path).body(png(28, 28).into()).unwrap()).await;
        assert_eq!(reply.status.as_u16(), status, "{method} {path}: {}", reply.json());
        let operations = description["paths"][route].as_object().unwrap();
        let operation = operations.get(&method.to_lowercase()).or_else(|| operations.values().next()).unwrap();
        let schema = &operation["responses"][status.to_string()]["content"]["application/problem+json"]["schema"]["$ref"];
        assert_eq!(schema, "#/components/schemas/Problem", "{method} {route} lacks {status}");
    }
}
