//! What the server adds to a hot request beyond decoding and inference, and how soon it is ready.
//!
//! The real binary serves the shipped model to one client on one kept-alive connection. What the client waits, less the decoding
//! and inference that the answer reports, is what HTTP, resolving, queueing and the client itself add.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Requests that are measured, after as many again for warming up.
const REQUESTS: usize = 2000;

fn main() {
    bignas::process::keep_freed_memory();
    let cache = tempfile::tempdir().expect("a temporary directory");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fashion-mnist");
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(60))).build().into();
    let first = Server::start(&model, cache.path());
    println!("ready with nothing built: {:.0} ms", first.until_ready_ms(&agent));
    drop(first);
    let second = Server::start(&model, cache.path());
    println!("ready with built children on disk: {:.0} ms after the process began", second.until_ready_ms(&agent));
    let image = std::fs::read(model.join("example.png")).expect("the example");
    for budget in ["mflops=1.1", "mflops=100"] {
        second.overhead(&agent, budget, &image);
    }
}

struct Server {
    process: Child,
    base: String,
    began: Instant,
}

impl Server {
    fn start(model: &Path, cache: &Path) -> Self {
        let began = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bignas"));
        command.args(["serve", "--port", "0", "--model"]).arg(model).arg("--cache-dir").arg(cache);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the binary runs");
        let mut line = String::new();
        let output = process.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut line).expect("it says where it listens");
        let base = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        Self { process, base, began }
    }

    /// Time from the start of the process until `/readyz` says yes, in milliseconds.
    fn until_ready_ms(&self, agent: &ureq::Agent) -> f64 {
        while agent.get(format!("{}/readyz", self.base)).call().is_err() {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.began.elapsed().as_secs_f64() * 1e3
    }

    /// Prints what one budget's requests take, by their medians.
    fn overhead(&self, agent: &ureq::Agent, budget: &str, image: &[u8]) {
        let url = format!("{}/classify?{budget}", self.base);
        let request = || {
            let begin = Instant::now();
            let mut response = agent.post(&url).content_type("image/png").send(image).expect("it answers");
            let answer: serde_json::Value = response.body_mut().read_json().expect("JSON");
            let waited_ms = begin.elapsed().as_secs_f64() * 1e3;
            let part = |phase: &str| answer["timing_ms"][phase].as_f64().expect("a number");
            [waited_ms, part("decode"), part("inference"), waited_ms - part("decode") - part("inference")]
        };
        for _ in 0..REQUESTS {
            request();
        }
        let samples: Vec<[f64; 4]> = (0..REQUESTS).map(|_| request()).collect();
        let median = |column: usize| {
            let mut values: Vec<f64> = samples.iter().map(|sample| sample[column]).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let [waited, decode, inference, added] = [0, 1, 2, 3].map(median);
        println!("{budget}: {waited:.3} ms, of which decode {decode:.3}, inference {inference:.3}; added {added:.3} ms (medians)");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
