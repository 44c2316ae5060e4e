//! The choices of a child, described once for requests and answers.

use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::space::Choices;

/// The choices of a child, in the form of the search space's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChildChoices(pub Choices);

impl PartialSchema for ChildChoices {
    fn schema() -> RefOr<Schema> {
        let number = |description: &str| ObjectBuilder::new().schema_type(Type::Integer).description(Some(description)).build();
        let per_layer = |description: &str| -> Schema {
            let one = ObjectBuilder::new().schema_type(Type::Integer);
            let many = ArrayBuilder::new().items(ObjectBuilder::new().schema_type(Type::Integer));
            OneOfBuilder::new().description(Some(description)).item(one).item(many).build().into()
        };
        let stage = ObjectBuilder::new()
            .property("depth", number("Number of layers."))
            .property("channels", per_layer("Output channels: one entry a layer, or one number for all."))
            .property("kernel", per_layer("Sides of the depthwise kernels, in the same form."))
            .property("expansion", per_layer("Expansion ratios, in the same form."))
            .required("depth")
            .required("channels")
            .required("kernel")
            .required("expansion")
            .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)));
        ObjectBuilder::new()
            .schema_type(SchemaType::from(Type::Object))
            .description(Some("The choices of a child, in the form of the search space's file."))
            .property("resolution", number("Side of the input in pixels."))
            .property("stem", number("Output channels of the first convolution."))
            .property("stages", ArrayBuilder::new().items(stage).description(Some("One entry a stage.")))
            .property("head", number("Width of the classifier's input."))
            .required("resolution")
            .required("stem")
            .required("stages")
            .required("head")
            .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)))
            .into()
    }
}

impl ToSchema for ChildChoices {}
