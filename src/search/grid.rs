//! The coarse grid: a few settings of resolution, depth, width and kernel for the whole network (paper, 4.4).

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::space::{Child, Choices, SearchSpace, Stage, StageChoices};

/// The settings that the coarse phase combines, each with each.
///
/// A multiplier is a fraction of the way from the least to the most that the space allows: 0 chooses the least, 1 the most.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// Resolutions in pixels.
    pub resolutions: Vec<usize>,
    /// Multipliers of every stage's depth.
    pub depth: Vec<f64>,
    /// Multipliers of all channels and expansions.
    pub width: Vec<f64>,
    /// Fractions of the stages with a choice of kernels, from the last backwards, that take the largest; the others take the
    /// smallest.
    pub kernel: Vec<f64>,
}

/// A grid that makes no sense of a search space.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum GridError {
    /// Nothing to combine.
    #[error("the grid has no {0}: name at least one")]
    Empty(&'static str),
    /// A resolution that no child has.
    #[error("the grid's resolution {resolution} is not in the search space {allowed:?}")]
    Resolution {
        /// What the grid says, in pixels.
        resolution: usize,
        /// What there is.
        allowed: Vec<usize>,
    },
    /// A multiplier that is no share of the way.
    #[error("the grid's {name} multiplier {value} is not from 0, the least that the search space allows, to 1, the most")]
    Multiplier {
        /// Which one.
        name: &'static str,
        /// What the grid says.
        value: f64,
    },
}

impl Grid {
    /// Whether all of it can be combined in `space`.
    ///
    /// # Errors
    /// [`GridError`] names the first value that cannot be.
    pub fn check(&self, space: &SearchSpace) -> Result<(), GridError> {
        if self.resolutions.is_empty() {
            return Err(GridError::Empty("resolutions"));
        }
        if let Some(&resolution) = self.resolutions.iter().find(|resolution| !space.resolutions.contains(resolution)) {
            return Err(GridError::Resolution { resolution, allowed: space.resolutions.clone() });
        }
        for (name, values) in [("depth", &self.depth), ("width", &self.width), ("kernel", &self.kernel)] {
            if values.is_empty() {
                return Err(GridError::Empty(name));
            }
            if let Some(&value) = values.iter().find(|value| !(0.0..=1.0).contains(*value)) {
                return Err(GridError::Multiplier { name, value });
            }
        }
        Ok(())
    }

    /// The paper's grid for `space`: up to five resolutions, four depths, two widths, four kernel configurations. Resolutions are those of
    /// training, at which children are at their best, and what lies furthest from them and from each other, no higher than training
    /// went: for the paper's space, 192, 224, 256, 288 and 320.
    #[must_use]
    pub fn of(space: &SearchSpace) -> Self {
        let thirds = vec![0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0];
        Self { resolutions: resolutions(space), depth: thirds.clone(), width: vec![0.0, 1.0], kernel: thirds }
    }

    /// Every child of the grid that `space` allows, without repetition, in a fixed order.
    #[must_use]
    pub fn children(&self, space: &SearchSpace) -> Vec<Child> {
        let mut children: Vec<Child> = Vec::new();
        for &resolution in &self.resolutions {
            for &depth in &self.depth {
                for &width in &self.width {
                    for &kernel in &self.kernel {
                        // A resolution that the grid asks for and the space lacks makes no child.
                        let Ok(child) = Child::new(space, skeleton(space, resolution, depth, width, kernel)) else { continue };
                        if children.iter().all(|other| other.id() != child.id()) {
                            children.push(child);
                        }
                    }
                }
            }
        }
        children
    }
}

/// How many resolutions the paper's grid has.
const RESOLUTIONS: usize = 5;

/// Some of training's where there are more than the grid takes; else those, and while there is room whichever is furthest from them all.
fn resolutions(space: &SearchSpace) -> Vec<usize> {
    let trained = &space.training_resolutions;
    let count = trained.len().min(RESOLUTIONS);
    let mut taken: Vec<usize> = (0..count).map(|i| at(trained, i as f64 / (count - 1).max(1) as f64)).collect();
    let most = taken.last().copied().unwrap_or_default();
    while taken.len() < RESOLUTIONS {
        let distance = |resolution: &usize| taken.iter().map(|other| other.abs_diff(*resolution)).min();
        let between = space.resolutions.iter().copied().filter(|resolution| *resolution < most && !taken.contains(resolution));
        let Some(furthest) = between.max_by_key(distance) else { break };
        taken.push(furthest);
        taken.sort_unstable();
    }
    taken
}

fn skeleton(space: &SearchSpace, resolution: usize, depth: f64, width: f64, kernel: f64) -> Choices {
    // A stage without a choice of kernels would make two fractions the same network.
    let choosing: Vec<usize> = (0..space.stages.len()).filter(|&index| space.stages[index].kernel.len() > 1).collect();
    let large = (kernel * choosing.len() as f64).round() as usize;
    let first_large = choosing.get(choosing.len().saturating_sub(large)).copied().unwrap_or(space.stages.len());
    let stage = |(index, stage): (usize, &Stage)| {
        let kernel = at(&stage.kernel, if index >= first_large { 1.0 } else { 0.0 });
        StageChoices::uniform(at(&stage.depth, depth), at(&stage.channels, width), kernel, at(&stage.expansion, width))
    };
    Choices {
        resolution,
        stem: at(&space.stem.channels, width),
        stages: space.stages.iter().enumerate().map(stage).collect(),
        head: at(&space.head.channels, width),
    }
}

/// The value a fraction of the way through `values`.
fn at(values: &[usize], fraction: f64) -> usize {
    let last = values.len() - 1;
    values[((fraction * last as f64).round() as usize).min(last)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::preset;

    #[test]
    fn the_papers_grid_has_160_children_with_the_extremes_among_them() {
        let space = preset("bignas").unwrap();
        let grid = Grid::of(&space);
        assert_eq!(grid.resolutions, [192, 224, 256, 288, 320]);
        let children = grid.children(&space);
        assert_eq!(children.len(), 5 * 4 * 2 * 4);
        for extreme in [space.smallest(), space.biggest()] {
            assert!(children.iter().any(|child| child.id() == extreme.id()));
        }
    }

    #[test]
    fn the_grid_has_the_resolutions_of_training_and_the_furthest_from_them() {
        for (trained, all, expected) in [
            (&[192, 224, 288, 320][..], &[192, 208, 224, 240, 256, 272, 288, 304, 320, 336][..], &[192, 224, 256, 288, 320][..]),
            (&[192, 224, 256, 288], &[192, 208, 224, 240, 256, 272, 288], &[192, 224, 256, 272, 288]),
            (&[20, 24, 28, 32], &[20, 22, 24, 26, 28, 30, 32], &[20, 24, 28, 30, 32]),
            (&[24, 28, 32], &[24, 26, 28, 30, 32], &[24, 26, 28, 30, 32]),
            (&[20, 32], &[20, 24, 32], &[20, 24, 32]),
            (&[24], &[20, 24, 28], &[20, 24]),
            (&[10, 12, 14, 16, 18, 20, 22], &[10, 12, 14, 16, 18, 20, 22], &[10, 14, 16, 20, 22]),
        ] {
            let space = SearchSpace { training_resolutions: trained.into(), resolutions: all.into(), ..preset("fashion-mnist").unwrap() };
            assert_eq!(Grid::of(&space).resolutions, expected, "{trained:?} of {all:?}");
        }
    }

    #[test]
    fn what_cannot_be_combined_is_named() {
        let space = preset("fashion-mnist").unwrap();
        type Change = fn(&mut Grid);
        let cases: [(Change, &str); 6] = [
            (|grid| grid.resolutions.clear(), "the grid has no resolutions: name at least one"),
            (|grid| grid.resolutions.push(21), "the grid's resolution 21 is not in the search space [20, 22, 24, 26, 28, 30, 32]"),
            (|grid| grid.depth.clear(), "the grid has no depth: name at least one"),
            (|grid| grid.depth.push(1.2), "the grid's depth multiplier 1.2 is not from 0"),
            (|grid| grid.width[0] = -0.5, "the grid's width multiplier -0.5 is not from 0"),
            (|grid| grid.kernel.push(f64::NAN), "the grid's kernel multiplier NaN is not from 0"),
        ];
        assert_eq!(Grid::of(&space).check(&space), Ok(()));
        for (change, expected) in cases {
            let mut grid = Grid::of(&space);
            change(&mut grid);
            let message = grid.check(&space).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn what_the_space_lacks_is_left_out() {
        let space = preset("fashion-mnist").unwrap();
        let mut grid = Grid::of(&space);
        grid.resolutions = vec![20, 21];
        assert!(grid.children(&space).iter().all(|child| child.resolution() == 20));
    }
}
