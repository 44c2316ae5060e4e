//! What the two groups published beside their weights: children, accuracies, preprocessing.

use serde::Deserialize;

use super::imagenet;
use crate::checkpoint::{AccuracyKind, AccuracySource, Member};
use crate::image::{Filter, Preprocessing};
use crate::space::{ByStage, Child, ChildError, SearchSpace};

/// Who trained a supernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// AttentiveNAS (Wang et al., 2020).
    AttentiveNas,
    /// AlphaNet (Wang et al., 2021).
    AlphaNet,
}

/// A published child.
#[derive(Debug, Deserialize)]
struct Published {
    /// Its choices.
    #[serde(flatten)]
    child: ByStage,
    /// Top-1 accuracy by AttentiveNAS's weights, in per cent.
    attentivenas: Option<f64>,
    /// Top-1 accuracy by AlphaNet's weights, in per cent.
    alphanet: Option<f64>,
}

/// Images of ImageNet's validation set, on which both groups measured.
const VALIDATION_IMAGES: usize = 50_000;

impl Source {
    /// Its name in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AttentiveNas => "attentivenas",
            Self::AlphaNet => "alphanet",
        }
    }

    /// Where the weights are published.
    #[must_use]
    pub fn address(self) -> &'static str {
        match self {
            Self::AttentiveNas => "https://github.com/facebookresearch/AttentiveNAS",
            Self::AlphaNet => "https://github.com/facebookresearch/AlphaNet",
        }
    }

    /// The licence of the weights.
    #[must_use]
    pub fn licence(self) -> &'static str {
        "CC-BY-NC-4.0"
    }

    /// From a photograph to the crop that children resample from.
    #[must_use]
    pub fn preprocessing(self) -> Preprocessing {
        let filter = match self {
            Self::AttentiveNas => Filter::Bilinear,
            Self::AlphaNet => Filter::Bicubic,
        };
        let (mean, std) = (vec![0.485, 0.456, 0.406], vec![0.229, 0.224, 0.225]);
        Preprocessing { resize: Some(256), filter, crop: 224, mean, std, background: [0; 3] }
    }

    /// The published children, with their accuracies marked as published.
    ///
    /// # Errors
    /// [`ChildError`] for a child outside `space`.
    pub fn members(self, space: &SearchSpace) -> Result<Vec<Member>, ChildError> {
        let listed: Vec<Published> = serde_json::from_str(include_str!("published.json")).expect("part of the program, read by a test");
        let mut members = Vec::new();
        for published in listed {
            let accuracy = match self {
                Self::AttentiveNas => published.attentivenas,
                Self::AlphaNet => published.alphanet,
            };
            let Some(percent) = accuracy else { continue };
            let child = Child::new(space, published.child.try_into()?)?;
            let source = AccuracySource {
                dataset: imagenet::NAME.to_owned(),
                split: "validation".to_owned(),
                images: VALIDATION_IMAGES,
                kind: AccuracyKind::Published,
            };
            // Per cent with two digits, as a fraction with four.
            members.push(Member { child, accuracy: Some((percent * 100.0).round() / 1e4), accuracy_source: Some(source) });
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::space;
    use crate::space::{Plan, layout};

    /// Multiply-adds as the groups' own counter gives them, and accuracies as they published them, in per cent.
    #[test]
    fn the_published_children_cost_what_was_published() {
        type Row = (&'static str, Option<f64>, Option<f64>);
        let table: [Row; 7] = [
            ("203.39", Some(0.773), Some(0.7787)),
            ("279.24", Some(0.784), Some(0.7894)),
            ("316.73", Some(0.788), Some(0.7920)),
            ("356.52", Some(0.791), Some(0.7941)),
            ("443.53", Some(0.798), Some(0.8001)),
            ("490.52", Some(0.801), None),
            ("709.01", Some(0.807), Some(0.8078)),
        ];
        let space = space();
        let found = |source: Source| -> Vec<(String, Option<f64>)> {
            let members = source.members(&space).unwrap();
            let macs = |child| format!("{:.2}", Plan::new(&space, child, imagenet::CLASSES).cost().macs.millions());
            members.iter().map(|member| (macs(&member.child), member.accuracy)).collect()
        };
        let expected = |pick: fn(&Row) -> Option<f64>| -> Vec<(String, Option<f64>)> {
            table.iter().filter(|row| pick(row).is_some()).map(|row| (row.0.to_owned(), pick(row))).collect()
        };
        assert_eq!(found(Source::AttentiveNas), expected(|row| row.1));
        assert_eq!(found(Source::AlphaNet), expected(|row| row.2));
    }

    /// The published checkpoint has 23,934,704 parameters; 30 shortcuts within stages, which no child can use, are among them.
    #[test]
    fn the_layout_is_the_published_checkpoints() {
        let space = space();
        let ours: usize = layout(&space, imagenet::CLASSES).iter().map(|spec| spec.shape.iter().product::<usize>()).sum();
        let widest = |values: &[usize]| values.iter().copied().max().unwrap_or(0);
        let unused: usize = space.stages.iter().map(|stage| (widest(&stage.depth) - 1) * widest(&stage.channels).pow(2)).sum();
        assert_eq!(ours + unused, 23_934_704);
    }
}
