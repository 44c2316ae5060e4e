//! `bignas bench` against the real server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::mpsc;

use serde_json::Value;

use tokio::net::{TcpListener as AsyncListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::common::TestModel;
use crate::harness::{Server, png};

fn bench(url: &str, here: &std::path::Path, flags: &[&str]) -> Output {
    let fixed = ["bench", "--url", url, "--image", "image.png", "--warm-up-s", "0", "--window-s", "1"];
    let output: &[&str] = if flags.contains(&"--output") { &[] } else { &["--output", "out"] };
    Command::new(env!("CARGO_BIN_EXE_bignas")).current_dir(here).args(fixed).args(flags).args(output).output().unwrap()
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
    let answered = server.metric("bignas_phase_seconds_count{phase=\"inference\"}") - summary["requests"].as_f64().unwrap();
    assert!((0.0..=2.0).contains(&answered), "but for what was in flight at the end, all answers count: {answered} do not");

    for arrivals in ["poisson", "gamma"] {
        let open = measured(&["--arrivals", arrivals, "--rate", "40", "--windows", "2", "--deadline-ms", "10000", "--requests"]);
        let requests = open["summary"]["requests"].as_u64().unwrap();
        assert!((20..200).contains(&requests), "about 80 in two seconds, not {requests}");
        assert_eq!((&open["summary"]["in_time"], &open["summary"]["refused"]), (&1.0.into(), &0.0.into()));
        each_request_is_told(&std::fs::read_to_string(here.join("out.csv")).unwrap(), requests);
    }
    let hopeless = bench(&server.base, here, &["--windows", "1", "--ask", "deadline_ms=0.0001"]);
    assert!(hopeless.status.success());
    let report: Value = serde_json::from_slice(&std::fs::read(here.join("out.json")).unwrap()).unwrap();
    assert_eq!((&report["summary"]["refused"], &report["summary"]["throughput"]), (&1.0.into(), &0.0.into()));
    assert!(report["summary"]["refusal_p99_ms"].as_f64() > Some(0.0));
}

/// The system takes connections for it, and that is all.
#[test]
fn a_server_that_never_answers_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("image.png"), png(28, |x, y| (x * y) as u8)).unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let address = silent.local_addr().unwrap();
    let measured = |scheme: &str, flags: &[&str]| {
        let fixed = ["--timeout-s", "1", "--connections", "1"];
        let output = bench(&format!("{scheme}://{address}"), directory.path(), &[&fixed, flags].concat());
        assert!(!output.status.success());
        let connected = std::iter::from_fn(|| silent.accept().ok()).count();
        (String::from_utf8_lossy(&output.stderr).into_owned(), connected)
    };
    for flags in [&["--windows", "3"][..], &["--windows", "1", "--arrivals", "poisson", "--rate", "100"]] {
        let (message, connected) = measured("http", flags);
        assert!(message.contains(&format!("nothing was answered: see whether http://{address} is ready")), "{message}");
        // Those that are due while the one connection is taken give up with it, instead of each waiting in its turn.
        assert!((2..20).contains(&connected), "{connected} connections");
        let report: Value = serde_json::from_slice(&std::fs::read(directory.path().join("out.json")).unwrap()).unwrap();
        let summary = &report["summary"];
        assert!(summary["requests"].as_u64() >= Some(1) && summary["throughput"] == 0.0, "{summary}");
    }
    let (message, _) = measured("https", &["--windows", "1"]);
    assert!(message.contains("took no connection within 1 s"), "{message}");
}

/// Names may have dots in them, and what cannot be written is said before anything is measured.
#[test]
fn results_are_written_under_their_whole_name() {
    let (model, directory) = (TestModel::new(), tempfile::tempdir().unwrap());
    let here = directory.path();
    std::fs::write(here.join("image.png"), png(28, |x, y| (x * y) as u8)).unwrap();
    let server = Server::start(model.path(), &[]);
    server.wait_until_ready();
    for name in ["rate-0.5", "rate-0.7"] {
        let output = bench(&server.base, here, &["--windows", "1", "--output", name, "--requests"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    for ending in ["json", "csv", "svg", "png"] {
        assert!(["rate-0.5", "rate-0.7"].iter().all(|name| here.join(format!("{name}.{ending}")).exists()), "{ending}");
    }
    let refused = bench(&server.base, here, &["--output", "absent/out"]);
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(message.contains("there is no directory absent to write absent/out into") && !message.contains("window 1"), "{message}");
}

/// As the file of `--requests` tells it: in order, and no answer was there before its network had run.
fn each_request_is_told(csv: &str, requests: u64) {
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some("due_ms,latency_ms,status,child,batch,queue_ms,decode_ms,inference_ms"));
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len() as u64, requests);
    let ms = |row: &[&str], column: usize| row[column].parse::<f64>().unwrap();
    assert!(rows.is_sorted_by_key(|row| ms(row, 0)));
    for row in &rows {
        assert_eq!((row.len(), row[2], row[3].len()), (8, "200", 16), "{row:?}");
        assert!(row[4].parse::<usize>().unwrap() >= 1, "{row:?}");
        assert!(ms(row, 1) > ms(row, 5) + ms(row, 6) + ms(row, 7) && ms(row, 7) > 0.0, "{row:?}");
    }
}

/// As behind a proxy: with a certificate that this machine trusts, and not without.
#[test]
fn a_server_behind_tls_is_measured_where_its_certificate_is_trusted() {
    let (model, directory) = (TestModel::new(), tempfile::tempdir().unwrap());
    std::fs::write(directory.path().join("image.png"), png(28, |x, y| (x * y) as u8)).unwrap();
    let server = Server::start(model.path(), &[]);
    server.wait_until_ready();
    let url = format!("https://localhost:{}", speak_tls_for(&server));
    let run = |trusted: Option<&str>| {
        let fixed = ["bench", "--url", &url, "--image", "image.png", "--warm-up-s", "0", "--window-s", "1", "--windows", "1", "-o", "out"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_bignas"));
        command.current_dir(directory.path()).args(fixed).env_remove("SSL_CERT_FILE").envs(trusted.map(|file| ("SSL_CERT_FILE", file)));
        command.output().unwrap()
    };
    let trusted = run(Some(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls/authority.pem")));
    assert!(trusted.status.success(), "{}", String::from_utf8_lossy(&trusted.stderr));
    let report: Value = serde_json::from_slice(&std::fs::read(directory.path().join("out.json")).unwrap()).unwrap();
    assert_eq!(report["summary"]["statuses"].as_object().unwrap().keys().collect::<Vec<_>>(), ["200"]);
    let distrusted = run(None);
    let said = String::from_utf8_lossy(&distrusted.stderr);
    assert!(!distrusted.status.success() && said.contains("certificate"), "{said}");
}

/// Passes on what comes over TLS to `server`, from a port of its own, until the test ends.
fn speak_tls_for(server: &Server) -> u16 {
    let file = |name| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls").join(name);
    let certificate = CertificateDer::from_pem_file(file("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let (acceptor, to) = (TlsAcceptor::from(std::sync::Arc::new(config)), server.base.trim_start_matches("http://").to_owned());
    let (sender, port) = mpsc::channel();
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let listener = AsyncListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap().port()).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, to) = (acceptor.clone(), to.clone());
                tokio::spawn(async move {
                    // A client that refuses the certificate ends its connection here.
                    let Ok(mut client) = acceptor.accept(stream).await else { return };
                    let mut server = TcpStream::connect(to).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
    });
    port.recv().unwrap()
}

/// What a path begins with goes before each route.
#[test]
fn routes_may_lie_below_a_path() {
    let (model, directory) = (TestModel::new(), tempfile::tempdir().unwrap());
    std::fs::write(directory.path().join("image.png"), png(28, |x, y| (x * y) as u8)).unwrap();
    let server = Server::start(model.path(), &[]);
    server.wait_until_ready();
    for (below, path, status) in [("/children", "/0123456789abcdef", "405"), ("/elsewhere/", "/classify", "404"), ("", "/classify", "200")]
    {
        let output = bench(&format!("{}{below}", server.base), directory.path(), &["--windows", "1", "--path", path]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&std::fs::read(directory.path().join("out.json")).unwrap()).unwrap();
        assert_eq!(report["summary"]["statuses"].as_object().unwrap().keys().collect::<Vec<_>>(), [status], "{below}{path}");
    }
}

/// A server closes connections that nobody uses for a while; a slow load goes on with others, and no request fails for it.
#[test]
fn connections_that_were_closed_in_between_are_replaced() {
    let (model, directory) = (TestModel::new(), tempfile::tempdir().unwrap());
    std::fs::write(directory.path().join("image.png"), png(28, |x, y| (x * y) as u8)).unwrap();
    let server = Server::start(model.path(), &["--header-timeout-ms", "100"]);
    server.wait_until_ready();
    let slow = ["--arrivals", "poisson", "--rate", "4", "--windows", "4", "--connections", "4"];
    let output = bench(&server.base, directory.path(), &slow);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&std::fs::read(directory.path().join("out.json")).unwrap()).unwrap();
    let (requests, statuses) = (report["summary"]["requests"].as_u64().unwrap(), &report["summary"]["statuses"]);
    assert!(requests > 4 && statuses["200"].as_u64() == Some(requests), "{requests} requests: {statuses}");
}

/// Answers every request on one connection after another with a JSON of its own; the first line of each request is sent on.
fn foreign_server() -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (seen, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let (mut connection, seen) = (BufReader::new(connection.unwrap()), seen.clone());
            std::thread::spawn(move || {
                while let Some((first, length)) = read_head(&mut connection) {
                    connection.read_exact(&mut vec![0; length]).unwrap();
                    let _ = seen.send(first);
                    connection.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"top\":1}").unwrap();
                }
            });
        }
    });
    (url, requests)
}

/// The first line of a request, and the length of its body; none where the client has left.
fn read_head(connection: &mut impl BufRead) -> Option<(String, usize)> {
    let mut lines = connection.lines().map_while(Result::ok);
    let (first, mut length) = (lines.next()?, 0);
    for line in lines.take_while(|line| !line.is_empty()) {
        if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
            length = value.parse().unwrap();
        }
    }
    Some((first, length))
}

#[test]
fn any_server_can_be_measured() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    std::fs::write(here.join("image.png"), b"any").unwrap();
    let (url, requests) = foreign_server();
    let output = bench(&url, here, &["--path", "/v1/predict", "--windows", "1", "--connections", "2"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&std::fs::read(here.join("out.json")).unwrap()).unwrap();
    let summary = &report["summary"];
    assert!(summary["throughput"].as_f64() > Some(10.0), "{summary}");
    assert_eq!((&summary["mean_accuracy"], &summary["children"]), (&Value::Null, &serde_json::json!({})));
    assert_eq!(requests.recv().unwrap(), "POST /v1/predict HTTP/1.1");
    assert!(!bench(&url, here, &["--path", "predict"]).status.success(), "a path begins with a slash");
}

#[test]
fn a_server_that_is_not_there_is_said() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("image.png"), b"any").unwrap();
    let output = bench("http://127.0.0.1:1", directory.path(), &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("cannot connect to 127.0.0.1:1"), "{said}");
}
