//! A child: one point of a search space, checked when it is made and immutable afterwards.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::{Allowed, ChildError};
use super::{Granularity, SearchSpace, Stage};

/// The choices of a child as they are written in files and on the wire; may or may not lie inside a space.
///
/// A per-layer choice is written as a list, or as one number that holds for every layer of the stage.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choices {
    /// Side of the input in pixels.
    pub resolution: usize,
    /// Output channels of the first convolution.
    pub stem: usize,
    /// One entry a stage.
    pub stages: Vec<StageChoices>,
    /// Width of the classifier's input.
    pub head: usize,
}

/// The choices of one stage; every list has one entry a layer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "WrittenStage")]
pub struct StageChoices {
    /// Number of layers.
    pub depth: usize,
    /// Output channels.
    pub channels: Vec<usize>,
    /// Depthwise kernel sides.
    pub kernel: Vec<usize>,
    /// Expansion ratios.
    pub expansion: Vec<usize>,
}

impl StageChoices {
    /// A stage whose `depth` layers all make the same choice.
    #[must_use]
    pub fn uniform(depth: usize, channels: usize, kernel: usize, expansion: usize) -> Self {
        let for_layers = |value: usize| OneOrMany::One(value).for_layers(depth);
        Self { depth, channels: for_layers(channels), kernel: for_layers(kernel), expansion: for_layers(expansion) }
    }
}

/// A stage as people write it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStage {
    depth: usize,
    channels: OneOrMany,
    kernel: OneOrMany,
    expansion: OneOrMany,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(usize),
    Many(Vec<usize>),
}

/// A single number is repeated at most this often, so that an absurd depth costs no memory before it is refused.
const MAX_REPEAT: usize = 64;

impl OneOrMany {
    fn for_layers(self, depth: usize) -> Vec<usize> {
        match self {
            Self::One(value) => vec![value; depth.min(MAX_REPEAT)],
            Self::Many(values) => values,
        }
    }
}

impl From<WrittenStage> for StageChoices {
    fn from(stage: WrittenStage) -> Self {
        let depth = stage.depth;
        Self {
            depth,
            channels: stage.channels.for_layers(depth),
            kernel: stage.kernel.for_layers(depth),
            expansion: stage.expansion.for_layers(depth),
        }
    }
}

/// A network inside a single-stage model. Every `Child` alive lies inside the space that it was made with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Child {
    id: ChildId,
    choices: Choices,
}

impl Child {
    /// Checks `choices` against `space`.
    ///
    /// # Errors
    /// [`ChildError`] names the stage and layer, what was asked and what is allowed.
    pub fn new(space: &SearchSpace, choices: Choices) -> Result<Self, ChildError> {
        inside("network", "resolution", choices.resolution, &space.resolutions)?;
        inside("stem", "channels", choices.stem, &space.stem.channels)?;
        if choices.stages.len() != space.stages.len() {
            return Err(ChildError::Stages { asked: choices.stages.len(), expected: space.stages.len() });
        }
        for (index, (stage, allowed)) in choices.stages.iter().zip(&space.stages).enumerate() {
            check_stage(index + 1, stage, allowed)?;
        }
        inside("head", "channels", choices.head, &space.head.channels)?;
        Ok(Self { id: ChildId::of(&choices), choices })
    }

    /// Name derived from the choices: equal choices, equal id.
    #[must_use]
    pub fn id(&self) -> ChildId {
        self.id
    }

    /// The choices in canonical form, lists with one entry a layer.
    #[must_use]
    pub fn choices(&self) -> &Choices {
        &self.choices
    }

    /// Side of the input in pixels.
    #[must_use]
    pub fn resolution(&self) -> usize {
        self.choices.resolution
    }
}

fn inside(place: &str, choice: &'static str, asked: usize, allowed: &[usize]) -> Result<(), ChildError> {
    if allowed.contains(&asked) {
        return Ok(());
    }
    Err(ChildError::Outside { place: place.to_owned(), choice, asked, allowed: Allowed(allowed.to_vec()) })
}

fn check_stage(stage: usize, asked: &StageChoices, allowed: &Stage) -> Result<(), ChildError> {
    inside(&format!("stage {stage}"), "depth", asked.depth, &allowed.depth)?;
    let lists = [
        ("channels", &asked.channels, &allowed.channels),
        ("kernel", &asked.kernel, &allowed.kernel),
        ("expansion", &asked.expansion, &allowed.expansion),
    ];
    for (choice, values, allowed_values) in lists {
        if values.len() != asked.depth {
            return Err(ChildError::Layers { stage, choice, listed: values.len(), depth: asked.depth });
        }
        for (layer, &value) in values.iter().enumerate() {
            inside(&format!("stage {stage}, layer {}", layer + 1), choice, value, allowed_values)?;
        }
        let differs = values.iter().position(|value| *value != values[0]);
        if let (Granularity::Stage, Some(layer)) = (allowed.granularity, differs) {
            return Err(ChildError::Uneven { stage, choice, layer: layer + 1 });
        }
    }
    Ok(())
}

/// 16 hexadecimal digits of the SHA-256 of a child's canonical choices.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildId(u64);

impl ChildId {
    fn of(choices: &Choices) -> Self {
        let mut hash = Sha256::new();
        let mut number = |value: usize| hash.update((value as u64).to_le_bytes());
        number(choices.resolution);
        number(choices.stem);
        number(choices.stages.len());
        for stage in &choices.stages {
            number(stage.depth);
            for list in [&stage.channels, &stage.kernel, &stage.expansion] {
                list.iter().for_each(|&value| number(value));
            }
        }
        number(choices.head);
        let digest = hash.finalize();
        Self(digest.iter().take(8).fold(0, |id, &byte| id << 8 | u64::from(byte)))
    }
}

impl fmt::Display for ChildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ChildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not 16 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a child id is 16 hexadecimal digits in lower case, as `GET /children` lists them")]
pub struct ParseChildIdError;

impl FromStr for ChildId {
    type Err = ParseChildIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let canonical = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !canonical {
            return Err(ParseChildIdError);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| ParseChildIdError)
    }
}

impl Serialize for ChildId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ChildId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::preset;

    #[test]
    fn what_lies_outside_is_refused_by_place_question_and_answer() {
        type Break = fn(&mut Choices);
        let cases: [(Break, &str); 8] = [
            (|c| c.resolution = 200, "network: resolution 200 is not in the search space (192, 208,"),
            (|c| c.stages[2] = StageChoices::uniform(5, 40, 3, 6), "stage 3: depth 5 is not in the search space (2, 3)"),
            (|c| c.stages[2].kernel[1] = 7, "stage 3, layer 2: kernel 7 is not in the search space (3, 5)"),
            (|c| c.stages[0].channels[0] = 20, "stage 1, layer 1: channels 20 is not in the search space (16, 24)"),
            (|c| c.stages[1].expansion.push(6), "stage 2: expansion lists 3 layers, but the depth is 2"),
            (|c| c.stages.truncate(6), "the child has 6 stages, the search space has 7"),
            (|c| c.stem = 0, "stem: channels 0 is not in the search space (32, 40)"),
            (|c| c.head = 1, "head: channels 1 is not in the search space (1280,"),
        ];
        let space = preset("bignas").unwrap();
        for (break_it, expected) in cases {
            let mut choices = space.smallest().choices().clone();
            break_it(&mut choices);
            let message = Child::new(&space, choices).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message:?} should start with {expected:?}");
        }
    }

    #[test]
    fn a_stage_that_chooses_once_refuses_uneven_layers() {
        let mut space = preset("bignas").unwrap();
        space.stages[3].granularity = Granularity::Stage;
        let mut choices = space.smallest().choices().clone();
        choices.stages[3].kernel[1] = 5;
        let message = Child::new(&space, choices).unwrap_err().to_string();
        assert_eq!(message, "stage 4: kernel must be the same in every layer of this stage, but layer 2 differs from layer 1");
    }

    #[test]
    fn one_number_stands_for_every_layer_and_gives_the_same_id() {
        let space = preset("bignas").unwrap();
        let smallest = space.smallest();
        let mut written = serde_json::to_value(smallest.choices()).unwrap();
        for stage in written["stages"].as_array_mut().unwrap() {
            for list in ["channels", "kernel", "expansion"] {
                stage[list] = stage[list][0].clone();
            }
        }
        let read = Child::new(&space, serde_json::from_value(written).unwrap()).unwrap();
        assert_eq!(read, smallest);
        assert_eq!(read.id().to_string().parse::<ChildId>().unwrap(), smallest.id());
    }

    #[test]
    fn an_absurd_depth_is_refused_without_taking_memory() {
        let text = r#"{"depth": 18446744073709551615, "channels": 16, "kernel": 3, "expansion": 1}"#;
        let stage: StageChoices = serde_json::from_str(text).unwrap();
        assert!(stage.channels.len() <= MAX_REPEAT);
    }

    #[test]
    fn ids_are_canonical_text() {
        for text in ["", "0123", "0123456789ABCDEF", "+123456789abcdef", "0123456789abcdef0"] {
            assert!(text.parse::<ChildId>().is_err(), "{text:?} is not an id");
        }
    }
}
