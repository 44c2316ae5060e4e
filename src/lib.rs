//! BigNAS: train one single-stage model, serve every network inside it.
//!
//! ```text
//! space ─► plan ─► weights ─► slice ─► onnx ─► runtime ─► calibrate ─► search ─► serve
//!             └──► train
//! ```
//!
//! The modules below stand in the order in which data flows; each imports only what stands above it.

// Not in Cargo.toml: tests may unwrap, and clippy does not take the helpers of an integration test for tests.
#![warn(clippy::unwrap_used)]

pub mod process;

pub mod console;

pub mod files;

pub mod plot;

pub mod space;

pub mod image;

pub mod data;

pub mod checkpoint;

pub mod import;

pub mod slice;

pub mod onnx;

pub mod runtime;

pub mod calibrate;

pub mod deploy;

pub mod evaluate;

pub mod search;

pub mod profile;

#[cfg(feature = "train")]
pub mod train;

pub mod metrics;

pub mod engine;

pub mod serve;

pub mod load;

pub mod cli;
