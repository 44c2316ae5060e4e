//! One path from the bytes of an image file to the input of a network, shared by training, evaluation and serving.
//!
//! ```text
//! bytes ─ decode ─► Pixels ─ centre_crop ─► Patch ─ write_input ─► f32 [C, R, R], normalised
//! ```
//!
//! [`decode()`] takes untrusted bytes: it refuses what is too large from the header alone, and what is truncated or
//! corrupt with a typed error. [`Preprocessing`] says everything that depends on the model, except the resolution R,
//! which each child chooses for itself.

mod bicubic;
mod colour;
mod decode;
mod jpeg;
mod media_type;
mod patch;
mod preprocessing;
mod size;

pub use bicubic::resample_normalised;
pub use colour::luma_of;
pub use decode::{DecodeError, DecodeLimits, Header, check_header, decode};
pub use media_type::{ACCEPTED_CONTENT_TYPES, MediaType, accepts_content_type};
pub use patch::{Patch, Pixels, Region, ShapeError};
pub use preprocessing::{Filter, Preprocessing, PreprocessingError};
