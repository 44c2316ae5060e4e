//! Latency tables: the parts of a space's children timed on this device, from which the time of any child is predicted.
//!
//! Every distinct part (stem, block, head) of every child is timed on its own, and some whole children beside them. A part alone
//! pays for what a part inside a network does not: the call of ONNX Runtime, and reordering its input and output, which lie in
//! another layout between convolutions. A small linear model, fitted on a part of the whole children, takes that off the sum of the
//! parts; the other children say how good the predictions are.

mod accuracy;
mod correction;
mod inventory;
mod measure;
mod table;

pub use accuracy::Errors;
pub use correction::{Correction, Features};
pub use inventory::{Place, inventory, sample};
pub use measure::{MIN_CHILDREN, ProfileError, Settings, profile};
pub use table::{BatchTable, Table, TableError};
