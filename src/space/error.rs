//! What can be wrong with a search space, and with a child of one.

use std::fmt;

use thiserror::Error;

/// A search-space file that describes no usable space.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("search space {space:?}: {field} {problem}")]
pub struct SpaceError {
    /// Name of the space.
    pub space: String,
    /// The field at fault, such as `stages[2].depth`.
    pub field: String,
    /// What is wrong with it, and what is allowed.
    pub problem: String,
}

/// Choices that are not a child of the space they were checked against.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChildError {
    /// One choice is outside the space.
    #[error("{place}: {choice} {asked} is not in the search space {allowed}")]
    Outside {
        /// The network, stage or layer, such as `stage 3, layer 2`. Stages and layers are counted from 1.
        place: String,
        /// What was chosen, such as `depth`.
        choice: &'static str,
        /// The value asked for.
        asked: usize,
        /// The values allowed.
        allowed: Allowed,
    },
    /// The child has another number of stages than the space.
    #[error("the child has {asked} stages, the search space has {expected}")]
    Stages {
        /// Stages in the child.
        asked: usize,
        /// Stages in the space.
        expected: usize,
    },
    /// A per-layer list has another length than the stage's depth.
    #[error("stage {stage}: {choice} lists {listed} layers, but the depth is {depth}")]
    Layers {
        /// Stage, counted from 1.
        stage: usize,
        /// What was listed, such as `kernel`.
        choice: &'static str,
        /// Entries in the list.
        listed: usize,
        /// The stage's depth.
        depth: usize,
    },
    /// The lists of a published configuration belong to different numbers of stages.
    #[error("{list} has {entries} entries; {stages} stages need {expected}")]
    Lists {
        /// Name of the list, such as `width`.
        list: &'static str,
        /// Its entries.
        entries: usize,
        /// Entries of `depth`.
        stages: usize,
        /// Entries that the list needs.
        expected: usize,
    },
    /// The space chooses once for the whole stage, but the child's layers differ.
    #[error("stage {stage}: {choice} must be the same in every layer of this stage, but layer {layer} differs from layer 1")]
    Uneven {
        /// Stage, counted from 1.
        stage: usize,
        /// What differs, such as `kernel`.
        choice: &'static str,
        /// The first layer that differs, counted from 1.
        layer: usize,
    },
}

/// The values that a choice may take; displays as `(2, 3)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed(pub Vec<usize>);

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values: Vec<String> = self.0.iter().map(usize::to_string).collect();
        write!(f, "({})", values.join(", "))
    }
}
