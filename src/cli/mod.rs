//! The command line: one file a subcommand.

#[cfg(feature = "train")]
pub mod train;
