//! From patches of bytes to the network's input.

use tch::{Device, Kind, Tensor as Torch};

use super::TrainError;
use crate::image::Preprocessing;

/// Subtracts the mean and divides by the standard deviation of each channel.
#[derive(Debug)]
pub struct Normaliser {
    /// `[1, C, 1, 1]`, in pixel values of 0..=255.
    mean: Torch,
    /// `[1, C, 1, 1]`, one over the standard deviation in pixel values.
    scale: Torch,
    channels: i64,
    side: i64,
}

impl Normaliser {
    /// Normalisation as `preprocessing` says, on `device`.
    #[must_use]
    pub fn new(preprocessing: &Preprocessing, device: Device) -> Self {
        let channels = preprocessing.mean.len() as i64;
        let per_channel = |values: Vec<f32>| Torch::from_slice(&values).reshape([1, channels, 1, 1]).to_device(device);
        Self {
            mean: per_channel(preprocessing.mean.iter().map(|mean| mean * 255.0).collect()),
            scale: per_channel(preprocessing.std.iter().map(|std| 1.0 / (std * 255.0)).collect()),
            channels,
            side: i64::from(preprocessing.crop),
        }
    }

    /// `[N, C, S, S]` float32 of as many planar patches.
    pub fn apply(&self, patches: &[u8]) -> Torch {
        let images = Torch::from_slice(patches).to_device(self.mean.device()).reshape([-1, self.channels, self.side, self.side]);
        (images.to_kind(Kind::Float) - &self.mean) * &self.scale
    }
}

/// The first GPU.
///
/// # Errors
/// [`TrainError::NoCuda`] where libtorch has no CUDA, [`TrainError::NoGpu`] where it sees none.
pub fn gpu() -> Result<Device, TrainError> {
    match (tch::Cuda::is_available(), tch::utils::has_cudart()) {
        (true, _) => Ok(Device::Cuda(0)),
        (false, true) => Err(TrainError::NoGpu),
        (false, false) => Err(TrainError::NoCuda),
    }
}
