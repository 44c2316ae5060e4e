//! The family, and the children that come and go.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use bignas::runtime::Network;
use bignas::serve::{Opener, app};
use serde_json::json;

use crate::common::runtime;
use crate::{Server, delete};

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
