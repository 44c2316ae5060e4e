//! BigNAS: one single-stage model, every network inside it.

pub mod data;
pub mod image;
