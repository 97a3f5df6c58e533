//! The HTTP layer's metrics, by endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use super::append::AppendList;
use super::latency::{LatencySummary, LatencyTotals, LatencyWindow};
use super::metrics::Metrics;
use super::names;
use super::registry::{Counter, Gauge, Histogram};
use super::shards::Sharded;

/// nginx's status for a client that went away before the answer.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// More than there are routes.
const ENDPOINTS_MAX: usize = 128;
/// More than an endpoint answers with.
const STATUSES_MAX: usize = 24;

/// Recorders of all endpoints that were asked so far.
#[derive(Debug)]
pub struct HttpMetrics {
    metrics: Arc<Metrics>,
    endpoints: Box<AppendList<Endpoint, ENDPOINTS_MAX>>,
}

/// One endpoint's handles.
#[derive(Debug)]
struct Endpoint {
    name: String,
    duration: Histogram,
    in_flight_gauge: Gauge,
    request_bytes: ByteCounter,
    response_bytes: ByteCounter,
    statuses: AppendList<(u16, Counter), STATUSES_MAX>,
    /// Begun less ended, by the CPU on which it happened.
    in_flight: Sharded<AtomicI64>,
    window: LatencyWindow,
}

/// One endpoint, as the dashboard shows it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct EndpointSummary {
    /// The route's pattern.
    pub endpoint: String,
    /// Requests being answered.
    pub in_flight: u64,
    /// Since the start.
    #[serde(flatten)]
    pub totals: LatencyTotals,
    /// Requests of the last minute.
    pub last_minute: LatencySummary,
    /// Requests of the last ten to twenty seconds.
    pub recent: LatencySummary,
}

/// Which of the endpoints that were asked so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndpointId(usize);

/// Counts bytes of a body whose size is known only at its end.
#[derive(Clone, Debug)]
pub(crate) struct ByteCounter(Counter);

impl HttpMetrics {
    /// Records into `metrics`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, endpoints: Box::default() }
    }

    /// `route` is the pattern, never the path: a client must not make new series.
    pub(crate) fn endpoint(&self, route: &str) -> EndpointId {
        let make = || Endpoint::new(&self.metrics, route);
        EndpointId(self.endpoints.find_or_append(|endpoint| endpoint.name == route, make).0)
    }

    /// Counts what a request's body brings.
    pub(crate) fn request_bytes(&self, endpoint: EndpointId) -> &ByteCounter {
        &self.endpoints.at(endpoint.0).request_bytes
    }

    /// Counts what a response's body takes.
    pub(crate) fn response_bytes(&self, endpoint: EndpointId) -> &ByteCounter {
        &self.endpoints.at(endpoint.0).response_bytes
    }

    /// The endpoint's pattern.
    pub(crate) fn name(&self, endpoint: EndpointId) -> &str {
        &self.endpoints.at(endpoint.0).name
    }

    /// A request is answered from now on: [`Self::answered`] or [`Self::gone`] has to follow.
    pub(crate) fn begun(&self, endpoint: EndpointId) {
        self.endpoints.at(endpoint.0).in_flight.own().fetch_add(1, Ordering::Relaxed);
    }

    /// The response's head was ready at `now`.
    pub(crate) fn answered(&self, endpoint: EndpointId, status: u16, now: Instant, took: Duration) {
        let endpoint = self.endpoints.at(endpoint.0);
        endpoint.in_flight.own().fetch_sub(1, Ordering::Relaxed);
        endpoint.count(&self.metrics, status);
        endpoint.duration.time(took);
        endpoint.window.record_at(now, took, status >= 500);
    }

    /// The client went away before the answer.
    pub(crate) fn gone(&self, endpoint: EndpointId) {
        let endpoint = self.endpoints.at(endpoint.0);
        endpoint.in_flight.own().fetch_sub(1, Ordering::Relaxed);
        endpoint.count(&self.metrics, CLIENT_CLOSED_REQUEST);
    }

    /// Every endpoint that was asked so far.
    #[must_use]
    pub fn summaries(&self) -> Vec<EndpointSummary> {
        let mut summaries: Vec<_> = self.endpoints.iter().map(Endpoint::summary).collect();
        summaries.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
        summaries
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges are floats on the wire")]
    pub(crate) fn set_gauges(&self) {
        for endpoint in self.endpoints.iter() {
            endpoint.in_flight_gauge.set(endpoint.in_flight() as f64);
        }
    }
}

impl Endpoint {
    fn new(metrics: &Metrics, name: &str) -> Self {
        let labels = [("endpoint", name)];
        Self {
            name: name.to_owned(),
            duration: metrics.histogram(names::HTTP_DURATION, &labels),
            in_flight_gauge: metrics.gauge(names::HTTP_IN_FLIGHT, &labels),
            request_bytes: ByteCounter(metrics.counter(names::HTTP_REQUEST_BYTES, &labels)),
            response_bytes: ByteCounter(metrics.counter(names::HTTP_RESPONSE_BYTES, &labels)),
            statuses: AppendList::default(),
            in_flight: Sharded::default(),
            window: LatencyWindow::default(),
        }
    }

    fn count(&self, metrics: &Metrics, status: u16) {
        let make = || {
            let labels = [("endpoint", self.name.as_str()), ("status", &status.to_string())];
            (status, metrics.counter(names::HTTP_REQUESTS, &labels))
        };
        let (_, (_, counter)) = self.statuses.find_or_append(|(known, _)| *known == status, make);
        counter.increment(1);
    }

    fn in_flight(&self) -> u64 {
        let sum: i64 = self.in_flight.iter().map(|cell| cell.load(Ordering::Relaxed)).sum();
        u64::try_from(sum).unwrap_or(0)
    }

    fn summary(&self) -> EndpointSummary {
        EndpointSummary {
            endpoint: self.name.clone(),
            in_flight: self.in_flight(),
            totals: self.window.totals(),
            last_minute: self.window.summary(),
            recent: self.window.recent(),
        }
    }
}

impl ByteCounter {
    pub(crate) fn add(&self, bytes: u64) {
        self.0.increment(bytes);
    }
}
