//! The search as pictures: both scatter plots of the paper's Fig. 8, and its Fig. 3's curve for the family.

use std::path::Path;

use crate::plot::{Chart, Mark, PlotError, Series};
use crate::search::{Scored, SearchSettings, parents};
use crate::space::{ChildId, SearchSpace};

/// Writes `coarse`, `fine` and `family`, each as SVG and PNG: the grid's children with those that were mutated, the mutations
/// beside them with the front of all, and the family with its test accuracies.
pub(super) fn write(
    directory: &Path,
    (space, classes, settings): (&SearchSpace, usize, &SearchSettings),
    scored: &[Scored],
    front: &[Scored],
    family: &[Scored],
) -> Result<(), PlotError> {
    let skeletons: Vec<ChildId> = settings.grid.children(space).iter().map(|child| child.id()).collect();
    let (coarse, fine): (Vec<Scored>, Vec<Scored>) = scored.iter().cloned().partition(|scored| skeletons.contains(&scored.child.id()));
    let mut mutated: Vec<&Scored> = parents(space, classes, settings, &coarse).flatten().collect();
    // Neighbouring budgets may have one parent.
    mutated.dedup_by_key(|scored| scored.child.id());
    let chart = |title: &str, series: Vec<Series>| Chart {
        title: title.to_owned(),
        x: "multiply-adds, millions".to_owned(),
        y: "top-1 accuracy, %".to_owned(),
        series,
    };
    let all = vec![series("grid", Mark::Dots, &coarse), series("mutated in the fine phase", Mark::Markers, mutated)];
    chart("Coarse selection", all).write(directory, "coarse")?;
    let all = vec![
        series("grid", Mark::Dots, &coarse),
        series("mutations", Mark::Dots, &fine),
        series("front of the search", Mark::Markers, front),
    ];
    chart("Fine selection", all).write(directory, "fine")?;
    chart("Family, on test images", vec![series("children", Mark::Line, family)]).write(directory, "family")
}

fn series<'s>(name: &str, mark: Mark, scored: impl IntoIterator<Item = &'s Scored>) -> Series {
    let points = scored.into_iter().map(|scored| (scored.macs as f64 / 1e6, 100.0 * scored.score.accuracy)).collect();
    Series { name: name.to_owned(), mark, points }
}
