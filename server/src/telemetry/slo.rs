//! Service level objectives, judged in process over sliding windows.
//!
//! A request counts if the client asked for something that can be answered: what is `invalid` or
//! `cancelled` says nothing about the service.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::latency::LatencySlice;
use super::model_metrics::Outcome;
use super::shards::Sharded;
use super::window::{Ring, Slice};
use crate::error::Error;

/// Latency and errors: 5 minutes in slices of 10 seconds.
const SHORT: (usize, Duration) = (30, Duration::from_secs(10));
/// Availability: an hour in slices of a minute.
const LONG: (usize, Duration) = (60, Duration::from_secs(60));

/// Objectives that can be set.
#[derive(Clone, Copy, Debug, Default, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct SloOptions {
    /// Objective: 95 % of requests are answered within this time, in milliseconds [default: 500]
    #[arg(long = "slo-p95-ms", env = "POSTSORT_SLO_P95_MS", value_name = "MS")]
    pub p95_ms: Option<f64>,
    /// Objective: less than this share of requests fails by our fault, 0–1 [default: 0.01]
    #[arg(long = "slo-errors-max", env = "POSTSORT_SLO_ERRORS_MAX", value_name = "SHARE")]
    pub errors_max: Option<f64>,
    /// Objective: less than this share of the memory is resident, 0–1 [default: 0.8]
    #[arg(long = "slo-memory-max", env = "POSTSORT_SLO_MEMORY_MAX", value_name = "SHARE")]
    pub memory_max: Option<f64>,
    /// Objective: more than this share of requests is answered, 0–1 [default: 0.999]
    #[arg(
        long = "slo-availability-min",
        env = "POSTSORT_SLO_AVAILABILITY_MIN",
        value_name = "SHARE"
    )]
    pub availability_min: Option<f64>,
}

/// The objectives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objectives {
    /// 95 % of requests are answered within this time.
    pub p95: Duration,
    /// Less than this share of requests fails by our fault.
    pub errors_max: f64,
    /// Less than this share of the memory that the process may use is resident.
    pub memory_max: f64,
    /// More than this share of requests is answered.
    pub availability_min: f64,
}

/// One objective and whether it is met.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Verdict {
    /// `latency_p95`, `errors`, `memory`, `availability`.
    pub slo: &'static str,
    /// Whether it is met; so it is while there is nothing to judge by.
    pub met: bool,
    /// What was measured; `null` while there is nothing to judge by.
    pub value: Option<f64>,
    /// The objective.
    pub objective: f64,
    /// `below` or `above` the objective is well.
    pub well: &'static str,
    /// `seconds` or `ratio`.
    pub unit: &'static str,
    /// The window in seconds; 0: this moment.
    pub window_seconds: u64,
    /// Requests in the window.
    pub requests: u64,
}

/// What has been seen, and the objectives.
#[derive(Debug)]
pub struct SloWatch {
    objectives: Objectives,
    seen: Sharded<Mutex<Seen>>,
}

#[derive(Debug)]
struct Seen {
    short: Ring<LatencySlice>,
    long: Ring<Answered>,
}

#[derive(Debug, Default)]
struct Answered {
    answered: u64,
    refused: u64,
    failed: u64,
}

impl Answered {
    fn add<'a>(&mut self, slices: impl Iterator<Item = &'a Self>) {
        for slice in slices {
            self.answered += slice.answered;
            self.refused += slice.refused;
            self.failed += slice.failed;
        }
    }

    fn asked(&self) -> u64 {
        self.answered + self.refused + self.failed
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of an hour are far below 2^52")]
    fn share(&self, part: u64) -> Option<f64> {
        (self.asked() > 0).then(|| part as f64 / self.asked() as f64)
    }
}

impl Slice for Answered {
    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl SloOptions {
    /// What is given here, else what is given there.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            p95_ms: self.p95_ms.or(other.p95_ms),
            errors_max: self.errors_max.or(other.errors_max),
            memory_max: self.memory_max.or(other.memory_max),
            availability_min: self.availability_min.or(other.availability_min),
        }
    }

    /// Validates and fills in the defaults.
    ///
    /// # Errors
    /// Names the setting that makes no sense.
    pub fn resolve(self) -> Result<Objectives, Error> {
        let share = |name: &str, given: Option<f64>, default: f64| match given.unwrap_or(default) {
            share if (0.0..=1.0).contains(&share) => Ok(share),
            _ => Err(Error::setup(format!("setting slo.{name}"), "must be a share, 0 to 1")),
        };
        let p95_ms = self.p95_ms.unwrap_or(500.0);
        if !(p95_ms > 0.0 && p95_ms <= 3.6e6) {
            return Err(Error::setup("setting slo.p95_ms", "must be above 0 and at most an hour"));
        }
        Ok(Objectives {
            p95: Duration::from_secs_f64(p95_ms / 1e3),
            errors_max: share("errors_max", self.errors_max, 0.01)?,
            memory_max: share("memory_max", self.memory_max, 0.8)?,
            availability_min: share("availability_min", self.availability_min, 0.999)?,
        })
    }
}

impl SloWatch {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(objectives: Objectives) -> Self {
        Self::started(objectives, Instant::now())
    }

    fn started(objectives: Objectives, started: Instant) -> Self {
        let seen = Sharded::new(|| {
            let short = Ring::new(started, SHORT.0, SHORT.1);
            Mutex::new(Seen { short, long: Ring::new(started, LONG.0, LONG.1) })
        });
        Self { objectives, seen }
    }

    /// Counts a request that ended at `now`.
    pub(crate) fn record_at(&self, now: Instant, outcome: Outcome, latency: Duration) {
        let seen = &mut *self.seen.own().lock();
        let long = seen.long.at(now);
        match outcome {
            Outcome::Invalid | Outcome::Cancelled => return,
            // Refused in microseconds: that must not make the latency look good.
            Outcome::Rejected => return long.refused += 1,
            Outcome::Ok => long.answered += 1,
            Outcome::Expired | Outcome::Backend => long.failed += 1,
        }
        seen.short.at(now).record(latency, outcome != Outcome::Ok);
    }

    /// The verdicts now; `memory_share` is the share of the memory that is resident.
    #[must_use]
    pub fn verdicts(&self, memory_share: f64) -> [Verdict; 4] {
        self.verdicts_at(Instant::now(), memory_share)
    }

    fn verdicts_at(&self, now: Instant, memory_share: f64) -> [Verdict; 4] {
        let (mut short, mut long) = (LatencySlice::default(), Answered::default());
        for seen in self.seen.iter() {
            let seen = &mut *seen.lock();
            short.add(seen.short.last(now, SHORT.0));
            long.add(seen.long.last(now, LONG.0));
        }
        let Objectives { p95, errors_max, memory_max, availability_min } = self.objectives;
        let window = |(slices, slice): (usize, Duration)| slices as u64 * slice.as_secs();
        let requests = short.requests();
        let summary = short.summary();
        let judge = |slo, value: Option<f64>, objective, unit, window_seconds, requests| Verdict {
            slo,
            met: value.is_none_or(|value| value < objective),
            value,
            objective,
            well: "below",
            unit,
            window_seconds,
            requests,
        };
        let some = |value: f64| (requests > 0).then_some(value);
        let share = long.share(long.answered);
        [
            judge(
                "latency_p95",
                some(summary.p95_ms / 1e3),
                p95.as_secs_f64(),
                "seconds",
                window(SHORT),
                requests,
            ),
            judge("errors", some(summary.error_rate), errors_max, "ratio", window(SHORT), requests),
            judge("memory", Some(memory_share), memory_max, "ratio", 0, requests),
            Verdict {
                slo: "availability",
                met: share.is_none_or(|share| share > availability_min),
                value: share,
                objective: availability_min,
                well: "above",
                unit: "ratio",
                window_seconds: window(LONG),
                requests: long.asked(),
            },
        ]
    }

    /// Share of requests that were refused for want of room in the last five minutes.
    #[must_use]
    pub fn refused_share(&self) -> f64 {
        let (now, mut last) = (Instant::now(), Answered::default());
        for seen in self.seen.iter() {
            last.add(seen.lock().long.last(now, 5));
        }
        last.share(last.refused).unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{SloOptions, SloWatch};
    use crate::telemetry::Outcome;

    fn watch(start: Instant) -> SloWatch {
        SloWatch::started(SloOptions::default().resolve().expect("defaults"), start)
    }

    fn met(watch: &SloWatch, at: Instant, memory_share: f64) -> [bool; 4] {
        watch.verdicts_at(at, memory_share).map(|verdict| verdict.met)
    }

    #[test]
    fn table() {
        let start = Instant::now();
        let (fast, slow) = (Duration::from_millis(20), Duration::from_millis(900));
        type Requests = Vec<(Outcome, Duration, u32)>;
        let cases: [(&str, Requests, f64, [bool; 4]); 7] = [
            ("nothing seen", vec![], 0.1, [true; 4]),
            ("all well", vec![(Outcome::Ok, fast, 1000)], 0.1, [true; 4]),
            (
                "one in ten slow",
                vec![(Outcome::Ok, fast, 90), (Outcome::Ok, slow, 10)],
                0.1,
                [false, true, true, true],
            ),
            (
                "two in a hundred fail",
                vec![(Outcome::Ok, fast, 98), (Outcome::Backend, fast, 2)],
                0.1,
                [true, false, true, false],
            ),
            (
                "shedding is unavailability, not an error, and does not look fast",
                vec![(Outcome::Ok, slow, 10), (Outcome::Rejected, Duration::ZERO, 990)],
                0.1,
                [false, true, true, false],
            ),
            ("memory", vec![], 0.81, [true, true, false, true]),
            (
                "the client's own mistakes count for nothing",
                vec![(Outcome::Invalid, slow, 50), (Outcome::Cancelled, slow, 50)],
                0.1,
                [true; 4],
            ),
        ];
        for (name, requests, memory_share, expected) in cases {
            let watch = watch(start);
            for (outcome, latency, times) in requests {
                (0..times).for_each(|_| watch.record_at(start, outcome, latency));
            }
            assert_eq!(met(&watch, start, memory_share), expected, "{name}");
        }
    }

    #[test]
    fn what_has_passed_is_forgiven() {
        let start = Instant::now();
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        let watch = watch(start);
        (0..10).for_each(|_| watch.record_at(start, Outcome::Backend, Duration::from_secs(2)));
        assert_eq!(met(&watch, at(1), 0.1), [false, false, true, false]);
        assert_eq!(met(&watch, at(6), 0.1), [true, true, true, false], "five minutes");
        assert_eq!(met(&watch, at(61), 0.1), [true; 4], "an hour");
        assert!(watch.refused_share().abs() < 1e-9);
    }

    #[test]
    fn objectives_are_checked() {
        for options in [
            SloOptions { p95_ms: Some(0.0), ..SloOptions::default() },
            SloOptions { p95_ms: Some(f64::NAN), ..SloOptions::default() },
            SloOptions { errors_max: Some(1.5), ..SloOptions::default() },
            SloOptions { availability_min: Some(-0.1), ..SloOptions::default() },
        ] {
            assert!(options.resolve().is_err(), "{options:?}");
        }
    }
}
