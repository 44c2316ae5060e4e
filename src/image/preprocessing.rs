//! What a model expects of its input images; stored in `model.json`.

use serde::{Deserialize, Serialize};

/// The largest side, in pixels, that `resize` and `crop` may ask for: it bounds the memory one image can take.
const MAX_SIDE: u32 = 4096;

/// From a decoded image to the network's input: resize, centre crop, normalise. The resolution is not part of it:
/// each child resamples the crop to its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Length in pixels that the shorter side is resized to before the crop. `None`: the image keeps its size,
    /// unless its shorter side must grow to cover the crop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<u32>,
    /// The filter of that resize.
    pub filter: Filter,
    /// Side in pixels of the square cut from the centre.
    pub crop: u32,
    /// What is subtracted per channel, where pixel values run from 0 to 1. One value (grey) or three (RGB).
    pub mean: Vec<f32>,
    /// What each channel is divided by after that. As many values as `mean`.
    pub std: Vec<f32>,
    /// The RGB colour that transparent pixels are composited over. Black where the file says nothing.
    #[serde(default)]
    pub background: [u8; 3],
}

/// A resampling filter. Both widen with the scale when an image shrinks (antialiasing), as Pillow does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// Triangle, of support 1.
    Bilinear,
    /// Keys' cubic with A = -0.5, of support 2.
    Bicubic,
}

/// Why a [`Preprocessing`] cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PreprocessingError {
    /// `mean` has neither one nor three values.
    #[error("preprocessing: mean has {0} values; it needs 1 (grey) or 3 (RGB)")]
    Channels(usize),
    /// `std` and `mean` differ in length.
    #[error(
        "preprocessing: std has {std} values and mean has {mean}; they need one per channel each"
    )]
    Lengths {
        /// Values in `mean`.
        mean: usize,
        /// Values in `std`.
        std: usize,
    },
    /// A mean that is not a number in 0..=1 or a std that is not a positive number.
    #[error(
        "preprocessing: {name} {value} is out of range; mean lies in 0..=1 and std is above 0 (pixels run from 0 to 1)"
    )]
    Value {
        /// `mean` or `std`.
        name: &'static str,
        /// The offending value.
        value: f32,
    },
    /// A side of zero or beyond the maximum.
    #[error("preprocessing: {name} is {side} px; it must lie in 1..={MAX_SIDE}")]
    Side {
        /// `resize` or `crop`.
        name: &'static str,
        /// The offending side in pixels.
        side: u32,
    },
    /// The resized image could not hold the crop.
    #[error(
        "preprocessing: resize to {resize} px leaves no room for a crop of {crop} px; raise resize or lower crop"
    )]
    CropBeyondResize {
        /// The shorter side after the resize, in pixels.
        resize: u32,
        /// The side of the crop in pixels.
        crop: u32,
    },
}

impl Preprocessing {
    /// Channels of the network's input: 1 or 3 once validated.
    pub fn channels(&self) -> usize {
        self.mean.len()
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), PreprocessingError> {
        if !matches!(self.mean.len(), 1 | 3) {
            return Err(PreprocessingError::Channels(self.mean.len()));
        }
        if self.std.len() != self.mean.len() {
            return Err(PreprocessingError::Lengths {
                mean: self.mean.len(),
                std: self.std.len(),
            });
        }
        if let Some(&value) = self.mean.iter().find(|mean| !(0.0..=1.0).contains(*mean)) {
            return Err(PreprocessingError::Value {
                name: "mean",
                value,
            });
        }
        if let Some(&value) = self
            .std
            .iter()
            .find(|std| !(std.is_normal() && **std > 0.0))
        {
            return Err(PreprocessingError::Value { name: "std", value });
        }
        for (name, side) in [("resize", self.resize.unwrap_or(1)), ("crop", self.crop)] {
            if !(1..=MAX_SIDE).contains(&side) {
                return Err(PreprocessingError::Side { name, side });
            }
        }
        match self.resize {
            Some(resize) if resize < self.crop => Err(PreprocessingError::CropBeyondResize {
                resize,
                crop: self.crop,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey() -> Preprocessing {
        Preprocessing {
            resize: None,
            filter: Filter::Bilinear,
            crop: 28,
            mean: vec![0.25],
            std: vec![0.5],
            background: [0; 3],
        }
    }

    #[test]
    fn validation_names_the_field() {
        type Change = fn(&mut Preprocessing);
        let cases: [(Change, &str); 10] = [
            (|p| p.mean = vec![], "mean has 0 values"),
            (|p| p.mean = vec![0.1, 0.2], "mean has 2 values"),
            (|p| p.std = vec![1.0; 3], "std has 3 values and mean has 1"),
            (|p| p.mean = vec![f32::NAN], "mean NaN"),
            (|p| p.mean = vec![127.5], "mean 127.5"),
            (|p| p.std = vec![0.0], "std 0"),
            (|p| p.std = vec![f32::INFINITY], "std inf"),
            (|p| p.crop = 0, "crop is 0 px"),
            (|p| p.resize = Some(100_000), "resize is 100000 px"),
            (
                |p| p.resize = Some(27),
                "resize to 27 px leaves no room for a crop of 28 px",
            ),
        ];
        assert_eq!(grey().validate(), Ok(()));
        for (change, message) in cases {
            let mut changed = grey();
            change(&mut changed);
            let error = changed.validate().expect_err(message).to_string();
            assert!(error.contains(message), "{error:?} lacks {message:?}");
        }
    }

    #[test]
    fn file_form() {
        let full = r#"{"resize":256,"filter":"bicubic","crop":224,"mean":[0.1,0.2,0.3],"std":[1.0,1.0,1.0],"background":[1,2,3]}"#;
        let parsed: Preprocessing = serde_json::from_str(full).expect("full form");
        assert_eq!(
            (parsed.resize, parsed.background, parsed.channels()),
            (Some(256), [1, 2, 3], 3)
        );
        assert_eq!(serde_json::to_string(&parsed).expect("serialises"), full);

        let short = r#"{"filter":"bilinear","crop":28,"mean":[0.25],"std":[0.5]}"#;
        assert_eq!(
            serde_json::from_str::<Preprocessing>(short).expect("short form"),
            grey()
        );

        for bad in [
            short.replace("crop", "corp"),
            short.replace("bilinear", "lanczos"),
        ] {
            assert!(
                serde_json::from_str::<Preprocessing>(&bad).is_err(),
                "{bad}"
            );
        }
    }
}
