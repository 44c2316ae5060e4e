//! A child in memory: sessions for as many workers as run it at once. Its graph stays on disk where it can.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::build::{BuildError, Builder, Built};
use super::pace::Pace;
use super::types::ClassifyError;
use crate::image::Patch;
use crate::runtime::{Network, Profile, RuntimeError, Stop};
use crate::space::{Child, ChildId};

/// Memory of a session beyond its weights, in bytes; measured at 0.6 to 0.8 MB for the smallest children.
const SESSION_BYTES: u64 = 800_000;

/// A loaded child. Each run borrows one session; where all are out, another is made.
#[derive(Debug)]
pub(super) struct LoadedChild {
    child: Arc<Child>,
    /// The deployable graph, where no disk keeps it.
    held: Option<Arc<Vec<u8>>>,
    graph_bytes: u64,
    idle: Mutex<Vec<Network>>,
    /// How long its runs take.
    pub(super) pace: Arc<Pace>,
}

impl LoadedChild {
    /// Makes the first session of a built child.
    pub(super) fn new(builder: &Builder, child: Arc<Child>, built: Built, pace: Arc<Pace>) -> Result<Self, BuildError> {
        let threads = builder.run_threads.load(Ordering::Acquire);
        let first = || load(builder, &child, &built.onnx, threads);
        // Beside traffic, loading steps back too; but a session's own threads would never come forward again.
        let first = if threads == 1 { builder.in_background(threads, first)? } else { first()? };
        let graph_bytes = built.onnx.len() as u64;
        let held = (!built.on_disk).then_some(built.onnx);
        Ok(Self { child, held, graph_bytes, idle: Mutex::new(vec![first]), pace })
    }

    pub(super) fn id(&self) -> ChildId {
        self.child.id()
    }

    /// The deployable graph; built again if the disk has lost it.
    pub(super) fn graph(&self, builder: &Builder) -> Result<Arc<Vec<u8>>, BuildError> {
        match &self.held {
            Some(graph) => Ok(Arc::clone(graph)),
            None => Ok(builder.get(&self.child)?.onnx),
        }
    }

    /// Bytes that the child takes when `workers` run it at once: a copy of its weights a session, and the graph if it is held.
    pub(super) fn bytes(&self, workers: usize) -> u64 {
        let held = if self.held.is_some() { self.graph_bytes } else { 0 };
        held + bytes_in_sessions(self.graph_bytes, workers)
    }

    fn session(&self, builder: &Builder, threads: usize) -> Result<Network, BuildError> {
        load(builder, &self.child, &self.graph(builder)?, threads)
    }

    /// Its times on this device with so many threads a run, on a session that no request shares, behind running networks.
    pub(super) fn measure(&self, builder: &Builder, threads: usize) -> Result<Profile, ClassifyError> {
        builder.in_background(threads, || Profile::measure(&mut self.session(builder, threads)?).map_err(failed))
    }

    /// A session for one run, which gives it back: one that is idle, else another.
    pub(super) fn borrow(&self, builder: &Builder) -> Result<Network, BuildError> {
        let threads = builder.run_threads.load(Ordering::Acquire);
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // A session from before the cores were divided otherwise is dropped.
        if let Some(network) = idle.filter(|network| network.threads() == threads) {
            return Ok(network);
        }
        let begin = Instant::now();
        let network = self.session(builder, threads);
        builder.record("load", begin.elapsed());
        network
    }

    /// Logits of every patch on a borrowed session, one row of `[classes]` each; in batches no larger than they gain.
    ///
    /// A run that fails or panics loses its session, and the next run makes another; one that is stopped keeps it.
    pub(super) fn run(
        &self,
        mut network: Network,
        builder: &Builder,
        patches: &[&Patch],
        stop: &Stop,
    ) -> Result<Vec<Vec<f32>>, ClassifyError> {
        let mut rows = Vec::with_capacity(patches.len());
        let ran = patches.chunks(self.pace.batch()).try_for_each(|batch| {
            rows.extend(self.run_batch(&mut network, builder, batch, stop)?);
            Ok(())
        });
        if ran.is_ok() || stop.asked() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(network);
        }
        ran.map(|()| rows)
    }

    fn run_batch(&self, network: &mut Network, builder: &Builder, patches: &[&Patch], stop: &Stop) -> Result<Vec<Vec<f32>>, ClassifyError> {
        let [channels, resolution, _] = network.input_shape();
        let per_image = channels * resolution * resolution;
        let batch = builder.runtime.device().batch_size(patches.len());
        let mut input = vec![0.0; batch * per_image];
        for (patch, out) in patches.iter().zip(input.chunks_exact_mut(per_image)) {
            patch.write_input(resolution as u32, &builder.model.card.preprocessing, out).map_err(|error| {
                let what = format!("child {} ({error})", self.child.id());
                failed(RuntimeError::Input { what, values: patch.data.len(), count: 1, per_image })
            })?;
        }
        let logits = network.run_until(&input, batch, stop).map_err(failed)?;
        let classes = logits.len() / batch;
        Ok(logits.chunks_exact(classes.max(1)).take(patches.len()).map(<[f32]>::to_vec).collect())
    }
}

/// Bytes of `workers` sessions of a child whose graph has so many bytes.
pub(super) fn bytes_in_sessions(graph_bytes: u64, workers: usize) -> u64 {
    workers as u64 * (graph_bytes + SESSION_BYTES)
}

fn load(builder: &Builder, child: &Child, graph: &[u8], threads: usize) -> Result<Network, BuildError> {
    let network = Network::load(&builder.runtime, graph, &format!("child {}", child.id()), threads);
    network.map_err(|source| BuildError::Load { child: child.id(), source: Arc::new(source) })
}

fn failed(error: RuntimeError) -> ClassifyError {
    ClassifyError::Runtime(Arc::new(error))
}
