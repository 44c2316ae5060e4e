//! What clients send.

use serde::de::{self, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use utoipa::{IntoParams, ToSchema};

use super::{ChildChoices, StateName};
use crate::space::ChildId;

/// A classification as JSON.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with the member `image`")]
pub struct ClassifyJson {
    /// An image file in base64, or several.
    #[schema(value_type = ImagesDoc)]
    pub image: Base64Images,
    /// Millions of multiply-adds at most.
    #[schema(example = 3.0, exclusive_minimum = 0.0)]
    pub mflops: Option<f64>,
    /// Parameters at most.
    #[schema(minimum = 1)]
    pub params: Option<u64>,
    /// Milliseconds at most, by the latency measured on this device for one image.
    #[schema(exclusive_minimum = 0.0)]
    pub latency_ms: Option<f64>,
    /// Accuracy at least, as a fraction.
    #[schema(exclusive_minimum = 0.0, maximum = 1.0)]
    pub min_accuracy: Option<f64>,
    /// This child and no other; excludes every budget.
    #[schema(value_type = Option<String>, pattern = "^[0-9a-f]{16}$")]
    pub child: Option<ChildId>,
    /// How many labels to answer with.
    #[schema(minimum = 1)]
    pub top_k: Option<usize>,
    /// Milliseconds that queue and computation may take; who cannot be answered by then is refused at once.
    #[schema(exclusive_minimum = 0.0)]
    pub deadline_ms: Option<f64>,
}

/// A classification as a form.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes a form that is read part by part")]
pub struct ClassifyForm {
    /// An image file; several parts may have this name.
    #[schema(value_type = Vec<String>, format = Binary)]
    image: Vec<u8>,
    /// Millions of multiply-adds at most.
    #[schema(example = 3.0, exclusive_minimum = 0.0)]
    mflops: Option<f64>,
    /// Parameters at most.
    #[schema(minimum = 1)]
    params: Option<u64>,
    /// Milliseconds at most, by the latency measured on this device for one image.
    #[schema(exclusive_minimum = 0.0)]
    latency_ms: Option<f64>,
    /// Accuracy at least, as a fraction.
    #[schema(exclusive_minimum = 0.0, maximum = 1.0)]
    min_accuracy: Option<f64>,
    /// This child and no other; excludes every budget.
    #[schema(value_type = Option<String>, pattern = "^[0-9a-f]{16}$")]
    child: Option<ChildId>,
    /// How many labels to answer with.
    #[schema(minimum = 1)]
    top_k: Option<usize>,
    /// Milliseconds that queue and computation may take; who cannot be answered by then is refused at once.
    #[schema(exclusive_minimum = 0.0)]
    deadline_ms: Option<f64>,
}

/// The bytes of a file as they are.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "describes bytes that no type holds")]
pub struct File(Vec<u8>);

/// One base64 text or several, not decoded yet; of more than `MOST_IMAGES`, one more than that.
#[derive(Debug)]
pub struct Base64Images(pub Vec<String>);

/// Images in one request at most, whatever the server allows: a list of nothing but empty texts would take twenty times the memory of
/// the body that it came in.
pub const MOST_IMAGES: usize = 1024;

/// An image file in base64, or several.
#[derive(ToSchema)]
#[schema(as = Base64Images)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes what `Base64Images` reads by hand, for the sake of its messages")]
enum ImagesDoc {
    One(String),
    Several(Vec<String>),
}

impl<'de> Deserialize<'de> for Base64Images {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;

        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Base64Images;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an image in base64, or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Base64Images(vec![text.to_owned()]))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Self::Value, E> {
                Ok(Base64Images(vec![text]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut images = Vec::new();
                while images.len() <= MOST_IMAGES
                    && let Some(text) = items.next_element()?
                {
                    images.push(text);
                }
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Base64Images(images))
            }
        }

        deserializer.deserialize_any(OneOrMore)
    }
}

/// Which children to list; every bound given must hold, and what is not known keeps within none.
#[derive(Debug, Clone, Copy, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ChildrenFilter {
    /// Millions of multiply-adds at most.
    #[param(exclusive_minimum = 0.0)]
    pub max_mflops: Option<f64>,
    /// Parameters at most.
    #[param(minimum = 1)]
    pub max_params: Option<u64>,
    /// Measured milliseconds for one image on this device at most.
    #[param(exclusive_minimum = 0.0)]
    pub max_latency_ms: Option<f64>,
    /// Accuracy at least, as a fraction.
    #[param(exclusive_minimum = 0.0, maximum = 1.0)]
    pub min_accuracy: Option<f64>,
    /// Only those in this state.
    #[param(inline)]
    pub state: Option<StateName>,
}

/// A child to add.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with the member `choices`")]
pub struct NewChild {
    /// What makes the child; each choice must be one that the model's search space offers.
    pub choices: ChildChoices,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_beyond_the_limit_are_read_over() {
        for (count, kept) in [(0, 0), (1, 1), (MOST_IMAGES, MOST_IMAGES), (MOST_IMAGES + 1, MOST_IMAGES + 1), (100_000, MOST_IMAGES + 1)] {
            let json = format!(r#"{{"image": [{}], "top_k": 3}}"#, vec![r#""""#; count].join(","));
            let read: ClassifyJson = serde_json::from_str(&json).unwrap();
            assert_eq!((read.image.0.len(), read.top_k), (kept, Some(3)), "{count}");
        }
        let nonsense = format!(r#"{{"image": [{}, {{]}}"#, vec![r#""""#; 2 * MOST_IMAGES].join(","));
        assert!(serde_json::from_str::<ClassifyJson>(&nonsense).is_err());
    }
}
