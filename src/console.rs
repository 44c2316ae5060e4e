//! What this program says to whoever started it, beside its results and the log.

use std::fmt::Display;
use std::io::Write;

/// Prints a line to standard error. Whoever read there may be gone, which is no reason to end what needs no watching: `eprintln!` would
/// panic.
pub fn tell(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
