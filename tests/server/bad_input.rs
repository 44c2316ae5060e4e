//! What bad input gets: a problem document that says what to do, never a 500, and the server goes on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::common::TestModel;
use super::harness::{Reply, Server, png};

fn problem(name: &str, reply: &Reply, status: u16, code: &str, part: &str) {
    assert_eq!(reply.status, status, "{name}: {}", reply.text());
    assert_eq!(reply.media_type, "application/problem+json", "{name}");
    let problem = reply.json();
    assert_eq!(problem["code"], code, "{name}: {problem}");
    assert_eq!(problem["status"], status, "{name}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains(part), "{name}: {detail:?} should contain {part:?}");
}

/// A PNG that claims to be `side` pixels wide and high: a valid header with its checksum, and nothing behind it.
fn png_header(side: u32) -> Vec<u8> {
    let mut ihdr = b"IHDR".to_vec();
    ihdr.extend_from_slice(&side.to_be_bytes());
    ihdr.extend_from_slice(&side.to_be_bytes());
    ihdr.extend_from_slice(&[8, 2, 0, 0, 0]);
    let crc = crc32(&ihdr);
    let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    file.extend_from_slice(&ihdr);
    file.extend_from_slice(&crc.to_be_bytes());
    file
}

fn crc32(bytes: &[u8]) -> u32 {
    let update = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 });
    !bytes.iter().fold(u32::MAX, update)
}

#[test]
fn images_that_are_none() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &["--warm-up", "false", "--max-body-bytes", "100000"]);
    let good = png(28, |x, _| x as u8);
    let mut corrupt = good.clone();
    let middle = corrupt.len() / 2;
    corrupt[middle] ^= 0xff;
    let jpeg = super::harness::encode(&image::GrayImage::new(64, 64).into(), image::ImageFormat::Jpeg);
    let cases: [(&str, Vec<u8>, u16, &str, &str); 7] = [
        ("text", b"hello, this is not an image".to_vec(), 400, "invalid_image", ""),
        ("empty", Vec::new(), 400, "empty_body", ""),
        ("truncated PNG", good[..good.len() / 2].to_vec(), 400, "invalid_image", ""),
        ("truncated JPEG", jpeg[..jpeg.len() * 2 / 3].to_vec(), 400, "invalid_image", ""),
        ("corrupt", corrupt, 400, "invalid_image", ""),
        ("bomb", png_header(60_000), 413, "image_too_large", "60000"),
        ("large body", vec![0; 100_001], 413, "body_too_large", "100000"),
    ];
    for (name, body, status, code, part) in cases {
        problem(name, &server.classify("", &body), status, code, part);
    }
    let wrong_type = server.post("/classify", "text/plain", &good);
    problem("media type", &wrong_type, 415, "unsupported_media_type", "send one of image/jpeg");
    assert_eq!(server.classify("", &good).status, 200, "the server goes on");
}

/// Cut-off, flipped and claimed-to-be-huge files leave nothing behind, however many there are.
#[cfg(target_os = "linux")]
#[test]
fn a_thousand_bad_bodies_leave_no_memory() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &[]);
    // A child that is loaded, then measured, takes memory too.
    server.wait_until_ready();
    let picture = image::DynamicImage::from(image::RgbImage::from_fn(400, 300, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8])));
    let files = [image::ImageFormat::Jpeg, image::ImageFormat::Png].map(|format| super::harness::encode(&picture, format));
    let bad = |number: usize| {
        let mut file = files[number % 2].clone();
        file.truncate(file.len() * (1 + number % 7) / 8);
        let middle = file.len() / 2;
        file[middle] ^= number as u8;
        file
    };
    let post = |numbers: std::ops::Range<usize>| {
        for number in numbers {
            problem("cut off", &server.classify("", &bad(number)), 400, "invalid_image", "");
            if number % 10 == 0 {
                let gzip = server.post_with("/classify", &[0x1f, 0x8b, 8, 0, 255, 255, 255], &[("content-encoding", "gzip")]);
                problem("gzip", &gzip, 415, "unsupported_media_type", "without Content-Encoding");
            }
        }
    };
    post(0..100);
    let before = server.resident_bytes();
    post(100..1100);
    assert!(server.resident_bytes() < before + (32 << 20), "{before} bytes grew to {}", server.resident_bytes());
    let before = server.resident_bytes();
    problem("bomb", &server.classify("", &png_header(60_000)), 413, "image_too_large", "60000");
    assert!(server.resident_bytes() < before + (8 << 20), "a bomb took memory: {before} bytes grew to {}", server.resident_bytes());
}

#[test]
fn budgets_that_make_no_sense() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &["--warm-up", "false"]);
    let image = png(28, |x, _| x as u8);
    let family = server.get("/children").json();
    let id = family["children"][0]["id"].as_str().unwrap().to_owned();
    let contradiction = format!("?child={id}&mflops=3");
    let cases: [(&str, u16, &str, &str); 14] = [
        ("?mflops=-1", 400, "invalid_budget", "mflops"),
        ("?mflops=0", 400, "invalid_budget", "mflops"),
        ("?mflops=NaN", 400, "invalid_budget", "mflops"),
        ("?mflops=inf", 400, "invalid_budget", "mflops"),
        ("?params=0", 400, "invalid_budget", "params"),
        ("?min_accuracy=1.5", 400, "invalid_budget", "min_accuracy"),
        ("?latency_ms=-3", 400, "invalid_budget", "latency_ms"),
        ("?mflops=3&mflops=4", 400, "invalid_request", "mflops"),
        ("?joules=3", 400, "invalid_request", "joules"),
        ("?mflops=many", 400, "invalid_budget", "many"),
        (&contradiction, 400, "invalid_budget", "child"),
        ("?child=xyz", 400, "invalid_budget", "16 hexadecimal digits"),
        ("?child=0123456789abcdef", 404, "unknown_child", "GET /children"),
        ("?top_k=11", 400, "invalid_request", "top_k"),
    ];
    for (query, status, code, part) in cases {
        problem(query, &server.classify(query, &image), status, code, part);
    }
    let impossible = server.classify("?mflops=0.01", &image);
    problem("too small", &impossible, 422, "budget_too_small", "the smallest has");
    let smallest = family["children"][0]["mflops"].as_f64().unwrap();
    assert_eq!(impossible.json()["smallest"]["mflops"].as_f64().unwrap(), smallest);
    problem("floor", &server.classify("?min_accuracy=0.99", &image), 422, "accuracy_out_of_reach", "0.99");
    let json = json!({ "image": "not base64 at all!", "mflops": 3 }).to_string();
    problem("base64", &server.post("/classify", "application/json", json.as_bytes()), 400, "invalid_request", "base64");
    let nested = "[".repeat(10_000);
    problem("nesting", &server.post("/classify", "application/json", nested.as_bytes()), 400, "invalid_request", "");
}

#[test]
fn routes_and_methods_that_are_not_there() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &["--warm-up", "false"]);
    problem("route", &server.get("/nothing"), 404, "unknown_route", "/docs lists the routes");
    problem("method", &server.get("/classify"), 405, "method_not_allowed", "");
    problem("child", &server.get("/children/0123456789abcdef"), 404, "unknown_child", "");
    problem("id", &server.get("/children/zzz"), 404, "unknown_child", "16 hexadecimal digits");
    problem("filter", &server.get("/children?colour=red"), 400, "invalid_request", "colour");
}

#[test]
fn heads_and_bodies_that_never_end_are_cut_off() {
    let model = TestModel::new();
    let flags = ["--warm-up", "false", "--header-timeout-ms", "300", "--body-timeout-ms", "300"];
    let server = Server::start(model.path(), &flags);
    let address = server.base.trim_start_matches("http://").to_owned();
    let starts: [(&str, &str); 3] = [
        ("head", "POST /classify HTTP/1.1\r\nhost: x\r\n"),
        ("body", "POST /classify HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 1000\r\n\r\nabc"),
        ("chunks", "POST /classify HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"),
    ];
    for (name, start) in starts {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(start.as_bytes()).unwrap();
        let begin = Instant::now();
        let mut answer = Vec::new();
        // A reset is an end too.
        let _ = stream.read_to_end(&mut answer);
        assert!(begin.elapsed() < Duration::from_secs(15), "{name}: the connection stays open");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.contains(" 408 "), "{name}: {answer}");
    }
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn two_hundred_stalled_heads_keep_nobody_waiting() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &["--warm-up", "false"]);
    let address = server.base.trim_start_matches("http://").to_owned();
    let stall = |_| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(b"POST /classify HTTP/1.1\r\nhost: x\r\n").unwrap();
        stream
    };
    let stalled: Vec<TcpStream> = (0..200).map(stall).collect();
    for _ in 0..20 {
        assert_eq!(server.classify("", &png(28, |x, _| x as u8)).status, 200);
    }
    drop(stalled);
}

#[test]
fn connections_are_limited_and_stalled_ones_make_room() {
    let model = TestModel::new();
    let flags = ["--warm-up", "false", "--max-connections", "4", "--header-timeout-ms", "500"];
    let server = Server::start(model.path(), &flags);
    let address = server.base.trim_start_matches("http://").to_owned();
    let stalled: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(&address).unwrap()).collect();
    assert_eq!(server.get("/healthz").status, 200, "stalled connections are cut off, so others get their turn");
    drop(stalled);
}
