//! A child as AttentiveNAS and AlphaNet publish it: one choice a stage, in five lists.

use serde::Deserialize;

use super::child::{Choices, StageChoices};
use super::error::ChildError;

/// A published configuration. What else the file says, such as a name, is ignored.
///
/// Source: the evaluation settings that the two groups published with their weights.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ByStage {
    /// Side of the input in pixels.
    pub resolution: usize,
    /// Output channels of the first convolution, of every stage, and width of the classifier's input.
    pub width: Vec<usize>,
    /// Layers of every stage.
    pub depth: Vec<usize>,
    /// Depthwise kernel side of every stage.
    pub kernel_size: Vec<usize>,
    /// Expansion ratio of every stage.
    pub expand_ratio: Vec<usize>,
}

impl TryFrom<ByStage> for Choices {
    type Error = ChildError;

    /// # Errors
    /// [`ChildError::Lists`] where the lists belong to different numbers of stages.
    fn try_from(published: ByStage) -> Result<Self, ChildError> {
        let ByStage { resolution, width, depth, kernel_size, expand_ratio } = published;
        let lists = [("kernel_size", kernel_size.len(), depth.len()), ("expand_ratio", expand_ratio.len(), depth.len())];
        let all = [("width", width.len(), depth.len() + 2)].into_iter().chain(lists);
        for (list, entries, expected) in all {
            if entries != expected {
                return Err(ChildError::Lists { list, entries, stages: depth.len(), expected });
            }
        }
        let stages = depth.iter().zip(&width[1..]).zip(&kernel_size).zip(&expand_ratio);
        let stages = stages.map(|(((&depth, &channels), &kernel), &expansion)| StageChoices::uniform(depth, channels, kernel, expansion));
        Ok(Self { resolution, stem: width[0], stages: stages.collect(), head: width[depth.len() + 1] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::{Child, Plan, preset};

    fn published(resolution: usize, lists: [&[usize]; 4]) -> ByStage {
        let [width, depth, kernel_size, expand_ratio] = lists.map(<[usize]>::to_vec);
        ByStage { resolution, width, depth, kernel_size, expand_ratio }
    }

    const A0: [&[usize]; 4] =
        [&[16, 16, 24, 32, 64, 112, 192, 216, 1792], &[1, 3, 3, 3, 3, 3, 1], &[3, 3, 3, 3, 3, 3, 3], &[1, 4, 4, 4, 4, 6, 6]];

    #[test]
    fn the_smallest_published_child_is_the_smallest_of_the_space() {
        let space = preset("attentivenas").unwrap();
        let child = Child::new(&space, published(192, A0).try_into().unwrap()).unwrap();
        assert_eq!(child, space.smallest());
        let macs = Plan::new(&space, &child, 1000).cost().macs.millions();
        assert_eq!(format!("{macs:.2}"), "203.39");
    }

    #[test]
    fn lists_of_different_lengths_are_refused_by_name() {
        type Break = fn(&mut ByStage);
        let cases: [(Break, &str); 4] = [
            (|p| p.width.truncate(8), "width has 8 entries; 7 stages need 9"),
            (|p| p.kernel_size.push(3), "kernel_size has 8 entries; 7 stages need 7"),
            (|p| p.expand_ratio.clear(), "expand_ratio has 0 entries; 7 stages need 7"),
            (|p| p.depth.clear(), "width has 9 entries; 0 stages need 2"),
        ];
        for (break_it, expected) in cases {
            let mut config = published(192, A0);
            break_it(&mut config);
            assert_eq!(Choices::try_from(config).unwrap_err().to_string(), expected);
        }
    }
}
