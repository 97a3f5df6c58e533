//! Postsort: an inference server for the small transformer models that read e-mail.
//!
//! The only crate that knows HTTP and tokio. A request's way through it is [`pipeline`], from top
//! to bottom; [`http`] and [`cli`] are its two entrances.
#![forbid(unsafe_code)]

pub mod back_fill;
pub mod catalog;
pub mod cli;
pub mod config;
mod deadline;
pub mod devices;
pub mod error;
pub mod http;
pub mod hub;
pub mod input;
pub mod journal;
pub mod memory;
pub mod pipeline;
pub mod scheduler;
pub mod serve;
pub mod telemetry;
pub mod unix_socket;
