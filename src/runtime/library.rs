//! Finding and loading the ONNX Runtime library.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::Deserialize;
use thiserror::Error;

use super::device::{Device, Provider};
use super::network::Network;
use crate::onnx;

/// The loaded library. There is one in a process, and clones of this handle share it.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub(super) environment: Arc<ort::environment::Environment>,
    /// Where its networks run.
    pub(super) device: Device,
}

/// ONNX Runtime could not be loaded, or would not do what it was asked.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// ONNX Runtime could not make what ends a run early.
    #[error("ONNX Runtime is out of memory")]
    Stop(#[source] ort::Error),
    /// There is no library at the path.
    #[error("no ONNX Runtime at {}: name a libonnxruntime.so (--onnxruntime, ORT_DYLIB_PATH), or neither and run `make fetch`", .0.display())]
    Missing(PathBuf),
    /// The file is not a usable library.
    #[error("{} is not a usable ONNX Runtime: version 1.31 or newer is needed", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// What the loader said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no room for what TensorRT compiles.
    #[error("{} cannot be made, where TensorRT keeps what it compiles: choose another --cache-dir", path.display())]
    EngineCache {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The accelerator that was asked for does not work.
    #[error(
        "{provider} does not work here: it needs an ONNX Runtime with this provider and its libraries (--onnxruntime), and a device {id}"
    )]
    Provider {
        /// Which one.
        provider: Provider,
        /// Which of its devices.
        id: u16,
        /// What failed.
        #[source]
        source: Box<RuntimeError>,
    },
    /// A graph could not be loaded.
    #[error("ONNX Runtime cannot load the graph of {what}")]
    Session {
        /// What the graph is.
        what: String,
        /// What ONNX Runtime said.
        #[source]
        source: ort::Error,
    },
    /// A graph could not be run.
    #[error("ONNX Runtime failed while running {what}")]
    Run {
        /// What the graph is.
        what: String,
        /// What ONNX Runtime said.
        #[source]
        source: ort::Error,
    },
    /// The images do not fill whole inputs of the network.
    #[error("{values} values are not {count} images of {what}, which takes {per_image} values each")]
    Input {
        /// What the graph is.
        what: String,
        /// Values given.
        values: usize,
        /// Images said.
        count: usize,
        /// Values that one image has.
        per_image: usize,
    },
}

static LOADED: OnceLock<Runtime> = OnceLock::new();

impl Runtime {
    /// Loads the library at `path`; a second call returns the one already loaded, whatever its path.
    ///
    /// # Errors
    /// [`RuntimeError::Missing`] or [`RuntimeError::Load`], each with what to do about it.
    pub fn load(path: &Path) -> Result<Self, RuntimeError> {
        static LOADING: Mutex<()> = Mutex::new(());
        let _one_at_a_time = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = LOADED.get() {
            return Ok(runtime.clone());
        }
        if !path.is_file() {
            return Err(RuntimeError::Missing(path.to_owned()));
        }
        // The loader looks for a bare name where the system's libraries are. Links stay: providers lie beside them.
        let path = &std::path::absolute(path).map_err(|_| RuntimeError::Missing(path.to_owned()))?;
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| RuntimeError::Load { path: path.to_owned(), source };
        let builder = ort::init_from(path).map_err(|error| failed(error.to_string().into()))?;
        let environment = builder.with_name("bignas").with_telemetry(false).build().map_err(|error| failed(error.into()))?;
        Ok(LOADED.get_or_init(|| Self { environment: Arc::new(environment), device: Device::default() }).clone())
    }

    /// The same library with networks on `device`, on which a small one is run first.
    ///
    /// # Errors
    /// [`RuntimeError::Provider`] where that does not work, [`RuntimeError::EngineCache`] where what is compiled cannot be kept.
    pub fn on(&self, device: Device) -> Result<Self, RuntimeError> {
        let (provider, id) = (device.provider, device.id);
        let runtime = Self { device, ..self.clone() };
        if runtime.device.accelerated() {
            // TensorRT makes no more than the last folder itself.
            if let Some(directory) = &runtime.device.engine_cache {
                std::fs::create_dir_all(directory).map_err(|source| RuntimeError::EngineCache { path: directory.clone(), source })?;
            }
            let tried = Network::load(&runtime, &onnx::probe(), "a convolution", 1).and_then(|mut network| network.run(&[1.0], 1));
            tried.map_err(|source| RuntimeError::Provider { provider, id, source: Box::new(source) })?;
        }
        Ok(runtime)
    }

    /// The same library with networks on the processor.
    #[must_use]
    pub fn on_cpu(&self) -> Self {
        Self { device: Device::default(), ..self.clone() }
    }

    /// Where its networks run.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What this build of ONNX Runtime says of itself; part of the key under which built children are kept.
    #[must_use]
    pub fn build_info(&self) -> &'static str {
        ort::info()
    }
}

/// The pins of everything that is fetched; the fetch script reads the same file.
#[derive(Deserialize)]
struct Pins {
    onnxruntime: Pin,
}

#[derive(Deserialize)]
struct Pin {
    version: String,
    path: PathBuf,
}

/// Where `make fetch` puts the library: `onnxruntime-VERSION/` in `BIGNAS_NATIVE_DIR`, which by default is `native` in the
/// user's cache directory of `bignas`.
///
/// `None` where the user has no home directory.
#[must_use]
pub fn default_library() -> Option<PathBuf> {
    let pins: Pins = serde_json::from_str(include_str!("../../native.json")).ok()?;
    let chosen = std::env::var_os("BIGNAS_NATIVE_DIR").filter(|directory| !directory.is_empty());
    let native = match chosen {
        Some(directory) => PathBuf::from(directory),
        None => directories::BaseDirs::new()?.cache_dir().join("bignas/native"),
    };
    Some(native.join(format!("onnxruntime-{}", pins.onnxruntime.version)).join(pins.onnxruntime.path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_says_what_to_do() {
        let message = RuntimeError::Missing(PathBuf::from("absent.so")).to_string();
        assert!(message.contains("absent.so") && message.contains("make fetch"), "{message}");
    }

    #[test]
    fn the_pinned_library_lies_in_the_cache() {
        let path = default_library().unwrap();
        assert!(path.ends_with("libonnxruntime.so") && path.to_string_lossy().contains("bignas/native/onnxruntime-"), "{path:?}");
    }
}
