//! BigNAS: one single-stage model, every network inside it.
