//! Starting, restarting, stopping: what an operator sees.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::common::TestModel;
use super::harness::{Server, command, png};

/// What a server that cannot start says, and its exit status.
fn refusal(model: &std::path::Path, flags: &[&str]) -> (String, bool) {
    let cache = tempfile::tempdir().unwrap();
    let output = command(model, cache.path(), flags).stderr(Stdio::piped()).output().unwrap();
    (String::from_utf8(output.stderr).unwrap(), output.status.success())
}

#[test]
fn a_taken_port_is_named() {
    let model = TestModel::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (message, success) = refusal(model.path(), &["--port", &port]);
    assert!(!success && message.contains(&format!("port {port}")) && message.contains("--port"), "{message}");
}

#[test]
fn a_broken_model_is_refused_at_start_with_the_file() {
    let model = TestModel::new();
    let weights = model.path().join("weights.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() - 100]).unwrap();
    let (message, success) = refusal(model.path(), &[]);
    assert!(!success && message.contains("weights.safetensors") && message.contains("SHA-256"), "{message}");
    let (message, success) = refusal(&model.path().join("absent"), &[]);
    assert!(!success && message.contains("model.json") && message.contains("No such file"), "{message}");
}

#[test]
fn a_missing_onnx_runtime_says_how_to_get_it() {
    let model = TestModel::new();
    let (message, success) = refusal(model.path(), &["--onnxruntime", "absent.so"]);
    assert!(!success && message.contains("absent.so") && message.contains("make fetch"), "{message}");
}

/// Batches of another size give other statistics, also of the model's own images.
#[test]
fn batches_are_as_the_server_is_told() {
    let model = TestModel::new();
    let (message, success) = refusal(model.path(), &["--calibration-batch", "33"]);
    assert!(!success && message.contains("32 calibration images do not fill a batch of 33"), "{message}");
    let graph = |flags: &[&str]| {
        let server = Server::start(model.path(), &[&["--warm-up", "false"], flags].concat());
        let children = server.get("/children").json();
        server.get(&format!("/children/{}/model.onnx", children["children"][0]["id"].as_str().unwrap())).body
    };
    let own = graph(&[]);
    assert_eq!(graph(&["--calibration-batch", "16"]), own, "the model's");
    assert_ne!(graph(&["--calibration-batch", "8"]), own);
}

#[test]
fn a_restart_finds_what_was_built_and_is_ready_at_once() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let first = Server::start_with_cache(model.path(), cache.path(), &[]);
    first.wait_until_ready();
    first.signal("-TERM");
    assert!(first.wait().success());
    let second = Server::start_with_cache(model.path(), cache.path(), &[]);
    assert_eq!(second.get("/readyz").status, 200);
    let answer = second.classify("", &png(28, |x, _| x as u8)).json();
    assert_eq!(answer["source"], "disk");
    assert_eq!(second.metric("bignas_child_builds_total{outcome=\"ok\"}"), 0.0);
}

/// What is known of children that are no longer there is not enough to be ready.
#[test]
fn a_restart_builds_what_is_gone_before_it_is_ready() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let first = Server::start_with_cache(model.path(), cache.path(), &[]);
    first.wait_until_ready();
    first.signal("-TERM");
    assert!(first.wait().success());
    std::fs::remove_dir_all(cache.path().join("built")).unwrap();
    let second = Server::start_with_cache(model.path(), cache.path(), &[]);
    second.wait_until_ready();
    let children = second.get("/children").json();
    let states: Vec<&str> = children["children"].as_array().unwrap().iter().map(|child| child["state"].as_str().unwrap()).collect();
    assert!(states.iter().all(|state| *state != "unbuilt"), "{states:?}");
}

#[test]
fn fifty_first_requests_over_http_build_once() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &["--warm-up", "false"]);
    let image = png(28, |x, _| x as u8);
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| assert_eq!(server.classify("?mflops=3", &image).status, 200));
        }
    });
    assert_eq!(server.metric("bignas_child_builds_total{outcome=\"ok\"}"), 1.0);
}

#[test]
fn sigterm_answers_what_it_accepted_and_says_no_before() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &["--warm-up", "false", "--drain-pause-ms", "1500"]);
    let image = png(28, |x, _| x as u8);
    assert_eq!(server.classify("", &image).status, 200);
    server.signal("-TERM");
    let begin = Instant::now();
    loop {
        let ready = server.get("/readyz");
        if ready.status == 503 {
            assert_eq!(ready.media_type, "application/problem+json");
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(1), "readiness goes first");
    }
    // In the pause, requests are still answered: whoever has not heard yet loses nothing.
    for _ in 0..20 {
        assert_eq!(server.classify("", &image).status, 200);
    }
    assert!(server.wait().success());
}

/// Neither a pause of days nor a request that never comes to its end holds up who asks twice.
#[test]
fn a_second_signal_ends_the_server_at_once() {
    let model = TestModel::new();
    let patient = ["--drain-pause-ms", "--drain-limit-ms", "--body-timeout-ms", "--timeout-ms"].map(|flag| [flag, "259200000"]);
    let server = Server::start(model.path(), &[&["--warm-up", "false"], patient.as_flattened()].concat());
    let mut unfinished = TcpStream::connect(server.base.strip_prefix("http://").unwrap()).unwrap();
    unfinished.write_all(b"POST /classify HTTP/1.1\r\nHost: here\r\nContent-Length: 10\r\n\r\n").unwrap();
    server.signal("-TERM");
    while server.get("/readyz").status == 200 {
        std::thread::sleep(Duration::from_millis(1));
    }
    server.signal("-INT");
    assert!(server.wait_at_most(Duration::from_secs(60)).success());
}

/// As behind a load balancer: whoever asks goes on until readiness says no, and nobody is cut off.
#[test]
fn sigterm_under_load_loses_nothing() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &["--warm-up", "false"]);
    let image = png(28, |x, _| x as u8);
    assert_eq!(server.classify("", &image).status, 200);
    let told = AtomicBool::new(false);
    let answered: usize = std::thread::scope(|scope| {
        let client = || {
            let mut answered = 0;
            while !told.load(Ordering::Acquire) {
                let reply = server.post_with("/classify", &image, &[("connection", "close")]);
                assert_eq!(reply.status, 200, "{}", reply.text());
                answered += 1;
            }
            answered
        };
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
        server.signal("-TERM");
        while server.get("/readyz").status == 200 {
            std::thread::sleep(Duration::from_millis(1));
        }
        told.store(true, Ordering::Release);
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert!(answered > 0);
    assert!(server.wait().success());
}

/// Clients that keep their connections are told to let go of them: none sends a request into one that is being closed.
#[test]
fn kept_connections_are_let_go_of_without_loss() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &["--warm-up", "false", "--drain-pause-ms", "4000"]);
    let image = png(28, |x, _| x as u8);
    assert_eq!(server.classify("", &image).status, 200);
    let address = server.base.strip_prefix("http://").unwrap();
    let head = format!("POST /classify HTTP/1.1\r\nHost: {address}\r\nContent-Type: image/png\r\nContent-Length: {}\r\n\r\n", image.len());
    let answered: usize = std::thread::scope(|scope| {
        let client = || {
            let mut stream = BufReader::new(TcpStream::connect(address).unwrap());
            for answered in 1.. {
                stream.get_mut().write_all(&[head.as_bytes(), &image].concat()).unwrap();
                let (mut line, mut length, mut closes) = (String::new(), 0, false);
                stream.read_line(&mut line).unwrap();
                assert!(line.starts_with("HTTP/1.1 200"), "answer {answered}: {line:?}");
                while line != "\r\n" {
                    line.clear();
                    stream.read_line(&mut line).unwrap();
                    let field = line.trim_end().to_ascii_lowercase();
                    length = field.strip_prefix("content-length: ").map_or(length, |value| value.parse().unwrap());
                    closes |= field == "connection: close";
                }
                stream.read_exact(&mut vec![0; length]).unwrap();
                if closes {
                    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the server closes what it says it does");
                    return answered;
                }
            }
            unreachable!()
        };
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
        std::thread::sleep(Duration::from_millis(200));
        server.signal("-TERM");
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert!(answered > 4, "{answered} answers");
    assert_eq!(server.get("/readyz").status, 503, "whoever comes on a new connection is still answered");
    assert!(server.wait().success());
}

#[test]
fn the_interface_describes_itself() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &["--warm-up", "false"]);
    assert_eq!(server.get("/healthz").status, 200);
    let openapi = server.get("/openapi.json").json();
    for path in ["/classify", "/children", "/children/{id}", "/children/{id}/model.onnx", "/healthz", "/readyz", "/metrics"] {
        assert!(openapi["paths"][path].is_object(), "{path}");
    }
    let docs = server.get("/docs/");
    assert!(docs.status == 200 && docs.text().contains("swagger-ui"), "{}", docs.status);
}
