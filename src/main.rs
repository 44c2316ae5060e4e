//! The `bignas` command line.
fn main() {}
