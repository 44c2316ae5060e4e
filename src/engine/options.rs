//! Settings of the engine, as flags and environment variables.

use std::path::PathBuf;

use clap::Args;
use url::Url;

use super::layout::Layout;
use crate::runtime::{Device, Precision, Provider};

/// Runs that an accelerator gets at once, if nothing is said: one computes while others are decoded and copied.
const ACCELERATOR_RUNS: usize = 4;

/// Limits and places of the engine.
#[derive(Debug, Clone, Args)]
pub struct EngineOptions {
    /// The ONNX Runtime library; where `make fetch` puts it, if not given
    #[arg(long, env = "ORT_DYLIB_PATH", value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
    /// What networks run on; an accelerator that does not work is an error
    #[arg(long, env = "BIGNAS_DEVICE", value_name = "PROVIDER", value_enum, default_value_t)]
    pub device: Provider,
    /// Which of the provider's devices, from 0
    #[arg(long, env = "BIGNAS_DEVICE_ID", value_name = "ID", default_value_t = 0)]
    pub device_id: u16,
    /// How an accelerator computes; float16 with TensorRT and float32 otherwise, if not given
    #[arg(long, env = "BIGNAS_PRECISION", value_name = "PRECISION", value_enum)]
    pub precision: Option<Precision>,
    /// Where built children and measured latencies are kept; the user's cache directory, if not given
    #[arg(long, env = "BIGNAS_CACHE_DIR", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Object store in which servers share built children and their statistics: `s3://BUCKET/PREFIX`, `gs://…`, `az://…` or
    /// `file:///DIR`; credentials come from the environment, as the provider's own tools have them. None, if not given: each
    /// server keeps what it built in its cache directory
    #[arg(long, env = "BIGNAS_ARTEFACT_STORE", value_name = "URL")]
    pub artefact_store: Option<Url>,
    /// Bytes of loaded children in memory; the least recently used are dropped beyond that
    #[arg(long, env = "BIGNAS_MEMORY_LIMIT_BYTES", value_name = "BYTES", default_value_t = 1 << 30)]
    pub memory_limit_bytes: u64,
    /// Bytes of built children on disk; the least recently used are deleted beyond that
    #[arg(long, env = "BIGNAS_DISK_LIMIT_BYTES", value_name = "BYTES", default_value_t = 4 << 30)]
    pub disk_limit_bytes: u64,
    /// Runs side by side; if not given, as many as the cores hold with the threads that a run has, and at most 4 with an accelerator
    #[arg(long, env = "BIGNAS_WORKERS", value_name = "RUNS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,
    /// Threads of one run; if not given, those with which all cores classify the most images a second, which is measured at the first
    /// start; one with an accelerator, or where the runs are given
    #[arg(long, env = "BIGNAS_THREADS_PER_RUN", value_name = "THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads_per_run: Option<u16>,
    /// Pixels of one image at most
    #[arg(long, env = "BIGNAS_MAX_PIXELS", value_name = "PIXELS", default_value_t = 32 << 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_pixels: u64,
    /// Images that may wait for a worker; more are refused with 429
    #[arg(long, env = "BIGNAS_QUEUE_LIMIT_IMAGES", value_name = "IMAGES", default_value_t = 256)]
    pub queue_limit_images: usize,
    /// Milliseconds of work, by predicted times, that may wait for the workers; more is refused with 429
    #[arg(long, env = "BIGNAS_QUEUE_LIMIT_MS", value_name = "MS", default_value_t = 5_000)]
    pub queue_limit_ms: u64,
    /// Threads that one recalibration computes on; half the cores, if not given
    #[arg(long, env = "BIGNAS_BUILD_THREADS", value_name = "THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub build_threads: Option<u16>,
    /// Children that may wait to be built; more are refused with 429
    #[arg(long, env = "BIGNAS_BUILD_QUEUE_LIMIT", value_name = "CHILDREN", default_value_t = 16)]
    pub build_queue_limit: usize,
    /// Children that clients may add to the family
    #[arg(long, env = "BIGNAS_MAX_ADDED_CHILDREN", value_name = "CHILDREN", default_value_t = 64)]
    pub max_added_children: usize,
    /// Budget of a request that gives none, in millions of multiply-adds; the most accurate child, if not given
    #[arg(long, env = "BIGNAS_DEFAULT_MFLOPS", value_name = "MFLOPS")]
    pub default_mflops: Option<f64>,
    /// For trying out what a fault costs: a worker panics every so many milliseconds, in the middle of a run
    #[arg(long, env = "BIGNAS_INJECT_PANIC_EVERY_MS", value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    pub inject_panic_every_ms: Option<u64>,
    /// Whether to build the family and measure its latencies, where unknown, before the server says that it is ready
    #[arg(long, env = "BIGNAS_WARM_UP", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub warm_up: bool,
}

impl EngineOptions {
    /// Where built children and latencies are kept.
    #[must_use]
    pub fn cache_dir(&self) -> PathBuf {
        let default = || directories::BaseDirs::new().map(|base| base.cache_dir().join("bignas"));
        // A user without home directory gets a cache as short-lived as the process's other temporary files.
        self.cache_dir.clone().or_else(default).unwrap_or_else(|| std::env::temp_dir().join("bignas"))
    }

    /// What networks run on.
    ///
    /// # Errors
    /// [`DeviceError`] where the flags contradict each other.
    pub fn device(&self) -> Result<Device, DeviceError> {
        let by_default = if self.device == Provider::TensorRt { Precision::Float16 } else { Precision::Float32 };
        let precision = self.precision.unwrap_or(by_default);
        if precision == Precision::Float16 && self.device != Provider::TensorRt {
            return Err(DeviceError { device: self.device });
        }
        let engine_cache = (self.device == Provider::TensorRt).then(|| self.cache_dir().join("tensorrt"));
        Ok(Device { provider: self.device, id: self.device_id, precision, engine_cache })
    }

    /// How the cores are divided among runs, where that is not left to a measurement.
    pub(super) fn layout(&self) -> Option<Layout> {
        self.layout_of(cores())
    }

    fn layout_of(&self, cores: usize) -> Option<Layout> {
        let threads = self.threads_per_run.map(usize::from);
        match (self.workers, threads, self.device) {
            (Some(runs), threads, _) => Some(Layout { runs: usize::from(runs), threads: threads.unwrap_or(1) }),
            (None, None, Provider::Cpu) => None,
            (None, Some(threads), Provider::Cpu) => Some(Layout::of(threads, cores)),
            (None, threads, _) => {
                let layout = Layout::of(threads.unwrap_or(1), cores);
                Some(Layout { runs: layout.runs.min(ACCELERATOR_RUNS), ..layout })
            }
        }
    }

    /// Threads that one recalibration computes on.
    #[must_use]
    pub fn build_threads(&self) -> usize {
        self.build_threads.map_or_else(|| (cores() / 2).max(1), usize::from)
    }
}

/// A precision that a device does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("--device {device} computes in float32 only: leave --precision out, or use --device tensorrt")]
pub struct DeviceError {
    /// The device asked for.
    pub device: Provider,
}

/// Cores that this process may use, as its container sees them.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        options: EngineOptions,
    }

    #[test]
    fn a_device_has_the_precision_that_suits_it() {
        let cases: [(&[&str], Option<&str>); 6] = [
            (&[], Some("cpu")),
            (&["--device", "cuda", "--device-id", "1"], Some("cuda:1 float32")),
            (&["--device", "tensorrt"], Some("tensorrt:0 float16")),
            (&["--device", "tensorrt", "--precision", "float32"], Some("tensorrt:0 float32")),
            (&["--device", "cuda", "--precision", "float16"], None),
            (&["--precision", "float16"], None),
        ];
        for (flags, expected) in cases {
            let options = Command::parse_from(std::iter::once(&"serve").chain(flags)).options;
            let device = options.device();
            assert_eq!(device.as_ref().ok().map(ToString::to_string).as_deref(), expected, "{flags:?}");
            assert_eq!(device.is_ok_and(|device| device.engine_cache.is_some()), flags.contains(&"tensorrt"), "{flags:?}");
        }
    }

    #[test]
    fn cores_are_divided_as_told_and_an_accelerator_gets_few_runs() {
        let cases = [
            ("", None),
            ("--threads-per-run 4", Some((8, 4))),
            ("--workers 3", Some((3, 1))),
            ("--device cuda", Some((4, 1))),
            ("--device cuda --threads-per-run 1", Some((4, 1))),
            ("--device cuda --threads-per-run 16", Some((2, 16))),
            ("--device cuda --workers 9 --threads-per-run 2", Some((9, 2))),
        ];
        for (flags, expected) in cases {
            let options = Command::parse_from(std::iter::once("serve").chain(flags.split_whitespace())).options;
            assert_eq!(options.layout_of(32), expected.map(|(runs, threads)| Layout { runs, threads }), "{flags}");
        }
    }
}
