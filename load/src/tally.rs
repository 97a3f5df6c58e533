//! What is counted of one target under one load.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::outcome::Outcome;

/// Causes of failure that are told apart; more are one.
const REASONS_MAX: usize = 12;

/// Counts and histograms; slices of one target are added up.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Length of what was measured.
    pub seconds: f64,
    /// Requests that were due in it.
    pub sent: u64,
    /// Answers in time.
    pub good: u64,
    /// Answers after the time limit.
    pub late: u64,
    /// Refused for load.
    pub shed: u64,
    /// Given up by the server.
    pub expired: u64,
    /// Other statuses, and successes without a score.
    pub errors: u64,
    /// No whole answer.
    pub transport: u64,
    /// Good answers that came within what was measured, whenever they were asked for.
    pub good_within: u64,
    /// Of answers, good and late, in microseconds since they were due.
    pub latency: Histogram<u64>,
    /// Of every request: how much later than due it left, in microseconds.
    pub lag: Histogram<u64>,
    /// Of refusals, in milliseconds.
    pub retry_after: Histogram<u64>,
    /// How often what failed.
    pub reasons: BTreeMap<String, u64>,
}

/// One figure of a table.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// Head of the column.
    pub title: &'static str,
    /// Name in JSON.
    pub key: &'static str,
    /// None where nothing was measured.
    pub value: Option<f64>,
    /// So many decimals are shown.
    pub decimals: usize,
}

impl Default for Tally {
    fn default() -> Self {
        // Ten minutes in microseconds; what takes longer counts as that.
        let histogram = || Histogram::new_with_bounds(1, 600_000_000, 3).expect("valid bounds");
        Self {
            seconds: 0.0,
            sent: 0,
            good: 0,
            late: 0,
            shed: 0,
            expired: 0,
            errors: 0,
            transport: 0,
            good_within: 0,
            latency: histogram(),
            lag: histogram(),
            retry_after: histogram(),
            reasons: BTreeMap::new(),
        }
    }
}

impl Tally {
    /// Counts a request that was due `latency` ago.
    pub fn record(&mut self, outcome: Outcome, latency: Duration, lag: Duration) {
        self.sent += 1;
        self.lag.saturating_record(lag.as_micros() as u64);
        match outcome {
            Outcome::Good => self.good += 1,
            Outcome::Late => self.late += 1,
            Outcome::Shed { retry_after_seconds } => {
                self.shed += 1;
                if let Some(seconds) = retry_after_seconds {
                    self.retry_after.saturating_record((seconds * 1e3) as u64);
                }
                return;
            }
            Outcome::Expired => {
                self.expired += 1;
                return;
            }
            Outcome::Error(reason) => {
                self.errors += 1;
                return self.count(reason, 1);
            }
            Outcome::Transport(reason) => {
                // Who got no answer waited for it all the same.
                self.transport += 1;
                self.count(reason, 1);
            }
        }
        self.latency.saturating_record(latency.as_micros() as u64);
    }

    fn count(&mut self, reason: String, times: u64) {
        let known = self.reasons.len() < REASONS_MAX || self.reasons.contains_key(&reason);
        *self.reasons.entry(if known { reason } else { "others".to_owned() }).or_default() += times;
    }

    /// Adds another slice.
    pub fn merge(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.sent += other.sent;
        self.good += other.good;
        self.late += other.late;
        self.shed += other.shed;
        self.expired += other.expired;
        self.errors += other.errors;
        self.transport += other.transport;
        self.good_within += other.good_within;
        self.latency += other.latency;
        self.lag += other.lag;
        self.retry_after += other.retry_after;
        for (reason, times) in other.reasons {
            self.count(reason, times);
        }
    }

    /// Good answers a second.
    #[must_use]
    pub fn good_per_second(&self) -> f64 {
        self.good_within as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Milliseconds within which this share of answers came; none without answers.
    #[must_use]
    pub fn latency_ms(&self, share: f64) -> Option<f64> {
        quantile(&self.latency, share, 1e3)
    }

    /// Median of `Retry-After` in seconds.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<f64> {
        quantile(&self.retry_after, 0.5, 1e3)
    }

    /// The figures of a table's row, in order.
    #[must_use]
    pub fn figures(&self) -> Vec<Figure> {
        let percent = |count: u64| (self.sent > 0).then(|| 100.0 * count as f64 / self.sent as f64);
        let figure = |title, key, value, decimals| Figure { title, key, value, decimals };
        vec![
            figure("sent", "sent", Some(self.sent as f64), 0),
            figure("good/s", "good_per_second", Some(self.good_per_second()), 1),
            figure("p50 ms", "p50_ms", self.latency_ms(0.5), 2),
            figure("p95 ms", "p95_ms", self.latency_ms(0.95), 2),
            figure("p99 ms", "p99_ms", self.latency_ms(0.99), 2),
            figure("p99.9 ms", "p999_ms", self.latency_ms(0.999), 2),
            figure("max ms", "max_ms", self.latency_ms(1.0), 2),
            figure("shed %", "shed_percent", percent(self.shed), 1),
            figure("expired %", "expired_percent", percent(self.expired), 1),
            figure("late %", "late_percent", percent(self.late), 1),
            figure("errors %", "errors_percent", percent(self.errors + self.transport), 1),
            figure("lag p99 ms", "lag_p99_ms", quantile(&self.lag, 0.99, 1e3), 2),
        ]
    }
}

fn quantile(histogram: &Histogram<u64>, share: f64, unit: f64) -> Option<f64> {
    (!histogram.is_empty()).then(|| histogram.value_at_quantile(share) as f64 / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_have_a_latency() {
        let mut tally = Tally::default();
        let ms = Duration::from_millis;
        tally.record(Outcome::Good, ms(10), ms(0));
        tally.record(Outcome::Late, ms(900), ms(0));
        tally.record(Outcome::Shed { retry_after_seconds: Some(2.0) }, ms(1), ms(3));
        tally.record(Outcome::Expired, ms(1), ms(0));
        tally.record(Outcome::Error("500".into()), ms(1), ms(0));
        assert_eq!((tally.sent, tally.latency.len(), tally.lag.len()), (5, 2, 5));
        assert_eq!(tally.retry_after_seconds().map(f64::round), Some(2.0));
        let mut twice = tally.clone();
        twice.merge(tally);
        assert_eq!((twice.sent, twice.shed, twice.reasons["500"]), (10, 2, 2));
        let max = twice.latency_ms(1.0).expect("answers");
        assert!((max - 900.0).abs() < 1.0, "{max}");
    }

    #[test]
    fn reasons_are_bounded() {
        let mut tally = Tally::default();
        for status in 0..100 {
            tally.record(Outcome::Error(status.to_string()), Duration::ZERO, Duration::ZERO);
        }
        assert_eq!(tally.reasons.len(), REASONS_MAX + 1);
        assert_eq!(tally.reasons.values().sum::<u64>(), 100);
    }
}
