//! ONNX Runtime: the one place that names it, and what runs networks.
//!
//! The library is loaded from a file when the program first needs it. A [`Network`] is a loaded graph with one owner at a
//! time; whoever wants to run one network on several threads loads it several times.

mod binding;
mod cache;
mod device;
mod latency;
mod library;
mod network;
mod profile;
mod stopwatch;
mod workers;

pub use cache::MemoryCache;
pub use device::{Device, Precision, Provider};
pub use latency::{LatencyTable, device as device_and_runtime, measure_latency_ms, processor};
pub use library::{Runtime, RuntimeError, default_library};
pub use network::{Network, Stop};
pub use profile::Profile;
pub use workers::{Full, Job, Workers};
