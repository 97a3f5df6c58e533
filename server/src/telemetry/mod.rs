//! What an operator sees: metrics, latency windows, objectives, traces, logs.

mod alarms;
mod append;
mod device_metrics;
mod drift;
mod exposition;
mod http_metrics;
mod latency;
mod logs;
mod metrics;
mod model_metrics;
mod names;
mod otlp;
mod registry;
mod shards;
mod shared_metrics;
mod slo;
mod store_metrics;
mod trace;
mod trace_settings;
mod vitals;
mod window;

pub use alarms::Alarm;
pub use device_metrics::DeviceMetrics;
pub use drift::{Drift, DriftSummary, DriftWindow};
pub use http_metrics::{EndpointSummary, HttpMetrics};
pub use latency::{LatencySummary, LatencyTotals, LatencyWindow};
pub use logs::init_logs;
pub use metrics::Metrics;
pub use model_metrics::{ModelMetrics, ModelTally, Outcome, RejectReason, Stage};
pub use otlp::{TraceCounts, TraceExporter};
pub use slo::{Objectives, SloOptions, SloWatch, Verdict};
pub use trace::{ModelNote, Notes, RequestId, RequestTrace, STAGES, TraceContext};
pub use trace_settings::{TraceOptions, TraceSettings};
pub use vitals::{RuntimeReading, Vitals};

pub(crate) use alarms::{Situation, alarms};
pub(crate) use http_metrics::{ByteCounter, EndpointId};
pub(crate) use metrics::Readings;
pub(crate) use shared_metrics::SharedMetrics;
pub(crate) use store_metrics::StoreMetrics;
pub(crate) use trace::{Noting, note, notes_of, noting, request_id};
