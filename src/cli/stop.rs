//! What Ctrl-C, SIGTERM and a hangup do to a training: it ends after its step, saves, and says how to go on.
//!
//! A command that was stopped has not done what it was asked for, so that it ends with the status that a shell gives a program that
//! SIGINT ended: what stands after it in a script (`bignas train … && bignas search …`) does not begin, and a job manager does not take
//! it for done.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;

/// The status that a stopped command ends with: 128 and the number of SIGINT.
pub const STOPPED: u8 = 130;

/// The end of a command that was stopped, and kept what it had done.
#[derive(Debug)]
pub struct Stopped {
    /// What was saved.
    pub checkpoint: PathBuf,
    /// The command that goes on from there.
    pub go_on: String,
}

impl Display for Stopped {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "saved {}\ngo on with: {}", self.checkpoint.display(), self.go_on)
    }
}

impl std::error::Error for Stopped {}
