//! A graph loaded into ONNX Runtime.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ort::ep::CPU;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{RunOptions, Session, SessionOutputs};
use ort::value::TensorRef;

#[cfg(test)]
use super::Device;
use super::binding::Bindings;
use super::stopwatch::Stopwatch;
use super::{Runtime, RuntimeError};

/// A loaded graph that takes images `[N, channels, resolution, resolution]`. Running it needs sole access.
#[derive(Debug)]
pub struct Network {
    session: Session,
    what: String,
    shape: [usize; 3],
    threads: usize,
    on_caller: bool,
    /// Page-locked buffers, where an accelerator runs the network.
    bindings: Option<Bindings>,
}

/// Ends runs early, from any thread.
pub struct Stop {
    options: RunOptions,
    asked: AtomicBool,
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stop").field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl Stop {
    /// A stop that has not been asked for.
    ///
    /// # Errors
    /// [`RuntimeError::Stop`] where ONNX Runtime has no memory left for it.
    pub fn new() -> Result<Self, RuntimeError> {
        let options = RunOptions::new().map_err(RuntimeError::Stop)?;
        Ok(Self { options, asked: AtomicBool::new(false) })
    }

    /// Ends the runs that were given this stop, and those that will be, at their next layer.
    pub fn now(&self) {
        self.asked.store(true, Ordering::Release);
        if let Err(error) = self.options.terminate() {
            tracing::warn!(%error, "a run that nobody waits for goes on");
        }
    }

    /// Whether it was asked for.
    #[must_use]
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }
}

impl Network {
    /// Loads the model file `onnx`; `what` names it in messages, `threads` says on how many threads one run computes.
    ///
    /// # Errors
    /// [`RuntimeError::Session`] where ONNX Runtime refuses the graph.
    pub fn load(runtime: &Runtime, onnx: &[u8], what: &str, threads: usize) -> Result<Self, RuntimeError> {
        Self::load_with(runtime, onnx, what, threads, true)
    }

    /// As [`Network::load`], for a graph that runs a few times on large batches.
    ///
    /// ONNX Runtime plans a run's memory after the first run of a shape, and moves into new memory on the second. Touching new
    /// memory costs about as much as computing in it: here there is no plan.
    ///
    /// # Errors
    /// As [`Network::load`].
    pub fn load_for_few_runs(runtime: &Runtime, onnx: &[u8], what: &str, threads: usize) -> Result<Self, RuntimeError> {
        Self::load_with(runtime, onnx, what, threads, false)
    }

    fn load_with(runtime: &Runtime, onnx: &[u8], what: &str, threads: usize, plan_memory: bool) -> Result<Self, RuntimeError> {
        let failed = |source: ort::Error| RuntimeError::Session { what: what.to_owned(), source };
        let session = session(runtime, onnx, threads, plan_memory).map_err(failed)?;
        let shape = input_shape(&session).ok_or_else(|| failed(ort::Error::new("the input is not [N, channels, side, side]")))?;
        let on_caller = threads == 1 && !runtime.device.accelerated();
        let bindings = runtime.device.accelerated().then(|| Bindings::new(&runtime.device));
        Ok(Self { session, what: what.to_owned(), shape, threads, on_caller, bindings })
    }

    /// The same network, run from and to buffers of its own.
    #[cfg(test)]
    pub(super) fn bound(mut self, device: &Device) -> Self {
        self.bindings = Some(Bindings::new(device));
        self
    }

    /// Channels, height and width of the input.
    #[must_use]
    pub fn input_shape(&self) -> [usize; 3] {
        self.shape
    }

    /// On how many threads one run computes.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Whether a run computes on its caller's thread and nowhere else.
    pub(super) fn computes_on_caller(&self) -> bool {
        self.on_caller
    }

    /// Runs the network over `count` images, `[count, channels, resolution, resolution]`, and returns its only output, row
    /// by row.
    ///
    /// # Errors
    /// [`RuntimeError::Input`] where `images` has another size, [`RuntimeError::Run`] where ONNX Runtime fails.
    pub fn run(&mut self, images: &[f32], count: usize) -> Result<Vec<f32>, RuntimeError> {
        let mut outputs = self.run_all(images, count)?;
        Ok(outputs.swap_remove(0).1)
    }

    /// As [`Network::run`], until `stop` is asked for.
    ///
    /// # Errors
    /// As [`Network::run`]; a run that was stopped has failed.
    pub fn run_until(&mut self, images: &[f32], count: usize, stop: &Stop) -> Result<Vec<f32>, RuntimeError> {
        let mut outputs = self.run_with(images, count, Some(stop))?;
        Ok(outputs.swap_remove(0).1)
    }

    /// As [`Network::run`], with every output by name, in the graph's order.
    ///
    /// # Errors
    /// As [`Network::run`].
    pub fn run_all(&mut self, images: &[f32], count: usize) -> Result<Vec<(String, Vec<f32>)>, RuntimeError> {
        self.run_with(images, count, None)
    }

    fn run_with(&mut self, images: &[f32], count: usize, stop: Option<&Stop>) -> Result<Vec<(String, Vec<f32>)>, RuntimeError> {
        let failed = |source: ort::Error| RuntimeError::Run { what: self.what.clone(), source };
        if let Some(bindings) = &mut self.bindings {
            check_size(&self.what, self.shape, images, count)?;
            let [channels, height, width] = self.shape;
            let options = stop.map(|stop| &stop.options);
            return bindings.run(&mut self.session, [count, channels, height, width], images, options).map_err(failed);
        }
        let outputs = run_session(&mut self.session, &self.what, self.shape, images, count, stop)?;
        let copy = |(name, value): (&str, ort::value::ValueRef<'_>)| Ok((name.to_owned(), value.try_extract_tensor::<f32>()?.1.to_vec()));
        outputs.iter().map(copy).collect::<Result<_, _>>().map_err(failed)
    }

    /// Runs the network as [`Network::run`] does and returns how long that took, other work on the same cores left out where it computes
    /// on this thread alone, and copying no output: a large output would otherwise
    /// cost a copy that a layer inside a network never pays.
    ///
    /// # Errors
    /// As [`Network::run`].
    pub fn time_run(&mut self, images: &[f32], count: usize) -> Result<Duration, RuntimeError> {
        let watch = Stopwatch::start(self.on_caller);
        let outputs = run_session(&mut self.session, &self.what, self.shape, images, count, None)?;
        let took = watch.elapsed();
        drop(outputs);
        Ok(took)
    }
}

fn check_size(what: &str, shape: [usize; 3], images: &[f32], count: usize) -> Result<(), RuntimeError> {
    let per_image = shape.iter().product::<usize>();
    if images.len() == count * per_image && count > 0 {
        return Ok(());
    }
    Err(RuntimeError::Input { what: what.to_owned(), values: images.len(), count, per_image })
}

fn run_session<'s>(
    session: &'s mut Session,
    what: &str,
    shape: [usize; 3],
    images: &[f32],
    count: usize,
    stop: Option<&'s Stop>,
) -> Result<SessionOutputs<'s>, RuntimeError> {
    check_size(what, shape, images, count)?;
    let [channels, height, width] = shape;
    let failed = |source: ort::Error| RuntimeError::Run { what: what.to_owned(), source };
    let input = TensorRef::from_array_view(([count, channels, height, width], images)).map_err(failed)?;
    let outputs = match stop {
        Some(stop) => session.run_with_options(ort::inputs![input], &stop.options),
        None => session.run(ort::inputs![input]),
    };
    outputs.map_err(failed)
}

fn session(runtime: &Runtime, onnx: &[u8], threads: usize, plan_memory: bool) -> ort::Result<Session> {
    let builder = Session::builder(&runtime.environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads)?
        .with_memory_pattern(plan_memory)?
        // Sessions share the cores: a thread that spins takes time from the next one's run.
        .with_intra_op_spinning(false)?
        .with_inter_threads(1)?;
    let mut builder = if runtime.device.accelerated() {
        // What the accelerator cannot compute is an error, not work for the processor.
        builder.with_execution_providers(runtime.device.providers(onnx))?.with_disable_cpu_fallback()?
    } else {
        // A session's own arena keeps what its largest run took, as much as the weights of a small child. With a plan, a run takes one
        // block, and from the common allocator, which keeps it (`crate::process`), the next run of any child takes the same.
        builder.with_execution_providers([CPU::default().with_arena_allocator(!plan_memory).build()])?
    };
    builder.commit_from_memory(onnx)
}

fn input_shape(session: &Session) -> Option<[usize; 3]> {
    let input = session.inputs().first()?;
    let dims: Vec<usize> = input.dtype().tensor_shape()?.iter().skip(1).filter_map(|&n| usize::try_from(n).ok()).collect();
    dims.try_into().ok()
}
