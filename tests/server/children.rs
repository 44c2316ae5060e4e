//! `/children`: the family as a client sees it, adding and removing, and the graphs to run elsewhere.

use serde_json::{Value, json};

use super::common::{TestModel, runtime, space};
use super::harness::{Server, png};

const KEY: &str = "a-key-for-tests";

/// The body that adds a child.
fn choices() -> Value {
    let mut choices = space().smallest().choices().clone();
    choices.stages[2] = bignas::space::StageChoices::uniform(2, 20, 3, 4);
    json!({ "choices": choices })
}

#[test]
fn the_family_is_sorted_filtered_and_complete() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &["--warm-up", "false"]);
    let list = |query: &str| server.get(&format!("/children{query}")).json()["children"].as_array().unwrap().clone();
    let all = list("");
    assert_eq!(all.len(), 6);
    let costs: Vec<f64> = all.iter().map(|child| child["mflops"].as_f64().unwrap()).collect();
    assert!(costs.is_sorted());
    for field in ["id", "params", "resolution", "accuracy", "accuracy_source", "latency_ms", "choices", "state"] {
        assert!(all[0].as_object().unwrap().contains_key(field), "{field}");
    }
    assert_eq!(all[0]["state"], "unbuilt");
    assert_eq!(all[0]["choices"]["stages"].as_array().unwrap().len(), 4);
    assert_eq!(list(&format!("?max_mflops={}", costs[2])).len(), 3);
    assert_eq!(list("?min_accuracy=0.84").len(), 2);
    let id = all[3]["id"].as_str().unwrap();
    let one = server.get(&format!("/children/{id}")).json();
    assert_eq!((&one["id"], &one["choices"]), (&all[3]["id"], &all[3]["choices"]));
}

#[test]
fn latencies_are_measured_before_the_server_is_ready() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &[]);
    server.wait_until_ready();
    let children = server.get("/children").json();
    let latencies: Vec<f64> = children["children"].as_array().unwrap().iter().map(|c| c["latency_ms"].as_f64().unwrap()).collect();
    let slowest = latencies.iter().copied().fold(0.0, f64::max);
    let image = png(28, |x, _| x as u8);
    let answer = server.classify(&format!("?latency_ms={slowest}"), &image).json();
    assert_eq!(answer["budget"]["met"], true);
    assert!(answer["child"]["latency_ms"].as_f64().unwrap() <= slowest);
    let refused = server.classify("?latency_ms=0.000001", &image);
    assert_eq!((refused.status, refused.json()["code"].as_str().unwrap()), (422, "budget_too_small"));
    assert!(refused.json()["smallest"]["latency_ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn children_are_added_and_removed() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &["--warm-up", "false"]);
    let added = server.post("/children", "application/json", choices().to_string().as_bytes());
    assert_eq!(added.status, 201, "{}", added.text());
    let child = added.json();
    let id = child["id"].as_str().unwrap().to_owned();
    assert_eq!(added.headers["location"].to_str().unwrap(), format!("/children/{id}"));
    assert!(child["latency_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(child["accuracy"], Value::Null);
    assert_eq!(server.post("/children", "application/json", choices().to_string().as_bytes()).status, 200, "known already");
    assert_eq!(server.classify(&format!("?child={id}"), &png(28, |x, _| x as u8)).json()["child"]["id"], id.as_str());
    assert_eq!(server.delete(&format!("/children/{id}"), None).status, 204);
    assert_eq!(server.get(&format!("/children/{id}")).status, 404);
    let family = server.get("/children").json()["children"][0]["id"].as_str().unwrap().to_owned();
    let kept = server.delete(&format!("/children/{family}"), None);
    assert_eq!((kept.status, kept.json()["code"].as_str().unwrap()), (409, "family_member"));
    let mut outside = choices();
    outside["choices"]["stages"][2]["kernel"] = json!([7, 3]);
    let refused = server.post("/children", "application/json", outside.to_string().as_bytes());
    assert_eq!((refused.status, refused.json()["code"].as_str().unwrap()), (422, "outside_space"));
    assert!(refused.json()["detail"].as_str().unwrap().contains("stage 3, layer 1: kernel 7 is not in the search space (3, 5)"));
}

#[test]
fn administration_needs_the_key_where_others_can_reach_it() {
    let model = TestModel::new();
    let with_key = Server::start(model.path(), &["--warm-up", "false", "--admin-key", KEY]);
    let body = choices().to_string();
    assert_eq!(with_key.post("/children", "application/json", body.as_bytes()).status, 401);
    assert_eq!(with_key.post_with_key("/children", &choices(), "wrong-key-here").status, 401);
    assert_eq!(with_key.post_with_key("/children", &choices(), KEY).status, 201);
    let open = TestModel::new();
    let cache = tempfile::tempdir().unwrap();
    let mut process = super::harness::command(open.path(), cache.path(), &["--warm-up", "false", "--host", "0.0.0.0"]).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(process.stdout.take().unwrap()), &mut line).unwrap();
    let base = line.trim().rsplit(' ').next().unwrap().to_owned();
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let refused = agent.post(format!("{base}/children")).content_type("application/json").send(body.as_bytes()).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(refused.status(), 403);
}

#[test]
fn a_downloaded_graph_answers_as_the_server_does() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &["--warm-up", "false"]);
    let id = server.get("/children").json()["children"][2]["id"].as_str().unwrap().to_owned();
    let file = server.get(&format!("/children/{id}/model.onnx"));
    assert_eq!(file.status, 200);
    let mut network = bignas::runtime::Network::load(&runtime(), &file.body, "the downloaded child", 1).unwrap();
    let image = png(28, |x, y| (x * 5 + y) as u8);
    let preprocessing = super::common::preprocessing();
    let pixels = bignas::image::decode(&image, &bignas::image::DecodeLimits::default(), 1, [0; 3]).unwrap();
    let [channels, side, _] = network.input_shape();
    let mut input = vec![0.0; channels * side * side];
    pixels.centre_crop(&preprocessing).unwrap().write_input(side as u32, &preprocessing, &mut input).unwrap();
    let logits = network.run(&input, 1).unwrap();
    let answer = server.classify(&format!("?child={id}"), &image).json();
    let best = bignas::evaluate::best(&logits, 1)[0];
    assert_eq!(answer["predictions"][0]["index"], best);
}

/// Who asks for a child while many wait to be built is told when to come again, and has it then.
#[test]
fn a_full_build_queue_says_when_to_try_again() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &["--warm-up", "false", "--build-queue-limit", "1"]);
    let family = server.get("/children").json()["children"].as_array().unwrap().clone();
    let image = png(28, |x, y| (x * 5 + y) as u8);
    let ask = |id: &Value| server.classify(&format!("?child={}", id.as_str().unwrap()), &image);
    let replies: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = family.iter().map(|child| scope.spawn(|| ask(&child["id"]))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let refused: Vec<_> = replies.iter().filter(|reply| reply.status != 200).collect();
    assert!((1..family.len()).contains(&refused.len()), "one is built and one waits: {} of {} refused", refused.len(), family.len());
    for reply in refused {
        assert_eq!((reply.status, reply.json()["code"].as_str().unwrap()), (429, "overloaded"));
        assert!(
            reply.json()["detail"].as_str().unwrap().contains("the queue of children to be built or loaded is full (1)"),
            "{}",
            reply.text()
        );
        let seconds: u64 = reply.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!(seconds >= 1 && reply.json()["retry_after_s"] == seconds, "{}", reply.text());
    }
    assert!(family.iter().all(|child| ask(&child["id"]).status == 200));
}
