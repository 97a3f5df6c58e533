//! How requests end, told to the metrics, the objectives and the traces.

use std::time::{Duration, Instant};

use super::Timings;
use crate::catalog::Entry;
use crate::error::Error;
use crate::scheduler::Priority;
use crate::telemetry::{ModelNote, Outcome, RejectReason, SloWatch, Stage, note};

/// Records how a request ended; dropped before its end, the client has gone away.
pub(super) struct RequestWatch<'a> {
    entry: &'a Entry,
    slo: &'a SloWatch,
    mails: usize,
    priority: Priority,
    started: Instant,
    ended: bool,
}

impl<'a> RequestWatch<'a> {
    pub(super) fn start(
        entry: &'a Entry,
        slo: &'a SloWatch,
        (mails, priority): (usize, Priority),
        started: Instant,
    ) -> Self {
        Self { entry, slo, mails, priority, started, ended: false }
    }

    pub(super) fn end(&mut self, timings: &Timings, error: Option<&Error>) -> Duration {
        self.ended = true;
        let now = Instant::now();
        let total = now.saturating_duration_since(self.started);
        let metrics = &self.entry.metrics;
        let outcome = error.map_or(Outcome::Ok, Outcome::from);
        metrics.outcome(outcome);
        // A back-fill waits behind everybody else: how long says nothing of the service.
        let judged = self.priority != Priority::Bulk;
        if judged {
            self.slo.record_at(now, outcome, total);
        }
        note(|| ModelNote {
            model: self.entry.name.as_str().into(),
            outcome,
            mails: self.mails,
            started: self.started,
            total,
            stages: timings.stages(),
        });
        match error {
            Some(error) => {
                if let Some(reason) = RejectReason::of(error) {
                    metrics.rejected(reason);
                }
            }
            None => {
                metrics.stage(Stage::Decode, timings.decode);
                metrics.stage(Stage::Total, total);
                // Answered from memory: no stage of the engine took place.
                if !timings.infer.is_zero() {
                    metrics.stage(Stage::Queue, timings.queue);
                    metrics.stage(Stage::Tokenize, timings.tokenize);
                    metrics.stage(Stage::Infer, timings.infer);
                }
            }
        }
        // What the client did wrong says nothing about the model's health, nor does what was
        // refused in microseconds.
        if judged && !matches!(outcome, Outcome::Invalid | Outcome::Rejected) {
            self.entry.latency.record_at(now, total, outcome != Outcome::Ok);
        }
        total
    }
}

impl Drop for RequestWatch<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.entry.metrics.outcome(Outcome::Cancelled);
        }
    }
}
