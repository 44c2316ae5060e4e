//! How a run goes on from its checkpoint: with which settings, and when it may not.

use std::path::Path;

use super::TrainError;
use super::state::{Phase, RunState};

impl RunState {
    /// Goes on with the settings and the augmentation of `told`, and remembers the own ones where they differ.
    pub(super) fn adopt(&mut self, told: Self) {
        if (&self.settings, &self.augment) == (&told.settings, &told.augment) {
            return;
        }
        let settings = std::mem::replace(&mut self.settings, told.settings);
        let augment = std::mem::replace(&mut self.augment, told.augment);
        self.history.push(Phase { until_step: self.step, settings, augment });
    }
}

/// Whether a run can go on as `expected`: what the optimiser does and how images are changed may change on the way, but not
/// what is trained, nor the order of the images, and nothing is undone.
pub(super) fn check_goes_on(path: &Path, expected: &RunState, saved: &RunState) -> Result<(), TrainError> {
    // Where a run started from need not be said again.
    if expected.start_sha256.is_some() && expected.start_sha256 != saved.start_sha256 {
        return Err(TrainError::OtherStart { path: path.to_owned() });
    }
    let checks = [
        ("seed", expected.settings.seed == saved.settings.seed),
        ("held-out part (--hold-out)", expected.settings.held_out == saved.settings.held_out),
        ("batch size", expected.settings.batch_size == saved.settings.batch_size),
        ("search space", expected.space == saved.space),
        ("preprocessing", expected.preprocessing == saved.preprocessing),
        // Older states do not say who the teacher is.
        ("teacher (--teacher)", expected.taught == saved.taught && may_be(&expected.teacher_sha256, &saved.teacher_sha256)),
        ("list of classes", expected.classes == saved.classes),
        // A state from before the count was kept says how many steps they make.
        ("number of images", [0, expected.images].contains(&saved.images) && expected.steps_per_epoch == saved.steps_per_epoch),
    ];
    if let Some((what, _)) = checks.iter().find(|(_, same)| !same) {
        return Err(TrainError::Changed { path: path.to_owned(), what });
    }
    let (done, epochs) = (saved.step.div_ceil(saved.steps_per_epoch.max(1)), expected.settings.epochs);
    if done > epochs { Err(TrainError::Past { path: path.to_owned(), done, epochs }) } else { Ok(()) }
}

/// Whether two names may be of the same thing, as far as they are known.
fn may_be(told: &Option<String>, saved: &Option<String>) -> bool {
    told.is_none() || saved.is_none() || told == saved
}
