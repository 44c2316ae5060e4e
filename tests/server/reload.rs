//! Replacing the model under traffic.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::common::TestModel;
use super::harness::{Server, png};

/// Turns `link` to `target`, as a deployment does: in one step.
fn turn(link: &Path, target: &Path) {
    let new = link.with_extension("new");
    symlink(target, &new).unwrap();
    std::fs::rename(&new, link).unwrap();
}

fn sha256(server: &Server) -> String {
    server.get("/readyz").json()["weights_sha256"].as_str().unwrap().to_owned()
}

#[test]
fn a_model_is_replaced_under_load_and_no_request_is_lost() {
    let (first, second, folder) = (TestModel::new(), TestModel::with_seed(4), tempfile::tempdir().unwrap());
    let link = folder.path().join("model");
    turn(&link, first.path());
    let server = Server::start(&link, &[]);
    server.wait_until_ready();
    let (before, image, done) = (sha256(&server), png(28, |x, y| (x * y) as u8), AtomicBool::new(false));
    let old = server.classify("?mflops=3", &image).json();
    let answered = std::thread::scope(|scope| {
        let client = || {
            let mut answered = 0;
            while !done.load(Ordering::Acquire) {
                let reply = server.classify("?mflops=3", &image);
                assert_eq!(reply.status, 200, "{}", reply.text());
                answered += 1;
            }
            answered
        };
        let clients = [scope.spawn(client), scope.spawn(client)];
        let scraper = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                assert_eq!(server.metric("bignas_loaded_children"), 6.0, "the metrics are of what serves, which is all in memory");
            }
        });
        turn(&link, second.path());
        let reloaded = server.post("/model/reload", "application/json", b"");
        // The new model answers for a while, and the old one is put away beside it.
        std::thread::sleep(Duration::from_millis(500));
        done.store(true, Ordering::Release);
        assert_eq!(reloaded.status, 200, "{}", reloaded.text());
        assert_eq!(reloaded.json()["weights_sha256"], sha256(&server).as_str());
        scraper.join().unwrap();
        clients.map(|client| client.join().unwrap())
    });
    assert!(answered.iter().all(|&count| count > 0), "{answered:?}");
    assert_ne!(sha256(&server), before);
    let new = server.classify("?mflops=3", &image).json();
    assert_eq!(new["child"]["id"], old["child"]["id"], "the families are alike");
    assert_ne!(new["predictions"], old["predictions"], "the weights are not");
    assert_eq!(server.metric("bignas_model_reloads_total{outcome=\"ok\"}"), 1.0);
}

#[test]
fn a_bad_model_changes_nothing_and_says_why() {
    let (good, bad, folder) = (TestModel::new(), TestModel::with_seed(4), tempfile::tempdir().unwrap());
    let link = folder.path().join("model");
    turn(&link, good.path());
    let server = Server::start(&link, &[]);
    server.wait_until_ready();
    let before = sha256(&server);
    let weights = bad.path().join("weights.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() - 100]).unwrap();
    turn(&link, bad.path());
    let refused = server.post("/model/reload", "application/json", b"");
    let (status, problem) = (refused.status, refused.json());
    assert_eq!((status, problem["code"].as_str()), (422, Some("invalid_model")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("weights.safetensors"), "{problem}");
    assert_eq!(sha256(&server), before);
    assert_eq!(server.classify("", &png(28, |x, _| x as u8)).status, 200);
    assert_eq!(server.metric("bignas_model_reloads_total{outcome=\"error\"}"), 1.0);
}

/// Going back to what was measured before takes no measuring, but the switch waits until the family is in memory all the same.
#[test]
fn a_model_is_warm_before_it_serves_however_well_known_it_is() {
    let (first, second, folder) = (TestModel::new(), TestModel::with_seed(4), tempfile::tempdir().unwrap());
    let (link, cache) = (folder.path().join("model"), folder.path().join("cache"));
    turn(&link, first.path());
    let server = Server::start_with_cache(&link, &cache, &[]);
    server.wait_until_ready();
    let before = sha256(&server);
    for (model, is_first) in [(second.path(), false), (first.path(), true)] {
        turn(&link, model);
        assert_eq!(server.post("/model/reload", "application/json", b"").status, 200);
        assert_eq!(sha256(&server) == before, is_first);
        let children = server.get("/children").json();
        let states: Vec<&str> = children["children"].as_array().unwrap().iter().map(|child| child["state"].as_str().unwrap()).collect();
        assert!(states.iter().all(|state| *state == "loaded"), "{states:?}");
    }
    // Known, but no longer built, and what it would be built with is damaged.
    turn(&link, second.path());
    std::fs::remove_dir_all(cache.join("built")).unwrap();
    std::fs::write(second.path().join("calibration.safetensors"), b"damaged").unwrap();
    let workers = server.metric("bignas_workers");
    let refused = server.post("/model/reload", "application/json", b"");
    assert_eq!((refused.status, refused.json()["code"].as_str()), (422, Some("invalid_model")), "{}", refused.text());
    assert_eq!(sha256(&server), before);
    let loaded = ["bignas_loaded_children", "bignas_workers"].map(|name| server.metric(name));
    assert_eq!(loaded, [6.0, workers], "the metrics are of what serves");
}

#[test]
fn a_hangup_replaces_the_model_too() {
    let (first, second, folder) = (TestModel::new(), TestModel::with_seed(4), tempfile::tempdir().unwrap());
    let link = folder.path().join("model");
    turn(&link, first.path());
    let server = Server::start(&link, &[]);
    server.wait_until_ready();
    let before = sha256(&server);
    turn(&link, second.path());
    server.signal("-HUP");
    let begin = Instant::now();
    while sha256(&server) == before {
        assert!(begin.elapsed() < Duration::from_secs(120), "the model was not replaced");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn replacing_needs_the_key() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &["--admin-key", "correct-horse", "--warm-up", "false"]);
    assert_eq!(server.post("/model/reload", "application/json", b"").status, 401);
    let reloaded = server.post_with_key("/model/reload", &serde_json::json!({}), "correct-horse");
    assert_eq!(reloaded.status, 200, "{}", reloaded.text());
}
