//! The search as pictures: both scatter plots of the paper's Fig. 8, and its Fig. 3's curve for the family.

use std::path::Path;

use crate::plot::{Chart, Mark, PlotError, Series};
use crate::search::{Grid, Scored};
use crate::space::{ChildId, SearchSpace};

/// Writes `coarse`, `fine` and `family`, each as SVG and PNG: the grid's children with those that were mutated, the mutations
/// beside them, and the family with its test accuracies.
pub(super) fn write(
    directory: &Path,
    (space, grid): (&SearchSpace, &Grid),
    scored: &[Scored],
    front: &[Scored],
    family: &[Scored],
) -> Result<(), PlotError> {
    let skeletons: Vec<ChildId> = grid.children(space).iter().map(|child| child.id()).collect();
    let (coarse, fine): (Vec<&Scored>, Vec<&Scored>) = scored.iter().partition(|scored| skeletons.contains(&scored.child.id()));
    let on_front: Vec<&Scored> = front.iter().collect();
    let chart = |title: &str, series: Vec<Series>| Chart {
        title: title.to_owned(),
        x: "multiply-adds, millions".to_owned(),
        y: "top-1 accuracy, %".to_owned(),
        series,
    };
    let all = vec![series("grid", Mark::Dots, &coarse), series("front of the search", Mark::Markers, &on_front)];
    chart("Coarse selection", all).write(directory, "coarse")?;
    let all = vec![
        series("grid", Mark::Dots, &coarse),
        series("mutations", Mark::Dots, &fine),
        series("front of the search", Mark::Markers, &on_front),
    ];
    chart("Fine selection", all).write(directory, "fine")?;
    let family: Vec<&Scored> = family.iter().collect();
    chart("Family, on test images", vec![series("children", Mark::Line, &family)]).write(directory, "family")
}

fn series(name: &str, mark: Mark, scored: &[&Scored]) -> Series {
    let points = scored.iter().map(|scored| (scored.macs as f64 / 1e6, 100.0 * scored.score.accuracy)).collect();
    Series { name: name.to_owned(), mark, points }
}
