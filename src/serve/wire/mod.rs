//! What goes over the wire. A field here is a promise to clients; what is not known is `null`.

mod answer;
mod child;
mod choices;
mod health;
mod input;
mod model;
mod problem;

pub use answer::{Asked, BudgetReport, Classification, ImagePredictions, Prediction, SourceName, Timing};
pub use child::{ChildDetails, ChildSummary, Children, StateName};
pub use choices::ChildChoices;
pub use health::{Device, Health, Readiness};
pub use input::{Base64Images, ChildrenFilter, ClassifyForm, ClassifyJson, File, MOST_IMAGES, NewChild};
pub use model::{ExampleDetails, ModelDetails};
pub use problem::{Problem, Smallest};
