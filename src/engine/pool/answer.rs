//! What a worker does with a run: decodes the images, runs the network, answers each request, and learns how long it took.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::client::Audience;
use super::super::schedule::{Run, Waiting};
use super::super::types::{Answer, ClassifyError, Source};
use super::{Ask, Choice, Shared};
use crate::image::Patch;
use crate::runtime::Stop;

impl Shared {
    /// Decodes the images of all requests, runs the network over them, and answers each.
    pub(super) fn answer(&self, worker: usize, run: Run<Choice, Ask>) {
        let Run { child, requests, predicted } = run;
        let predicted = predicted.saturating_sub(requests.iter().map(|request| request.prepare).sum());
        let started = Instant::now();
        let due = requests.iter().map(|request| request.deadline).min();
        let requests: Vec<Decoded> = requests.into_iter().filter_map(|request| self.decoded(&child, request)).collect();
        if requests.is_empty() {
            return;
        }
        let decoded = Instant::now();
        let patches: Vec<&Patch> = requests.iter().flat_map(|request| &request.patches).collect();
        let batch = patches.len();
        self.resources.metrics.batch_size.observe(batch as f64);
        let ran = catch_unwind(AssertUnwindSafe(|| self.run(&child, &requests, &patches))).unwrap_or_else(|_| {
            self.resources.metrics.panics.inc();
            Err(ClassifyError::WorkerLost)
        });
        let decode = decoded - started;
        let ended = Instant::now();
        if due.is_some_and(|due| due < ended) {
            self.missed(ended);
        }
        if let Ok((logits, took)) = &ran {
            self.learn(&child, batch, predicted, *took, logits.is_ok());
        }
        let (logits, inference) = ran.unwrap_or_else(|error| (Err(error), Duration::ZERO));
        // Before anyone hears of it: whoever asks next must not find this worker busy.
        self.lock().ends[worker] = None;
        let id = child.loaded.id();
        let mut rows = logits.map(Vec::into_iter);
        for Decoded { ask, source, patches } in requests {
            let answer = match &mut rows {
                Ok(rows) => Ok(Answer {
                    logits: rows.take(patches.len()).collect(),
                    child: id,
                    degraded_from: (ask.best != id).then_some(ask.best),
                    source,
                    batch,
                    queue: started - ask.accepted,
                    decode,
                    inference,
                }),
                Err(error) => Err(error.clone()),
            };
            // The client may be gone by now.
            let _ = ask.reply.send(answer);
        }
    }

    /// The request with its images decoded; one that nobody waits for is dropped, and one that cannot be read is answered.
    fn decoded(&self, child: &Choice, request: Waiting<Choice, Ask>) -> Option<Decoded> {
        let Waiting { payload: mut ask, choices, .. } = request;
        let source = choices.iter().find(|&choice| choice == child).unwrap_or(child).source;
        let pictures = std::mem::take(&mut ask.pictures);
        let images = pictures.len() as u64;
        match self.resources.decoder.decode(pictures, || ask.client.gone()) {
            Ok(Some(patches)) => Some(Decoded { ask, source, patches }),
            Ok(None) => {
                self.resources.metrics.cancelled_images.inc_by(images);
                None
            }
            Err(error) => {
                let _ = ask.reply.send(Err(error));
                None
            }
        }
    }

    /// Takes note of how long a run took, beside what was predicted.
    fn learn(&self, child: &Choice, images: usize, predicted: Duration, took: Duration, complete: bool) {
        let metrics = &self.resources.metrics;
        metrics.predicted_run_seconds.observe(predicted.as_secs_f64());
        // A run that was stopped took at least this long: that is news where it was already late.
        if complete || took > predicted {
            metrics.prediction_ratio.observe(predicted.as_secs_f64() / took.as_secs_f64().max(1e-9));
            metrics.profile_ratio.observe(child.loaded.pace.learn(images, took, Instant::now()));
        }
    }

    /// Runs the network over all patches, until nobody waits any more. Gives what came of it, and how long it took without the
    /// session, which may have to be made first.
    fn run(&self, child: &Choice, requests: &[Decoded], patches: &[&Patch]) -> Result<(Logits, Duration), ClassifyError> {
        let audience = Arc::new(Audience::new(requests.len(), Stop::new().map_err(|error| ClassifyError::Runtime(Arc::new(error)))?));
        requests.iter().for_each(|request| request.ask.client.watch(&audience));
        let builder = &self.resources.builder;
        let network = child.loaded.borrow(builder)?;
        let begin = Instant::now();
        if let Some(fault) = &self.resources.fault {
            fault.strike();
        }
        let logits = child.loaded.run(network, builder, patches, &audience.stop);
        let took = begin.elapsed();
        if audience.stop.asked() {
            self.resources.metrics.cancelled_images.inc_by(patches.len() as u64);
        }
        Ok((logits, took))
    }
}

/// One row an image, or why there are none.
type Logits = Result<Vec<Vec<f32>>, ClassifyError>;

/// A request that can run now.
struct Decoded {
    ask: Ask,
    /// Where the child came from when this request chose it: another of the run may have waited for it.
    source: Source,
    patches: Vec<Patch>,
}
