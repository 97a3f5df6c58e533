//! What an operator sees: metrics, latency windows, objectives, logs.

mod alarms;
mod exposition;
mod http_metrics;
mod latency;
mod logs;
mod metrics;
mod model_metrics;
mod names;
mod slo;
mod vitals;
mod window;

pub use alarms::Alarm;
pub use http_metrics::{EndpointSummary, HttpMetrics};
pub use latency::{LatencySummary, LatencyTotals, LatencyWindow};
pub use logs::init_logs;
pub use metrics::Metrics;
pub use model_metrics::{ModelMetrics, ModelTally, Outcome, RejectReason, Stage};
pub use slo::{Objectives, SloOptions, SloWatch, Verdict};
pub use vitals::{RuntimeReading, Vitals};

pub(crate) use alarms::{Situation, alarms};
pub(crate) use http_metrics::ByteCounter;
pub(crate) use metrics::Readings;
