//! Checks of a search space as a whole, made once when it is read.

use super::{Head, HeadKind, SearchSpace, SpaceError, Stage};

/// Upper bounds on what a file may ask for: far above any published space, and low enough that no product overflows.
const MAX_RESOLUTION: usize = 1024;
const MAX_CHANNELS: usize = 8192;
const MAX_DEPTH: usize = 32;
const MAX_KERNEL: usize = 15;
const MAX_EXPANSION: usize = 16;
const MAX_STAGES: usize = 32;
const MAX_DIVISOR: usize = 64;

impl SearchSpace {
    /// Checks that the space is complete, ordered and within bounds.
    ///
    /// # Errors
    /// [`SpaceError`] names the first field at fault and what is allowed there.
    pub fn validate(&self) -> Result<(), SpaceError> {
        let check = Checker { space: &self.name };
        check.that(!self.name.is_empty(), "name", "must not be empty")?;
        check.that(matches!(self.input_channels, 1 | 3), "input_channels", "must be 1 (grey) or 3 (colour)")?;
        check.choices("resolutions", &self.resolutions, 8, MAX_RESOLUTION)?;
        check.choices("training_resolutions", &self.training_resolutions, 8, MAX_RESOLUTION)?;
        let trained_are_deployable = self.training_resolutions.iter().all(|r| self.resolutions.contains(r));
        check.that(trained_are_deployable, "training_resolutions", "must be a subset of resolutions")?;
        check.that(self.bn_eps > 0.0 && self.bn_eps < 1.0, "bn_eps", "must lie between 0 and 1")?;
        check.within("expansion_divisor", self.expansion_divisor, 1, MAX_DIVISOR)?;
        check.choices("stem.channels", &self.stem.channels, 1, MAX_CHANNELS)?;
        check.kernels("stem.kernel", &[self.stem.kernel])?;
        check.within("stem.stride", self.stem.stride, 1, 2)?;
        check.within("stages (their number)", self.stages.len(), 1, MAX_STAGES)?;
        for (index, stage) in self.stages.iter().enumerate() {
            check.stage(&format!("stages[{index}]"), stage)?;
        }
        check.head(&self.head)
    }
}

struct Checker<'a> {
    space: &'a str,
}

impl Checker<'_> {
    fn that(&self, holds: bool, field: &str, problem: impl Into<String>) -> Result<(), SpaceError> {
        if holds {
            return Ok(());
        }
        Err(SpaceError { space: self.space.to_owned(), field: field.to_owned(), problem: problem.into() })
    }

    fn within(&self, field: &str, value: usize, low: usize, high: usize) -> Result<(), SpaceError> {
        self.that((low..=high).contains(&value), field, format!("is {value}, but must lie in {low}..={high}"))
    }

    fn choices(&self, field: &str, values: &[usize], low: usize, high: usize) -> Result<(), SpaceError> {
        self.that(!values.is_empty(), field, "must list at least one value")?;
        self.that(values.is_sorted_by(|a, b| a < b), field, "must ascend without repeating")?;
        values.iter().try_for_each(|&value| self.within(field, value, low, high))
    }

    fn kernels(&self, field: &str, values: &[usize]) -> Result<(), SpaceError> {
        self.choices(field, values, 1, MAX_KERNEL)?;
        self.that(values.iter().all(|k| k % 2 == 1), field, "must be odd, so that a smaller kernel is the centre of a larger one")
    }

    fn stage(&self, field: &str, stage: &Stage) -> Result<(), SpaceError> {
        self.choices(&format!("{field}.channels"), &stage.channels, 1, MAX_CHANNELS)?;
        self.choices(&format!("{field}.depth"), &stage.depth, 1, MAX_DEPTH)?;
        self.kernels(&format!("{field}.kernel"), &stage.kernel)?;
        self.choices(&format!("{field}.expansion"), &stage.expansion, 1, MAX_EXPANSION)?;
        let mixes_one = stage.expansion.len() > 1 && stage.expansion[0] == 1;
        self.that(!mixes_one, &format!("{field}.expansion"), "mixes 1 (no expansion convolution) with other ratios")?;
        self.within(&format!("{field}.stride"), stage.stride, 1, 2)?;
        let Some(squeeze) = &stage.squeeze_excite else { return Ok(()) };
        let in_range = squeeze.ratio > 0.0 && squeeze.ratio <= 1.0;
        self.that(in_range, &format!("{field}.squeeze_excite.ratio"), "must be above 0 and at most 1")?;
        self.within(&format!("{field}.squeeze_excite.divisor"), squeeze.divisor, 1, MAX_DIVISOR)
    }

    fn head(&self, head: &Head) -> Result<(), SpaceError> {
        self.choices("head.channels", &head.channels, 1, MAX_CHANNELS)?;
        if let HeadKind::FeatureMix { expansion } = head.kind {
            self.within("head.kind.feature_mix.expansion", expansion, 1, MAX_EXPANSION)?;
        }
        self.that((0.0..1.0).contains(&head.dropout), "head.dropout", "must be at least 0 and below 1")
    }
}

#[cfg(test)]
mod tests {
    use crate::space::{SearchSpace, preset};

    #[test]
    fn presets_are_valid() {
        for name in crate::space::PRESETS {
            preset(name).unwrap().validate().unwrap();
        }
    }

    #[test]
    fn faults_name_the_field() {
        type Break = fn(&mut SearchSpace);
        let cases: [(Break, &str); 9] = [
            (|s| s.stages.clear(), "stages (their number) is 0"),
            (|s| s.stages[1].depth = vec![3, 2], "stages[1].depth must ascend"),
            (|s| s.stages[1].kernel = vec![4], "stages[1].kernel must be odd"),
            (|s| s.stages[1].expansion = vec![1, 6], "mixes 1"),
            (|s| s.stages[0].channels = vec![], "stages[0].channels must list"),
            (|s| s.training_resolutions = vec![200], "training_resolutions must be a subset"),
            (|s| s.bn_eps = f64::NAN, "bn_eps"),
            (|s| s.stem.stride = 3, "stem.stride is 3"),
            (|s| s.stem.channels = vec![1 << 40], "stem.channels is"),
        ];
        for (break_it, expected) in cases {
            let mut space = preset("bignas").unwrap();
            break_it(&mut space);
            let message = space.validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} should contain {expected:?}");
        }
    }
}
