//! What networks run on: the processor, or an accelerator through one of ONNX Runtime's execution providers.
//!
//! Who asks for an accelerator gets it or an error. A provider is tried out before anything is served, and no part of a network
//! may fall back to the processor unnoticed.

use std::fmt;
use std::path::PathBuf;

use clap::ValueEnum;
use ort::ep::{CUDA, ExecutionProviderDispatch, TensorRT, cuda};

use crate::files::sha256;

/// Runs on an accelerator are padded to one of these batch sizes, or to a multiple of the last: it prepares for each size anew.
const BUCKETS: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// An execution provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Provider {
    /// The cores of this machine
    #[default]
    Cpu,
    /// An NVIDIA GPU, with an ONNX Runtime that has CUDA
    Cuda,
    /// An NVIDIA GPU through TensorRT, which optimises each child for it; what it lacks runs through CUDA
    #[value(name = "tensorrt")]
    TensorRt,
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        })
    }
}

/// How numbers are computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// 32 bits
    Float32,
    /// 16 bits, where TensorRT finds that faster
    Float16,
}

/// One device, and how to use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Through which provider.
    pub provider: Provider,
    /// Which of the provider's devices, from 0.
    pub id: u16,
    /// How it computes.
    pub precision: Precision,
    /// Where TensorRT keeps what it has optimised.
    pub engine_cache: Option<PathBuf>,
}

impl Default for Device {
    fn default() -> Self {
        Self { provider: Provider::Cpu, id: 0, precision: Precision::Float32, engine_cache: None }
    }
}

/// As `cpu` or `cuda:0 float32`: part of what a measured latency depends on.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let precision = match self.precision {
            Precision::Float32 => "float32",
            Precision::Float16 => "float16",
        };
        match self.provider {
            Provider::Cpu => f.write_str("cpu"),
            provider => write!(f, "{provider}:{} {precision}", self.id),
        }
    }
}

impl Device {
    /// Whether networks run elsewhere than on the processor.
    #[must_use]
    pub fn accelerated(&self) -> bool {
        self.provider != Provider::Cpu
    }

    /// How many images a run of `count` computes: on an accelerator, the next fixed size.
    #[must_use]
    pub fn batch_size(&self, count: usize) -> usize {
        let [.., last] = BUCKETS;
        if self.accelerated() {
            BUCKETS.into_iter().find(|&size| size >= count).unwrap_or_else(|| count.next_multiple_of(last))
        } else {
            count
        }
    }

    /// What a session of the graph `onnx` registers, the first choice first. With CUDA, float32 means that there is no TF32;
    /// ONNX Runtime cannot tell TensorRT so, which asks the environment (`NVIDIA_TF32_OVERRIDE`).
    pub(super) fn providers(&self, onnx: &[u8]) -> Vec<ExecutionProviderDispatch> {
        let id = i32::from(self.id);
        let cuda = || {
            let provider = CUDA::default().with_device_id(id).with_tf32(self.precision == Precision::Float16);
            // Trying out every algorithm takes seconds for each batch size.
            provider.with_conv_algorithm_search(cuda::ConvAlgorithmSearch::Heuristic).build().error_on_failure()
        };
        let tensorrt = || {
            let provider = TensorRT::default().with_device_id(id).with_fp16(self.precision == Precision::Float16);
            let provider = match &self.engine_cache {
                Some(directory) => {
                    let directory = directory.display().to_string();
                    // TensorRT tells graphs apart by their names, and not by their weights.
                    let prefix = &sha256(onnx)[..16];
                    let kept = provider.with_engine_cache(true).with_engine_cache_path(&directory).with_engine_cache_prefix(prefix);
                    kept.with_timing_cache(true).with_timing_cache_path(&directory)
                }
                None => provider,
            };
            provider.build().error_on_failure()
        };
        match self.provider {
            Provider::Cpu => Vec::new(),
            Provider::Cuda => vec![cuda()],
            Provider::TensorRt => vec![tensorrt(), cuda()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accelerators_compute_fixed_batch_sizes() {
        let gpu = Device { provider: Provider::Cuda, ..Device::default() };
        for (count, size) in [(1, 1), (2, 2), (3, 4), (9, 16), (32, 32), (33, 64), (64, 64), (65, 96)] {
            assert_eq!((Device::default().batch_size(count), gpu.batch_size(count)), (count, size));
        }
    }

    #[test]
    fn a_device_says_what_latencies_depend_on() {
        let device = |provider, id, precision| Device { provider, id, precision, engine_cache: None }.to_string();
        assert_eq!(device(Provider::Cpu, 0, Precision::Float32), "cpu");
        assert_eq!(device(Provider::Cuda, 1, Precision::Float32), "cuda:1 float32");
        assert_eq!(device(Provider::TensorRt, 0, Precision::Float16), "tensorrt:0 float16");
    }

    #[test]
    fn each_provider_is_registered_with_those_it_falls_back_to() {
        for (provider, names) in [(Provider::Cpu, vec![]), (Provider::Cuda, vec!["CUDA"]), (Provider::TensorRt, vec!["Tensorrt", "CUDA"])] {
            let device = Device { provider, engine_cache: Some("cache".into()), ..Device::default() };
            let registered: Vec<_> =
                device.providers(b"").iter().map(|provider| provider.name().replace("ExecutionProvider", "")).collect();
            assert_eq!(registered, names);
        }
    }
}
