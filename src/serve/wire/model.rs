//! The model, as it is shown.

use serde::Serialize;
use utoipa::ToSchema;

use crate::checkpoint::Example;
use crate::image::{Filter, Preprocessing};

/// What the children are cut from, and what goes into them.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelDetails {
    /// Name of the model.
    #[schema(example = "fashion-mnist")]
    pub name: String,
    /// SHA-256 of the model's weights.
    pub weights_sha256: String,
    /// Names of the classes, in the order of the networks' outputs.
    pub labels: Vec<String>,
    /// From an image to a network's input.
    #[schema(value_type = PreprocessingDoc)]
    pub preprocessing: Preprocessing,
    /// Pictures to try the model with.
    pub examples: Vec<ExampleDetails>,
    /// The module of onnxruntime-web that the playground runs children with in a browser; `null` where the server has none.
    #[schema(example = "/playground/onnxruntime-web/ort.wasm.bundle.min.mjs")]
    pub onnxruntime_web: Option<String>,
}

/// From a decoded image to a network's input: resize, centre crop, normalise, resample bicubically to the child's resolution.
#[derive(ToSchema)]
#[schema(as = Preprocessing)]
#[expect(dead_code, reason = "stands in for a type of the images, which knows nothing of this API")]
struct PreprocessingDoc {
    /// Length in pixels that the shorter side is resized to before the crop; absent where the image keeps its size.
    #[schema(example = 256)]
    resize: Option<u32>,
    /// The filter of that resize.
    #[schema(value_type = FilterDoc)]
    filter: Filter,
    /// Side in pixels of the square cut from the centre.
    #[schema(example = 28)]
    crop: u32,
    /// What is subtracted per channel, where pixel values run from 0 to 1. One value: grey; three: RGB.
    mean: Vec<f32>,
    /// What each channel is divided by after that.
    std: Vec<f32>,
    /// The RGB colour that transparent pixels are composited over.
    background: [u8; 3],
}

/// A resampling filter that widens with the scale when an image shrinks.
#[derive(ToSchema)]
#[schema(as = Filter, rename_all = "lowercase")]
#[expect(dead_code, reason = "stands in for a type of the images, which knows nothing of this API")]
enum FilterDoc {
    Bilinear,
    Bicubic,
}

/// A picture to try the model with.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExampleDetails {
    /// Where it is served.
    #[schema(example = "/model/examples/example.png")]
    pub url: String,
    /// What it shows, one of the labels; `null` where nobody says.
    pub label: Option<String>,
    /// Where it comes from.
    pub source: Option<String>,
    /// Under which licence it ships.
    pub licence: Option<String>,
}

impl From<&Example> for ExampleDetails {
    fn from(example: &Example) -> Self {
        let Example { file, label, source, licence, .. } = example.clone();
        Self { url: format!("/model/examples/{file}"), label, source, licence }
    }
}
