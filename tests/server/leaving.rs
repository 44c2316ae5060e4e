//! Clients that leave before they have their answer.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use super::common::TestModel;
use super::harness::{Server, png};

const LEAVING: usize = 100;

/// The only worker is busy; most of those who left are never computed, none is forgotten, and the rest goes on.
#[test]
fn a_hundred_clients_that_hang_up_cost_the_others_nothing() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &["--workers", "1"]);
    server.wait_until_ready();
    let image = png(28, |x, y| (x * 9 + y) as u8);
    let many = json!({"image": vec![BASE64_STANDARD.encode(&image); 64]}).to_string();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let reply = server.post("/classify", "application/json", many.as_bytes());
                assert_eq!(reply.status, 200, "{}", reply.text());
            }
        });
        let address = server.base.strip_prefix("http://").unwrap();
        let head = format!("POST /classify HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n", image.len());
        for _ in 0..LEAVING {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&image).unwrap();
        }
        done.store(true, Ordering::Release);
    });
    let ended = |status| server.metric(&format!("bignas_http_requests_total{{route=\"/classify\",status=\"{status}\"}}"));
    let begin = Instant::now();
    // All are accounted for, and the busy client.
    while ended("aborted") + ended("2xx") <= LEAVING as f64 || server.metric("bignas_http_requests_in_flight") > 1.0 {
        assert!(begin.elapsed() < Duration::from_secs(30), "{} left and {} answered", ended("aborted"), ended("2xx"));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(ended("aborted") >= LEAVING as f64 / 2.0, "{}", ended("aborted"));
    assert_eq!(server.metric("bignas_queue_depth"), 0.0);
    assert_eq!((ended("4xx"), ended("5xx")), (0.0, 0.0));
    assert_eq!(server.classify("", &image).status, 200);
}
