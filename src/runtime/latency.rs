//! Latencies of networks on this device, measured and kept on disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::stopwatch::Stopwatch;
use super::{Network, Profile, Runtime, RuntimeError};
use crate::files::{sha256, write_atomically};
use crate::onnx::EXPORTER_VERSION;
use crate::space::ChildId;

/// Runs before measuring, in which buffers are allocated and caches filled.
const WARM_UP_RUNS: usize = 3;
/// Measured runs at most; their median is kept.
const RUNS: usize = 30;
/// After this long, a measurement makes do with the runs it has.
const LONGEST: Duration = Duration::from_millis(500);

/// Where NVIDIA's driver says which GPUs there are; in a container, those alone that it may use.
const GPUS: &str = "/proc/driver/nvidia/gpus";
/// Which of them CUDA is to count, and in which order.
const VISIBLE_GPUS: &str = "CUDA_VISIBLE_DEVICES";

/// Median time of one image through `network`, in milliseconds.
///
/// # Errors
/// [`RuntimeError`] where the network does not run.
pub fn measure_latency_ms(network: &mut Network) -> Result<f64, RuntimeError> {
    let image = vec![0.0; network.input_shape().iter().product()];
    for _ in 0..WARM_UP_RUNS {
        network.run(&image, 1)?;
    }
    let begin = Instant::now();
    let mut times_ms = Vec::with_capacity(RUNS);
    while times_ms.len() < RUNS && (times_ms.is_empty() || begin.elapsed() < LONGEST) {
        let watch = Stopwatch::start(network.computes_on_caller());
        network.run(&image, 1)?;
        times_ms.push(watch.elapsed_ms());
    }
    times_ms.sort_by(f64::total_cmp);
    Ok(times_ms[times_ms.len() / 2])
}

/// The latencies measured for one model on this device.
#[derive(Debug)]
pub struct LatencyTable {
    path: PathBuf,
    device: String,
    profiles: Mutex<BTreeMap<ChildId, Profile>>,
    /// Held from a change until it is written, so that a newer file is not replaced by an older one.
    writing: Mutex<()>,
}

#[derive(Serialize, Deserialize)]
struct TableFile {
    device: String,
    /// Batch sizes and times of a run in milliseconds.
    runs_ms: BTreeMap<ChildId, Profile>,
}

impl LatencyTable {
    /// Opens the table of the model with these weights in `directory`; empty where none of this device and exporter is there.
    ///
    /// A table that does not parse is ignored: measuring again costs less than a server that does not start.
    #[must_use]
    pub fn open(directory: &Path, weights_sha256: &str, runtime: &Runtime, threads: usize) -> Self {
        let device = device(runtime, threads);
        // Another exporter writes other graphs, which take other times.
        let name = sha256(format!("{weights_sha256}\n{device}\nexporter {EXPORTER_VERSION}").as_bytes());
        let path = directory.join(format!("{}.json", &name[..32]));
        let file = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<TableFile>(&bytes).ok());
        let profiles = file.filter(|file| file.device == device).map(|file| file.runs_ms).unwrap_or_default();
        Self { path, device, profiles: Mutex::new(profiles), writing: Mutex::default() }
    }

    /// The latency of a child in milliseconds, where it was measured.
    #[must_use]
    pub fn get(&self, child: ChildId) -> Option<f64> {
        self.lock().get(&child).map(Profile::latency_ms)
    }

    /// The child's times by batch size, where they were measured.
    #[must_use]
    pub fn profile(&self, child: ChildId) -> Option<Profile> {
        self.lock().get(&child).cloned()
    }

    /// Keeps a measurement, in memory and on disk.
    ///
    /// # Errors
    /// [`std::io::Error`] where the table could not be written; the measurement is then kept in memory.
    pub fn insert(&self, child: ChildId, profile: Profile) -> std::io::Result<()> {
        let _in_order = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let runs_ms = {
            let mut measured = self.lock();
            measured.insert(child, profile);
            measured.clone()
        };
        self.write(runs_ms)
    }

    /// Forgets a child, in memory and on disk.
    ///
    /// # Errors
    /// [`std::io::Error`] where the table could not be written; the child is then forgotten in memory.
    pub fn remove(&self, child: ChildId) -> std::io::Result<()> {
        let _in_order = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let runs_ms = {
            let mut measured = self.lock();
            if measured.remove(&child).is_none() {
                return Ok(());
            }
            measured.clone()
        };
        self.write(runs_ms)
    }

    fn write(&self, runs_ms: BTreeMap<ChildId, Profile>) -> std::io::Result<()> {
        let bytes = serde_json::to_vec_pretty(&TableFile { device: self.device.clone(), runs_ms })?;
        if let Some(parent) = self.path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        write_atomically(&self.path, &bytes)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ChildId, Profile>> {
        self.profiles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a latency depends on beside the network: processor, accelerator, ONNX Runtime, threads of a run.
#[must_use]
pub fn device(runtime: &Runtime, threads: usize) -> String {
    let mut device = runtime.device().to_string();
    if runtime.device().accelerated() {
        let visible = std::env::var(VISIBLE_GPUS).unwrap_or_else(|_| "all".to_owned());
        device = format!("{device} of {}, visible: {visible}", gpus(Path::new(GPUS)));
    }
    format!("{}; {device}; threads a run: {threads}; {}", processor(), runtime.build_info())
}

/// The models of the GPUs that NVIDIA's driver has below `folder`, in the order of their addresses.
fn gpus(folder: &Path) -> String {
    let addresses = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut files: Vec<PathBuf> = addresses.map(|entry| entry.path().join("information")).collect();
    files.sort();
    let model = |file: &PathBuf| {
        let text = std::fs::read_to_string(file).ok()?;
        Some(text.lines().find_map(|line| line.strip_prefix("Model:"))?.trim().to_owned())
    };
    let models: Vec<String> = files.iter().filter_map(model).collect();
    if models.is_empty() { "unknown GPUs".to_owned() } else { models.join(", ") }
}

/// The processor of this machine and how many cores of it there are to use, as a person reads it.
#[must_use]
pub fn processor() -> String {
    let cpu_info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu_info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let model = model.trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("cpu: {model}, {cores} cores")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_named_in_the_order_of_their_addresses() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(gpus(&directory.path().join("absent")), "unknown GPUs");
        for (address, model) in [("0000:41:00.0", "NVIDIA L4"), ("0000:01:00.0", "NVIDIA H200")] {
            let folder = directory.path().join(address);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("information"), format!("Model: \t\t {model}\nIRQ:   \t\t 71\n")).unwrap();
        }
        assert_eq!(gpus(directory.path()), "NVIDIA H200, NVIDIA L4");
    }
}
