//! `bignas bench` against the real server.

use std::process::{Command, Output};

use serde_json::Value;

use crate::common::TestModel;
use crate::harness::{Server, png};

fn bench(url: &str, here: &std::path::Path, flags: &[&str]) -> Output {
    let fixed = ["bench", "--url", url, "--image", "image.png", "--warm-up-s", "0", "--window-s", "1", "--output", "out"];
    Command::new(env!("CARGO_BIN_EXE_bignas")).current_dir(here).args(fixed).args(flags).output().unwrap()
}

#[test]
fn loads_of_every_kind_are_measured() {
    let (model, directory) = (TestModel::new(), tempfile::tempdir().unwrap());
    let here = directory.path();
    std::fs::write(here.join("image.png"), png(28, |x, y| (x * y) as u8)).unwrap();
    let server = Server::start(model.path(), &[]);
    server.wait_until_ready();
    let measured = |flags: &[&str]| -> Value {
        let output = bench(&server.base, here, flags);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("wrote ./out."));
        assert!(here.join("out.svg").exists() && here.join("out.png").exists());
        serde_json::from_slice(&std::fs::read(here.join("out.json")).unwrap()).unwrap()
    };

    let closed = measured(&["--windows", "2", "--connections", "2", "--ask", "mflops=3", "mflops=9"]);
    let summary = &closed["summary"];
    assert_eq!(closed["windows"].as_array().map(Vec::len), Some(2));
    assert_eq!(summary["statuses"].as_object().unwrap().keys().collect::<Vec<_>>(), ["200"]);
    assert!(summary["requests"].as_u64() > Some(10), "{summary}");
    assert!(summary["mean_accuracy"].is_f64() && summary["p50_ms"].as_f64() <= summary["p999_ms"].as_f64(), "{summary}");
    assert!(summary["children"].as_object().unwrap().len() > 1, "two budgets, two children: {summary}");
    assert_eq!(server.metric("bignas_phase_seconds_count{phase=\"inference\"}"), summary["requests"].as_f64().unwrap());

    for arrivals in ["poisson", "gamma"] {
        let open = measured(&["--arrivals", arrivals, "--rate", "40", "--windows", "2", "--deadline-ms", "10000"]);
        let requests = open["summary"]["requests"].as_u64().unwrap();
        assert!((20..200).contains(&requests), "about 80 in two seconds, not {requests}");
        assert_eq!((&open["summary"]["in_time"], &open["summary"]["refused"]), (&1.0.into(), &0.0.into()));
    }
    let hopeless = bench(&server.base, here, &["--windows", "1", "--ask", "deadline_ms=0.0001"]);
    assert!(hopeless.status.success());
    let report: Value = serde_json::from_slice(&std::fs::read(here.join("out.json")).unwrap()).unwrap();
    assert_eq!((&report["summary"]["refused"], &report["summary"]["throughput"]), (&1.0.into(), &0.0.into()));
    assert!(report["summary"]["refusal_p99_ms"].as_f64() > Some(0.0));
}

#[test]
fn a_server_that_is_not_there_is_said() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("image.png"), b"any").unwrap();
    let output = bench("http://127.0.0.1:1", directory.path(), &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("cannot connect to 127.0.0.1:1"), "{said}");
}
