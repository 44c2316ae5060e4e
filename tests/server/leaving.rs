//! Clients that leave before they have their answer, and requests that would not have theirs in time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use super::common::TestModel;
use super::harness::{Server, png};

const LEAVING: usize = 100;
/// Of one request: enough that a single worker is busy for long with what all ask.
const IMAGES: usize = 32;

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(30), "not {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn many_images(image: &[u8]) -> String {
    json!({"image": vec![BASE64_STANDARD.encode(image); IMAGES]}).to_string()
}

/// Most of them are never computed, none is forgotten, and whoever comes next is served.
#[test]
fn a_hundred_clients_that_hang_up_leave_nothing_behind() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &["--workers", "1", "--queue-limit-images", "10000", "--queue-limit-ms", "600000"]);
    server.wait_until_ready();
    let image = png(28, |x, y| (x * 9 + y) as u8);
    let body = many_images(&image);
    let address = server.base.strip_prefix("http://").unwrap();
    let head = format!(
        "POST /classify HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let ask = |_| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let clients: Vec<TcpStream> = (0..LEAVING).map(ask).collect();
    let ended = |status| server.metric(&format!("bignas_http_requests_total{{route=\"/classify\",status=\"{status}\"}}")) as usize;
    // The request that asks is in flight too.
    let in_flight = || server.metric("bignas_http_requests_in_flight") as usize - 1;
    wait_until("all have asked", || in_flight() + ended("2xx") >= LEAVING);
    drop(clients);
    wait_until("all are accounted for", || ended("aborted") + ended("2xx") == LEAVING);
    assert!(ended("aborted") >= LEAVING / 2, "{} left", ended("aborted"));
    wait_until("the queue is empty", || server.classify("", &image).status == 200 && server.metric("bignas_queue_depth") == 0.0);
    assert!(server.metric("bignas_cancelled_images_total") >= (IMAGES * LEAVING / 4) as f64);
    assert_eq!((ended("4xx"), ended("5xx")), (0, 0));
}

/// However much the queue may hold, more than fits into the timeout is refused at once and not begun in vain.
#[test]
fn nobody_waits_for_what_the_timeout_would_end() {
    let model = TestModel::new();
    let limits = ["--queue-limit-images", "10000", "--queue-limit-ms", "600000", "--timeout-ms", "100"];
    let server = Server::start(model.path(), &[&["--workers", "1"], &limits[..]].concat());
    server.wait_until_ready();
    let body = many_images(&png(28, |x, y| (x * 9 + y) as u8));
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let client = || server.post("/classify", "application/json", body.as_bytes()).status;
        let clients: Vec<_> = (0..LEAVING).map(|_| scope.spawn(client)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert!(statuses.contains(&429), "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 429, 504].contains(status)), "{statuses:?}");
}

/// A client's own slowness is not held against it: what it may have to wait for begins when the server has all of its request.
#[test]
fn a_deadline_does_not_run_while_the_request_is_still_coming() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &[]);
    server.wait_until_ready();
    let image = png(28, |x, y| (x * 9 + y) as u8);
    let (begin, end) = image.split_at(image.len() / 2);
    let address = server.base.strip_prefix("http://").unwrap();
    let deadline = Duration::from_secs(2);
    let head = format!(
        "POST /classify?deadline_ms={} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: image/png\r\ncontent-length: {}\r\n\r\n",
        deadline.as_millis(),
        image.len()
    );
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&[head.as_bytes(), begin].concat()).unwrap();
    std::thread::sleep(deadline + Duration::from_millis(200));
    stream.write_all(end).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}
