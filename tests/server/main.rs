//! Black-box tests: the real binary, over HTTP, as a client sees it.

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod children;
mod classify;
mod harness;
mod leaving;
mod lifecycle;
mod load;
mod metrics;
mod prometheus;
mod reload;
mod shared_store;
mod shipped_model;
mod table_one;
mod traces;
