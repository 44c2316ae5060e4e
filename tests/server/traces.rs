//! Traces: spans go on from the client's, leave the process over OTLP, and a collector that is away costs nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use super::common::TestModel;
use super::harness::{Server, png};

/// A collector: takes what is posted to it, and says yes.
struct Collector {
    endpoint: String,
    posted: Receiver<(String, Vec<u8>)>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (sender, posted) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    while let Some(post) = stream.as_ref().ok().and_then(answer) {
                        sender.send(post).unwrap_or(())
                    }
                });
            }
        });
        Self { endpoint, posted }
    }

    /// All spans that were sent until the server had stopped.
    fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        while let Ok((path, body)) = self.posted.recv_timeout(Duration::from_millis(500)) {
            assert_eq!(path, "/v1/traces");
            let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
            for of_resource in request.resource_spans {
                let resource = format!("{:?}", of_resource.resource);
                assert!(resource.contains("service.name") && resource.contains("bignas"), "{resource}");
                spans.extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        }
        spans
    }
}

/// Reads one request, and answers it.
fn answer(stream: &TcpStream) -> Option<(String, Vec<u8>)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&bytes| bytes > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().ok()?,
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut stream = stream;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
    Some((path, body))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn spans_go_on_from_the_clients() {
    let (model, collector) = (TestModel::new(), Collector::start());
    let server = Server::start(model.path(), &["--otlp-endpoint", &collector.endpoint]);
    server.wait_until_ready();
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let traceparent = format!("00-{trace}-{parent}-01");
    let classified = server.post_with("/classify", &png(28, |x, _| x as u8), &[("traceparent", &traceparent)]);
    assert_eq!(classified.status, 200);
    assert_eq!(server.post_with("/classify", b"no image", &[("traceparent", "nonsense")]).status, 400);
    server.signal("-TERM");
    assert!(server.wait().success());

    let spans = collector.spans();
    let named = |name: &'static str| spans.iter().filter(move |span| span.name == name);
    let requests: Vec<&Span> = named("POST /classify").collect();
    assert_eq!(requests.len(), 2);
    let (ours, other): (Vec<&Span>, Vec<&Span>) = requests.into_iter().partition(|span| hexadecimal(&span.trace_id) == trace);
    assert_eq!(hexadecimal(&ours[0].parent_span_id), parent);
    assert!(other[0].parent_span_id.is_empty(), "nonsense is nobody's child");
    let attributes = format!("{:?}", other[0].attributes);
    for expected in ["http.response.status_code", "400", "error.type", "invalid_image", "http.route"] {
        assert!(attributes.contains(expected), "{expected} is not in {attributes}");
    }
    for phase in ["resolve", "queue", "decode", "inference"] {
        let span = named(phase).next().unwrap_or_else(|| panic!("no span {phase}"));
        assert_eq!((&span.trace_id, &span.parent_span_id), (&ours[0].trace_id, &ours[0].span_id), "{phase}");
        assert!(ours[0].start_time_unix_nano <= span.start_time_unix_nano && span.start_time_unix_nano <= span.end_time_unix_nano);
    }
}

#[test]
fn a_collector_that_is_away_costs_nothing() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let model = TestModel::new();
    let server = Server::start(model.path(), &["--otlp-endpoint", &format!("http://{closed}")]);
    assert_eq!(server.classify("", &png(28, |x, _| x as u8)).status, 200);
    server.signal("-TERM");
    assert!(server.wait().success());
}

#[test]
fn every_answer_says_how_long_it_took() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &[]);
    for path in ["/healthz", "/readyz", "/metrics", "/children", "/", "/nowhere", "/openapi.json"] {
        let timing = server.get(path).headers["server-timing"].to_str().unwrap().to_owned();
        let total_ms: f64 = timing.strip_prefix("total;dur=").unwrap_or_else(|| panic!("{path}: {timing}")).parse().unwrap();
        assert!(total_ms >= 0.0, "{path}: {timing}");
    }
}
