//! BigNAS: train one single-stage model, serve every network inside it.
//!
//! Modules in the order in which data flows; each imports only what stands above it.

pub mod checkpoint;
pub mod space;
#[cfg(feature = "train")]
pub mod train;
