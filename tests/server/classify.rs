//! `POST /classify`: every way to send an image and a budget, and what the answer says.

use base64::Engine as _;
use image::{DynamicImage, ImageFormat};
use serde_json::{Value, json};

use super::common::{TestModel, claim_latencies};
use super::harness::{Server, encode, png};

fn server() -> (TestModel, Server) {
    let model = TestModel::new();
    let server = Server::start(model.path(), &["--warm-up", "false"]);
    (model, server)
}

fn picture() -> Vec<u8> {
    png(28, |x, y| (x * 9 + y * 3) as u8)
}

fn multipart(fields: &[(&str, &[u8])]) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for (name, value) in fields {
        body.extend_from_slice(format!("--B\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n").as_bytes());
        body.extend_from_slice(value);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--B--\r\n");
    ("multipart/form-data; boundary=B".to_owned(), body)
}

#[test]
fn the_answer_has_every_documented_field() {
    let (_model, server) = server();
    let answer = server.classify("?mflops=5&top_k=3", &picture());
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = answer.json();
    let predictions = answer["predictions"].as_array().unwrap();
    assert_eq!(predictions.len(), 3);
    let probabilities: Vec<f64> = predictions.iter().map(|p| p["probability"].as_f64().unwrap()).collect();
    assert!(probabilities.is_sorted_by(|a, b| a >= b) && probabilities.iter().all(|p| (0.0..=1.0).contains(p)));
    assert_eq!(predictions[0]["label"], json!(format!("class {}", predictions[0]["index"])));
    let child = &answer["child"];
    assert!(child["mflops"].as_f64().unwrap() <= 5.0);
    for field in ["id", "params", "resolution", "accuracy"] {
        assert!(!child[field].is_null(), "{field} in {child}");
    }
    assert_eq!(child["accuracy_source"]["kind"], "measured");
    assert!(child.as_object().unwrap().contains_key("latency_ms"), "unknown, but named");
    assert_eq!(answer["budget"]["asked"]["mflops"], 5.0);
    assert_eq!(answer["budget"]["met"], true);
    assert_eq!(answer["source"], "built");
    assert_eq!(answer["batch"], 1);
    for phase in ["decode", "resolve", "queue", "inference", "total"] {
        assert!(answer["timing_ms"][phase].as_f64().unwrap() >= 0.0, "{phase}");
    }
    assert_eq!(server.classify("?mflops=5", &picture()).json()["source"], "memory");
}

#[test]
fn all_ways_to_send_an_image_give_the_same_answer() {
    let (_model, server) = server();
    let image = picture();
    let expected = server.classify("?mflops=5", &image).json()["predictions"].clone();
    let base64 = base64::engine::general_purpose::STANDARD.encode(&image);
    let (form, with_field) = multipart(&[("mflops", b"5"), ("image", &image)]);
    let (_, without_field) = multipart(&[("image", &image)]);
    let ways = [
        ("?mflops=5", "image/png".to_owned(), image.clone()),
        ("?mflops=5", "application/octet-stream".to_owned(), image.clone()),
        ("", form.clone(), with_field),
        ("?mflops=5", form, without_field),
        ("", "application/json".to_owned(), json!({ "image": base64, "mflops": 5.0 }).to_string().into_bytes()),
        ("?mflops=5", "application/json; charset=utf-8".to_owned(), json!({ "image": base64 }).to_string().into_bytes()),
    ];
    for (query, media_type, body) in ways {
        let answer = server.post(&format!("/classify{query}"), &media_type, &body);
        assert_eq!(answer.status, 200, "{media_type}: {}", answer.text());
        assert_eq!(answer.json()["predictions"], expected, "{media_type} {query:?}");
    }
}

#[test]
fn several_images_are_answered_in_order() {
    let (_model, server) = server();
    let images = [png(28, |_, _| 0), png(28, |x, _| (x * 9) as u8), png(28, |_, y| 255 - (y * 9) as u8)];
    let alone: Vec<Value> = images.iter().map(|image| server.classify("", image).json()["predictions"].clone()).collect();
    let (form, body) = multipart(&[("image", &images[0]), ("image", &images[1]), ("image", &images[2])]);
    let together = server.post("/classify", &form, &body).json();
    let top = |predictions: &Value| predictions[0]["index"].clone();
    let answers: Vec<Value> = together["images"].as_array().unwrap().iter().map(|image| top(&image["predictions"])).collect();
    assert_eq!(answers, alone.iter().map(top).collect::<Vec<_>>());
}

#[test]
fn a_named_child_answers_itself() {
    let (_model, server) = server();
    let children = server.get("/children").json();
    for child in &children["children"].as_array().unwrap()[..2] {
        let id = child["id"].as_str().unwrap();
        let answer = server.classify(&format!("?child={id}"), &picture()).json();
        assert_eq!(answer["child"]["id"], id);
    }
}

#[test]
fn a_smaller_child_that_keeps_a_deadline_names_the_better_one() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let first = Server::start_with_cache(model.path(), cache.path(), &[]);
    first.wait_until_ready();
    let answer = first.classify("?deadline_ms=60000", &picture()).json();
    let best = answer["child"]["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.get("degraded_from"), None, "{answer}");
    drop(first);
    // From now on, the best child is on record as taking twenty seconds.
    claim_latencies(cache.path(), |id| if id == best { 20_000.0 } else { 0.01 });
    let second = Server::start_with_cache(model.path(), cache.path(), &[]);
    for child in second.get("/children").json()["children"].as_array().unwrap() {
        assert_eq!(second.classify(&format!("?child={}", child["id"].as_str().unwrap()), &picture()).status, 200);
    }
    let answer = second.classify("?deadline_ms=10000", &picture()).json();
    assert_eq!(answer["degraded_from"], best, "{answer}");
    assert_ne!(answer["child"]["id"], best);
    assert_eq!(second.metric("bignas_degraded_total"), 1.0);
    let floor = format!("?deadline_ms=10000&min_accuracy={}", accuracy_of(&second, &best));
    assert_eq!(second.classify(&floor, &picture()).status, 504, "not under the floor");
}

fn accuracy_of(server: &Server, id: &str) -> f64 {
    server.get(&format!("/children/{id}")).json()["accuracy"].as_f64().unwrap()
}

/// One picture in many kinds of file: what a person sees is the same, so the answer is nearly the same too.
#[test]
fn unusual_files_are_seen_as_a_person_sees_them() {
    let (_model, server) = server();
    let grey = image::GrayImage::from_fn(28, 28, |x, y| image::Luma([(x * 7 + y * 2) as u8]));
    let grey = DynamicImage::from(grey);
    let expected = server.classify("", &encode(&grey, ImageFormat::Png)).json();
    let mut see_through = grey.to_rgba8();
    see_through.pixels_mut().for_each(|pixel| pixel.0 = [255, 255, 255, pixel.0[0]]);
    let kinds = [
        ("RGB", encode(&grey.to_rgb8().into(), ImageFormat::Png)),
        ("RGBA", encode(&grey.to_rgba8().into(), ImageFormat::Png)),
        ("16 bit", encode(&grey.to_luma16().into(), ImageFormat::Png)),
        ("white seen through, over black", encode(&see_through.into(), ImageFormat::Png)),
        ("WebP", encode(&grey.to_rgb8().into(), ImageFormat::WebP)),
        ("BMP", encode(&grey.to_rgb8().into(), ImageFormat::Bmp)),
    ];
    for (kind, file) in kinds {
        let answer = server.classify("", &file);
        assert_eq!(answer.status, 200, "{kind}: {}", answer.text());
        let (found, wanted) = (&answer.json()["predictions"][0], &expected["predictions"][0]);
        assert_eq!(found["index"], wanted["index"], "{kind}");
        let difference = found["probability"].as_f64().unwrap() - wanted["probability"].as_f64().unwrap();
        assert!(difference.abs() < 0.02, "{kind}: probability differs by {difference}");
    }
}

#[test]
fn metrics_count_every_phase_and_child() {
    let (_model, server) = server();
    for _ in 0..3 {
        assert_eq!(server.classify("?mflops=5", &picture()).status, 200);
    }
    for phase in ["decode", "resolve", "queue", "inference"] {
        assert_eq!(server.metric(&format!("bignas_phase_seconds_count{{phase=\"{phase}\"}}")), 3.0);
    }
    assert_eq!(server.metric("bignas_child_builds_total{outcome=\"ok\"}"), 1.0);
    assert_eq!(server.metric("bignas_child_source_total{source=\"memory\"}"), 2.0);
    assert_eq!(server.metric("bignas_budget_met_total{met=\"true\"}"), 3.0);
    let text = server.get("/metrics").text();
    assert!(text.contains("bignas_phase_seconds_bucket{phase=\"inference\",le="), "histograms have buckets");
}
