//! Readiness, metrics, pages, and what the description says of errors.

use axum::http::{Request, StatusCode};
use serde_json::json;

use crate::{Server, png};

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
