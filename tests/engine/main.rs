//! The engine: children are built once, kept within limits, found again, and never block each other.

#[path = "../common/mod.rs"]
mod common;

mod adding;
mod budgets;
mod building;
mod coming_and_going;

use bignas::engine::{ChildState, Engine};

fn states(engine: &Engine) -> Vec<ChildState> {
    engine.children().iter().map(|status| status.state).collect()
}

fn builds(engine: &Engine) -> u64 {
    engine.metrics().builds.with_label_values(&["ok"]).get()
}
