//! ONNX Runtime: the one place that names it.
//!
//! The library is loaded from a file when the program first needs it. A [`Network`] is a loaded graph with one owner at a
//! time; whoever wants to run one network on several threads loads it several times.

mod library;
mod network;

pub use library::{Runtime, RuntimeError, default_library};
pub use network::Network;
