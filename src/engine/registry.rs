//! The children that a server knows: the model's family, and those that clients added.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::types::{AddError, RemoveError};
use crate::checkpoint::{AccuracySource, Model};
use crate::files::write_atomically;
use crate::space::{Child, ChildId, Choices, Cost, Plan, SearchSpace};

/// A known child.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) child: Arc<Child>,
    pub(super) cost: Cost,
    pub(super) accuracy: Option<f64>,
    pub(super) accuracy_source: Option<Arc<AccuracySource>>,
    pub(super) added: bool,
    /// Whether it was built and measured once, as all are that are remembered; not where a client is adding it.
    pub(super) settled: bool,
}

impl Known {
    /// Bytes of the child's graph, before there is one: hardly more than its weights.
    pub(super) fn graph_bytes(&self) -> u64 {
        4 * self.cost.params.total()
    }
}

/// All known children, cheapest first. Added ones survive a restart where the disk allows it.
#[derive(Debug)]
pub(super) struct Registry {
    known: RwLock<Vec<Known>>,
    file: PathBuf,
    /// Held while the file is written, so that a newer list is not replaced by an older one.
    saving: Mutex<()>,
    space: SearchSpace,
    classes: usize,
    max_added: usize,
}

impl Registry {
    /// The family of `model`, and what clients added before, which lies in `directory`.
    pub(super) fn open(model: &Model, directory: &Path, max_added: usize) -> Self {
        let family = model.family.members.iter().map(|member| {
            let source = member.accuracy_source.clone().map(Arc::new);
            known(model, member.child.clone(), member.accuracy, source, false)
        });
        let file = directory.join(format!("{}.json", model.card.weights_sha256));
        let registry = Self {
            known: RwLock::new(family.collect()),
            file,
            saving: Mutex::default(),
            space: model.card.space.clone(),
            classes: model.card.labels.len(),
            max_added,
        };
        for choices in read(&registry.file) {
            if let Err(error) = registry.check(choices).and_then(|child| registry.insert(child, true)) {
                tracing::warn!(%error, "a child added before cannot be kept");
            }
        }
        registry
    }

    /// Checks choices against the space.
    pub(super) fn check(&self, choices: Choices) -> Result<Child, AddError> {
        Ok(Child::new(&self.space, choices)?)
    }

    /// Adds a child; one that is known already is left as it is. Returns whether it is new.
    pub(super) fn insert(&self, child: Child, settled: bool) -> Result<bool, AddError> {
        let mut all = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if all.iter().any(|known| known.child.id() == child.id()) {
            return Ok(false);
        }
        if all.iter().filter(|known| known.added).count() >= self.max_added {
            return Err(AddError::Full { limit: self.max_added });
        }
        let cost = Plan::new(&self.space, &child, self.classes).cost();
        let at = all.partition_point(|known| known.cost.macs.total() <= cost.macs.total());
        all.insert(at, Known { child: Arc::new(child), cost, accuracy: None, accuracy_source: None, added: true, settled });
        Ok(true)
    }

    /// A child that was added is there to stay.
    pub(super) fn settle(&self, id: ChildId) {
        let mut all = self.known.write().unwrap_or_else(PoisonError::into_inner);
        all.iter_mut().filter(|known| known.child.id() == id).for_each(|known| known.settled = true);
    }

    /// Removes an added child.
    pub(super) fn remove(&self, id: ChildId) -> Result<(), RemoveError> {
        let mut all = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let at = all.iter().position(|known| known.child.id() == id).ok_or(RemoveError::Unknown(id))?;
        if !all[at].added {
            return Err(RemoveError::Family(id));
        }
        all.remove(at);
        Ok(())
    }

    /// All known children, cheapest first.
    pub(super) fn all(&self) -> Vec<Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The child called `id`.
    pub(super) fn get(&self, id: ChildId) -> Option<Known> {
        let all = self.known.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|known| known.child.id() == id).cloned()
    }

    /// Writes the added children to disk; where that fails, they are forgotten at the next start.
    pub(super) fn save(&self) {
        let _in_order = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let added: Vec<Choices> =
            self.all().iter().filter(|known| known.added && known.settled).map(|known| known.child.choices().clone()).collect();
        let directory = self.file.parent().unwrap_or(Path::new("."));
        let written = std::fs::create_dir_all(directory)
            .and_then(|()| Ok(serde_json::to_vec_pretty(&added)?))
            .and_then(|bytes| write_atomically(&self.file, &bytes));
        if let Err(error) = written {
            tracing::warn!(file = %self.file.display(), %error, "added children cannot be kept beyond this process");
        }
    }
}

/// The choices of the children in a file of added ones; none where there is no such file, or it cannot be read, which is said.
fn read(file: &Path) -> Vec<Choices> {
    let read = match std::fs::read(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        read => read.and_then(|bytes| Ok(serde_json::from_slice(&bytes)?)),
    };
    read.unwrap_or_else(|error| {
        tracing::warn!(file = %file.display(), %error, "the children added before cannot be read; the next change to them replaces the file");
        Vec::new()
    })
}

fn known(model: &Model, child: Child, accuracy: Option<f64>, accuracy_source: Option<Arc<AccuracySource>>, added: bool) -> Known {
    let cost = Plan::new(&model.card.space, &child, model.card.labels.len()).cost();
    Known { child: Arc::new(child), cost, accuracy, accuracy_source, added, settled: true }
}
