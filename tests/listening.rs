//! What happens on the wire: the real binary and clients that behave as no library does.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::TestModel;

/// A running server; it is killed when a test fails before it stops.
struct Server {
    process: Child,
    address: SocketAddr,
    announced: [String; 2],
    _model: TestModel,
    _cache: tempfile::TempDir,
}

impl Server {
    fn start(flags: &[&str]) -> Self {
        let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
        std::fs::write(model.path().join("example.png"), b"not opened here").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bignas"));
        command.arg("serve").arg("--model").arg(model.path()).arg("--cache-dir").arg(cache.path());
        command.args(["--port", "0", "--warm-up", "false"]).args(flags);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let announced = [lines.next().unwrap().unwrap(), lines.next().unwrap().unwrap()];
        let address = announced[0].rsplit_once("http://").unwrap().1.parse().unwrap();
        Self { process, address, announced, _model: model, _cache: cache }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// Sends `text` and reads until the server closes the connection.
    fn exchange(&self, text: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(text.as_bytes()).unwrap();
        read_to_close(&mut stream)
    }

    fn get(&self, path: &str) -> String {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"))
    }

    /// Waits until a request that was sent is being answered, beside the one that asks.
    fn wait_for_flight(&self) {
        while !self.get("/metrics").contains("bignas_http_requests_in_flight 2") {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits until the process has ended by itself; its log is returned.
    fn wait(mut self) -> String {
        assert!(self.process.wait().unwrap().success());
        let mut log = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        log
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read_to_close(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

/// One answer with its `content-length`, from a connection that stays open.
fn read_answer(stream: &mut impl BufRead) -> String {
    let mut text = String::new();
    while !text.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut text).unwrap(), 0, "the connection ended after {text:?}");
    }
    let length = text.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok()).unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    text + &String::from_utf8_lossy(&body)
}

fn status(response: &str) -> &str {
    response.split_whitespace().nth(1).unwrap_or_default()
}

#[test]
fn it_says_where_it_serves_and_what_to_try() {
    let server = Server::start(&[]);
    let [first, second] = &server.announced;
    assert!(first.starts_with("serving test (6 children, 0.85–10.36 MFLOPs) on http://127.0.0.1:"), "{first}");
    let url = format!("'http://{}/classify?mflops=", server.address);
    assert!(second.starts_with("try: curl -F image=@") && second.contains("example.png ") && second.contains(&url), "{second}");
    assert_eq!(status(&server.get("/healthz")), "200");
}

#[test]
fn what_never_ends_is_cut_off() {
    let server = Server::start(&["--header-timeout-ms", "200", "--body-timeout-ms", "200"]);
    let cases = [
        ("silence", "", ""),
        ("a head that never ends", "GET /healthz HTTP/1.1\r\nhost: te", ""),
        ("an idle connection", "GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n", "200"),
        ("a body that never ends", "POST /classify HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\nabc", "408"),
        ("chunks that never end", "POST /classify HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n", "408"),
        ("no HTTP", "HELO test\r\n\r\n", "400"),
    ];
    for (what, text, expected) in cases {
        assert_eq!(status(&server.exchange(text)), expected, "{what}");
    }
    let long = format!("GET / HTTP/1.1\r\nhost: test\r\nx-long: {}\r\n\r\n", "a".repeat(40_000));
    let many = format!("GET / HTTP/1.1\r\nhost: test\r\n{}\r\n", "x-many: a\r\n".repeat(1000));
    for head in [long, many] {
        assert_eq!(status(&server.exchange(&head)), "431");
    }
    assert_eq!(status(&server.get("/healthz")), "200");
}

#[test]
fn a_body_above_the_limit_is_answered_even_to_a_client_that_sends_it_all() {
    let server = Server::start(&["--max-body-bytes", "1000"]);
    let body = "x".repeat(1 << 20);
    let length = format!("content-length: {}\r\n\r\n{body}", body.len());
    let chunked = format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    for rest in [length, chunked] {
        let response =
            server.exchange(&format!("POST /classify HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: image/png\r\n{rest}"));
        assert_eq!(status(&response), "413", "{response}");
    }
    // Whoever asks for leave is refused before sending.
    let response = server
        .exchange("POST /classify HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: 1001\r\n\r\n");
    assert_eq!(status(&response), "413", "{response}");
}

#[test]
fn bodies_that_come_slowly_leave_room_to_others_or_are_refused() {
    let server = Server::start(&["--bodies-limit-bytes", "5000"]);
    let post = |length| format!("POST /classify HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    let mut slow = server.connect();
    slow.write_all((post(4001) + &"x".repeat(4000)).as_bytes()).unwrap();
    server.wait_for_flight();
    let large = post(1500) + &"x".repeat(1500);
    let mut answer = String::new();
    for _ in 0..1000 {
        answer = server.exchange(&large);
        // What is no image is refused for that, until the slow client's bytes have been read.
        if status(&answer) != "400" {
            break;
        }
    }
    assert_eq!(status(&answer), "429", "{answer}");
    assert!(answer.to_lowercase().contains("retry-after: 1") && answer.contains("more than 5000 bytes together"), "{answer}");
    assert!(server.get("/metrics").contains(r#"bignas_shed_total{reason="bodies"} 1"#));
    assert_eq!(status(&server.exchange(&(post(900) + &"x".repeat(900)))), "400", "smaller ones have room");
    slow.write_all(b"x").unwrap();
    assert_eq!(status(&read_to_close(&mut slow)), "400");
    assert_eq!(status(&server.exchange(&large)), "400", "and then so do large ones");
}

#[test]
fn a_refusal_leaves_the_connection_to_the_next_request() {
    let server = Server::start(&["--admin-key", "correct-horse", "--max-body-bytes", "5000"]);
    let cases = [("/children", "401"), ("/nothing", "404"), ("/metrics", "405"), ("/classify?child=x", "400")];
    let mut stream = BufReader::new(server.connect());
    for (path, expected) in cases {
        let head = format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: 4000\r\n\r\n");
        stream.get_mut().write_all(head.as_bytes()).unwrap();
        // The head alone is enough for a refusal; the body comes later.
        std::thread::sleep(Duration::from_millis(50));
        stream.get_mut().write_all(&[b' '; 4000]).unwrap();
        let answer = read_answer(&mut stream);
        assert_eq!(status(&answer), expected, "{path}: {answer}");
        assert!(!answer.to_lowercase().contains("connection: close"), "{path}: {answer}");
    }
}

#[test]
fn a_refusal_does_not_wait_for_a_body_that_never_comes() {
    let server = Server::start(&["--admin-key", "correct-horse"]);
    for expectation in ["", "expect: 100-continue\r\n"] {
        let answer = server.exchange(&format!("POST /children HTTP/1.1\r\nhost: test\r\n{expectation}content-length: 4000\r\n\r\n"));
        assert_eq!(status(&answer), "401", "{answer}");
        assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    }
}

#[test]
fn a_deadline_covers_the_whole_request() {
    let server = Server::start(&["--timeout-ms", "100"]);
    let mut stream = server.connect();
    stream.write_all(b"POST /classify HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 9\r\n\r\nabc").unwrap();
    assert_eq!(status(&read_to_close(&mut stream)), "504");
}

/// However many clients there are, probes and scrapes get through, and nothing else does.
#[test]
fn probes_have_a_port_of_their_own() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Server::start(&["--max-connections", "1", "--probe-port", &free.port().to_string()]);
    let mut idle = server.connect();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    assert!(idle.read(&mut [0; 12]).unwrap() > 0, "it has the only connection");
    for (path, expected) in [("/healthz", "200"), ("/readyz", "200"), ("/metrics", "200"), ("/children", "404"), ("/model/reload", "404")] {
        let mut stream = TcpStream::connect(free).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(status(&read_to_close(&mut stream)), expected, "{path}");
    }
}

#[test]
fn draining_refuses_nothing_that_was_accepted() {
    let server = Server::start(&["--drain-pause-ms", "1000", "--log-format", "json"]);
    let body = "not an image";
    let mut slow = server.connect();
    let (begin, end) = body.split_at(3);
    let head = format!("POST /classify HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{begin}", body.len());
    slow.write_all(head.as_bytes()).unwrap();
    server.wait_for_flight();
    server.signal("TERM");

    let ready = std::iter::repeat_with(|| server.get("/readyz")).find(|reply| reply.contains("shutting_down")).unwrap();
    assert_eq!(status(&ready), "503");
    assert_eq!(status(&server.get("/healthz")), "200", "connections are accepted during the pause");
    while TcpStream::connect(server.address).is_ok() {
        std::thread::sleep(Duration::from_millis(20));
    }
    slow.write_all(end.as_bytes()).unwrap();
    let answer = read_to_close(&mut slow);
    assert!(status(&answer) == "400" && answer.contains("invalid_image"), "{answer}");

    let log = server.wait();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let answered = lines.iter().find(|line| line["code"] == "invalid_image").unwrap();
    assert!(answered["status"] == 400 && answered["latency_ms"].is_f64() && answered["span"]["path"] == "/classify", "{answered}");
    assert_eq!(lines.last().unwrap()["message"], "stopped");
}

/// The last connections are not idle ones, though their requests have not been read yet.
#[test]
fn who_connects_while_accepting_ends_is_answered() {
    let server = Server::start(&["--drain-pause-ms", "0"]);
    assert_eq!(status(&server.get("/healthz")), "200", "it listens to signals by now");
    server.signal("STOP");
    let asked = std::iter::repeat_with(|| {
        let mut stream = server.connect();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
        stream
    });
    let asked: Vec<TcpStream> = asked.take(32).collect();
    server.signal("TERM");
    server.signal("CONT");
    for mut stream in asked {
        assert_eq!(status(&read_to_close(&mut stream)), "200");
    }
    assert!(server.wait().contains("stopped"));
}

#[test]
fn the_drain_limit_ends_what_does_not_finish() {
    let server = Server::start(&["--drain-limit-ms", "100"]);
    let mut stuck = server.connect();
    stuck.write_all(b"POST /classify HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\nabc").unwrap();
    server.wait_for_flight();
    server.signal("INT");
    assert!(server.wait().contains("stopped with requests in flight"));
}
