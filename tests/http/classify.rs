//! Images and budgets.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::json;

use crate::common::TestModel;
use crate::{Server, png};

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
    crate::common::measure(&model, cache.path()).await;
    crate::common::claim_latencies(cache.path(), |_| 20_000.0);
    let server = Server::start_with(model, cache, &["--timeout-ms", "10000"]);
    for deadline_ms in [9_000, 600_000] {
        let reply = server.classify(&format!("deadline_ms={deadline_ms}")).await;
        assert_eq!((reply.status.as_u16(), reply.problem().as_str()), (504, "deadline_exceeded"), "{deadline_ms}");
    }
}
