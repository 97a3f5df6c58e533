//! Percentiles of the recent past, in process: `/health` answers from these without a scraper.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use super::shards::Sharded;
use super::window::{Ring, Slice};

const SLICES: usize = 6;
const SLICE: Duration = Duration::from_secs(10);
/// One minute: beyond it a latency is as bad as it gets.
const LATENCY_MAX_US: u64 = 60_000_000;

/// Latencies and failures of the last minute, in slices of ten seconds, and totals since the start.
#[derive(Debug)]
pub struct LatencyWindow {
    /// Each CPU's: threads on two of them do not wait for one another's lock.
    states: Sharded<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    ring: Ring<LatencySlice>,
    requests_total: u64,
    failures_total: u64,
}

/// Latencies and failures of one slice of time.
#[derive(Debug)]
pub(super) struct LatencySlice {
    latencies_us: Histogram<u32>,
    failures: u64,
}

/// Percentiles in milliseconds and the failure rate of a window.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, utoipa::ToSchema)]
pub struct LatencySummary {
    /// Requests, failures included.
    pub requests: u64,
    /// Median.
    pub p50_ms: f64,
    /// 95th percentile.
    pub p95_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Share of requests that failed for a reason of ours (status 5xx), 0–1.
    pub error_rate: f64,
}

/// Counts since the start of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LatencyTotals {
    /// Requests, failures included.
    pub requests_total: u64,
    /// Those that failed for a reason of ours.
    pub failures_total: u64,
}

impl Default for LatencyWindow {
    fn default() -> Self {
        Self::new(Instant::now())
    }
}

impl LatencyWindow {
    fn new(started: Instant) -> Self {
        let states = Sharded::new(|| {
            let ring = Ring::new(started, SLICES, SLICE);
            Mutex::new(State { ring, requests_total: 0, failures_total: 0 })
        });
        Self { states }
    }

    /// The last minute.
    #[must_use]
    pub fn summary(&self) -> LatencySummary {
        self.summary_at(Instant::now(), SLICES)
    }

    /// The last ten to twenty seconds.
    #[must_use]
    pub fn recent(&self) -> LatencySummary {
        self.summary_at(Instant::now(), 2)
    }

    /// Since the start.
    #[must_use]
    pub fn totals(&self) -> LatencyTotals {
        self.states.iter().fold(LatencyTotals::default(), |sum, state| {
            let state = state.lock();
            LatencyTotals {
                requests_total: sum.requests_total + state.requests_total,
                failures_total: sum.failures_total + state.failures_total,
            }
        })
    }

    /// Counts one request that ended at `now`: reading the clock again costs as much as counting.
    pub(crate) fn record_at(&self, now: Instant, latency: Duration, failed: bool) {
        let mut state = self.states.own().lock();
        state.requests_total += 1;
        state.failures_total += u64::from(failed);
        state.ring.at(now).record(latency, failed);
    }

    fn summary_at(&self, now: Instant, newest: usize) -> LatencySummary {
        let mut all = LatencySlice::default();
        for state in self.states.iter() {
            all.add(state.lock().ring.last(now, newest));
        }
        all.summary()
    }
}

impl LatencySlice {
    pub(super) fn record(&mut self, latency: Duration, failed: bool) {
        let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        // The histogram grows to what it is given, which is bounded here: it cannot fail.
        let _ = self.latencies_us.record(latency_us.clamp(1, LATENCY_MAX_US));
        self.failures += u64::from(failed);
    }

    pub(super) fn add<'a>(&mut self, slices: impl Iterator<Item = &'a Self>) {
        for slice in slices {
            // It grows to fit, so adding cannot fail.
            let _ = self.latencies_us.add(&slice.latencies_us);
            self.failures += slice.failures;
        }
    }

    pub(super) fn requests(&self) -> u64 {
        self.latencies_us.len()
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of a window are far below 2^52")]
    pub(super) fn summary(&self) -> LatencySummary {
        let requests = self.requests();
        if requests == 0 {
            return LatencySummary::default();
        }
        let ms = |quantile: f64| self.latencies_us.value_at_quantile(quantile) as f64 / 1e3;
        let error_rate = self.failures as f64 / requests as f64;
        LatencySummary { requests, p50_ms: ms(0.5), p95_ms: ms(0.95), p99_ms: ms(0.99), error_rate }
    }
}

impl Default for LatencySlice {
    #[expect(clippy::expect_used, reason = "a constant argument, covered by every test here")]
    fn default() -> Self {
        // Grows with what is recorded: a model of milliseconds needs a few kilobytes a slice.
        Self { latencies_us: Histogram::new(2).expect("a valid precision"), failures: 0 }
    }
}

impl Slice for LatencySlice {
    fn clear(&mut self) {
        self.latencies_us.reset();
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{LatencyTotals, LatencyWindow};

    #[test]
    fn percentiles_and_failures() {
        let start = Instant::now();
        let window = LatencyWindow::new(start);
        for ms in 1..=100 {
            window.record_at(start, Duration::from_millis(ms), ms > 98);
        }
        let summary = window.summary_at(start, 6);
        assert_eq!(summary.requests, 100);
        assert!((49.0..=51.0).contains(&summary.p50_ms), "{summary:?}");
        assert!((94.0..=96.5).contains(&summary.p95_ms), "{summary:?}");
        assert!((98.0..=100.5).contains(&summary.p99_ms), "{summary:?}");
        assert!((summary.error_rate - 0.02).abs() < 1e-9, "{summary:?}");
        assert_eq!(window.totals(), LatencyTotals { requests_total: 100, failures_total: 2 });
    }

    #[test]
    fn the_past_is_forgotten_slice_by_slice() {
        let start = Instant::now();
        let window = LatencyWindow::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        window.record_at(at(0), Duration::from_millis(1), true);
        window.record_at(at(30), Duration::from_secs(1_000), false);
        assert_eq!(window.summary_at(at(59), 6).requests, 2);
        assert_eq!(window.summary_at(at(59), 2).requests, 0, "only the last slices");
        let summary = window.summary_at(at(60), 6);
        assert_eq!(summary.requests, 1, "the first slice has passed");
        assert!(summary.p50_ms >= 59_000.0, "the longest are kept as a minute: {summary:?}");
        assert_eq!(window.summary_at(at(500), 6).requests, 0);
        assert_eq!(window.totals().requests_total, 2, "totals forget nothing");
    }
}
