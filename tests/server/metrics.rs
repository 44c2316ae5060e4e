//! `docs/metrics.md` against `/metrics`, and the recording of what the answers say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::common::TestModel;
use crate::harness::{Server, png};

/// Type and labels of every metric.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// The metrics in Prometheus' text format; labels of which nothing was observed yet are not in it.
fn exposed(text: &str) -> Metrics {
    let mut metrics = Metrics::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            metrics.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((name, labels)) = line.split_once('{') {
            let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            let labels = labels.split("=\"").filter_map(|before| before.rsplit(['{', ',', '"']).next());
            let labels = labels.filter(|label| !label.is_empty() && *label != "le" && !label.contains('}'));
            metrics.get_mut(name).expect("a type comes first").1.extend(labels.map(str::to_owned));
        }
    }
    metrics
}

/// The rows of the page's tables of metrics.
fn documented() -> Metrics {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    let mut metrics = Metrics::new();
    for line in page.lines().filter(|line| line.starts_with("| `bignas_") || line.starts_with("| `process_")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, what, _] = cells[..] else { panic!("not four columns: {line}") };
        assert!(what.ends_with('.'), "{name} is described in sentences");
        let twice = metrics.insert(name.trim_matches('`').to_owned(), (kind.to_owned(), quoted(labels)));
        assert_eq!(twice, None, "{name} is described twice");
    }
    metrics
}

#[test]
fn every_metric_is_described_and_nothing_else() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &[]);
    server.wait_until_ready();
    assert_eq!(exposed(&server.get("/metrics").text()), documented(), "left the server, right docs/metrics.md");
}

#[test]
fn means_of_what_was_served_follow_from_the_metrics() {
    let model = TestModel::new();
    let server = Server::start(model.path(), &[]);
    server.wait_until_ready();
    let (mut accuracy, mut mflops) = (0.0, 0.0);
    for budget in ["mflops=2", "mflops=2", "mflops=100"] {
        let answer = server.classify(&format!("?{budget}"), &png(28, |x, y| (x * y) as u8)).json();
        accuracy += answer["child"]["accuracy"].as_f64().unwrap();
        mflops += answer["child"]["mflops"].as_f64().unwrap();
    }
    for (name, sum) in [("accuracy", accuracy), ("mflops", mflops)] {
        assert_eq!(server.metric(&format!("bignas_served_{name}_count")), 3.0);
        let found = server.metric(&format!("bignas_served_{name}_sum"));
        assert!((found - sum).abs() < 1e-9, "{name}: {found} is not {sum}");
    }
    let device = &server.get("/readyz").json()["device"];
    assert_eq!(&server.get("/children").json()["device"], device);
    let provider = device["provider"].as_str().unwrap();
    assert_eq!(server.metric(&format!("bignas_execution_provider_info{{provider=\"{provider}\"}}")), 1.0);
    assert_eq!(server.metric("bignas_workers"), device["workers"].as_f64().unwrap());
}
