//! Batch-norm statistics of children: what recalibration measures and a deployable network needs.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::space::{ChildId, Plan};

/// Mean and variance of every channel of one batch norm, `[c_out]` each.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerStats {
    /// Mean of the batch means.
    pub mean: Vec<f32>,
    /// Mean of the unbiased batch variances.
    pub variance: Vec<f32>,
}

/// The statistics of all batch norms of one child; they belong to that child and no other.
#[derive(Debug, Clone, PartialEq)]
pub struct BnStats {
    child: ChildId,
    images: usize,
    batch: usize,
    layers: BTreeMap<String, LayerStats>,
}

/// Statistics that do not fit the child they are meant for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatisticsError {
    /// They were measured on another child.
    #[error("the statistics are those of child {found}, not of {expected}: recalibrate the child")]
    OtherChild {
        /// The child that they were measured on.
        found: ChildId,
        /// The child that asks for them.
        expected: ChildId,
    },
    /// A layer is missing, or has another number of channels.
    #[error("the statistics of child {child} have no {channels} finite values for {layer}")]
    Layer {
        /// The child.
        child: ChildId,
        /// Name of the layer.
        layer: String,
        /// Channels that its batch norm has.
        channels: usize,
    },
}

impl BnStats {
    /// Takes the `layers` measured on the child of `plan` over `images` images in batches of `batch`.
    ///
    /// # Errors
    /// [`StatisticsError::Layer`] where a batch norm of the plan has no finite statistics, or those of another width.
    pub fn new(plan: &Plan, layers: BTreeMap<String, LayerStats>, images: usize, batch: usize) -> Result<Self, StatisticsError> {
        let stats = Self { child: plan.child.id(), images, batch, layers };
        stats.check(plan)?;
        Ok(stats)
    }

    /// Checks that these are the statistics of the child of `plan`, complete.
    ///
    /// # Errors
    /// [`StatisticsError`] says whose they are, or which layer they lack.
    pub fn check(&self, plan: &Plan) -> Result<(), StatisticsError> {
        if self.child != plan.child.id() {
            return Err(StatisticsError::OtherChild { found: self.child, expected: plan.child.id() });
        }
        let usable = |values: &[f32], channels: usize| values.len() == channels && values.iter().all(|v| v.is_finite());
        for conv in plan.norms() {
            let complete = self.get(&conv.name).is_some_and(|l| usable(&l.mean, conv.c_out) && usable(&l.variance, conv.c_out));
            if !complete {
                return Err(StatisticsError::Layer { child: self.child, layer: conv.name.clone(), channels: conv.c_out });
            }
        }
        Ok(())
    }

    /// The child that they belong to.
    #[must_use]
    pub fn child(&self) -> ChildId {
        self.child
    }

    /// How many images they were measured on.
    #[must_use]
    pub fn images(&self) -> usize {
        self.images
    }

    /// In batches of how many images they were measured.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The statistics of the batch norm after the convolution called `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&LayerStats> {
        self.layers.get(name)
    }

    /// All layers, sorted by name.
    pub fn layers(&self) -> impl Iterator<Item = (&str, &LayerStats)> {
        self.layers.iter().map(|(name, layer)| (name.as_str(), layer))
    }

    /// Lower-case hexadecimal SHA-256 of names and values, to tell statistics apart.
    #[must_use]
    pub fn checksum(&self) -> String {
        let mut hash = Sha256::new();
        for (name, layer) in self.layers() {
            hash.update(name.as_bytes());
            layer.mean.iter().chain(&layer.variance).for_each(|value| hash.update(value.to_le_bytes()));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
