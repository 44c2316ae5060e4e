//! BigNAS: train one single-stage model, serve every network inside it.
//!
//! Modules in the order in which data flows; each imports only what stands above it.

pub mod checkpoint;
pub mod files;
pub mod image;
pub mod onnx;
pub mod runtime;
pub mod slice;
pub mod space;
