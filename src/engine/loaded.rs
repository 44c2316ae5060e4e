//! A child in memory: its graph, and sessions for as many workers as run it at once.

use std::sync::{Arc, Mutex, PoisonError};

use crate::image::{Patch, Preprocessing};
use crate::runtime::{Network, Runtime, RuntimeError};
use crate::space::ChildId;

/// Memory of a session beyond its weights, in bytes; measured at 0.6 to 0.8 MB for the smallest children.
const SESSION_BYTES: u64 = 800_000;

/// A loaded child. Each run borrows one session; where all are out, another is made.
#[derive(Debug)]
pub(super) struct LoadedChild {
    id: ChildId,
    onnx: Arc<Vec<u8>>,
    idle: Mutex<Vec<Network>>,
}

impl LoadedChild {
    pub(super) fn new(runtime: &Runtime, id: ChildId, onnx: Arc<Vec<u8>>) -> Result<Self, RuntimeError> {
        let loaded = Self { id, onnx, idle: Mutex::default() };
        let first = loaded.session(runtime)?;
        loaded.give_back(first);
        Ok(loaded)
    }

    /// The deployable graph.
    pub(super) fn onnx(&self) -> &Arc<Vec<u8>> {
        &self.onnx
    }

    /// Bytes that the child takes when `workers` run it at once: the graph, and a copy of its weights a session.
    pub(super) fn bytes(&self, workers: usize) -> u64 {
        let weights = self.onnx.len() as u64;
        weights + workers as u64 * (weights + SESSION_BYTES)
    }

    /// A session of its own, not shared with requests.
    pub(super) fn session(&self, runtime: &Runtime) -> Result<Network, RuntimeError> {
        Network::load(runtime, &self.onnx, &format!("child {}", self.id), 1)
    }

    /// Logits of every patch, one row of `[classes]` each.
    ///
    /// A run that fails or panics loses its session; the next run makes another.
    pub(super) fn run(&self, runtime: &Runtime, patches: &[Patch], preprocessing: &Preprocessing) -> Result<Vec<Vec<f32>>, RuntimeError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut network = idle.map_or_else(|| self.session(runtime), Ok)?;
        let [channels, resolution, _] = network.input_shape();
        let per_image = channels * resolution * resolution;
        let mut input = vec![0.0; patches.len() * per_image];
        for (patch, out) in patches.iter().zip(input.chunks_exact_mut(per_image)) {
            patch.write_input(resolution as u32, preprocessing, out).map_err(|error| RuntimeError::Input {
                what: format!("child {} ({error})", self.id),
                values: patch.data.len(),
                count: 1,
                per_image,
            })?;
        }
        let logits = network.run(&input, patches.len())?;
        self.give_back(network);
        let classes = logits.len() / patches.len().max(1);
        Ok(logits.chunks_exact(classes.max(1)).map(<[f32]>::to_vec).collect())
    }

    fn give_back(&self, network: Network) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(network);
    }
}
