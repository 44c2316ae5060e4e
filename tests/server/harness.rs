//! The real binary on a free port, with a cache directory of its own, and a small client.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A running server; killed when dropped.
pub struct Server {
    process: Child,
    pub base: String,
    agent: ureq::Agent,
    _cache: Option<tempfile::TempDir>,
}

/// Status, headers and body of an answer.
pub struct Reply {
    pub status: u16,
    pub media_type: String,
    pub headers: ureq::http::HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

impl Server {
    /// Serves `model` with a fresh cache and the given flags.
    pub fn start(model: &Path, flags: &[&str]) -> Self {
        let cache = tempfile::tempdir().unwrap();
        let mut server = Self::start_with_cache(model, cache.path(), flags);
        server._cache = Some(cache);
        server
    }

    /// As `start`, with a cache that outlives the server.
    pub fn start_with_cache(model: &Path, cache: &Path, flags: &[&str]) -> Self {
        Self::run(command(model, cache, flags))
    }

    /// Runs a command line of a server.
    pub fn run(mut command: Command) -> Self {
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = lines.next().expect("the server says where it listens").unwrap();
        let base = first.rsplit(' ').next().unwrap().to_owned();
        assert!(base.starts_with("http://127.0.0.1:"), "{first}");
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(120)));
        Self { process, base, agent: config.build().into(), _cache: None }
    }

    pub fn get(&self, path: &str) -> Reply {
        reply(self.agent.get(format!("{}{path}", self.base)).call())
    }

    pub fn post(&self, path: &str, media_type: &str, body: &[u8]) -> Reply {
        reply(self.agent.post(format!("{}{path}", self.base)).content_type(media_type).send(body))
    }

    /// Posts what may be an image, with further headers.
    pub fn post_with(&self, path: &str, body: &[u8], headers: &[(&str, &str)]) -> Reply {
        let request = self.agent.post(format!("{}{path}", self.base)).content_type("application/octet-stream");
        reply(headers.iter().fold(request, |request, &(name, value)| request.header(name, value)).send(body))
    }

    /// Posts one PNG or other image as it is.
    pub fn classify(&self, query: &str, image: &[u8]) -> Reply {
        self.post(&format!("/classify{query}"), "application/octet-stream", image)
    }

    pub fn delete(&self, path: &str, key: Option<&str>) -> Reply {
        let request = self.agent.delete(format!("{}{path}", self.base));
        let request = match key {
            Some(key) => request.header("authorization", format!("Bearer {key}")),
            None => request,
        };
        reply(request.call())
    }

    pub fn post_with_key(&self, path: &str, body: &Value, key: &str) -> Reply {
        let request = self.agent.post(format!("{}{path}", self.base)).header("authorization", format!("Bearer {key}"));
        reply(request.send_json(body))
    }

    /// Waits until `/readyz` says yes.
    pub fn wait_until_ready(&self) {
        let begin = Instant::now();
        while self.get("/readyz").status != 200 {
            assert!(begin.elapsed() < Duration::from_secs(120), "the server does not get ready");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits so long for the process to end by itself.
    pub fn wait_at_most(mut self, limit: Duration) -> std::process::ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < limit, "the process does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the process to end by itself.
    pub fn wait(mut self) -> std::process::ExitStatus {
        self.process.wait().unwrap()
    }

    /// How much memory the process holds.
    #[cfg(target_os = "linux")]
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    }

    /// The value of a metric, given by its name with labels as `/metrics` writes it.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no metric {name} in\n{text}")).parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The command line of a server on a free port.
pub fn command(model: &Path, cache: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bignas"));
    let port: &[&str] = if flags.contains(&"--port") { &[] } else { &["--port", "0"] };
    command.arg("serve").arg("--model").arg(model).arg("--cache-dir").arg(cache).args(port).args(flags);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn reply(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Reply {
    let mut response = result.unwrap();
    let headers = response.headers().clone();
    let media_type = headers.get("content-type").map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    let status = response.status().as_u16();
    Reply { status, media_type, headers, body: response.body_mut().read_to_vec().unwrap() }
}

/// A PNG of `side`×`side` grey pixels, each given by `value(x, y)`.
pub fn png(side: u32, value: impl Fn(u32, u32) -> u8) -> Vec<u8> {
    encode(&image::GrayImage::from_fn(side, side, |x, y| image::Luma([value(x, y)])).into(), image::ImageFormat::Png)
}

/// `picture` as a file of `format`.
pub fn encode(picture: &image::DynamicImage, format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}
