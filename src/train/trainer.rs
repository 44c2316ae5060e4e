//! The training loop: steps, reports, checkpoints, and going on where a run stopped.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::TrainError;
use super::average::Average;
use super::curves::{self, Course};
use super::elastic::{ElasticNet, weight_names};
use super::error::told_by_torch;
use super::input::Normaliser;
use super::job::{Job, Outcome, Provenance};
use super::optimiser::Optimiser;
use super::progress::Progress;
use super::resume::check_goes_on;
use super::run_dir::{Checkpoint, RunDirectory};
use super::sandwich::{Sandwich, Step};
use super::settings::{Roster, TrainSettings};
use super::state::RunState;
use super::teacher::Teacher;
use super::validation::{Accuracy, Validation, batches, calibration};
use crate::checkpoint::Weights;
use crate::data::{Batch, BatchPlan, Batches, Mode};
use crate::process::return_freed_memory;
use crate::space::{Child, Plan, SearchSpace, layout};

/// Trains from the beginning, or goes on from the newest checkpoint where `resume` is set.
///
/// Every choice is a function of the seed and the step, so that a resumed run computes what an uninterrupted one would.
///
/// # Errors
/// [`TrainError`]; all checkpoints so far stay.
pub fn run(job: &Job<'_>, settings: &TrainSettings, resume: bool) -> Result<Outcome, TrainError> {
    settings.validate()?;
    tch::set_num_threads(i32::try_from(job.threads).unwrap_or(1));
    let mut training = if resume { Training::resume(job, settings)? } else { Training::start(job, settings)? };
    let steps = training.steps();
    let mut progress = Progress::start(
        &training.run.metrics(),
        training.state.step,
        settings.epochs,
        training.state.steps_per_epoch,
        settings.batch_size,
    )?;
    let validation = job.validation.map(|test| Validation::new(job, test, settings)).transpose()?;
    if resume && !training.is_validated()? {
        training.validate(validation.as_ref(), &mut progress)?;
        if let Some(checkpoint) = training.run.latest()?.filter(|_| training.is_to_stop()) {
            return Ok(Outcome::Stopped { checkpoint });
        }
    }
    while training.state.step < steps {
        let ended = training.epoch(&mut progress);
        // What was learned before a file turned out to be unreadable, memory ran out, or the log could not be written, is kept, if it is
        // usable; after a divergence there is nothing to keep.
        if !matches!(&ended, Ok(()) | Err(TrainError::NotFinite { .. })) && training.patches.is_some() {
            training.save()?;
        }
        ended?;
        training.state.skipped = training.skipped();
        let checkpoint = training.save()?;
        training.validate(validation.as_ref(), &mut progress)?;
        if training.is_to_stop() {
            return Ok(Outcome::Stopped { checkpoint });
        }
        // Children of ever other sizes leave gaps in the heap, whose pages would stay with the process for the rest of the run.
        return_freed_memory();
    }
    Ok(training.finish())
}

/// A run in progress.
struct Training<'a> {
    job: &'a Job<'a>,
    run: RunDirectory,
    state: RunState,
    net: ElasticNet,
    optimiser: Optimiser,
    average: Option<Average>,
    sandwich: Sandwich<'a>,
    normaliser: Normaliser,
    /// Images of the last step.
    patches: Option<tch::Tensor>,
}

impl<'a> Training<'a> {
    fn start(job: &'a Job<'a>, settings: &TrainSettings) -> Result<Self, TrainError> {
        let state = RunState::first(job, settings)?;
        let run = RunDirectory::create(job.directory)?;
        let weights = Weights::random(&layout(job.space, state.classes.len()), settings.seed, settings.gamma());
        let net = ElasticNet::from_weights(&weights, job.device);
        if let Some(start) = job.start {
            net.parameters.assign(start.weights)?;
        }
        let decayed = decayed(job.space, state.classes.len(), &settings.roster)?;
        let optimiser = Optimiser::new(settings.optimiser(), &net.parameters, &decayed);
        Self::new(job, run, state, net, optimiser)
    }

    fn resume(job: &'a Job<'a>, settings: &TrainSettings) -> Result<Self, TrainError> {
        let expected = RunState::first(job, settings)?;
        let (run, checkpoint) = RunDirectory::resume(job.directory, layout)?;
        check_goes_on(job.directory, &expected, &checkpoint.state)?;
        let mut state = checkpoint.state;
        if state.wanted != expected.wanted {
            state.wanted = expected.wanted.clone();
            run.rewrite(&state)?;
        }
        let before = state.settings.optimiser.kind;
        state.adopt(expected);
        let net = ElasticNet::from_weights(&checkpoint.weights, job.device);
        // What one rule remembers means nothing to another.
        let decayed = decayed(job.space, state.classes.len(), &settings.roster)?;
        let optimiser = match before == settings.optimiser.kind {
            true => Optimiser::resume(settings.optimiser(), &net.parameters, &decayed, &checkpoint.optimiser)?,
            false => Optimiser::new(settings.optimiser(), &net.parameters, &decayed),
        };
        let mut training = Self::new(job, run, state, net, optimiser)?;
        if let (Some(decay), Some(weights)) = (settings.average, &checkpoint.average) {
            training.average = Some(Average::resume(decay, &training.net.parameters, weights)?);
        }
        Ok(training)
    }

    fn new(job: &'a Job<'a>, run: RunDirectory, state: RunState, net: ElasticNet, optimiser: Optimiser) -> Result<Self, TrainError> {
        let classes = state.classes.len();
        let sandwich = Sandwich::new(job.space, classes, &state.settings, teacher(job, classes, state.settings.seed)?)?;
        let average = state.settings.average.map(|decay| Average::new(decay, &net.parameters));
        let normaliser = Normaliser::new(&state.preprocessing, job.device);
        Ok(Self { job, run, net, optimiser, average, sandwich, normaliser, patches: None, state })
    }

    fn steps(&self) -> u64 {
        self.state.settings.epochs * self.state.steps_per_epoch
    }

    /// Whether somebody asked the run to stop before its end.
    fn is_to_stop(&self) -> bool {
        self.state.step < self.steps() && self.job.stop.load(Ordering::Relaxed)
    }

    /// Trains to the end of the current epoch, or until the run is to stop.
    fn epoch(&mut self, progress: &mut Progress) -> Result<(), TrainError> {
        let started = Instant::now();
        let before = self.state.seconds;
        let plan = BatchPlan {
            mode: Mode::Training,
            batch_size: self.state.settings.batch_size,
            patches: self.state.settings.patches(),
            seed: self.state.settings.seed,
            epoch: self.state.step / self.state.steps_per_epoch,
            skip: (self.state.step % self.state.steps_per_epoch) as usize,
            threads: self.job.loader_threads,
        };
        let mut batches = Batches::start(Arc::clone(&self.job.train), plan)?;
        while let Some(batch) = progress.wait_for(|| batches.next()) {
            self.step(&batch?, progress)?;
            self.state.seconds = before + started.elapsed().as_secs_f64();
            if self.job.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    }

    fn step(&mut self, batch: &Batch, progress: &mut Progress) -> Result<(), TrainError> {
        let step = self.state.step;
        let settings = &self.state.settings;
        let rate = settings.schedule.rate(step, self.steps(), settings.batch_size);
        let now = Step { number: step, epoch: step / self.state.steps_per_epoch, threads: self.job.threads };
        tch::manual_seed(dropout_seed(settings.seed, step));
        let (patches, (losses, gradient)) = told_by_torch(step, || {
            let patches = self.normaliser.apply(&batch.images);
            let labels = tch::Tensor::from_slice(&batch.labels).to_device(self.job.device);
            let learned = self.sandwich.gradient(&self.net, &patches, &labels, now);
            (patches, learned)
        })?;
        if !losses.are_finite() {
            return Err(self.diverged(step, rate)?);
        }
        self.optimiser.update(&self.net.parameters, &gradient, rate);
        if let Some(average) = &mut self.average {
            average.update(&self.net.parameters, step);
        }
        self.patches = Some(patches);
        self.state.step += 1;
        progress.step(step, rate, &losses)
    }

    fn diverged(&self, step: u64, rate: f64) -> Result<TrainError, TrainError> {
        let checkpoint = match self.run.latest()? {
            Some(path) => format!("the last good checkpoint is {}", path.display()),
            None => "there is no checkpoint yet".to_owned(),
        };
        Ok(TrainError::NotFinite { step: step + 1, rate, checkpoint })
    }

    /// Writes a checkpoint, unless the last update ruined the weights: its loss was computed before it.
    fn save(&self) -> Result<PathBuf, TrainError> {
        if let Some(patches) = &self.patches
            && !self.sandwich.is_usable(&self.net, patches)
        {
            let step = self.state.step.saturating_sub(1);
            let rate = self.state.settings.schedule.rate(step, self.steps(), self.state.settings.batch_size);
            return Err(self.diverged(step, rate)?);
        }
        let optimiser = self.optimiser.state(&self.net.parameters);
        let average = self.average.as_ref().map(|average| average.to_weights(&self.net.parameters));
        self.run.save(&Checkpoint { state: self.state.clone(), weights: self.net.to_weights(), optimiser, average })
    }

    /// Whether the run stands at the end of no epoch, or of one whose accuracy it has told: it may have been killed before that.
    fn is_validated(&self) -> Result<bool, TrainError> {
        let (step, each) = (self.state.step, self.state.steps_per_epoch);
        let told = || Ok(Course::read(&self.run.metrics())?.epochs.iter().any(|(epoch, _)| *epoch == step / each));
        if step.is_multiple_of(each) { told() } else { Ok(true) }
    }

    /// Tells the accuracy where the run stands at the end of an epoch, and draws the curves.
    fn validate(&self, validation: Option<&Validation>, progress: &mut Progress) -> Result<(), TrainError> {
        if let Some(validation) = validation.filter(|_| self.state.step.is_multiple_of(self.state.steps_per_epoch)) {
            progress.epoch(self.state.step, self.state.seconds, &self.accuracy(validation))?;
        }
        curves::write(&self.run.metrics())
    }

    /// What is validated: the averaged weights where there is an average.
    fn accuracy(&self, validation: &Validation) -> Accuracy {
        match &self.average {
            Some(average) => validation.accuracy(&average.to_net(&self.net.parameters)),
            None => validation.accuracy(&self.net),
        }
    }

    /// Training images that turned out to be unreadable: as many as the session that met the most of them.
    fn skipped(&self) -> usize {
        self.state.skipped.max(self.job.train.images.skipped().len())
    }

    fn finish(self) -> Outcome {
        let skipped = self.skipped();
        let provenance = Provenance {
            settings: self.state.settings,
            augment: self.state.augment,
            history: self.state.history,
            start_sha256: self.state.start_sha256,
            teacher_sha256: self.state.teacher_sha256,
            steps: self.state.step,
            images: self.job.train.images.len().saturating_sub(skipped),
            skipped,
            seconds: self.state.seconds,
        };
        let weights = match &self.average {
            Some(average) => average.to_weights(&self.net.parameters),
            None => self.net.to_weights(),
        };
        Outcome::Finished { weights, provenance: Box::new(provenance) }
    }
}

/// The weights of the child that is regularised: of the biggest, or of one that is trained alone (paper, 3.1).
fn decayed(space: &SearchSpace, classes: usize, roster: &Roster) -> Result<BTreeSet<String>, TrainError> {
    let child = match roster {
        Roster::Child(choices) => Child::new(space, choices.clone())?,
        Roster::Space | Roster::BiggestAnd(_) => space.biggest(),
    };
    Ok(weight_names(&Plan::new(space, &child, classes)))
}

/// The biggest child of the job's teacher.
fn teacher(job: &Job<'_>, classes: usize, seed: u64) -> Result<Option<Teacher>, TrainError> {
    let Some(given) = job.teacher else { return Ok(None) };
    let calibration = calibration(&job.train, seed, job.device)?;
    let net = ElasticNet::from_weights(given.weights, job.device);
    Ok(Some(Teacher::new(net, Plan::new(job.space, &job.space.biggest(), classes), batches(&calibration))))
}

/// Seeds dropout for one step: libtorch does not let its generator's state be saved.
fn dropout_seed(seed: u64, step: u64) -> i64 {
    (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ step).cast_signed()
}
