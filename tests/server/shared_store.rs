//! A shared artefact store that is down, slow or wrong costs time, never an answer. (`scripts/check_artefact_store.py` has one that
//! works.)

use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::common::TestModel;
use super::harness::{Server, command, png};

/// What reaches a store of S3's kind at `endpoint`.
fn settings(endpoint: &str) -> [(&'static str, &str); 5] {
    [
        ("AWS_ENDPOINT", endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ]
}

#[test]
fn a_store_that_is_down_or_silent_costs_seconds_and_no_answer() {
    let model = TestModel::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let down = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (what, address) in [("silent", silent.local_addr().unwrap()), ("down", down)] {
        let cache = tempfile::tempdir().unwrap();
        let mut command = command(model.path(), cache.path(), &["--artefact-store", "s3://bucket/children", "--warm-up", "false"]);
        command.envs(settings(&format!("http://{address}")));
        let server = Server::run(command);
        let begin = Instant::now();
        let answer = server.classify("", &png(28, |x, _| x as u8));
        assert_eq!((answer.status, answer.json()["source"].as_str()), (200, Some("built")), "{what}");
        assert!(begin.elapsed() < Duration::from_secs(20), "{what}: {:?}", begin.elapsed());
        assert_eq!(server.metric("bignas_artefact_requests_total{outcome=\"failed\"}"), 1.0, "{what}");
        // Left alone for a while: the next child does not wait.
        let smallest = server.classify("?mflops=1", &png(28, |x, _| x as u8)).json();
        assert_eq!(smallest["source"], "built", "{what}");
        assert!(server.metric("bignas_artefact_requests_total{outcome=\"skipped\"}") >= 1.0, "{what}");
    }
}

#[test]
fn an_address_that_is_none_is_refused_at_start() {
    let model = TestModel::new();
    for (url, remedy) in [("ftp://host/children", "s3://BUCKET/PREFIX"), ("no url", "--artefact-store")] {
        let cache = tempfile::tempdir().unwrap();
        let output = command(model.path(), cache.path(), &["--artefact-store", url]).stderr(Stdio::piped()).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && message.contains(remedy), "{message}");
    }
}
