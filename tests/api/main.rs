//! Real servers on free ports, real models, real requests.

mod analyze;
mod bad_input;
mod bundled;
mod classify;
mod cli;
mod compatible;
mod daemon;
mod dashboard;
mod devices;
mod hub;
mod life;
mod models;
mod monitoring;
mod overload;
mod postgres;
mod redis;
mod residency;
mod revisions;
mod server;
mod shared;
mod simulated;
mod sockets;
mod store;
mod stream;
mod traces;
