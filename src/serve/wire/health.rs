//! How the server is.

use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::{DeviceInfo, Engine};

/// Whether the process lives.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    #[schema(example = "ok")]
    pub status: &'static str,
}

/// What serves here.
#[derive(Debug, Serialize, ToSchema)]
pub struct Readiness {
    /// Always `ready`.
    #[schema(example = "ready")]
    pub status: &'static str,
    /// Name of the model.
    #[schema(example = "fashion-mnist")]
    pub model: String,
    /// SHA-256 of the model's weights.
    pub weights_sha256: String,
    /// Children that can be asked for.
    #[schema(example = 10)]
    pub children: usize,
    /// What networks run on.
    pub device: Device,
}

impl Readiness {
    pub(in crate::serve) fn of(engine: &Engine) -> Self {
        let card = engine.card();
        Self {
            status: "ready",
            model: card.name.clone(),
            weights_sha256: card.weights_sha256.clone(),
            children: engine.children().len(),
            device: engine.device().into(),
        }
    }
}

/// What networks run on.
#[derive(Debug, Serialize, ToSchema)]
pub struct Device {
    /// The execution provider.
    #[schema(example = "cpu")]
    pub provider: String,
    /// The provider, which of its devices, and the precision, such as `cuda:0 float32`.
    #[schema(example = "cpu")]
    pub device: String,
    /// What ONNX Runtime says of its build.
    pub runtime: String,
    /// Networks that run side by side.
    #[schema(example = 2)]
    pub workers: usize,
    /// Threads that each of them runs on.
    #[schema(example = 1)]
    pub threads_per_run: usize,
}

impl From<DeviceInfo> for Device {
    fn from(device: DeviceInfo) -> Self {
        let DeviceInfo { provider, device, runtime, workers, threads_per_run } = device;
        Self { provider, device, runtime, workers, threads_per_run }
    }
}
