//! Percentiles of the recent past, in process: `/health` answers from these without a scraper.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

const SLICES: usize = 6;
const SLICE: Duration = Duration::from_secs(10);
/// One minute: beyond it a latency is as bad as it gets.
const LATENCY_MAX_US: u64 = 60_000_000;

/// Latencies and failures of the last minute, in slices of ten seconds.
#[derive(Debug)]
pub struct LatencyWindow {
    slices: Mutex<Slices>,
}

#[derive(Debug)]
struct Slices {
    ring: Vec<Slice>,
    /// Slices since the start of the process; `number % SLICES` is the place in the ring.
    number: u64,
    started: Instant,
}

#[derive(Debug)]
struct Slice {
    latencies_us: Histogram<u64>,
    failures: u64,
}

/// Percentiles in milliseconds and the failure rate of the last minute.
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

impl Default for LatencyWindow {
    fn default() -> Self {
        Self::new(Instant::now())
    }
}

impl LatencyWindow {
    fn new(started: Instant) -> Self {
        let ring = (0..SLICES).map(|_| Slice::new()).collect();
        Self { slices: Mutex::new(Slices { ring, number: 0, started }) }
    }

    /// Counts one request.
    pub fn record(&self, latency: Duration, failed: bool) {
        self.record_at(Instant::now(), latency, failed);
    }

    /// The last minute.
    #[must_use]
    pub fn summary(&self) -> LatencySummary {
        self.summary_at(Instant::now())
    }

    fn record_at(&self, now: Instant, latency: Duration, failed: bool) {
        let latency_us =
            u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).clamp(1, LATENCY_MAX_US);
        let mut slices = self.slices.lock();
        let slice = slices.at(now);
        slice.latencies_us.saturating_record(latency_us);
        slice.failures += u64::from(failed);
    }

    fn summary_at(&self, now: Instant) -> LatencySummary {
        let mut slices = self.slices.lock();
        let _ = slices.at(now);
        let mut all = Slice::new();
        for slice in &slices.ring {
            // Same bounds on both sides, so adding cannot fail.
            let _ = all.latencies_us.add(&slice.latencies_us);
            all.failures += slice.failures;
        }
        let requests = all.latencies_us.len();
        if requests == 0 {
            return LatencySummary::default();
        }
        #[expect(clippy::cast_precision_loss, reason = "counts of a minute are far below 2^52")]
        let (ms, error_rate) = (
            |quantile: f64| all.latencies_us.value_at_quantile(quantile) as f64 / 1e3,
            all.failures as f64 / requests as f64,
        );
        LatencySummary { requests, p50_ms: ms(0.5), p95_ms: ms(0.95), p99_ms: ms(0.99), error_rate }
    }
}

impl Slices {
    /// The slice of `now`; those that have passed out of the window since are emptied.
    fn at(&mut self, now: Instant) -> &mut Slice {
        let elapsed = now.saturating_duration_since(self.started);
        let number = elapsed.as_secs() / SLICE.as_secs();
        let passed = number.saturating_sub(self.number).min(SLICES as u64);
        for step in 1..=passed {
            let place = Self::place(number - passed + step);
            self.ring[place].clear();
        }
        self.number = self.number.max(number);
        let place = Self::place(self.number);
        &mut self.ring[place]
    }

    #[expect(clippy::cast_possible_truncation, reason = "below SLICES")]
    const fn place(number: u64) -> usize {
        (number % SLICES as u64) as usize
    }
}

impl Slice {
    #[expect(clippy::expect_used, reason = "constant arguments, covered by every test here")]
    fn new() -> Self {
        let latencies_us = Histogram::new_with_bounds(1, LATENCY_MAX_US, 2).expect("valid bounds");
        Self { latencies_us, failures: 0 }
    }

    fn clear(&mut self) {
        self.latencies_us.reset();
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::LatencyWindow;

    #[test]
    fn percentiles_and_failures() {
        let start = Instant::now();
        let window = LatencyWindow::new(start);
        for ms in 1..=100 {
            window.record_at(start, Duration::from_millis(ms), ms > 98);
        }
        let summary = window.summary_at(start);
        assert_eq!(summary.requests, 100);
        assert!((49.0..=51.0).contains(&summary.p50_ms), "{summary:?}");
        assert!((94.0..=96.5).contains(&summary.p95_ms), "{summary:?}");
        assert!((98.0..=100.5).contains(&summary.p99_ms), "{summary:?}");
        assert!((summary.error_rate - 0.02).abs() < 1e-9, "{summary:?}");
    }

    #[test]
    fn the_past_is_forgotten_slice_by_slice() {
        let start = Instant::now();
        let window = LatencyWindow::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        window.record_at(at(0), Duration::from_millis(1), true);
        window.record_at(at(30), Duration::from_millis(1), false);
        assert_eq!(window.summary_at(at(59)).requests, 2);
        assert_eq!(window.summary_at(at(60)).requests, 1, "the first slice has passed");
        assert_eq!(window.summary_at(at(500)).requests, 0);
    }
}
