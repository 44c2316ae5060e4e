//! How far a long command has come: a bar for a person at a terminal, a line now and then for a log.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::common::progress_bar;
use crate::console::tell;

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Progress of work whose extent may show on the way, such as the phases of a search.
pub(super) struct Progress {
    bar: ProgressBar,
    what: &'static str,
    /// When the current extent began, and what was done by then: that took no time here.
    began: Option<(Instant, usize)>,
    done: usize,
    total: usize,
    last_line: Instant,
}

impl Progress {
    pub(super) fn new(what: &'static str) -> Self {
        Self { bar: progress_bar(0, what), what, began: None, done: 0, total: 0, last_line: Instant::now() }
    }

    /// `done` of `total` is done. Another total, or less than before, begins anew.
    pub(super) fn at(&mut self, done: usize, total: usize) {
        let begins = total != self.total || done < self.done;
        (self.done, self.total) = (done, total);
        let (began, before) = *self.began.insert(self.began.filter(|_| !begins).unwrap_or((Instant::now(), done)));
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
        if begins {
            self.bar.reset_eta();
        }
        if self.bar.is_hidden() && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let left = minutes_left(began.elapsed(), done - before, total - done);
            tell(format!("{}: {done} of {total}{left}", self.what));
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// What is left at the pace so far, nothing where there is no pace yet.
fn minutes_left(elapsed: Duration, done: usize, left: usize) -> String {
    match done {
        0 => String::new(),
        done => format!(", {:.1} min left", elapsed.as_secs_f64() / done as f64 * left as f64 / 60.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_follows_from_what_was_done_here() {
        let cases = [(60, 0, 10, ""), (60, 10, 20, ", 2.0 min left"), (90, 30, 0, ", 0.0 min left")];
        for (seconds, done, left, expected) in cases {
            assert_eq!(minutes_left(Duration::from_secs(seconds), done, left), expected);
        }
    }

    #[test]
    fn another_phase_begins_anew() {
        let mut progress = Progress::new("testing");
        for (done, total, before) in [(3, 10, 3), (4, 10, 3), (1, 10, 1), (9, 10, 1), (0, 5, 0), (5, 5, 0)] {
            progress.at(done, total);
            assert_eq!(progress.began.map(|(_, before)| before), Some(before), "{done} of {total}");
        }
        progress.finish();
    }
}
