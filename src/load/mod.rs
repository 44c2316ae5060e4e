//! Load on a running server: when requests are sent, what they ask for, and what comes back.
//!
//! A closed loop keeps a number of requests in flight and finds what a server can do. An open loop sends at given times, whatever
//! comes back, as independent clients do; its latencies count from the time at which a request was due, so that a server that
//! stalls is charged for everyone who had to wait.

mod arrivals;
mod client;
mod drive;
mod summary;
mod target;

pub use arrivals::Arrivals;
pub use client::{ClientError, Timing, get};
pub use drive::{Load, Mode, drive};
pub use summary::{Outcome, Summary, Windows, summarise};
pub use target::{Path, Target, TargetError};
