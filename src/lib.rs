//! BigNAS: train one single-stage model, serve every network inside it.
//!
//! Modules in the order in which data flows; each imports only what stands above it.

pub mod space;

pub mod checkpoint;

pub mod image;

pub mod data;

#[cfg(feature = "train")]
pub mod train;

pub mod cli;
