//! What a run says while it goes on: a progress bar, or a line now and then, and the metrics log.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::TrainError;
use super::run_dir::io;
use super::sandwich::Losses;
use super::validation::Accuracy;
use crate::console::tell;
use crate::files::write_atomically;

/// Time between two lines where there is no terminal for a progress bar.
const LINE_EVERY: Duration = Duration::from_secs(30);
/// Share of the time that training may wait for images without a word.
const WORTH_SAYING: f64 = 0.05;
/// Steps after which one counts a third of what it did, in how fast training is.
const REMEMBERED_STEPS: f64 = 100.0;
/// Steps between two lines of the metrics log.
const LOG_EVERY: u64 = 20;

/// One line of the metrics log.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Metrics<'a> {
    /// After some steps.
    Step {
        step: u64,
        epoch: f64,
        rate: f64,
        loss_biggest: Option<f64>,
        loss_smallest: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        loss_child: Option<f64>,
        loss_random: &'a [f64],
        /// Of the last steps, as [`Pace`] weighs them.
        images_per_second: f64,
        /// Share of their time in which training waited for images.
        waiting: f64,
        /// The process's memory, where the system tells it.
        #[serde(skip_serializing_if = "Option::is_none")]
        memory_bytes: Option<u64>,
    },
    /// After an epoch.
    Epoch {
        step: u64,
        epoch: u64,
        seconds: f64,
        #[serde(flatten)]
        accuracy: &'a Accuracy,
    },
}

/// The progress of one process.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    log: File,
    log_path: PathBuf,
    batch_size: usize,
    steps: u64,
    steps_per_epoch: u64,
    first_step: u64,
    /// When the step under way asked for its images, and how long it took until they were there.
    asked: Instant,
    waited: Duration,
    pace: Pace,
    last_line: Instant,
}

/// How fast the last steps were. It forgets, so that a pause, or a machine that had other work for an hour, soon stops being told of.
/// Validation and checkpoints are not in it.
#[derive(Debug, Default)]
struct Pace {
    images: f64,
    seconds: f64,
    waited_seconds: f64,
}

impl Pace {
    /// Adds a step of `images` images that took `whole`, `waited` of it until they were there.
    fn add(&mut self, images: usize, whole: Duration, waited: Duration) {
        let kept = (-1.0 / REMEMBERED_STEPS).exp();
        self.images = self.images * kept + images as f64;
        self.seconds = self.seconds * kept + whole.as_secs_f64();
        self.waited_seconds = self.waited_seconds * kept + waited.as_secs_f64();
    }

    fn images_per_second(&self) -> f64 {
        self.images / self.seconds
    }

    fn waiting(&self) -> f64 {
        self.waited_seconds / self.seconds
    }
}

impl Progress {
    /// Progress from `step` on, of `epochs` epochs of `steps_per_epoch` updates; forgets metrics of later steps.
    ///
    /// # Errors
    /// Where the log cannot be written.
    pub fn start(log: &Path, step: u64, epochs: u64, steps_per_epoch: u64, batch_size: usize) -> Result<Self, TrainError> {
        forget_after(log, step)?;
        let steps = epochs * steps_per_epoch;
        let bar = ProgressBar::new(steps).with_position(step);
        let style = ProgressStyle::with_template("{msg}\n{wide_bar} step {pos} of {len}, {elapsed_precise} gone, {eta_precise} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.reset_eta();
        let file = OpenOptions::new().create(true).append(true).open(log).map_err(|source| io(log, source))?;
        let now = Instant::now();
        Ok(Self {
            bar,
            log: file,
            log_path: log.to_owned(),
            batch_size,
            steps,
            steps_per_epoch,
            first_step: step,
            asked: now,
            waited: Duration::ZERO,
            pace: Pace::default(),
            last_line: now,
        })
    }

    /// The images of a step, which begins with waiting for them.
    pub fn wait_for<T>(&mut self, images: impl FnOnce() -> T) -> T {
        self.asked = Instant::now();
        let images = images();
        self.waited = self.asked.elapsed();
        images
    }

    /// Reports update number `step`, from 0, made with learning rate `rate`.
    ///
    /// # Errors
    /// Where the log cannot be written.
    pub fn step(&mut self, step: u64, rate: f64, losses: &Losses) -> Result<(), TrainError> {
        let done = step + 1;
        self.pace.add(self.batch_size, self.asked.elapsed(), self.waited);
        let (images_per_second, waiting) = (self.pace.images_per_second(), self.pace.waiting());
        self.bar.set_position(done);
        let memory_bytes = resident_bytes();
        let text = format!(
            "epoch {}, {}, learning rate {rate:.2e}, {images_per_second:.0} images/s{}, {}",
            step / self.steps_per_epoch + 1,
            describe(losses),
            advice(waiting),
            memory_bytes.map_or_else(|| "memory unknown".to_owned(), |bytes| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))),
        );
        if self.bar.is_hidden() && (self.last_line.elapsed() >= LINE_EVERY || step == self.first_step) {
            self.last_line = Instant::now();
            let left = (self.steps - done) as f64 * self.batch_size as f64 / images_per_second / 60.0;
            tell(format!("step {done} of {}: {text}, {left:.0} min left", self.steps));
        }
        self.bar.set_message(text);
        if done.is_multiple_of(LOG_EVERY) {
            self.write(&Metrics::Step {
                step: done,
                epoch: done as f64 / self.steps_per_epoch as f64,
                rate,
                loss_biggest: losses.biggest,
                loss_smallest: losses.smallest,
                loss_child: losses.child,
                loss_random: &losses.random,
                images_per_second,
                waiting,
                memory_bytes,
            })?;
        }
        Ok(())
    }

    /// Reports the end of an epoch.
    ///
    /// # Errors
    /// Where the log cannot be written.
    pub fn epoch(&mut self, step: u64, seconds: f64, accuracy: &Accuracy) -> Result<(), TrainError> {
        let epoch = step / self.steps_per_epoch;
        let parts = [("biggest", accuracy.biggest), ("smallest", accuracy.smallest), ("child", accuracy.child)];
        let percent = listed(parts.map(|(name, share)| (name, share.map(|share| format!("{:.2} %", share * 100.0)))));
        self.say(&format!("epoch {epoch}: {percent} of {} images, {:.0} min", accuracy.images, seconds / 60.0));
        self.write(&Metrics::Epoch { step, epoch, seconds, accuracy })
    }

    /// Prints a line, above the bar where there is one.
    pub fn say(&self, text: &str) {
        if self.bar.is_hidden() {
            tell(text);
        } else {
            self.bar.println(text);
        }
    }

    fn write(&mut self, metrics: &Metrics<'_>) -> Result<(), TrainError> {
        let mut line = serde_json::to_vec(metrics).map_err(|source| TrainError::State { path: self.log_path.clone(), source })?;
        line.push(b'\n');
        self.log.write_all(&line).map_err(|source| io(&self.log_path, source))
    }
}

/// What to do where training waits for images too much of its time.
fn advice(waiting: f64) -> String {
    match waiting > WORTH_SAYING {
        true => format!(" ({:.0} % waiting for images: more --loader-threads)", waiting * 100.0),
        false => String::new(),
    }
}

fn describe(losses: &Losses) -> String {
    let parts = [("biggest", losses.biggest), ("smallest", losses.smallest), ("child", losses.child)];
    if parts.iter().all(|(_, loss)| loss.is_none()) {
        return format!("loss {:.3} of random children", losses.random.iter().sum::<f64>() / losses.random.len().max(1) as f64);
    }
    format!("loss {}", listed(parts.map(|(name, loss)| (name, loss.map(|loss| format!("{loss:.3}"))))))
}

/// The values that there are, each with its name.
fn listed(parts: [(&str, Option<String>); 3]) -> String {
    let parts = parts.into_iter().filter_map(|(name, value)| Some(format!("{} {name}", value?)));
    parts.collect::<Vec<_>>().join(", ")
}

/// The process's resident memory as Linux tells it; elsewhere unknown.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes: u64 = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())?;
    Some(kibibytes * 1024)
}

/// Drops the lines of steps after `step`: a resumed run makes those steps again.
fn forget_after(log: &Path, step: u64) -> Result<(), TrainError> {
    if !log.exists() {
        return Ok(());
    }
    let text = fs::read_to_string(log).map_err(|source| io(log, source))?;
    let of_line = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?.get("step")?.as_u64();
    let kept: String = text.lines().filter(|line| of_line(line).is_some_and(|s| s <= step)).flat_map(|line| [line, "\n"]).collect();
    write_atomically(log, kept.as_bytes()).map_err(|source| io(log, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_of_the_last_steps() {
        let ms = Duration::from_millis;
        let mut pace = Pace::default();
        let mut after = |steps, whole, waited| {
            (0..steps).for_each(|_| pace.add(128, whole, waited));
            (pace.images_per_second().round(), (pace.waiting() * 100.0).round())
        };
        let steps = [
            ("from the first step on", after(1, ms(400), ms(0)), (320.0, 0.0)),
            ("steady", after(5_000, ms(400), ms(100)), (320.0, 25.0)),
            ("a hundred steps later it is the other pace for the greater part", after(100, ms(200), ms(0)), (468.0, 13.0)),
            ("and then it is", after(900, ms(200), ms(0)), (640.0, 0.0)),
        ];
        for (what, told, expected) in steps {
            assert_eq!(told, expected, "{what}");
        }
        pace.add(128, Duration::from_secs(600), ms(0));
        (0..1_000).for_each(|_| pace.add(128, ms(200), ms(0)));
        assert_eq!(pace.images_per_second().round(), 639.0, "a pause is forgotten");
    }
}
