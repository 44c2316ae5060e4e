//! The paper's own space at full size, with random weights, behind HTTP.

use std::process::Command;

use serde_json::json;

use super::harness::{Server, encode};

#[test]
fn a_random_table_one_model_is_served_at_any_resolution() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("model");
    let init = ["init", "--space", "bignas", "--classes", "20", "--calibration-images", "2", "-o"];
    let made = Command::new(env!("CARGO_BIN_EXE_bignas")).args(init).arg(&model).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let server = Server::start(&model, &["--warm-up", "false", "--admin-key", "a-key-for-tests"]);
    let family = server.get("/children").json();
    let smallest = &family["children"][0];
    assert_eq!(smallest["resolution"], 192);
    let picture = image::RgbImage::from_fn(320, 240, |x, y| image::Rgb([x as u8, y as u8, 90]));
    let photo = encode(&picture.into(), image::ImageFormat::Png);

    // The paper trains at 192, 224, 288 and 320 pixels and deploys between them too.
    for resolution in [208, 336] {
        let mut choices = smallest["choices"].clone();
        choices["resolution"] = json!(resolution);
        let added = server.post_with_key("/children", &json!({ "choices": choices }), "a-key-for-tests");
        assert_eq!(added.status, 201, "{}", added.text());
        let id = added.json()["id"].as_str().unwrap().to_owned();
        let answer = server.classify(&format!("?child={id}&top_k=20"), &photo);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = answer.json();
        assert_eq!((&answer["child"]["resolution"], answer["predictions"].as_array().map(Vec::len)), (&json!(resolution), Some(20)));
    }
}
