//! One request's trace: its identity across services, and where its time went.
//!
//! Spans are made from the timings when the request has ended, so a request that is neither
//! sampled, slow nor failed costs no span at all; and what is slow or failed is always kept.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::http::HeaderValue;
use compact_str::CompactString;
use smallvec::SmallVec;
use tokio::task::futures::TaskLocalFuture;

use super::model_metrics::Outcome;

/// W3C trace context of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace, through all services.
    pub trace_id: u128,
    /// This server's part of it.
    pub span_id: u64,
    /// The caller's part.
    pub parent_id: Option<u64>,
    /// Whether the caller keeps the trace.
    pub sampled: bool,
}

/// What a request is called in logs, headers and the store.
#[derive(Clone, Debug)]
pub enum RequestId {
    /// As its client called it.
    Given(HeaderValue),
    /// As its trace, in hexadecimal digits once somebody reads it.
    Trace(u128),
}

/// What a model did for a request.
#[derive(Clone, Debug)]
pub struct ModelNote {
    /// The model. Most names are short enough to need no memory of their own.
    pub model: CompactString,
    /// How it ended.
    pub outcome: Outcome,
    /// Mails asked about.
    pub mails: usize,
    /// When it began.
    pub started: Instant,
    /// All of it.
    pub total: Duration,
    /// Its [`STAGES`]; zero ones did not take place.
    pub stages: [Duration; STAGES.len()],
}

/// Parts of what a model does for a request, in the order in which they take place.
pub const STAGES: [&str; 6] = ["decode", "cache", "load", "tokenize", "queue", "infer"];

/// A request that has ended.
#[derive(Clone, Debug)]
pub struct RequestTrace {
    /// Its identity.
    pub context: TraceContext,
    /// The id in logs and headers.
    pub request_id: RequestId,
    /// HTTP method.
    pub method: &'static str,
    /// The route's pattern.
    pub endpoint: String,
    /// HTTP status.
    pub status: u16,
    /// When it began.
    pub started: SystemTime,
    /// The same by the clock that notes are by.
    pub began: Instant,
    /// Until the response's head.
    pub duration: Duration,
    /// What models did.
    pub notes: Notes,
}

/// What models did for one request: nearly always one.
pub type Notes = SmallVec<[ModelNote; 1]>;

/// The request that a task answers. In a box: it is put in its place and taken out again each time that the
/// request goes on.
pub(crate) struct Scope(Box<Noted>);

struct Noted {
    request_id: RequestId,
    notes: RefCell<Notes>,
}

tokio::task_local! {
    static SCOPE: Scope;
}

/// A request that has a name, for which models may note what they do.
pub(crate) type Noting<F> = TaskLocalFuture<Scope, F>;

/// Runs such a request.
pub(crate) fn noting<F: Future>(request_id: RequestId, request: F) -> Noting<F> {
    SCOPE.scope(Scope(Box::new(Noted { request_id, notes: RefCell::default() })), request)
}

/// What was noted for a request that has been answered.
pub(crate) fn notes_of<F>(request: Pin<&mut Noting<F>>) -> Notes {
    request.take_value().map(|scope| scope.0.notes.into_inner()).unwrap_or_default()
}

/// Notes what a model did; outside of a request nothing happens.
pub(crate) fn note(note: impl FnOnce() -> ModelNote) {
    let _ = SCOPE.try_with(|scope| scope.0.notes.borrow_mut().push(note()));
}

/// The id of the request that this task answers.
pub(crate) fn request_id() -> Option<RequestId> {
    SCOPE.try_with(|scope| scope.0.request_id.clone()).ok()
}

impl RequestId {
    /// A client's, if it is short and plain, so that it can stand in a log; else the trace's.
    pub(crate) fn new(given: Option<&HeaderValue>, context: &TraceContext) -> Self {
        let usable = given.filter(|value| usable_request_id(value.as_bytes()));
        usable.map_or(Self::Trace(context.trace_id), |value| Self::Given(value.clone()))
    }

    pub(crate) fn header(&self) -> Option<HeaderValue> {
        match self {
            Self::Given(value) => Some(value.clone()),
            Self::Trace(id) => HeaderValue::from_bytes(&hex(id.to_be_bytes())).ok(),
        }
    }

    pub(crate) fn text(&self) -> Arc<str> {
        // Those that are kept are plain.
        let header = self.header();
        header.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default().into()
    }
}

impl TraceContext {
    /// A part of the caller's trace, if `traceparent` is valid; else a new trace.
    #[must_use]
    pub fn new(traceparent: Option<&str>) -> Self {
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        match traceparent.and_then(parse) {
            Some((trace_id, parent, sampled)) => {
                Self { trace_id, span_id: low, parent_id: Some(parent), sampled }
            }
            None => {
                let trace_id = (u128::from(high) << 64) | u128::from(low);
                Self { trace_id, span_id: mixed(low), parent_id: None, sampled: false }
            }
        }
    }

    /// `traceparent` of what this server would call.
    pub(crate) fn traceparent(&self) -> String {
        let Self { trace_id, span_id, sampled, .. } = self;
        format!("00-{trace_id:032x}-{span_id:016x}-{:02x}", u8::from(*sampled))
    }

    /// The id of the so-manieth span below this one: the same each time it is asked.
    #[must_use]
    pub fn child(&self, number: u64) -> u64 {
        mixed(self.span_id.wrapping_add(number))
    }

    /// Whether this trace is among a share of all, the same ones on every server.
    #[must_use]
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a share")]
    pub fn among(&self, share: f64) -> bool {
        (mixed(self.trace_id as u64) >> 11) as f64 / (1_u64 << 53) as f64 + f64::EPSILON / 2.0
            < share
    }
}

/// Every request needs some, and the formatting machinery takes several times as long.
fn hex(bytes: [u8; 16]) -> [u8; 32] {
    let digits = b"0123456789abcdef";
    let mut text = [0; 32];
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [digits[usize::from(byte >> 4)], digits[usize::from(byte & 0xf)]];
    }
    text
}

/// splitmix64, never zero: a span's id may not be.
fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).max(1)
}

/// Trace, parent and the sampled flag of a valid header.
fn parse(header: &str) -> Option<(u128, u64, bool)> {
    let mut parts = header.trim().split('-');
    let (version, trace, parent, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lower = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let shaped = lower(version, 2) && lower(trace, 32) && lower(parent, 16) && lower(flags, 2);
    // Later versions may append parts, the first may not.
    if !shaped || version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let trace = u128::from_str_radix(trace, 16).ok().filter(|&id| id != 0)?;
    let parent = u64::from_str_radix(parent, 16).ok().filter(|&id| id != 0)?;
    Some((trace, parent, u8::from_str_radix(flags, 16).ok()? & 1 == 1))
}

/// Whether an id is short and plain.
fn usable_request_id(id: &[u8]) -> bool {
    (1..=128).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::{RequestId, TraceContext, usable_request_id};

    #[test]
    fn a_callers_trace_goes_on() {
        let caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = TraceContext::new(Some(caller));
        assert_eq!(context.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((context.parent_id, context.sampled), (Some(0x00f0_67aa_0ba9_02b7), true));
        let ours = context.traceparent();
        assert!(ours.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && ours.ends_with("-01"));
        assert_ne!(ours, caller);
        assert_ne!(context.child(1), context.child(2));
    }

    #[test]
    fn a_wrong_header_begins_a_new_trace() {
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            let context = TraceContext::new(Some(wrong));
            assert_eq!(context.parent_id, None, "{wrong}");
            assert!(context.trace_id != 0 && context.span_id != 0);
        }
    }

    #[test]
    fn sampling_takes_its_share() {
        let taken =
            |share: f64| (0..4_000).filter(|_| TraceContext::new(None).among(share)).count();
        assert_eq!((taken(0.0), taken(1.0)), (0, 4_000));
        // 1,000 ± 12 standard deviations.
        assert!((700..1_300).contains(&taken(0.25)));
    }

    #[test]
    fn request_ids_are_plain() {
        assert!(usable_request_id(b"9f3c-17") && usable_request_id(b"a/b:c@d"));
        for wrong in ["", "two words", "line\nbreak", &"x".repeat(129), "é"] {
            assert!(!usable_request_id(wrong.as_bytes()), "{wrong}");
        }
        let id = RequestId::new(None, &TraceContext::new(None));
        assert_eq!(id.header().expect("plain").as_bytes(), id.text().as_bytes());
    }
}
