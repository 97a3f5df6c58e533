//! The shared cache's metrics: what its round trips take, and how it is.

use std::time::Duration;

use postsort_cache::{ObserveShared, SharedOutcome, SharedReading};

use super::exposition::Exposition;
use super::metrics::Metrics;
use super::names;
use super::registry::{Counter, Histogram};

const COMMANDS: [&str; 2] = ["get", "set"];

/// Recorders of each command: its duration; late and failed ones.
#[derive(Debug)]
pub(crate) struct SharedMetrics([(Histogram, [Counter; 2]); 2]);

impl SharedMetrics {
    /// All series exist from here on, at zero.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let failures = |command| {
            ["late", "failed"].map(|reason| {
                let labels = [("command", command), ("reason", reason)];
                metrics.counter(names::SHARED_FAILURES, &labels)
            })
        };
        let duration = |command| metrics.histogram(names::SHARED_EXCHANGE, &[("command", command)]);
        Self(COMMANDS.map(|command| (duration(command), failures(command))))
    }
}

impl ObserveShared for SharedMetrics {
    fn exchange(&self, command: &'static str, took: Duration, outcome: SharedOutcome) {
        let (duration, [late, failed]) = &self.0[usize::from(command == COMMANDS[1])];
        duration.time(took);
        match outcome {
            SharedOutcome::Answered => {}
            SharedOutcome::Late => late.increment(1),
            SharedOutcome::Failed => failed.increment(1),
        }
    }
}

/// Writes how the shared cache is.
#[expect(clippy::cast_precision_loss, reason = "samples are floats on the wire")]
pub(super) fn write(cache: &SharedReading, out: &mut Exposition) {
    out.sample(names::SHARED_UP, &[], f64::from(cache.up));
    out.sample(names::SHARED_TRIPS, &[], cache.trips_total as f64);
    out.sample(names::SHARED_SKIPPED, &[], cache.skipped_total as f64);
    out.sample(names::SHARED_WRITTEN, &[], cache.written_total as f64);
    for (reason, answers) in [("full", cache.lost_full_total), ("failed", cache.lost_failed_total)]
    {
        out.sample(names::SHARED_LOST, &[("reason", reason)], answers as f64);
    }
}
