//! Replays mail at a server at a given rate, and says how long the answers took.
//!
//! The loop is open: requests leave when they are due, however slow the answers are, and their
//! latency counts from then, so that a server that stalls cannot hide it from the percentiles
//! (coordinated omission). Several servers take turns with the same mails at the same moments.
#![forbid(unsafe_code)]

pub mod arrivals;
pub mod cli;
pub mod corpus;
pub mod error;
pub mod memory;
pub mod outcome;
pub mod plot;
pub mod pool;
pub mod report;
pub mod request;
pub mod run;
pub mod slice;
pub mod tally;
pub mod target;
