//! One request's trace: its identity across services, and where its time went.
//!
//! Spans are made from the timings when the request has ended, so a request that is neither
//! sampled, slow nor failed costs no span at all; and what is slow or failed is always kept.

use std::cell::RefCell;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

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

/// What a model did for a request.
#[derive(Clone, Debug)]
pub struct ModelNote {
    /// The model.
    pub model: Arc<str>,
    /// How it ended.
    pub outcome: Outcome,
    /// Mails asked about.
    pub mails: usize,
    /// When it began.
    pub started: SystemTime,
    /// All of it.
    pub total: Duration,
    /// Its parts, in the order in which they took place; zero ones did not.
    pub stages: [(&'static str, Duration); 6],
}

/// A request that has ended.
#[derive(Clone, Debug)]
pub struct RequestTrace {
    /// Its identity.
    pub context: TraceContext,
    /// The id in logs and headers.
    pub request_id: Arc<str>,
    /// HTTP method.
    pub method: &'static str,
    /// The route's pattern.
    pub endpoint: String,
    /// HTTP status.
    pub status: u16,
    /// When it began.
    pub started: SystemTime,
    /// Until the response's head.
    pub duration: Duration,
    /// What models did.
    pub notes: Vec<ModelNote>,
}

/// The request that a task answers.
struct Scope {
    request_id: Arc<str>,
    notes: RefCell<Vec<ModelNote>>,
}

tokio::task_local! {
    static SCOPE: Scope;
}

/// Runs a request and collects what models note meanwhile.
pub(crate) async fn noting<T>(
    request_id: Arc<str>,
    request: impl Future<Output = T>,
) -> (T, Vec<ModelNote>) {
    SCOPE
        .scope(Scope { request_id, notes: RefCell::default() }, async {
            let answer = request.await;
            (answer, SCOPE.with(|scope| scope.notes.take()))
        })
        .await
}

/// Notes what a model did; outside of a request nothing happens.
pub(crate) fn note(note: impl FnOnce() -> ModelNote) {
    let _ = SCOPE.try_with(|scope| scope.notes.borrow_mut().push(note()));
}

/// The id of the request that this task answers.
pub(crate) fn request_id() -> Option<Arc<str>> {
    SCOPE.try_with(|scope| Arc::clone(&scope.request_id)).ok()
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

    /// The trace's id as it is written.
    pub(crate) fn trace_id_text(&self) -> String {
        let mut text = String::with_capacity(32);
        push_hex(&mut text, (self.trace_id >> 64) as u64);
        push_hex(&mut text, self.trace_id as u64);
        text
    }

    /// `traceparent` of what this server would call.
    pub(crate) fn traceparent(&self) -> String {
        let mut text = String::with_capacity(55);
        text.push_str("00-");
        push_hex(&mut text, (self.trace_id >> 64) as u64);
        push_hex(&mut text, self.trace_id as u64);
        text.push('-');
        push_hex(&mut text, self.span_id);
        text.push_str(if self.sampled { "-01" } else { "-00" });
        text
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

/// Sixteen digits; every request needs some, and the formatting machinery takes several times as long.
fn push_hex(text: &mut String, value: u64) {
    for nibble in (0..16).rev() {
        let digit = (value >> (4 * nibble)) as u8 & 0xf;
        text.push(char::from(if digit < 10 { b'0' + digit } else { b'a' - 10 + digit }));
    }
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

/// A client's request id if it is short and plain, so that it can stand in a log.
#[must_use]
pub(crate) fn usable_request_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::{TraceContext, usable_request_id};

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
        assert!(usable_request_id("9f3c-17") && usable_request_id("a/b:c@d"));
        for wrong in ["", "two words", "line\nbreak", &"x".repeat(129), "é"] {
            assert!(!usable_request_id(wrong), "{wrong}");
        }
    }
}
