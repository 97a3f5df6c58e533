//! What an operator sees: metrics, latency windows, logs.

mod latency;
mod logs;
mod metrics;

pub use latency::{LatencySummary, LatencyWindow};
pub use logs::init_logs;
pub use metrics::{HttpMetrics, Metrics, ModelMetrics, Outcome, RejectReason, Stage};

pub(crate) use metrics::Readings;
