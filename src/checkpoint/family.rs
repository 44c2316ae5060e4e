//! The family: the searched children of a model, with what they cost and how well they do.

use serde::{Deserialize, Serialize};

use crate::space::{Child, ChildError, ChildId, Choices, Plan, SearchSpace};

/// `family.json`, as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FamilyFile {
    children: Vec<WrittenMember>,
    /// How the family came about; free-form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    search: Option<serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenMember {
    id: ChildId,
    macs: u64,
    params: u64,
    accuracy: Option<f64>,
    accuracy_source: Option<AccuracySource>,
    choices: Choices,
}

/// The searched children of a model, cheapest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Family {
    /// The members, ascending by multiply-adds.
    pub members: Vec<Member>,
    /// How the family came about: budgets, grids, images, seed.
    pub search: Option<serde_json::Value>,
}

/// A child with what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// The child.
    pub child: Child,
    /// Top-1 accuracy as a fraction; unknown for a child that nobody evaluated.
    pub accuracy: Option<f64>,
    /// What the accuracy was measured on.
    pub accuracy_source: Option<AccuracySource>,
}

/// Where an accuracy comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccuracySource {
    /// Name of the data set.
    pub dataset: String,
    /// Its part, such as `test`.
    pub split: String,
    /// How many images.
    pub images: usize,
    /// Whether it was measured with these weights, or is what their authors published.
    pub kind: AccuracyKind,
}

/// Whether an accuracy was measured or is quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccuracyKind {
    /// Measured with this program on these weights.
    Measured,
    /// Published by the authors of the weights.
    Published,
}

/// A member of the family that is not what it says.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FamilyError {
    /// The choices are outside the search space.
    #[error("child {id} is outside the search space")]
    Outside {
        /// The id as written.
        id: ChildId,
        /// What is outside.
        source: ChildError,
    },
    /// Something written down is not what follows from the choices.
    #[error("child {id}: {field} says {written}, but its choices give {computed}")]
    Differs {
        /// The id as written.
        id: ChildId,
        /// The field, such as `macs`.
        field: &'static str,
        /// What is written.
        written: String,
        /// What the choices give.
        computed: String,
    },
    /// An accuracy that is no fraction, or has no source.
    #[error("child {id}: an accuracy lies between 0 and 1 and names its accuracy_source")]
    Accuracy {
        /// The id as written.
        id: ChildId,
    },
    /// The same child twice.
    #[error("child {id} is listed twice")]
    Twice {
        /// The id.
        id: ChildId,
    },
}

impl Family {
    /// Sorts `members` by cost, as they are listed everywhere.
    #[must_use]
    pub fn new(space: &SearchSpace, classes: usize, mut members: Vec<Member>, search: Option<serde_json::Value>) -> Self {
        members.sort_by_cached_key(|m| (Plan::new(space, &m.child, classes).cost().macs.total(), m.child.id()));
        Self { members, search }
    }

    pub(super) fn from_file(space: &SearchSpace, classes: usize, file: FamilyFile) -> Result<Self, FamilyError> {
        let mut members: Vec<Member> = Vec::new();
        for written in file.children {
            let member = check(space, classes, written)?;
            if members.iter().any(|m| m.child.id() == member.child.id()) {
                return Err(FamilyError::Twice { id: member.child.id() });
            }
            members.push(member);
        }
        Ok(Self::new(space, classes, members, file.search))
    }

    pub(super) fn to_file(&self, space: &SearchSpace, classes: usize) -> FamilyFile {
        let write = |member: &Member| {
            let cost = Plan::new(space, &member.child, classes).cost();
            WrittenMember {
                id: member.child.id(),
                macs: cost.macs.total(),
                params: cost.params.total(),
                accuracy: member.accuracy,
                accuracy_source: member.accuracy_source.clone(),
                choices: member.child.choices().clone(),
            }
        };
        FamilyFile { children: self.members.iter().map(write).collect(), search: self.search.clone() }
    }
}

fn check(space: &SearchSpace, classes: usize, written: WrittenMember) -> Result<Member, FamilyError> {
    let id = written.id;
    let child = Child::new(space, written.choices).map_err(|source| FamilyError::Outside { id, source })?;
    let cost = Plan::new(space, &child, classes).cost();
    let facts = [
        ("id", id.to_string(), child.id().to_string()),
        ("macs", written.macs.to_string(), cost.macs.total().to_string()),
        ("params", written.params.to_string(), cost.params.total().to_string()),
    ];
    for (field, written, computed) in facts {
        if written != computed {
            return Err(FamilyError::Differs { id, field, written, computed });
        }
    }
    let plausible = written.accuracy.is_none_or(|a| (0.0..=1.0).contains(&a) && written.accuracy_source.is_some());
    if !plausible {
        return Err(FamilyError::Accuracy { id });
    }
    Ok(Member { child, accuracy: written.accuracy, accuracy_source: written.accuracy_source })
}
