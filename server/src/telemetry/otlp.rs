//! Traces to a collector: OTLP over HTTP as JSON, from a thread of its own.
//!
//! The queue is bounded and never waited for: a collector that is away costs traces, not answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::model_metrics::Outcome;
use super::trace::{ModelNote, RequestTrace, STAGES};
use crate::error::Error;

const QUEUED_MAX: usize = 2048;
const BATCH_MAX: usize = 256;
const BATCH_WAIT: Duration = Duration::from_secs(1);
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends traces; dropping it sends what is queued.
#[derive(Debug)]
pub struct TraceExporter {
    queue: Option<SyncSender<RequestTrace>>,
    counts: Arc<TraceCounts>,
    thread: Option<JoinHandle<()>>,
}

/// What became of traces.
#[derive(Debug, Default)]
pub struct TraceCounts {
    /// Taken by the collector.
    pub exported: AtomicU64,
    /// Lost: the queue was full or the collector did not take them.
    pub dropped: AtomicU64,
}

impl TraceExporter {
    /// Sends to `endpoint`: the collector's address, to which `/v1/traces` is added.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(endpoint: &str) -> Result<Self, Error> {
        let (queue, traces) = sync_channel(QUEUED_MAX);
        let counts = Arc::new(TraceCounts::default());
        let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        let counted = Arc::clone(&counts);
        let thread = std::thread::Builder::new()
            .name("postsort-traces".to_owned())
            .spawn(move || export(&url, &traces, &counted))
            .map_err(|e| Error::setup("trace thread", e))?;
        Ok(Self { queue: Some(queue), counts, thread: Some(thread) })
    }

    /// Queues a trace, or drops it when the queue is full.
    pub fn send(&self, trace: RequestTrace) {
        if self.queue.as_ref().is_none_or(|queue| queue.try_send(trace).is_err()) {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What became of traces so far.
    #[must_use]
    pub fn counts(&self) -> &TraceCounts {
        &self.counts
    }
}

impl Drop for TraceExporter {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn export(url: &str, traces: &Receiver<RequestTrace>, counts: &TraceCounts) {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(SEND_TIMEOUT)).build().into();
    let mut told = None::<Instant>;
    while let Ok(first) = traces.recv() {
        let mut batch = vec![first];
        let end = Instant::now() + BATCH_WAIT;
        while batch.len() < BATCH_MAX {
            match traces.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(trace) => batch.push(trace),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        let sent = agent.post(url).send_json(payload(&batch));
        let count = if sent.is_ok() { &counts.exported } else { &counts.dropped };
        count.fetch_add(batch.len() as u64, Ordering::Relaxed);
        if let Err(error) = sent
            && told.is_none_or(|at| at.elapsed() > Duration::from_secs(60))
        {
            tracing::warn!(%error, traces = batch.len(), "the collector takes no traces");
            told = Some(Instant::now());
        }
    }
}

/// `ExportTraceServiceRequest` in OTLP's JSON: ids in hex, times as decimal strings.
fn payload(batch: &[RequestTrace]) -> Value {
    let spans: Vec<Value> = batch.iter().flat_map(spans).collect();
    json!({"resourceSpans": [{
        "resource": {"attributes": [
            text("service.name", "postsort"),
            text("service.version", env!("CARGO_PKG_VERSION")),
        ]},
        "scopeSpans": [{"scope": {"name": "postsort"}, "spans": spans}],
    }]})
}

fn spans(trace: &RequestTrace) -> Vec<Value> {
    const SERVER: u8 = 2;
    let context = &trace.context;
    let name = format!("{} {}", trace.method, trace.endpoint);
    let mut server =
        span(trace, context.span_id, context.parent_id, &name, trace.started, trace.duration);
    server["kind"] = json!(SERVER);
    server["status"] = status(trace.status >= 500);
    server["attributes"] = json!([
        text("http.request.method", trace.method),
        text("http.route", &trace.endpoint),
        number("http.response.status_code", trace.status.into()),
        text("postsort.request_id", &trace.request_id.text()),
    ]);
    let mut spans = vec![server];
    let mut number = 0;
    for note in &trace.notes {
        number += 1;
        let id = context.child(number);
        spans.push(model_span(trace, note, id));
        let mut started = began(trace, note);
        let stages = STAGES.iter().zip(&note.stages);
        for (stage, duration) in stages.filter(|(_, duration)| !duration.is_zero()) {
            number += 1;
            let stage_id = context.child(number);
            spans.push(span(trace, stage_id, Some(id), stage, started, *duration));
            started += *duration;
        }
    }
    spans
}

fn began(trace: &RequestTrace, note: &ModelNote) -> SystemTime {
    trace.started + note.started.saturating_duration_since(trace.began)
}

fn model_span(trace: &RequestTrace, note: &ModelNote, id: u64) -> Value {
    let parent = Some(trace.context.span_id);
    let mut span = span(trace, id, parent, "classify", began(trace, note), note.total);
    span["status"] = status(matches!(note.outcome, Outcome::Backend | Outcome::Expired));
    span["attributes"] = json!([
        text("postsort.model", &note.model),
        text("postsort.outcome", note.outcome.as_str()),
        number("postsort.mails", note.mails as u64),
    ]);
    span
}

fn span(
    trace: &RequestTrace,
    id: u64,
    parent: Option<u64>,
    name: &str,
    started: SystemTime,
    duration: Duration,
) -> Value {
    const INTERNAL: u8 = 1;
    let nanos = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        since.as_nanos().to_string()
    };
    json!({
        "traceId": format!("{:032x}", trace.context.trace_id),
        "spanId": format!("{id:016x}"),
        "parentSpanId": parent.map(|id| format!("{id:016x}")).unwrap_or_default(),
        "name": name,
        "kind": INTERNAL,
        "startTimeUnixNano": nanos(started),
        "endTimeUnixNano": nanos(started + duration),
    })
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn number(key: &str, value: u64) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}

fn status(failed: bool) -> Value {
    const ERROR: u8 = 2;
    if failed { json!({"code": ERROR}) } else { json!({}) }
}
