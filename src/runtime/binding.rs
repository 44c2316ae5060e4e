//! Runs of an accelerator from and to page-locked memory, which it reads and writes by itself.
//!
//! A network keeps one buffer for each batch size that it has run; accelerators are given few sizes (`Device::batch_size`).

use std::collections::BTreeMap;

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, RunOptions, Session};
use ort::value::Tensor;

use super::Device;

/// Buffers that a network keeps at most.
const MOST: usize = 8;

/// A network's buffers by batch size.
#[derive(Debug)]
pub(super) struct Bindings {
    device_id: i32,
    memory: AllocationDevice<'static>,
    by_count: BTreeMap<usize, Bound>,
}

/// One buffer for the input, and how a run is bound to it.
#[derive(Debug)]
struct Bound {
    input: Tensor<f32>,
    binding: IoBinding,
}

impl Bindings {
    /// Buffers for networks on `device`.
    pub(super) fn new(device: &Device) -> Self {
        let memory = if device.accelerated() { AllocationDevice::CUDA_PINNED } else { AllocationDevice::CPU };
        Self { device_id: i32::from(device.id), memory, by_count: BTreeMap::new() }
    }

    /// Runs `session` over images `[count, channels, height, width]`; every output by name, in the graph's order.
    pub(super) fn run(
        &mut self,
        session: &mut Session,
        shape: [usize; 4],
        images: &[f32],
        options: Option<&RunOptions>,
    ) -> ort::Result<Vec<(String, Vec<f32>)>> {
        let count = shape[0];
        if !self.by_count.contains_key(&count) && self.by_count.len() >= MOST {
            self.by_count.clear();
        }
        let bound = match self.by_count.entry(count) {
            std::collections::btree_map::Entry::Occupied(found) => found.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => free.insert(Bound::new(session, &self.memory, self.device_id, shape)?),
        };
        bound.input.try_extract_tensor_mut::<f32>()?.1.copy_from_slice(images);
        // Binding is what begins the copy to the device.
        let name = session.inputs().first().map(|input| input.name().to_owned()).unwrap_or_default();
        bound.binding.bind_input(name, &bound.input)?;
        let outputs = match options {
            Some(options) => session.run_binding_with_options(&bound.binding, options)?,
            None => session.run_binding(&bound.binding)?,
        };
        outputs.iter().map(|(name, value)| Ok((name.to_owned(), value.try_extract_tensor::<f32>()?.1.to_vec()))).collect()
    }
}

impl Bound {
    fn new(session: &Session, memory: &AllocationDevice<'static>, device_id: i32, shape: [usize; 4]) -> ort::Result<Self> {
        let pinned = |kind| MemoryInfo::new(memory.clone(), device_id, AllocatorType::Device, kind);
        let input = Tensor::new(&Allocator::new(session, pinned(MemoryType::CPUInput)?)?, shape)?;
        let mut binding = session.create_binding()?;
        for output in session.outputs() {
            binding.bind_output_to_device(output.name(), &pinned(MemoryType::CPUOutput)?)?;
        }
        Ok(Self { input, binding })
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::calibrate::{Batches, Calibrator};
    use crate::checkpoint::Model;
    use crate::deploy::{Statistics, deploy};
    use crate::onnx::Input;
    use crate::runtime::{Network, Runtime, default_library};

    /// Without an accelerator, the same path through the processor's own memory.
    #[test]
    fn bound_runs_answer_as_others_do() {
        let library = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from).or_else(default_library).unwrap();
        let runtime = Runtime::load(&library).unwrap();
        let model = Model::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fashion-mnist")).unwrap();
        let images = model.calibration_images().unwrap().unwrap();
        let calibrator = Calibrator { runtime: &runtime, images: &images, batches: Batches::of(64), threads: 1, stop: None };
        let child = &model.family.members[0].child;
        let onnx = deploy(&model, child, Statistics::Measured(&calibrator), Input::Resolution).unwrap().onnx;
        let load = || Network::load(&runtime, &onnx, "smallest", 1).unwrap();
        let (mut plain, mut bound) = (load(), load().bound(&Device::default()));
        let per_image: usize = plain.input_shape().iter().product();
        // More sizes than are kept, some of them twice.
        for count in [1, 2, 1, 3, 4, 5, 6, 7, 8, 9, 2, 10] {
            let images: Vec<f32> = (0..count * per_image).map(|i| ((i * 37 + count) % 101) as f32 / 50.0 - 1.0).collect();
            assert_eq!(bound.run(&images, count).unwrap(), plain.run(&images, count).unwrap(), "{count} images");
        }
    }
}
