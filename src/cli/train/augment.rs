//! The flags of `bignas train` that say how training images change at random.

use clap::ValueEnum;

use crate::data::{Augment, AugmentError, Policy, RandomCrop};
use crate::image::Preprocessing;

/// Each flag changes its own part of the augmentation.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct AugmentFlags {
    /// Random crops: pixels of padding around the image; if not given, an eighth of the side of crops up to 64 pixels, and a random part
    /// of larger ones; in an analysis, as the model was trained
    #[arg(long, value_name = "PIXELS")]
    pad: Option<u32>,
    /// Do not mirror images at random
    #[arg(long)]
    no_flip: bool,
    /// Change images by a policy that was searched for: pairs of operations on colour and shape, after crop and mirroring; if not
    /// given, ImageNet's for colour crops above 64 pixels, CIFAR-10's for smaller ones, and none for grey images; in an analysis, as the
    /// model was trained
    #[arg(long, value_enum, value_name = "POLICY")]
    auto_augment: Option<SearchedOn>,
}

/// Where AutoAugment's policy comes from.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum SearchedOn {
    /// No policy
    None,
    /// AutoAugment's policy for ImageNet
    #[value(name = "imagenet")]
    ImageNet,
    /// AutoAugment's policy for CIFAR-10
    Cifar10,
}

/// Small images are shifted by up to an eighth of their side, as is usual for CIFAR-10; of large ones a random part is taken (Inception's
/// crop). Colour images then change by the policy that was searched on images of their size (paper, 4); for grey ones none was.
pub(in crate::cli) fn default_augment(preprocessing: &Preprocessing) -> Augment {
    let (crop, policy) = match preprocessing.crop {
        side @ ..=64 => (RandomCrop::Pad { pad: side / 8 }, Policy::Cifar10),
        _ => (RandomCrop::Resized { scale: [0.08, 1.0], ratio: [0.75, 4.0 / 3.0] }, Policy::ImageNet),
    };
    Augment { crop, flip: true, auto_augment: (preprocessing.channels() > 1).then_some(policy) }
}

impl AugmentFlags {
    /// `base` with what the flags say; where a run is resumed, what they do not say stays.
    pub(in crate::cli) fn change(&self, base: Augment) -> Result<Augment, AugmentError> {
        let auto_augment = match self.auto_augment {
            Some(SearchedOn::None) => None,
            Some(SearchedOn::ImageNet) => Some(Policy::ImageNet),
            Some(SearchedOn::Cifar10) => Some(Policy::Cifar10),
            None => base.auto_augment,
        };
        let augment =
            Augment { crop: self.pad.map_or(base.crop, |pad| RandomCrop::Pad { pad }), flip: base.flip && !self.no_flip, auto_augment };
        augment.validate()?;
        Ok(augment)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::image::Filter;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        flags: AugmentFlags,
    }

    #[test]
    fn images_are_changed_as_suits_their_size_and_colour() {
        let (shifted, resized) = (|pad| RandomCrop::Pad { pad }, RandomCrop::Resized { scale: [0.08, 1.0], ratio: [0.75, 4.0 / 3.0] });
        let cases = [
            (28, 1, shifted(3), None),
            (32, 3, shifted(4), Some(Policy::Cifar10)),
            (64, 1, shifted(8), None),
            (64, 3, shifted(8), Some(Policy::Cifar10)),
            (65, 1, resized, None),
            (65, 3, resized, Some(Policy::ImageNet)),
        ];
        for (side, channels, crop, auto_augment) in cases {
            let (mean, std) = (vec![0.5; channels], vec![0.2; channels]);
            let preprocessing = Preprocessing { resize: None, filter: Filter::Bicubic, crop: side, mean, std, background: [0; 3] };
            let expected = Augment { crop, flip: true, auto_augment };
            assert_eq!(default_augment(&preprocessing), expected, "{side} pixels, {channels} channels");
        }
    }

    #[test]
    fn flags_change_their_own_part() {
        let shifted = Augment { crop: RandomCrop::Pad { pad: 4 }, flip: true, auto_augment: None };
        let still = Augment { crop: RandomCrop::Centre, flip: false, auto_augment: Some(Policy::Cifar10) };
        let searched = |policy, base: &Augment| Augment { auto_augment: Some(policy), ..base.clone() };
        let flags = |given: &[&str]| Command::try_parse_from([&["train"], given].concat()).map(|command| command.flags);
        let cases: [(&[&str], &Augment, Augment); 8] = [
            (&[], &shifted, shifted.clone()),
            (&[], &still, still.clone()),
            (&["--pad", "1"], &still, Augment { crop: RandomCrop::Pad { pad: 1 }, ..still.clone() }),
            (&["--no-flip"], &shifted, Augment { flip: false, ..shifted.clone() }),
            (&["--auto-augment", "cifar10"], &shifted, searched(Policy::Cifar10, &shifted)),
            (&["--auto-augment", "none"], &still, Augment { auto_augment: None, ..still.clone() }),
            (&["--auto-augment", "imagenet"], &still, searched(Policy::ImageNet, &still)),
            (&["--no-flip", "--auto-augment", "cifar10"], &shifted, Augment { flip: false, ..searched(Policy::Cifar10, &shifted) }),
        ];
        for (given, base, expected) in cases {
            assert_eq!(flags(given).expect("parses").change(base.clone()).expect("valid"), expected, "{given:?}");
        }
        assert_eq!(flags(&["--pad", "4000"]).expect("parses").change(shifted), Err(AugmentError::Pad(4000)));
        assert!(flags(&["--auto-augment", "svhn"]).is_err());
    }
}
