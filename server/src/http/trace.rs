//! A request's identity, in and out, and what is told of it: a log line if it was slow or failed, a
//! trace to the collector. Never a word of what it asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::response::Response;

use crate::telemetry::{
    Notes, RequestId, RequestTrace, TraceContext, TraceExporter, TraceSettings,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// An overloaded server answers everything slowly: its log must not make that worse.
const LINES_A_SECOND_MAX: u64 = 10;

/// What is told of requests, and where.
#[derive(Debug)]
pub struct Tracer {
    settings: TraceSettings,
    exporter: Option<TraceExporter>,
    started: Instant,
    /// Second since the start, shifted, and lines logged in it.
    lines: AtomicU64,
}

impl Tracer {
    /// Tells as `settings` say.
    ///
    /// # Errors
    /// See [`TraceExporter::start`].
    pub fn new(settings: TraceSettings) -> Result<Self, crate::error::Error> {
        let exporter = settings.endpoint.as_deref().map(TraceExporter::start).transpose()?;
        Ok(Self { settings, exporter, started: Instant::now(), lines: AtomicU64::new(0) })
    }

    /// What became of traces; nothing where none are exported.
    #[must_use]
    pub fn exporter(&self) -> Option<&TraceExporter> {
        self.exporter.as_ref()
    }

    /// Tells of a request that has ended; one of which nothing is to be told costs no more than that
    /// decision.
    pub(super) fn tell(
        &self,
        identity: &Identity,
        endpoint: &str,
        (status, duration): (u16, Duration),
        notes: Notes,
    ) {
        let Identity { context, request_id, method } = identity;
        tracing::debug!(request_id = &*request_id.text(), endpoint, status, ?duration, "answered");
        let slow = duration >= self.settings.slow_request;
        let failed = status >= 500;
        let logged = (slow || failed) && self.may_log();
        let exporter = self
            .exporter
            .as_ref()
            .filter(|_| slow || failed || context.sampled || context.among(self.settings.share));
        if !logged && exporter.is_none() {
            return;
        }
        let trace = RequestTrace {
            context: *context,
            request_id: request_id.clone(),
            method,
            endpoint: endpoint.to_owned(),
            status,
            started: SystemTime::now() - duration,
            began: Instant::now() - duration,
            duration,
            notes,
        };
        if logged {
            log(&trace, if slow { "slow request" } else { "failed request" });
        }
        if let Some(exporter) = exporter {
            exporter.send(trace);
        }
    }

    fn may_log(&self) -> bool {
        let second = self.started.elapsed().as_secs() << 8;
        let mut allowed = false;
        // The closure always has a value, so the update cannot fail.
        let _ = self.lines.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |lines| {
            let this_second = if lines >> 8 == second >> 8 { lines & 0xff } else { 0 };
            allowed = this_second < LINES_A_SECOND_MAX;
            Some(second | (this_second + u64::from(allowed)))
        });
        allowed
    }
}

fn log(trace: &RequestTrace, what: &'static str) {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let note = trace.notes.first();
    let stage = |at: usize| note.map(|note| ms(note.stages[at]));
    tracing::warn!(
        request_id = &*trace.request_id.text(),
        trace_id = format!("{:032x}", trace.context.trace_id),
        endpoint = trace.endpoint,
        status = trace.status,
        duration_ms = ms(trace.duration),
        model = note.map(|note| &*note.model),
        outcome = note.map(|note| note.outcome.as_str()),
        mails = note.map(|note| note.mails),
        decode_ms = stage(0),
        cache_ms = stage(1),
        load_ms = stage(2),
        tokenize_ms = stage(3),
        queue_ms = stage(4),
        infer_ms = stage(5),
        "{what}"
    );
}

/// Who a request is, in its own words or in ours.
pub(super) struct Identity {
    context: TraceContext,
    request_id: RequestId,
    method: &'static str,
}

impl Identity {
    pub(super) fn of(request: &Request) -> Self {
        let traceparent = request.headers().get(&TRACEPARENT);
        let context = TraceContext::new(traceparent.and_then(|value| value.to_str().ok()));
        let request_id = RequestId::new(request.headers().get(&REQUEST_ID), &context);
        Self { context, request_id, method: name(request.method()) }
    }

    pub(super) fn request_id(&self) -> RequestId {
        self.request_id.clone()
    }

    /// Tells the client; of the trace if it has one.
    pub(super) fn mark(&self, response: &mut Response) {
        if let Some(value) = self.request_id.header() {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        if self.context.parent_id.is_some()
            && let Ok(value) = HeaderValue::try_from(self.context.traceparent())
        {
            response.headers_mut().insert(TRACEPARENT, value);
        }
    }
}

/// A client may send any word as its method; only those known are repeated.
fn name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}
