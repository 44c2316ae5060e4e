//! Changes of single values, by tables made of an image's histogram.

use crate::image::Patch;

/// What each of the 256 values becomes.
pub(super) type Table = [u8; 256];

/// How many pixels have each value.
type Histogram = [u64; 256];

/// Every value through one function, the same in all channels.
pub(super) fn map(mut patch: Patch, change: impl Fn(u8) -> u8) -> Patch {
    patch.data.iter_mut().for_each(|value| *value = change(*value));
    patch
}

/// Every channel through a table made of its own histogram.
pub(super) fn by_histogram(mut patch: Patch, table_of: impl Fn(&Histogram) -> Table) -> Patch {
    for channel in 0..patch.channels {
        let values = || patch.data.iter().skip(channel).step_by(patch.channels);
        let mut histogram = [0; 256];
        values().for_each(|value| histogram[usize::from(*value)] += 1);
        let table = table_of(&histogram);
        let values = patch.data.iter_mut().skip(channel).step_by(patch.channels);
        values.for_each(|value| *value = table[usize::from(*value)]);
    }
    patch
}

/// Every value as it is.
fn identity() -> Table {
    std::array::from_fn(|value| value as u8)
}

/// Spreads the values so that the darkest becomes 0 and the brightest 255, rounding down.
pub(super) fn spread(histogram: &Histogram) -> Table {
    let used = |count: &u64| *count > 0;
    let (Some(low), Some(high)) = (histogram.iter().position(used), histogram.iter().rposition(used)) else { return identity() };
    if low == high {
        return identity();
    }
    let scale = 255.0 / (high - low) as f64;
    let offset = -(low as f64) * scale;
    std::array::from_fn(|value| (value as f64 * scale + offset) as u8)
}

/// Spreads the values so that about equally many pixels lie below each step; the brightest value does not count. Where
/// that is less than a pixel a step, nothing changes.
pub(super) fn equalise(histogram: &Histogram) -> Table {
    let brightest = histogram.iter().rev().find(|count| **count > 0).copied().unwrap_or(0);
    let step = (histogram.iter().sum::<u64>() - brightest) / 255;
    if step == 0 {
        return identity();
    }
    let mut below = step / 2;
    std::array::from_fn(|value| {
        let level = (below / step).min(255) as u8;
        below += histogram[value];
        level
    })
}
