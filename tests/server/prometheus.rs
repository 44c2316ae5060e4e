//! The rules and the dashboard in `docker/`, against the real Prometheus and the real server under load.
//!
//! Takes a minute, and Debian's package `prometheus`, which has `prometheus` and `promtool`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::TestModel;
use crate::harness::{Server, png};

/// What Grafana would put in; the server is scraped every second here.
const VARIABLES: [(&str, &str); 3] = [("$__rate_interval", "10s"), ("$job", ".*"), ("$instance", ".*")];

fn docker(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docker").join(path)
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; install Debian's package prometheus"));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&said));
}

/// A running Prometheus; killed when dropped.
struct Prometheus {
    process: Child,
    base: String,
    agent: ureq::Agent,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Scrapes `server` every second, with the repository's configuration and rules otherwise. The server is expected to have an
    /// accelerator, which it has not, so that this alert has something to say.
    fn start(server: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let target = format!("[\"{}\"]\n        labels: {{accelerator: expected}}", server.trim_start_matches("http://"));
        let mut config = std::fs::read_to_string(docker("prometheus/prometheus.yml")).unwrap();
        for (from, to) in [("interval: 15s", "interval: 1s"), ("[\"bignas:8080\"]", target.as_str())] {
            assert!(config.contains(from), "{from} is not in the configuration");
            config = config.replace(from, to);
        }
        std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        std::fs::copy(docker("prometheus/bignas.rules.yml"), folder.path().join("bignas.rules.yml")).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("prometheus");
        command.current_dir(folder.path()).arg("--config.file=prometheus.yml").arg("--storage.tsdb.path=data");
        command.arg(format!("--web.listen-address=127.0.0.1:{port}")).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("install Debian's package prometheus");
        let agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(30))).build();
        Self { process, base: format!("http://127.0.0.1:{port}"), agent: agent.into(), _folder: folder }
    }

    fn get(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let request = self.agent.get(format!("{}/api/v1/{path}", self.base)).query_pairs(query.iter().copied());
        request.call().ok()?.body_mut().read_json().ok()
    }

    /// What a query gives, series by series; a query that is refused is an error.
    fn query(&self, expr: &str) -> Vec<f64> {
        let answer = self.get("query", &[("query", expr)]).unwrap_or_default();
        assert_eq!(answer["status"], "success", "{expr}\n{answer}");
        let series = answer["data"]["result"].as_array().unwrap();
        series.iter().map(|series| series["value"][1].as_str().unwrap().parse().unwrap()).collect()
    }

    fn wait_until(&self, what: &str, holds: impl Fn() -> bool) {
        let begin = Instant::now();
        while !holds() {
            assert!(begin.elapsed() < Duration::from_secs(60), "{what} takes too long");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until the query gives a number: neither nothing nor 0/0.
    fn gives_data(&self, expr: &str) {
        self.wait_until(expr, || self.query(expr).iter().any(|value| value.is_finite()));
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Load with everything in it that the dashboard shows: several children, deadlines that cannot be kept, a child built meanwhile.
fn load(server: &Server, image: &Path) -> Child {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bignas"));
    bench.args(["bench", "--url", &server.base, "--connections", "4", "--warm-up-s", "0", "--window-s", "60", "--windows", "1"]);
    bench.args(["--ask", "mflops=2", "mflops=100", "mflops=3&deadline_ms=0.001", "mflops=0.001", "--image"]).arg(image);
    bench.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The cheapest child of the family at another resolution, which is not in the family.
fn another_child(server: &Server) -> Value {
    let mut choices = server.get("/children").json()["children"][0]["choices"].clone();
    choices["resolution"] = json!(if choices["resolution"] == 22 { 26 } else { 22 });
    json!({ "choices": choices })
}

/// An alert's expression with its comparisons answering 0 or 1 instead of nothing or something.
fn always_answers(expr: &str) -> String {
    ["==", "<", ">"].iter().fold(expr.to_owned(), |expr, sign| expr.replace(&format!(" {sign} "), &format!(" {sign} bool ")))
}

#[test]
#[ignore = "needs Prometheus and a minute"]
fn every_query_of_dashboard_and_rules_has_data_under_load() {
    let (model, directory) = (TestModel::new(), tempfile::tempdir().unwrap());
    let image = directory.path().join("image.png");
    std::fs::write(&image, png(28, |x, y| (x * y) as u8)).unwrap();
    let server = Server::start(model.path(), &[]);
    server.wait_until_ready();
    let prometheus = Prometheus::start(&server.base);
    prometheus.wait_until("Prometheus", || {
        prometheus.get("query", &[("query", "up == 1")]).is_some_and(|answer| answer["data"]["result"][0].is_object())
    });
    let mut bench = load(&server, &image);
    std::thread::sleep(Duration::from_secs(3));
    let added = server.post("/children", "application/json", another_child(&server).to_string().as_bytes());
    assert_eq!(added.status, 201, "{}", added.text());

    let groups = prometheus.get("rules", &[]).unwrap()["data"]["groups"].clone();
    let rules: Vec<&Value> = groups.as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert!(rules.len() >= 16, "only {} rules", rules.len());
    for rule in &rules {
        let query = rule["query"].as_str().unwrap();
        prometheus.gives_data(&if rule["type"] == "alerting" { always_answers(query) } else { query.to_owned() });
    }
    let dashboard: Value = serde_json::from_slice(&std::fs::read(docker("grafana/dashboards/bignas.json")).unwrap()).unwrap();
    let mut queries = 0;
    for target in dashboard["panels"].as_array().unwrap().iter().filter_map(|panel| panel["targets"].as_array()).flatten() {
        let expr = target["expr"].as_str().unwrap();
        prometheus.gives_data(&VARIABLES.iter().fold(expr.to_owned(), |expr, (name, value)| expr.replace(name, value)));
        queries += 1;
    }
    assert!(queries > 40, "only {queries} queries");
    assert!(bench.try_wait().unwrap().is_none(), "the load ended before the last query");
    let _ = bench.kill();
    let _ = bench.wait();

    let rules = prometheus.get("rules", &[]).unwrap()["data"]["groups"].clone();
    for rule in rules.as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()) {
        assert_eq!((&rule["health"], rule["lastError"].as_str().unwrap_or_default()), (&json!("ok"), ""), "{rule}");
        let state = rule["state"].as_str().unwrap_or_default();
        assert!(rule["name"] != "BignasAcceleratorMissing" || state == "pending", "{rule}");
    }
}

#[test]
#[ignore = "needs promtool"]
fn rules_are_sound_and_every_alert_is_tried_both_ways() {
    let promtool = || {
        let mut command = Command::new("promtool");
        command.current_dir(docker("prometheus"));
        command
    };
    succeeds(promtool().args(["check", "config", "--lint=all", "--lint-fatal", "prometheus.yml"]));
    succeeds(promtool().args(["check", "rules", "--lint=all", "--lint-fatal", "bignas.rules.yml"]));
    succeeds(promtool().args(["test", "rules", "tests.yml"]));

    let read = |name: &str| std::fs::read_to_string(docker(name)).unwrap();
    let (rules, tests, page) = (read("prometheus/bignas.rules.yml"), read("prometheus/tests.yml"), read("../docs/metrics.md"));
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let row = page.lines().find_map(|line| line.strip_prefix(&format!("| `{alert}` | "))).unwrap_or_default();
        let described = row.split('|').filter(|cell| !cell.trim().is_empty()).count();
        assert_eq!(described, 3, "docs/metrics.md does not say where {alert} fires, what it means and what to do");
        assert!(tests.contains(&format!("- alertname: {alert}\n")), "no test fires {alert}");
        assert!(tests.contains(&format!("- {{alertname: {alert}, ")) && tests.contains("exp_alerts: []"), "no test leaves {alert} silent");
    }
}
