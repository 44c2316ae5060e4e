//! Search spaces that come with the program.

use super::SearchSpace;

/// Names that [`preset`] knows.
pub const PRESETS: [&str; 4] = ["attentivenas", "bignas", "cifar10", "fashion-mnist"];

/// The search space called `name`, or `None` where there is no such preset.
///
/// - `attentivenas`: the space of AttentiveNAS and AlphaNet, for ImageNet, whose weights are public; deployable also between the
///   resolutions that they were trained at.
/// - `bignas`: Table 1 of the paper, for ImageNet; deployable also at the resolutions unseen in training.
/// - `cifar10`, `fashion-mnist`: small spaces for 32×32 colour and 28×28 grey images, sized for training on two CPU cores.
#[must_use]
pub fn preset(name: &str) -> Option<SearchSpace> {
    let text = match name {
        "attentivenas" => include_str!("presets/attentivenas.json"),
        "bignas" => include_str!("presets/bignas.json"),
        "cifar10" => include_str!("presets/cifar10.json"),
        "fashion-mnist" => include_str!("presets/fashion-mnist.json"),
        _ => return None,
    };
    // The files are part of the program, and a test reads each of them.
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_reads_under_its_own_name() {
        for name in PRESETS {
            assert_eq!(preset(name).unwrap().name, name);
        }
        assert!(preset("resnet").is_none());
    }
}
